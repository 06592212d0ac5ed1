"""nnU-Net's plans as networks see them, and the reference plans at which sizes of networks are given."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from dynamic_network_architectures.building_blocks.helper import convert_dim_to_conv_op
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunet_plugins.architectures.layers.scales import EncoderPlan

MAX_FEATURES = 320
"""Most features of a stage in nnU-Net's plans of volumes."""


class NetworkPlan(NamedTuple):
    """nnU-Net's plans of a dataset as a network sees them."""

    plans: PlansManager
    configuration: ConfigurationManager
    in_channels: int

    @property
    def patch_size(self) -> list[int]:
        return self.configuration.patch_size

    @property
    def conv_op(self) -> type[nn.Conv2d] | type[nn.Conv3d]:
        """Convolution of the patch's dimensions."""
        return convert_dim_to_conv_op(len(self.patch_size))

    @property
    def architecture(self) -> dict[str, Any]:
        """nnU-Net's arguments for its own network: ``strides``, ``kernel_sizes``, ``features_per_stage``, ..."""
        return self.configuration.network_arch_init_kwargs

    def encoder_plan(self, fewest_stages: int) -> EncoderPlan | None:
        """Stages for an encoder of volumes, with further ones where the plan has too few; ``None`` for images."""
        if len(self.patch_size) == 2:
            return None
        strides, kernel_sizes, features = (
            list(self.architecture[name]) for name in ("strides", "kernel_sizes", "features_per_stage")
        )
        strides = further_strides(strides, self.patch_size, fewest_stages)
        while len(features) < len(strides):
            kernel_sizes.append([3, 3, 3])
            features.append(min(2 * features[-1], MAX_FEATURES))
        return EncoderPlan([tuple(x) for x in strides], [tuple(x) for x in kernel_sizes], features)

    @property
    def modality_groups(self) -> tuple[int, ...]:
        """Number of channels of each modality.

        Every channel of a medical image is a modality; the colours of a natural image are one; and so are the
        segmentations that a cascade adds to the image.
        """
        num_image_channels = min(len(self.configuration.normalization_schemes), self.in_channels)
        natural = self.plans.plans["image_reader_writer"] == "NaturalImage2DIO"
        groups = (num_image_channels,) if natural else (1,) * num_image_channels
        added = self.in_channels - num_image_channels
        return (*groups, added) if added else groups


def further_strides(plan: Sequence[Sequence[int]], patch_size: Sequence[int], num_stages: int) -> list[list[int]]:
    """The plan's strides, and for further stages strides of 2 along every axis that still has four pixels."""
    strides = [list(stride) for stride in plan]
    while len(strides) < num_stages:
        left = np.array(patch_size) // np.prod(strides, axis=0)
        strides.append([2 if size >= 4 else 1 for size in left])
    return strides


REFERENCE_PLANS: dict[str, Any] = {
    "image_reader_writer": "NaturalImage2DIO",
    "configurations": {
        "2d": {
            "patch_size": [256, 256],
            "normalization_schemes": ["ZScoreNormalization"] * 3,
            "architecture": {
                "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
                "arch_kwargs": {
                    "n_stages": 7,
                    "features_per_stage": [32, 64, 128, 256, 512, 512, 512],
                    "conv_op": "torch.nn.modules.conv.Conv2d",
                    "kernel_sizes": [[3, 3]] * 7,
                    "strides": [[1, 1], *[[2, 2]] * 6],
                    "n_conv_per_stage": [2] * 7,
                    "n_conv_per_stage_decoder": [2] * 6,
                    "conv_bias": True,
                    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
                    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
                    "dropout_op": None,
                    "dropout_op_kwargs": None,
                    "nonlin": "torch.nn.LeakyReLU",
                    "nonlin_kwargs": {"inplace": True},
                },
                "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
            },
        }
    },
}
"""nnU-Net's plans for colour images of 256 x 256 pixels."""
