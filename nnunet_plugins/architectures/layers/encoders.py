"""Convolutional encoders from timm, built without weights; ImageNet weights come on request, never at inference."""

import os
from pathlib import Path
from typing import Any

import timm
from torch import nn

from nnunet_plugins.errors import UserError

WEIGHTS_FOLDER_VARIABLE = "NNUNET_PLUGINS_WEIGHTS"


def timm_encoder(name: str, in_channels: int) -> tuple[nn.Module, list[int]]:
    """A randomly initialised timm backbone that returns the feature maps of all its scales, and their widths.

    ``(B, in_channels, H, W)`` to a list of maps at 1/2, 1/4, ...
    """
    encoder: Any = timm.create_model(name, pretrained=False, features_only=True, in_chans=in_channels)
    return encoder, encoder.feature_info.channels()


def load_imagenet_weights(encoder: nn.Module, name: str, in_channels: int) -> None:
    """Load timm's ImageNet weights for ``name`` into ``encoder``; timm adapts the stem to ``in_channels``.

    A file ``<name>.safetensors`` or ``<name>.pth`` in the folder ``$NNUNET_PLUGINS_WEIGHTS`` is used if the variable is
    set; otherwise timm's own cache, or a download.

    Raises:
        UserError: the weights are neither there nor can be downloaded.
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
            name, pretrained=True, pretrained_cfg_overlay=overlay, features_only=True, in_chans=in_channels
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
