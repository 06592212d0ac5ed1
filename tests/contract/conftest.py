"""The trainers under test, planned datasets for the session, and one finished training of every main trainer."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import timm
import torch
from support import cell_datasets
from support.cell_datasets import LABELS, NAMES
from support.table import (
    DIFFERENT_LOSSES,
    DIFFERENT_NETWORKS,
    DIFFERENT_OUTPUTS,
    LOADING_WEIGHTS,
    MAIN_NETWORKS,
    MAIN_TRAINERS,
    datasets_for_loss,
    datasets_for_training,
    dimensions_of,
    in_3d,
)

from nnunet_plugins.architectures import DCSNet, Net0
from nnunet_plugins.trainers import TRAINERS


@pytest.fixture(params=list(TRAINERS))
def trainer_name(request) -> str:
    """Every row of the table of trainers."""
    return request.param


@pytest.fixture(params=MAIN_TRAINERS)
def main_trainer_name(request) -> str:
    """For what a variant's class attributes cannot change."""
    return request.param


@pytest.fixture(params=MAIN_NETWORKS)
def main_network_name(request) -> str:
    """For what depends on a main trainer's network, if it is ours."""
    return request.param


@pytest.fixture(params=LOADING_WEIGHTS)
def loading_trainer_name(request) -> str:
    """For what depends on where the weights come from."""
    return request.param


@pytest.fixture(params=DIFFERENT_NETWORKS)
def network_name(request) -> str:
    """For what depends on the network alone."""
    return request.param


@pytest.fixture(params=[name for name in MAIN_TRAINERS if in_3d(name)])
def main_trainer_name_3d(request) -> str:
    """Of these, the ones that can train volumes."""
    return request.param


def with_dimensions(names: Iterable[str]) -> list:
    pairs = [(name, dimensions) for name in names for dimensions in dimensions_of(name)]
    return [pytest.param(pair, id=f"{pair[0]}-{pair[1]}D") for pair in pairs]


@pytest.fixture(params=with_dimensions(DIFFERENT_NETWORKS))
def trainer_and_dimensions(request) -> tuple[str, int]:
    return request.param


@pytest.fixture(params=with_dimensions(DIFFERENT_OUTPUTS))
def outputs_and_dimensions(request) -> tuple[str, int]:
    return request.param


def with_datasets(names: Iterable[str], datasets_for: Callable[[str], list[int]]) -> list:
    pairs = [(name, dataset_id) for name in names for dataset_id in datasets_for(name)]
    return [pytest.param(pair, id=f"{pair[0]}-{NAMES[pair[1]]}") for pair in pairs]


@pytest.fixture(params=with_datasets(DIFFERENT_LOSSES, datasets_for_loss))
def trainer_and_targets(request) -> tuple[str, int]:
    """A trainer, and a dataset with targets for its loss."""
    return request.param


@pytest.fixture(params=with_datasets(TRAINERS, datasets_for_training))
def trainer_and_dataset(request) -> tuple[str, int]:
    """A trainer, and a dataset to train it on."""
    return request.param


@pytest.fixture(scope="session", autouse=True)
def initial_weights(tmp_path_factory) -> Iterator[None]:
    """Weights in timm's format for the ``_pretrained`` trainers (nothing can be downloaded here), and of a stage 1."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(7)
    for name in ("resnet34", "resnet50"):
        torch.save(timm.create_model(name, pretrained=False).state_dict(), folder / f"{name}.pth")
    torch.save({"network_weights": Net0(3, 1).state_dict()}, folder / "stage1.pth")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("NNUNET_PLUGINS_WEIGHTS", str(folder))
        monkeypatch.setenv("NNUNET_PLUGINS_STAGE1", str(folder / "stage1.pth"))
        yield


@pytest.fixture(scope="session", autouse=True)
def few_boxes() -> Iterator[None]:
    """DCSNet learns from two true boxes of a batch and as many detected ones: more take time and no other code."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setitem(DCSNet.__init__.__kwdefaults__, "max_true_boxes", 2)
        yield


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
            Path(trainer.output_folder, "checkpoint_best.pth").unlink()
            drop_optimizer_state(Path(trainer.output_folder, "checkpoint_final.pth"))
            finished[name] = Path(trainer.output_folder_base)
        return finished[name]

    return model_folder


def drop_optimizer_state(checkpoint: Path) -> None:
    """Two thirds of a checkpoint that is only to be predicted with."""
    content = torch.load(checkpoint, weights_only=False)
    content["optimizer_state"] = None
    torch.save(content, checkpoint)
