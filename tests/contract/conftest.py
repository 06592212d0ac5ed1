"""The trainers under test, narrow networks, and one finished training of every main trainer for the session."""

from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

import pytest
import timm
import torch
from support import cell_datasets
from support.cell_datasets import LABELS, NAMES
from support.narrow import BACKBONES, NETWORK_KWARGS
from support.table import (
    DIFFERENT_LOSSES,
    DIFFERENT_NETWORKS,
    DIFFERENT_OUTPUTS,
    LOADING_WEIGHTS,
    MAIN_NETWORKS,
    MAIN_TRAINERS,
    datasets_for_loss,
    dimensions_of,
    in_3d,
    richest_dataset,
)

from nnunet_plugins.architectures import Net0
from nnunet_plugins.trainers import TRAINERS

FAST_TRAINER = "DLKUNetSTrainer"
"""The main trainer that stands for all in the first tier where a test takes long."""


@pytest.fixture(params=list(TRAINERS))
def trainer_name(request) -> str:
    """Every row of the table of trainers."""
    return request.param


@pytest.fixture(params=MAIN_TRAINERS)
def main_trainer_name(request) -> str:
    """Main trainers, for what a variant's class attributes cannot change."""
    return request.param


@pytest.fixture(params=MAIN_NETWORKS)
def main_network_name(request) -> str:
    """Main trainers whose network is ours."""
    return request.param


@pytest.fixture(params=LOADING_WEIGHTS)
def loading_trainer_name(request) -> str:
    """Trainers that differ in where their weights come from."""
    return request.param


@pytest.fixture(params=DIFFERENT_NETWORKS)
def network_name(request) -> str:
    """Trainers that differ in the code of their networks."""
    return request.param


@pytest.fixture(
    params=[
        pytest.param(name, marks=[] if name == FAST_TRAINER else [pytest.mark.slow])
        for name in MAIN_TRAINERS
        if in_3d(name)
    ]
)
def main_trainer_name_3d(request) -> str:
    """Main trainers that can train volumes."""
    return request.param


def with_dimensions(names: Iterable[str], fast: Collection[str]) -> list:
    """Pairs of trainer and number of dimensions; those of trainers that are not ``fast`` are slow."""
    return [
        pytest.param((name, dimensions), id=f"{name}-{dimensions}D", marks=[] if name in fast else [pytest.mark.slow])
        for name in names
        for dimensions in dimensions_of(name)
    ]


@pytest.fixture(params=with_dimensions(DIFFERENT_NETWORKS, fast=DIFFERENT_NETWORKS))
def trainer_and_dimensions(request) -> tuple[str, int]:
    return request.param


@pytest.fixture(params=with_dimensions(DIFFERENT_OUTPUTS, fast=[FAST_TRAINER]))
def outputs_and_dimensions(request) -> tuple[str, int]:
    return request.param


def with_datasets(names: Iterable[str], datasets_for: Callable[[str], list[int]]) -> list:
    """Pairs of trainer and dataset; a main trainer's are slow, but for the richest dataset."""
    return [
        pytest.param((name, dataset_id), id=f"{name}-{NAMES[dataset_id]}", marks=slow_unless_richest(name, dataset_id))
        for name in names
        for dataset_id in datasets_for(name)
    ]


def slow_unless_richest(name: str, dataset_id: int) -> Collection[pytest.MarkDecorator]:
    return [pytest.mark.slow] if name in MAIN_TRAINERS and dataset_id != richest_dataset(name) else []


@pytest.fixture(params=with_datasets(DIFFERENT_LOSSES, datasets_for_loss))
def trainer_and_targets(request) -> tuple[str, int]:
    """A trainer, and a dataset with targets for its loss."""
    return request.param


@pytest.fixture(params=with_datasets(MAIN_TRAINERS, datasets_for_loss))
def main_trainer_and_dataset(request) -> tuple[str, int]:
    """A main trainer, and a dataset to train it on."""
    return request.param


@pytest.fixture(scope="session")
def weights_folder(tmp_path_factory) -> Path:
    """Weights in timm's format for the ``_pretrained`` trainers (nothing can be downloaded here), and of a stage 1."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(7)
    for name in BACKBONES:
        torch.save(timm.create_model(name, pretrained=False).state_dict(), folder / f"{name}.pth")
    stage_1 = Net0(3, 1, **NETWORK_KWARGS["ConDSegNet0Trainer"])
    torch.save({"network_weights": stage_1.state_dict()}, folder / "stage1.pth")
    return folder


@pytest.fixture(scope="module", autouse=True)
def narrow_trainers(narrow) -> None:
    """All trainers of a module have narrow networks, unless it has a fixture ``narrow`` of its own."""


@pytest.fixture(scope="module", autouse=True)
def initial_weights(weights_folder) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("NNUNET_PLUGINS_WEIGHTS", str(weights_folder))
        monkeypatch.setenv("NNUNET_PLUGINS_STAGE1", str(weights_folder / "stage1.pth"))
        yield


@pytest.fixture
def no_progress_pictures(monkeypatch) -> None:
    """Leave out nnU-Net's picture of the training's progress, half a second after every epoch."""
    monkeypatch.setattr("nnunetv2.training.logging.nnunet_logger.MetaLogger.plot_progress_png", lambda *args: None)


@pytest.fixture(scope="session")
def trained(planned) -> Callable[[str], Path]:
    """``trained(name)``: the model folder of a training of one epoch of two iterations, validated; made once."""
    finished: dict[str, Path] = {}

    def model_folder(name: str) -> Path:
        if name not in finished:
            with pytest.MonkeyPatch.context() as monkeypatch:
                monkeypatch.setenv("nnUNet_results", str(planned / "nnUNet_results"))  # outlives the test
                trainer = cell_datasets.make_trainer(f"{name}_1epoch_2iterations", LABELS)
                trainer.run_training()
                trainer.perform_actual_validation()
            finished[name] = Path(trainer.output_folder_base)
        return finished[name]

    return model_folder
