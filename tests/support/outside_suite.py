"""Datasets and steps of nnU-Net's own integration tests, on generated volumes: every configuration, every label format.

nnU-Net's are the hippocampi of the Medical Segmentation Decathlon (``nnunetv2/tests/integration_tests``): with labels,
with regions, with an ignore label, with both. A low resolution and a cascade are added to the plans.
"""

import multiprocessing
import multiprocessing.dummy
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support import cell_datasets
from support.cell_datasets import FORMATS, SLICE_THICKNESS, VOLUME_FORMATS, VOLUME_SIZES

LABELS, REGIONS, IGNORE, REGIONS_IGNORE = DATASETS = (999, 997, 998, 996)
"""The numbers that nnU-Net's tests give them."""
CONFIGURATIONS = ("2d", "3d_lowres", "3d_cascade_fullres", "3d_fullres")
"""In the order in which they are trained: the cascade needs the low resolution."""


@contextmanager
def folders(root: Path) -> Iterator[None]:
    """Folders of nnU-Net in which the four datasets can be made."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        cell_datasets.use_nnunet_folders(root, monkeypatch)
        monkeypatch.setenv("nnUNet_n_proc_DA", "0")
        for dataset_id, labels in zip(DATASETS, FORMATS.values(), strict=True):
            monkeypatch.setitem(VOLUME_FORMATS, dataset_id, labels)
            monkeypatch.setitem(VOLUME_SIZES, dataset_id, (12, 20, 16))
            monkeypatch.setitem(SLICE_THICKNESS, dataset_id, 1.0)
        yield


def make_dataset(dataset_id: int) -> None:
    """Write a dataset, plan it with every configuration and preprocess it, if there is none yet."""
    if cell_datasets.plans_file(dataset_id).exists():
        return
    cell_datasets.write_raw_dataset(dataset_id)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("nnUNet_n_proc_DA", "1")  # 0 breaks planning
        plan_and_preprocess(dataset_id)


def plan_and_preprocess(dataset_id: int) -> None:
    from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiments, preprocess

    with threads_for_processes():
        cell_datasets.extract_fingerprint(dataset_id)
        plan_experiments([dataset_id])
        cell_datasets.narrow_plans(dataset_id)
        cell_datasets.add_cascade(dataset_id)
        planned = ("2d", "3d_fullres", "3d_lowres")
        preprocess([dataset_id], configurations=planned, num_processes=(1,) * len(planned))


@contextmanager
def threads_for_processes() -> Iterator[None]:
    """Let nnU-Net's pools be of threads: it starts three for every fold, and a process takes seconds."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(multiprocessing, "get_context", lambda method=None: multiprocessing.dummy)
        yield


def train(trainer_name: str, dataset_id: int, configuration: str, folds: Sequence[int]) -> None:
    """Train folds as ``nnUNetv2_train --npz`` does."""
    for fold in folds:
        trainer: Any = cell_datasets.make_trainer(trainer_name, dataset_id, configuration=configuration, fold=fold)
        with threads_for_processes():
            trainer.run_training()
            trainer.perform_actual_validation(save_probabilities=True)


def find_best(dataset_id: int, trainers: Sequence[str], configurations: Sequence[str], folds: Sequence[int]) -> Any:
    """The best of these models and of their ensembles of two, as ``nnUNetv2_find_best_configuration`` finds it."""
    from nnunetv2.evaluation.find_best_configuration import (
        dumb_trainer_config_plans_to_trained_models_dict,
        find_best_configuration,
    )

    models = dumb_trainer_config_plans_to_trained_models_dict(trainers, configurations, ["nnUNetPlans"])
    with threads_for_processes():
        found = find_best_configuration(dataset_id, models, num_processes=1, folds=tuple(folds), strict=True)
    return found["best_model_or_ensemble"]


def predict(
    dataset_id: int, trainer: str, configuration: str, folds: Sequence[int], output: Path, previous: Path | None = None
) -> None:
    """Predict the training images with some folds of a model, as ``nnUNetv2_predict --save_probabilities`` does.

    A cascade needs the folder ``previous`` with the predictions of the low resolution.
    """
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.file_path_utilities import get_output_folder

    folder = get_output_folder(dataset_id, trainer, "nnUNetPlans", configuration)
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(folder, tuple(folds))
    images = Path(os.environ["nnUNet_raw"], cell_datasets.dataset_name(dataset_id), "imagesTr")
    predictor.predict_from_files(
        str(images),
        str(output),
        save_probabilities=True,
        num_processes_preprocessing=1,
        num_processes_segmentation_export=1,
        folder_with_segs_from_prev_stage=previous and str(previous),
    )


def ensemble_and_postprocess(best: Any, predictions: Sequence[Path], output: Path) -> None:
    """Merge predictions and postprocess them as the best configuration wants it."""
    from batchgenerators.utilities.file_and_folder_operations import load_pickle
    from nnunetv2.ensembling.ensemble import ensemble_folders
    from nnunetv2.postprocessing.remove_connected_components import apply_postprocessing_to_folder

    merged = output.with_name(f"{output.name}_merged")
    with threads_for_processes():
        ensemble_folders(list(map(str, predictions)), str(merged), num_processes=1)
        functions, arguments = load_pickle(best["postprocessing_file"])
        apply_postprocessing_to_folder(
            str(merged),
            str(output),
            functions,
            arguments,
            plans_file_or_dict=best["some_plans_file"],
            num_processes=1,
        )
