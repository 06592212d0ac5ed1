"""Model folders as nnU-Net leaves them, of small networks with random weights: nothing is trained."""

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from nnunet_plugins.architectures import Net0
from support.cell_datasets import configuration_of, load_dataset_json, load_plans

STAGES = 2
"""Few, because each takes the exporter a second."""


def write_model(
    trainer_name: str,
    dataset_id: int,
    folds: Sequence[int] = (0,),
    plans: Mapping[str, Any] | None = None,
    configuration: Mapping[str, Any] | None = None,
) -> Path:
    """Write the model folder of a trainer.

    Args:
        trainer_name: whose network is built and saved.
        dataset_id: of the small datasets.
        folds: each with weights of its own.
        plans: what the plans have otherwise, e.g. ``{"transpose_forward": [2, 0, 1]}``.
        configuration: what the dataset's configuration has otherwise, e.g. ``{"patch_size": [32, 32]}``.
    """
    name, content = configuration_of(dataset_id), deepcopy(load_plans(dataset_id)) | (plans or {})
    content["configurations"][name] |= configuration or {}
    if trainer_name == "nnUNetTrainer":
        shorten(content["configurations"][name]["architecture"]["arch_kwargs"])
    trainer_class = recursive_find_trainer_class_by_name(trainer_name)
    for fold in folds:
        torch.manual_seed(fold)
        plans_of_fold = deepcopy(content) | {"continue_training": False}
        trainer = trainer_class(plans_of_fold, name, fold, load_dataset_json(dataset_id), torch.device("cpu"))
        trainer.initialize()
        trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()  # which allows to mirror
        Path(trainer.output_folder).mkdir(parents=True, exist_ok=True)
        trainer.set_deep_supervision_enabled(False)
        patch_size = trainer.configuration_manager.patch_size
        prefer_no_class(trainer.network, torch.randn(2, trainer.num_input_channels, *patch_size))
        trainer.save_checkpoint(str(Path(trainer.output_folder, "checkpoint_final.pth")))
    folder = Path(trainer.output_folder_base)
    (folder / "plans.json").write_text(json.dumps(content))
    (folder / "dataset.json").write_text(json.dumps(trainer.dataset_json))
    return folder


def shorten(network: dict[str, Any]) -> None:
    """Leave the first stages of a planned network."""
    network["n_stages"] = STAGES
    for key in ("features_per_stage", "kernel_sizes", "strides", "n_conv_per_stage"):
        network[key] = network[key][:STAGES]
    network["n_conv_per_stage_decoder"] = network["n_conv_per_stage_decoder"][: STAGES - 1]


@torch.no_grad()
def prefer_no_class(network: torch.nn.Module, images: torch.Tensor) -> None:
    """Normalise by statistics of images, without biases of heads: fresh networks see one class everywhere.

    A detector becomes sure that there are objects.
    """
    for name, parameter in network.named_parameters():
        if ".seg_layers." in f".{name}" and parameter.ndim == 1:
            parameter.zero_()
        if name.endswith("cls_score.bias"):
            parameter.copy_(torch.tensor([0.0, 1.0]))
    network.eval()
    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.train().momentum = None
    network(images)
    network.eval()
    if isinstance(network, Net0):  # whose features after a ReLU all speak for the same class
        smooth = torch.nn.functional.interpolate(images[..., ::8, ::8], images.shape[2:], mode="bilinear")
        logits = network(smooth)
        network.head.seg_layers[0].bias -= logits.mean((0, 2, 3))
        network.head.seg_layers[0].weight /= logits.std()
        network.head.seg_layers[0].bias /= logits.std()
