"""Proves: nnU-Net's own tests pass with this package, its integration tests also with trainers of ours.

Those tests train nnU-Net's trainer on four hippocampus datasets in all configurations, find the best one, predict,
ensemble and postprocess. Here one of our trainers in 3D does so, and the five methods in 2D.
"""

import functools
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import SimpleITK as sitk
from support import outside_suite
from support.cell_datasets import VOLUME_SIZES
from support.narrow import narrow_networks
from support.outside_suite import CONFIGURATIONS, DATASETS, LABELS, REGIONS_IGNORE

pytestmark = pytest.mark.slow

LENGTH = "_1epoch_1iterations"
IN_3D = f"MedFusionTransNetTrainer{LENGTH}"
METHODS = ("DCFFSNetTrainer", "ConDSegTrainer", "DLKUNetTrainer", "MedFusionTransNetTrainer", "DCSNetTrainer")
IN_2D = [f"{name}{LENGTH}" for name in METHODS]
ALL_FOLDS, TWO_FOLDS = (0, 1, 2, 3, 4), (0, 3)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outside_suite")
    with outside_suite.folders(folder), pytest.MonkeyPatch.context() as monkeypatch:
        narrow_networks(monkeypatch.setattr)
        yield folder
    shutil.rmtree(folder)


def segmented(dataset_id, root, trainers, configurations, folds, also=()):
    """Train, find the best, predict with it and with others too, ensemble and postprocess; the folder of the result."""
    outside_suite.make_dataset(dataset_id)
    for trainer in trainers:
        for configuration in configurations:
            needed = ALL_FOLDS if configuration == "3d_lowres" else folds  # the cascade sees what each fold predicts
            outside_suite.train(trainer, dataset_id, configuration, needed)
    best = outside_suite.find_best(dataset_id, trainers, configurations, folds)
    models = [(model["trainer"], model["configuration"]) for model in best["selected_model_or_models"]]
    assert {trainer for trainer, _ in models} <= set(trainers)
    work = root / f"predicted_{dataset_id}_{len(trainers)}"
    predictions = {}
    for trainer, configuration in dict.fromkeys([*also, *models]):  # a cascade after its low resolution
        output = predictions[trainer, configuration] = work / f"{trainer}_{configuration}"
        previous = work / f"{trainer}_3d_lowres" if configuration == "3d_cascade_fullres" else None
        outside_suite.predict(dataset_id, trainer, configuration, folds[:2], output, previous)
    outside_suite.ensemble_and_postprocess(best, list(predictions.values()), work / "final")
    return work / "final"


def assert_segments_every_case(folder: Path, dataset_id: int) -> None:
    segmentations = sorted(folder.glob("*.nii.gz"))
    assert [path.name for path in segmentations] == [f"case{case}.nii.gz" for case in range(5)]
    for path in segmentations:
        labels = sitk.GetArrayFromImage(sitk.ReadImage(path))
        assert labels.shape == VOLUME_SIZES[dataset_id]
        assert set(labels.flat) <= {0, 1, 2}  # never the ignore label


@pytest.mark.parametrize("dataset_id", DATASETS)
def test_a_trainer_in_3d_in_all_configurations_from_training_to_postprocessing(root, dataset_id):
    folds = ALL_FOLDS if dataset_id == LABELS else TWO_FOLDS
    also = [(IN_3D, "3d_lowres"), (IN_3D, "3d_cascade_fullres"), (IN_3D, "2d")]
    assert_segments_every_case(segmented(dataset_id, root, [IN_3D], CONFIGURATIONS, folds, also), dataset_id)


@pytest.mark.parametrize("dataset_id", [LABELS, REGIONS_IGNORE])
def test_the_five_methods_in_2d_from_training_to_postprocessing(root, dataset_id):
    also = [(name, "2d") for name in IN_2D]
    assert_segments_every_case(segmented(dataset_id, root, IN_2D, ["2d"], TWO_FOLDS, also), dataset_id)


def test_nnunets_own_unit_tests_pass_beside_this_package():
    tests = Path(find_spec("nnunetv2").origin).parent / "tests"
    modules = [f"nnunetv2.tests.{path.stem}" for path in sorted(tests.glob("test_*.py"))]
    assert modules, "this nnU-Net brings no tests"
    run = functools.partial(subprocess.run, capture_output=True, text=True, check=False, timeout=300)
    assert "nnunet_plugins" in run([sys.executable, "-c", "import os; print(os.environ['nnUNet_extTrainer'])"]).stdout
    result = run([sys.executable, "-m", "unittest", *modules])
    assert result.returncode == 0, result.stderr
