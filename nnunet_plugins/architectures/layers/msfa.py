"""Multiscale feature aggregation (MSFA) of DCSNet: segmentation inside boxes from four levels (eq. 7-9)."""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nnunet_plugins.architectures.layers.convolutions import conv_norm, conv_norm_relu, double_conv
from nnunet_plugins.architectures.layers.logits import bounded
from nnunet_plugins.architectures.layers.recomputation import recomputable
from nnunet_plugins.architectures.layers.resize import resize

GROUPS = 8
"""Number of groups of a group normalisation, and of heads of the attention."""

DROPOUT = 0.2
"""Share of what the attention's layers and the fused features leave out in training; the authors'."""

group_norm = partial(nn.GroupNorm, GROUPS)
"""Normalisation of all blocks here: boxes are too few, and too much alike, for statistics of a batch."""


class Segments(NamedTuple):
    """Logits of N boxes, in the size of the head, or of whole images, in that of P2."""

    logits: Tensor
    """``(N, K, S, S)`` class logits from the fused levels."""
    levels: tuple[Tensor, ...]
    """``(N, K, S, S)`` class logits from each of D2 ... D5."""
    edges: Tensor
    """``(N, K, S, S)`` logits of a pixel lying on the edge of a class."""


class EncoderBlock(nn.Module):
    """Encoder of one level, P_i to E_i: a convolution, and a residual block of two."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.projection = conv_norm_relu(nn.Conv2d, in_channels, out_channels, norm_op=group_norm)
        self.residual = conv_norm_relu(nn.Conv2d, out_channels, out_channels, norm_op=group_norm)
        self.residual.extend(conv_norm(nn.Conv2d, out_channels, out_channels, norm_op=group_norm))

    @recomputable
    def forward(self, x: Tensor) -> Tensor:
        x = self.projection(x)
        return (x + self.residual(x)).relu()


class TransformerLayer(nn.TransformerEncoderLayer):
    """One of the attention's four layers: 8 heads, a dropout of 0.2, normalisation first."""

    def __init__(self, channels: int):
        super().__init__(
            channels,
            nhead=GROUPS,
            dim_feedforward=2 * channels,
            dropout=DROPOUT,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )

    forward = recomputable(nn.TransformerEncoderLayer.forward)


class LevelAttention(nn.Module):
    """Self-attention among the tokens of all levels, added to the levels' features (eq. 7).

    Each level becomes a grid of as many tokens as the coarsest has pixels, by a linear projection of patches. Every
    token of a box has a learned position; for maps of other sizes, as of whole images, positions are interpolated.

    Args:
        widths: channels of E2 ... E5.
        grid: number of a level's tokens along either axis.
        channels: channels of a token.
    """

    def __init__(self, widths: Sequence[int], grid: int, channels: int):
        super().__init__()
        patches = [2**level for level in reversed(range(len(widths)))]
        self.tokens = nn.ModuleList(
            nn.Conv2d(width, channels, patch, stride=patch) for width, patch in zip(widths, patches, strict=True)
        )
        self.grid = grid
        self._register_load_state_dict_pre_hook(partial(give_every_level_positions, len(widths)))
        self.positions = nn.Parameter(0.02 * torch.randn(len(widths), grid * grid, channels))
        self.levels = nn.Parameter(0.02 * torch.randn(len(widths), 1, channels))
        self.transformer = nn.Sequential(*(TransformerLayer(channels) for _ in range(4)), nn.LayerNorm(channels))
        self.projections = nn.ModuleList(nn.Conv2d(channels, width, 1) for width in widths)

    def forward(self, encoded: Sequence[Tensor]) -> list[Tensor]:
        """Add to each of E2 ... E5 its share of the attended tokens."""
        grids = [project(x) for project, x in zip(self.tokens, encoded, strict=True)]  # (N, C, g, g)
        positions = resize(self.position_maps(), grids[0].shape[2:]).flatten(2).transpose(1, 2)  # (4, g^2, C)
        embeddings = (positions + self.levels).flatten(0, 1)  # (4 g^2, C)
        tokens = torch.cat([grid.flatten(2) for grid in grids], 2).transpose(1, 2) + embeddings
        attended = self.transformer(tokens).transpose(1, 2).chunk(len(grids), 2)
        context = [
            project(x.reshape(grid.shape)) for project, x, grid in zip(self.projections, attended, grids, strict=True)
        ]
        return [x + resize(c, x.shape[2:]) for x, c in zip(encoded, context, strict=True)]

    def position_maps(self) -> Tensor:
        """Positions of every level's tokens at their places: ``(4, C, g, g)``."""
        return self.positions.unflatten(1, (self.grid, self.grid)).movedim(3, 1)


def give_every_level_positions(num_levels: int, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Repeat the positions of weights from version 0.2.0, which all levels shared: their network computes the same."""
    name = f"{prefix}positions"
    if name in state_dict and state_dict[name].ndim == 2:
        state_dict[name] = state_dict[name].repeat(num_levels, 1, 1)


class PixelFusion(nn.Module):
    """Fusion ``F = sum of W_i * D_i`` with ``W = softmax(g(cat(D2 ... D5)))``, pixel by pixel (eq. 8-9)."""

    def __init__(self, channels: int, num_levels: int):
        super().__init__()
        self.gate = nn.Sequential(
            conv_norm_relu(nn.Conv2d, num_levels * channels, channels, norm_op=group_norm),
            nn.Conv2d(channels, num_levels, kernel_size=1),
        )

    @recomputable
    def forward(self, decoded: Sequence[Tensor]) -> Tensor:
        weights = self.gate(torch.cat(list(decoded), 1)).softmax(1).split(1, 1)
        return torch.stack([weight * x for weight, x in zip(weights, decoded, strict=True)]).sum(0)


class MeanFusion(nn.Module):
    """Fusion of the ablation without MSFA: the mean of all levels."""

    def forward(self, decoded: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(decoded)).mean(0)


class MSFA(nn.Module):
    """Multiscale feature aggregation: encoder, attention, decoder and fusion of the four levels in a box.

    Args:
        num_classes: K.
        base_size: S, edge of the finest maps.
        use_msfa: ``False`` gives a plain encoder and decoder, without attention, gates and learned fusion.
        features: channels of the pyramid's maps, and of the tokens.
        widths: channels of E2 ... E5.
        fused_channels: channels of D2 ... D5 when they are fused.
    """

    def __init__(
        self,
        num_classes: int,
        base_size: int = 64,
        *,
        use_msfa: bool = True,
        features: int = 256,
        widths: Sequence[int] = (64, 128, 256, 512),
        fused_channels: int = 64,
    ):
        super().__init__()
        self.use_msfa = use_msfa
        pairs = list(pairwise(widths))
        self.encoders = nn.ModuleList(EncoderBlock(features, width) for width in widths)
        self.attention = LevelAttention(widths, base_size >> len(pairs), features) if use_msfa else nn.Identity()
        self.bottleneck = conv_norm_relu(nn.Conv2d, widths[-1], widths[-1], norm_op=group_norm)
        self.gates = nn.ModuleList(nn.Conv2d(fine + coarse, 1, 1) for fine, coarse in pairs if use_msfa)
        self.decoders = nn.ModuleList(
            double_conv(nn.Conv2d, fine + coarse, fine, norm_op=group_norm) for fine, coarse in pairs
        )
        self.refinements = nn.ModuleList(
            conv_norm_relu(nn.Conv2d, width, fused_channels, 1, norm_op=group_norm) for width in widths
        )
        self.fusion = PixelFusion(fused_channels, len(widths)) if use_msfa else MeanFusion()
        self.refinement = conv_norm_relu(nn.Conv2d, fused_channels, fused_channels, norm_op=group_norm)
        self.dropout = nn.Dropout2d(DROPOUT)
        num_outputs = 1 + len(widths) + 1  # of the fused levels, of every level, and of the edges
        self.seg_layers = nn.ModuleList(nn.Conv2d(fused_channels, num_classes, 1) for _ in range(num_outputs))
        self.seg_layers.register_buffer("has_background", torch.tensor(float(num_classes > 1)))

    def forward(self, levels: Sequence[Tensor]) -> Segments:
        """Segment N boxes, given their maps ``(N, C, S, S)`` ... ``(N, C, S / 8, S / 8)``, or others as fine."""
        encoded = self.attention([encode(x) for encode, x in zip(self.encoders, levels, strict=True)])
        decoded = self.decode(encoded)
        size = encoded[0].shape[2:]
        decoded = [resize(refine(x), size) for refine, x in zip(self.refinements, decoded, strict=True)]
        fused = self.dropout(self.refinement(self.fusion(decoded)))
        main, *auxiliary, edge = self.seg_layers
        logits = self.relative_to_background(main(fused))
        by_level = [self.relative_to_background(head(x)) for head, x in zip(auxiliary, decoded, strict=True)]
        return Segments(logits, tuple(by_level), bounded(edge(fused).float()))

    def decode(self, encoded: Sequence[Tensor]) -> list[Tensor]:
        """Decode E2 ... E5 from coarse to fine into D2 ... D5 of the same sizes."""
        decoded = [self.bottleneck(encoded[-1])]
        for level in reversed(range(len(self.decoders))):
            decoded.insert(0, self.decode_level(level, encoded[level], decoded[0]))
        return decoded

    @recomputable
    def decode_level(self, level: int, skip: Tensor, above: Tensor) -> Tensor:
        """Decode a level from what was encoded there, gated, and the next coarser level."""
        above = resize(above, skip.shape[2:])
        if self.use_msfa:
            skip = skip * self.gates[level](torch.cat((skip, above), 1)).sigmoid()
        return self.decoders[level](torch.cat((skip, above), 1))

    @property
    def has_background(self) -> Tensor:
        """1 for classes, 0 for regions; stored among the heads, which ``-pretrained_weights`` leaves alone."""
        return self.seg_layers.get_buffer("has_background")

    def relative_to_background(self, maps: Tensor) -> Tensor:
        """Subtract the background's logits from those of classes, in float32.

        Boxes that overlap then have the same background, and the larger logits win.
        """
        logits = bounded(maps.float())
        return logits - self.has_background * logits[:, :1]
