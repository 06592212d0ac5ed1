"""Encoders and the scales of their maps: timm's for images, and for volumes one that follows nnU-Net's plans."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from dynamic_network_architectures.building_blocks.helper import convert_dim_to_conv_op, get_matching_instancenorm
from dynamic_network_architectures.building_blocks.residual_encoders import ResidualEncoder
from torch import Tensor, nn

from nnunet_plugins.architectures.layers.convolutions import ConvOp, Size
from nnunet_plugins.architectures.layers.encoders import timm_encoder
from nnunet_plugins.architectures.layers.recomputation import RecomputableBlocks, make_blocks_recomputable


class EncoderPlan(NamedTuple):
    """Stages of an encoder as nnU-Net plans them, the finest first; the first keeps the image's resolution."""

    strides: Sequence[Size]
    kernel_sizes: Sequence[Size]
    features_per_stage: Sequence[int]

    @property
    def conv_op(self) -> ConvOp:
        """Convolution of the strides' dimensions."""
        return convert_dim_to_conv_op(len(self.strides[0]))

    def first(self, num_stages: int) -> "EncoderPlan":
        """Leave out the stages after the first ones."""
        return EncoderPlan(
            self.strides[:num_stages], self.kernel_sizes[:num_stages], self.features_per_stage[:num_stages]
        )

    def check(self, fewest: int, dimensions: int | None = None) -> None:
        """Refuse stages that a network cannot follow.

        Args:
            fewest: stages that the network needs.
            dimensions: axes of its images; those of the strides if they decide.

        Raises:
            ValueError: there are too few stages, or their lists do not fit together or the network.
        """
        lengths = [len(values) for values in self]
        if len(set(lengths)) > 1 or lengths[0] < fewest:
            raise ValueError(
                f"{lengths[0]} strides, {lengths[1]} kernel sizes, {lengths[2]} features: give each stage one, and at "
                f"least {fewest} stages"
            )
        axes = dimensions or len(self.strides[0])
        if wrong := [size for size in (*self.strides, *self.kernel_sizes) if len(size) != axes]:
            raise ValueError(f"strides and kernels have {axes} numbers in {axes}D, not {wrong[0]}")
        if any(step != 1 for step in self.strides[0]):
            raise ValueError(
                f"strides begin with {self.strides[0]}: the first stage works at full resolution, give ones"
            )
        if wrong := [size for size in self.kernel_sizes if any(edge % 2 == 0 for edge in size)]:
            raise ValueError(f"kernel size {wrong[0]} has no centre: choose odd ones")


class PlanEncoder(ResidualEncoder):
    """nnU-Net's residual encoder, with a block of two convolutions for each of the plan's stages.

    ``(B, in_channels, *S)`` to a list of maps: those of the second stage and on, which are below the full resolution.
    """

    def __init__(self, in_channels: int, plan: EncoderPlan):
        super().__init__(
            in_channels,
            len(plan.strides),
            list(plan.features_per_stage),
            plan.conv_op,
            list(plan.kernel_sizes),
            list(plan.strides),
            n_blocks_per_stage=1,
            conv_bias=True,
            norm_op=get_matching_instancenorm(plan.conv_op),
            norm_op_kwargs={"eps": 1e-5, "affine": True},
            nonlin=nn.LeakyReLU,
            nonlin_kwargs={"inplace": True},
            return_skips=True,
        )
        self.stem: nn.Module = RecomputableBlocks(self.stem)
        for stage in self.stages:
            make_blocks_recomputable(stage)

    def forward(self, x: Tensor) -> list[Tensor]:
        return super().forward(x)[1:]


class Scales(NamedTuple):
    """Encoder, and what a decoder has to know of its maps, the finest first."""

    conv_op: ConvOp
    encoder: Any
    channels: Sequence[int]
    strides: Sequence[Size]
    """Stride of every map relative to the one before, or to the image."""
    kernel_sizes: Sequence[int | Size]
    """Kernel size at full resolution, and of every map."""


def image_scales(backbone: str, in_channels: int, num_maps: int | None = None) -> Scales:
    """Make an encoder of images, see :func:`~nnunet_plugins.architectures.layers.encoders.timm_encoder`."""
    encoder, channels = timm_encoder(backbone, in_channels, num_maps)
    steps = [coarse // fine for fine, coarse in pairwise([1, *encoder.feature_info.reduction()])]
    return Scales(nn.Conv2d, encoder, channels, [(step, step) for step in steps], [3] * (1 + len(steps)))


def plan_scales(plan: EncoderPlan, in_channels: int) -> Scales:
    """Make an encoder with all stages of the plan."""
    encoder = PlanEncoder(in_channels, plan)
    return Scales(plan.conv_op, encoder, plan.features_per_stage[1:], plan.strides[1:], plan.kernel_sizes)


def round_up(number: float, factor: int) -> int:
    """Round up to a multiple, such as tensor cores and groups of channels need."""
    return factor * math.ceil(number / factor)
