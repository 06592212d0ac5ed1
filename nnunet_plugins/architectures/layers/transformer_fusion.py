"""Multi-modal transformer fusion of CASNet: end of section 3.4.3 of MedFusion-TransNet's paper."""

from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import Tensor, nn

from nnunet_plugins.architectures.layers.convolutions import ConvOp, Size
from nnunet_plugins.architectures.layers.padding import total_stride
from nnunet_plugins.architectures.layers.resize import resize
from nnunet_plugins.architectures.layers.tokens import (
    AttentionBlock,
    SelfAttention,
    pool_to_grid,
    sinusoidal_positions,
    token_grid,
)


class TransformerFusion(nn.Module):
    """Fuses the bottlenecks of all modalities by attention, among themselves and to all finer levels.

    1. The positions of every modality's bottleneck are tokens with a sinusoidal position and a learned modality
       embedding; the token mixer lets all of them attend to all.
    2. Hierarchical attention: these tokens then attend to the tokens of all modalities at one finer level after the
       other, from the second deepest one up to full resolution.

    A level that has more than ``max_tokens`` positions is first averaged onto a coarser grid, so that time and memory
    stay bounded for patches of any size: a level of 128^3 voxels becomes 512 tokens for each modality. The result is
    resized to the bottleneck, merged over the modalities and added to their merged features.

    Args:
        conv_op: ``nn.Conv2d`` or ``nn.Conv3d``.
        num_modalities: M.
        widths: channels of every level of a modality.
        strides: pooling before every level.
        out_channels: channels of the fused bottleneck.
        token_mixer: makes the module that mixes the tokens ``(B, T, C)`` of all modalities, given C.
        max_tokens: most tokens of a modality at one level.

    Shape:
        For each of L levels the features of M modalities ``(B, widths[l], *S_l)``, to ``(B, out_channels, *S_(L-1))``.
    """

    def __init__(
        self,
        conv_op: ConvOp,
        num_modalities: int,
        widths: Sequence[int],
        strides: Sequence[Sequence[int]],
        out_channels: int,
        *,
        token_mixer: Callable[[int], nn.Module] = SelfAttention,
        max_tokens: int = 512,
    ):
        super().__init__()
        channels = widths[-1]
        self.max_tokens = max_tokens
        self.strides = [total_stride(strides[: level + 1]) for level in range(len(strides))]
        self.modality = nn.Parameter(0.02 * torch.randn(num_modalities, 1, channels))
        self.fusion = AttentionBlock(channels, token_mixer(channels))
        self.to_context = nn.ModuleList(nn.Linear(width, channels) for width in reversed(widths[:-1]))
        self.hierarchy = nn.ModuleList(AttentionBlock(channels, SelfAttention(channels)) for _ in widths[:-1])
        self.merge = conv_op(num_modalities * channels, out_channels, 1)

    def forward(self, levels: Sequence[Sequence[Tensor]]) -> Tensor:
        deepest = levels[-1]
        tokens, grid = self.tokens(deepest, -1)
        tokens = self.fusion(tokens + self.modality.expand(-1, prod(grid), -1).flatten(0, 1))
        for index, (to_context, attention) in enumerate(zip(self.to_context, self.hierarchy, strict=True)):
            context, _ = self.tokens(levels[-2 - index], -2 - index, to_context)
            tokens = attention(tokens, context)
        fused = tokens.unflatten(1, (len(deepest), *grid)).movedim(-1, 2).flatten(1, 2)  # (B, M * C, *grid)
        fused = resize(fused.to(deepest[0].dtype), deepest[0].shape[2:])
        return self.merge(fused + torch.cat(tuple(deepest), 1))

    def tokens(
        self, modalities: Sequence[Tensor], level: int, projection: nn.Module | None = None
    ) -> tuple[Tensor, Size]:
        """Make the tokens ``(B, M * T, C)`` of a level, and say how many there are along each axis.

        Their positions are in units of the deepest level's voxels, so that those of all levels compare.
        """
        size = modalities[0].shape[2:]
        grid = token_grid(size, self.max_tokens)
        pooled = torch.stack([pool_to_grid(x, grid) for x in modalities], 1).flatten(3).movedim(2, -1)  # (B, M, T, c)
        tokens = pooled if projection is None else projection(pooled)
        axes = zip(self.strides[level], self.strides[-1], size, grid, strict=True)
        spacing = [stride / deepest_stride * length / cells for stride, deepest_stride, length, cells in axes]
        return (tokens + sinusoidal_positions(grid, spacing, tokens)).flatten(1, 2), grid
