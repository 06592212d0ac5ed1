"""Encoders from timm, built without weights; ImageNet weights are loaded on request, never at inference."""

import os
from pathlib import Path
from typing import Any

import timm
from torch import Tensor, nn

from nnunet_plugins.architectures.layers.recomputation import make_blocks_recomputable
from nnunet_plugins.errors import UserError

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


def load_imagenet_weights(encoder: Any, name: str, in_channels: int) -> None:
    """Load timm's ImageNet weights for ``name`` into ``encoder``; timm adapts the stem to ``in_channels``.

    They come from ``<name>.safetensors`` or ``<name>.pth`` in the folder ``$NNUNET_PLUGINS_WEIGHTS`` if the variable is
    set, otherwise from timm's cache or a download.

    Raises:
        UserError: the weights are not there, and cannot be downloaded.
    """
    overlay = None
    folder = os.environ.get(WEIGHTS_FOLDER_VARIABLE)
    if folder:
        candidates = [Path(folder, name + ending) for ending in (".safetensors", ".pth")]
        found = next((path for path in candidates if path.is_file()), None)
        if found is None:
            raise UserError(
                f"{WEIGHTS_FOLDER_VARIABLE}={folder} holds neither {candidates[0].name} nor {candidates[1].name}: "
                f"put timm's ImageNet weights of {name} there under one of these names, or unset the variable."
            )
        overlay = {"file": str(found)}
    try:
        pretrained = timm.create_model(
            name,
            pretrained=True,
            pretrained_cfg_overlay=overlay,
            features_only=True,
            in_chans=in_channels,
            out_indices=encoder.feature_info.out_indices,
        )
    except Exception as error:  # huggingface_hub, requests and safetensors share no base class
        if overlay is not None:
            raise UserError(
                f"{overlay['file']} does not hold timm's ImageNet weights of {name} ({error}): "
                "save them again with timm.create_model(...).state_dict()."
            ) from error
        raise UserError(
            f"The ImageNet weights of {name} could not be downloaded ({type(error).__name__}): copy them from a "
            f"machine with internet access as {name}.safetensors into a folder and set {WEIGHTS_FOLDER_VARIABLE} to "
            "it, or train without _pretrained in the trainer's name."
        ) from error
    encoder.load_state_dict(pretrained.state_dict())
