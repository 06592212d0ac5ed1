"""A trained model: nnU-Net's folder of its folds, read without running anything that lies in it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunet_plugins.checkpoint_files import read_checkpoint
from nnunet_plugins.errors import UserError
from nnunet_plugins.files import read_json
from nnunet_plugins.nnunet_folders import folds_with, model_names
from nnunet_plugins.planning.source import find_trainer_class
from nnunet_plugins.wording import enumeration

NEEDED = ("trainer_name", "init_args", "network_weights", "inference_allowed_mirroring_axes")
"""Keys of a checkpoint that prediction reads."""


@dataclass(frozen=True)
class TrainedModel:
    """A model folder, whose description is that of its first fold, as in nnU-Net's prediction."""

    folder: Path
    folds: Sequence[str]
    checkpoint: str
    """Name of the file of each fold."""
    plans: PlansManager
    dataset_json: dict[str, Any]
    trainer_name: str
    configuration_name: str
    mirror_axes: list[int]

    @property
    def configuration(self) -> ConfigurationManager:
        return self.plans.get_configuration(self.configuration_name)

    @property
    def labels(self) -> Any:
        """nnU-Net's label manager."""
        return self.plans.get_label_manager(self.dataset_json)

    @property
    def num_channels(self) -> int:
        return determine_num_input_channels(self.plans, self.configuration, self.dataset_json)

    def network(self, fold: str) -> nn.Module:
        """Build the network of a fold as nnU-Net's prediction does.

        Raises:
            UserError: the checkpoint cannot be read, or is of another network.
        """
        checkpoint = read_fold(self.folder, fold, self.checkpoint)
        trainer: Any = find_trainer_class(self.trainer_name)
        build, configuration = trainer.build_network_architecture, self.configuration
        head: tuple[Any, ...] = (self.plans, configuration)
        if "plans_manager" not in signature(build).parameters:  # of trainers made before nnU-Net 2.8
            arch = configuration.network_arch_class_name, configuration.network_arch_init_kwargs
            head = (*arch, configuration.network_arch_init_kwargs_req_import)
        heads = self.labels.num_segmentation_heads
        network = build(*head, self.num_channels, heads, enable_deep_supervision=False)
        try:
            network.load_state_dict(checkpoint["network_weights"])
        except RuntimeError as error:
            raise UserError(
                f"The weights of fold {fold} in {self.folder} do not fit the network of {self.trainer_name}: export "
                f"with the version of nnunet-plugins that trained it"
            ) from error
        return network.eval()


def read_trained_model(folder: Path, folds: Sequence[str], checkpoint: str) -> TrainedModel:
    """Read a model folder.

    Args:
        folder: ``Trainer__Plans__configuration`` in nnU-Net's results.
        folds: names of folds; none for all but ``all``.
        checkpoint: name of the file of each fold.

    Raises:
        UserError: it is no such folder, lacks a fold, or is a cascade's second stage.
    """
    refuse_other_folder(folder)
    folds = list(dict.fromkeys(folds)) or find_folds(folder, checkpoint)
    remedy = "give a folder Trainer__Plans__configuration in nnU-Net's results"
    plans, dataset_json = (read_json(folder / name, remedy) for name in ("plans.json", "dataset.json"))
    first = read_fold(folder, folds[0], checkpoint)
    model = TrainedModel(
        folder,
        folds,
        checkpoint,
        PlansManager(plans),
        dataset_json,
        first["trainer_name"],
        first["init_args"]["configuration"],
        list(first["inference_allowed_mirroring_axes"] or ()),
    )
    if model.configuration.previous_stage_name is not None:
        raise UserError(
            f"{model.configuration_name} needs the segmentations of {model.configuration.previous_stage_name} as "
            "input, which an exported model does not have: export 3d_fullres instead"
        )
    return model


def find_folds(folder: Path, checkpoint: str) -> list[str]:
    """Names of the numbered folds that have the checkpoint.

    Raises:
        UserError: there are none.
    """
    numbered = [fold for fold in folds_with(folder, checkpoint) if fold.isdecimal()]
    if not numbered:
        raise UserError(f"{folder} has no fold_0/{checkpoint}: train it to the end, or choose folds and checkpoint")
    return numbered


def refuse_other_folder(folder: Path) -> None:
    """Refuse what cannot be a model's folder, with the one that may have been meant.

    Raises:
        UserError: the folder is not there, or is that of a fold.
    """
    if re.fullmatch(r"fold_(\d+|all)", folder.resolve().name):
        fold = folder.resolve().name.removeprefix("fold_")
        raise UserError(f"{folder} is the folder of a fold: give {folder.resolve().parent}, with -f {fold}")
    if not folder.is_dir():
        others = model_names(folder.parent)
        there = f"; {folder.parent} has {enumeration(others[:5])}" if others else ""
        raise UserError(f"{folder} is no folder: give Trainer__Plans__configuration in nnU-Net's results{there}")


def read_fold(folder: Path, fold: str, name: str) -> dict[str, Any]:
    """Read the checkpoint of a fold.

    Raises:
        UserError: it is not there, or no checkpoint of nnU-Net's.
    """
    path = folder / f"fold_{fold}" / name
    if not path.is_file():
        remedies = ["train that fold to the end"]
        if others := folds_with(folder, name):
            remedies.append(f"choose another with -f ({enumeration(others)})")
        if files := sorted(other.name for other in path.parent.glob("*.pth")):
            remedies.append(f"another file with --checkpoint ({enumeration(files)})")
        raise UserError(f"{path} is not there: {', or '.join(remedies)}")
    checkpoint = read_checkpoint(path)
    if missing := [key for key in NEEDED if key not in checkpoint]:
        raise UserError(f"{path} has no {missing[0]}: expected a checkpoint that nnU-Net 2 has saved")
    return checkpoint
