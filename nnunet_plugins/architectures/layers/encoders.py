"""Encoders from timm, built without weights; ImageNet weights are loaded on request, never at inference."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_plugins.architectures.layers.recomputation import make_blocks_recomputable
from nnunet_plugins.checkpoint_files import read_checkpoint
from nnunet_plugins.errors import UserError
from nnunet_plugins.quiet_timm import timm

WEIGHTS_FOLDER_VARIABLE = "NNUNET_PLUGINS_WEIGHTS"


def timm_encoder(name: str, in_channels: int, num_features: int | None = None) -> tuple[Any, list[int]]:
    """Make a randomly initialised timm backbone that returns its feature maps, and list their channels C_i.

    Args:
        name: timm model with ``features_only`` that takes images of any size.
        in_channels: channels of the image.
        num_features: number of maps to use, without the layers beyond; all if ``None``.

    Shape:
        ``(B, in_channels, H, W)`` to a list of maps ``(B, C_i, H / r_i, W / r_i)``; the strides r_i are
        ``encoder.feature_info.reduction()``, most often 2, 4, 8, ...

    Raises:
        ValueError: timm has no such model, or the model has fewer feature maps.
    """
    options: dict[str, Any] = {} if num_features is None else {"out_indices": tuple(range(num_features))}
    try:
        encoder: Any = timm.create_model(name, pretrained=False, features_only=True, in_chans=in_channels, **options)
    except (RuntimeError, AssertionError, IndexError) as error:
        raise ValueError(
            f"backbone {name!r}: timm makes no encoder with {num_features or 'its'} feature maps of it ({error}); "
            "choose another of timm.list_models()."
        ) from error
    make_blocks_recomputable(encoder)
    if str(getattr(encoder, "output_fmt", "NCHW")).endswith("NHWC"):
        encoder.register_forward_hook(channels_first)
    return encoder, encoder.feature_info.channels()


def channels_first(encoder: nn.Module, arguments: Any, features: list[Tensor]) -> list[Tensor]:
    """Move the channels of a backbone's NHWC feature maps to the second axis, as a forward hook."""
    return [feature.movedim(-1, 1) for feature in features]


def load_imagenet_weights(encoder: Any, name: str, in_channels: int) -> str:
    """Load timm's ImageNet weights for ``name`` into ``encoder``, adapted to ``in_channels``; tell where they lay.

    They come from the folder ``$NNUNET_PLUGINS_WEIGHTS`` if the variable is set, otherwise from timm's cache or a
    download. A file there is called as timm calls the model, with its tag or without, and ``.safetensors`` or ``.pth``.
    Such a file cannot run code.

    Args:
        encoder: made by :func:`timm_encoder`.
        name: timm's name of the model, with the tag of the weights, or without for timm's own choice.
        in_channels: channels of the image.

    Returns:
        The file, or timm's name of the weights.

    Raises:
        UserError: the weights are not there, are not those of the model, or cannot be downloaded.
    """
    folder = os.environ.get(WEIGHTS_FOLDER_VARIABLE)
    path = weights_file(folder, name) if folder else None
    overlay = {"state_dict": read_weights(path, name)} if path else None
    try:
        pretrained = timm.create_model(
            name,
            pretrained=True,
            pretrained_cfg_overlay=overlay,
            features_only=True,
            in_chans=in_channels,
            out_indices=encoder.feature_info.out_indices,
        )
    except Exception as error:  # huggingface_hub, requests and torch share no base class
        if path:
            raise UserError(f"{path} holds weights of another network than {name} ({error}).") from error
        raise UserError(
            f"The ImageNet weights of {name} could not be downloaded ({type(error).__name__}): on a machine with "
            f"internet access save timm.create_model({name!r}, pretrained=True).state_dict() with torch.save as "
            f"{name}.pth, copy it into a folder and set {WEIGHTS_FOLDER_VARIABLE} to that, or train without "
            "_pretrained in the trainer's name."
        ) from error
    encoder.load_state_dict(pretrained.state_dict())
    return str(path or name)


def weights_file(folder: str, name: str) -> Path:
    """Find the file of the timm model ``name`` in the folder.

    Raises:
        UserError: there is no such folder or file.
    """
    if not Path(folder).is_dir():
        raise UserError(f"{WEIGHTS_FOLDER_VARIABLE}={folder}: there is no such folder; correct or unset the variable.")
    untagged, _, tag = name.partition(".")
    default: Any = timm.get_pretrained_cfg(name, allow_unregistered=False)
    tagged = f"{untagged}.{tag or default.tag}"
    candidates = [Path(folder, stem + ending) for stem in (tagged, untagged) for ending in (".safetensors", ".pth")]
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        raise UserError(
            f"{WEIGHTS_FOLDER_VARIABLE}={folder} holds none of {', '.join(c.name for c in candidates)}: put timm's "
            f"ImageNet weights of {tagged} there under one of these names, or unset the variable."
        )
    return path


def read_weights(path: Path, name: str) -> dict[str, Tensor]:
    """Read the weights of the timm model ``name``.

    Raises:
        UserError: the file holds anything but weights, or lacks some of the model.
    """
    remedy = f"save timm.create_model({name!r}, pretrained=True).state_dict() there"
    try:
        weights = read_checkpoint(path)
    except UserError as error:
        raise UserError(f"{error}: {remedy}.") from error
    missing = sorted(weights_before_the_classifier(name) - weights.keys())
    if missing:
        raise UserError(f"{path} lacks {len(missing)} of the weights of {name}, such as {missing[0]}: {remedy}.")
    return weights


def weights_before_the_classifier(name: str) -> set[str]:
    """Names of the weights of the timm model ``name`` that do not depend on the classes it was trained for."""
    with torch.device("meta"):
        model: Any = timm.create_model(name)
    classifier = model.pretrained_cfg.get("classifier") or ()
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    of_classes = tuple(f"{head}." for head in heads)
    return {key for key in model.state_dict() if not key.startswith(of_classes) and "num_batches_tracked" not in key}
