"""CASNet, section 3.3 of MedFusion-TransNet's paper, with the transformer fusion of modalities of its section 3.4.3.

One code for 2D and 3D: ``conv_op`` decides, and the rest follows. The paper's equations are missing from its text; they
are rebuilt from its sentences. Where these leave a choice, the docstrings say what was chosen.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from math import prod

import torch
from dynamic_network_architectures.building_blocks.helper import (
    convert_conv_op_to_dim,
    get_matching_batchnorm,
    get_matching_pool_op,
)
from torch import Tensor, nn

from nnunet_plugins.architectures.layers.dilation import dilated_conv
from nnunet_plugins.architectures.layers.logits import MAX_LOGIT, bounded
from nnunet_plugins.architectures.layers.padding import crop, pad_to_size
from nnunet_plugins.architectures.layers.resize import resize
from nnunet_plugins.architectures.layers.tokens import (
    AttentionBlock,
    SelfAttention,
    pool_to_grid,
    sinusoidal_positions,
    token_grid,
)

Size = tuple[int, ...]
ConvOp = type[nn.Conv2d] | type[nn.Conv3d]

NUM_CONVOLUTIONS = 2  # of a level; "each level may stack two"


def conv(
    conv_op: ConvOp, in_channels: int, out_channels: int, kernel_size: Size, dilation: int = 1
) -> nn.Conv2d | nn.Conv3d:
    """Convolution that keeps the size."""
    padding = tuple(dilation * (k // 2) for k in kernel_size)
    return conv_op(in_channels, out_channels, kernel_size, padding=padding, dilation=dilation, bias=False)  # type: ignore[arg-type]


def level(conv_op: ConvOp, in_channels: int, out_channels: int, kernel_size: Size) -> nn.Sequential:
    """``ReLU(BN(Conv(x)))`` of section 3.3.1, twice."""
    widths = [in_channels, *[out_channels] * NUM_CONVOLUTIONS]
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [
            conv(conv_op, before, after, kernel_size),
            get_matching_batchnorm(conv_op)(after),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


class ModalityEncoder(nn.ModuleList):
    """Levels ``E_l = level(Pool(E_(l-1)))`` of one modality: ``(B, c, *S)`` to the features of every level."""

    def __init__(
        self,
        conv_op: ConvOp,
        in_channels: int,
        widths: Sequence[int],
        strides: Sequence[Size],
        kernel_sizes: Sequence[Size],
    ):
        super().__init__()
        max_pool = get_matching_pool_op(conv_op, pool_type="max")
        for before, after, stride, kernel_size in zip(
            [in_channels, *widths], widths, strides, kernel_sizes, strict=False
        ):
            pool = nn.Identity() if prod(stride) == 1 else max_pool(stride)
            self.append(nn.Sequential(pool, level(conv_op, before, after, kernel_size)))

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for stage in self:
            x = stage(x)
            features.append(x)
        return features


class ContextualAttention(nn.Module):
    """Section 3.3.2: ``F_out = a A F + (1 - a) F`` with ``A = sigmoid(MLP(pooled F))``; ``(B, C, *S)`` to the same.

    F is pooled over all axes, which gives one score per channel, and over all axes but one, which gives one per channel
    and position along that axis. The same MLP turns all these means into scores, and the scores that meet in a position
    are added. ``a`` is learned, 1/2 at first, and kept between 0 and 1 by a sigmoid.
    """

    def __init__(self, channels: int, reduction: int = 4):
        super().__init__()
        hidden = max(channels // reduction, 8)
        self.mlp = nn.Sequential(nn.Conv1d(channels, hidden, 1), nn.ReLU(inplace=True), nn.Conv1d(hidden, channels, 1))
        self.balance = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        everywhere = x.flatten(2).mean(2, keepdim=True)
        profiles = [x.mean([other for other in range(2, x.ndim) if other != axis]) for axis in range(2, x.ndim)]
        scores, *along_axes = self.mlp(torch.cat((everywhere, *profiles), 2)).split((1, *size), dim=2)
        scores = scores.unflatten(2, (1,) * len(size))
        for axis, along_axis in enumerate(along_axes):
            shape = [1] * len(size)
            shape[axis] = size[axis]
            scores = scores + along_axis.unflatten(2, shape)
        return x * (1 - self.balance.sigmoid() * (-scores).sigmoid())  # 1 - A = sigmoid(-scores)


class MultiScaleFusion(nn.Module):
    """Section 3.3.3: ``Conv1x1(sum_r w_r AtrousConv_r(F))`` over dilations r; ``(B, C, *S)`` to the same.

    The weights w_r are learned and begin alike.
    """

    def __init__(self, conv_op: ConvOp, channels: int, kernel_size: Size, dilations: Sequence[int] = (1, 2, 4, 8)):
        super().__init__()
        self.atrous = nn.ModuleList(conv(conv_op, channels, channels, kernel_size, dilation) for dilation in dilations)
        self.weights = nn.Parameter(torch.full((len(dilations),), 1 / len(dilations)))
        self.pointwise = conv_op(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        scales = [w * dilated_conv(atrous, x) for w, atrous in zip(self.weights, self.atrous, strict=True)]  # type: ignore[arg-type]
        return self.pointwise(torch.stack(scales).sum(0))


class TransformerFusion(nn.Module):
    """Multi-modal transformer fusion, end of section 3.4.3.

    1. The positions of the bottleneck, of every modality, are tokens with a sinusoidal position and a learned modality
       embedding; the token mixer lets all of them attend to all.
    2. Hierarchical attention: these tokens then attend to the tokens of all modalities at one finer scale after the
       other, from the second deepest level up to full resolution.

    A level that has more than ``max_tokens`` positions is averaged onto a coarser grid first, so that time and memory
    stay bounded whatever the patch: a level of 128^3 voxels becomes 512 tokens for each modality. The result is brought
    back to the size of the bottleneck, merged over the modalities and added to their merged features.

    Shape:
        For each of M modalities features of L levels ``(B, widths[l], *S_l)``, to ``(B, out_channels, *S_(L-1))``.
    """

    def __init__(
        self,
        conv_op: ConvOp,
        num_modalities: int,
        widths: Sequence[int],
        strides: Sequence[Size],
        out_channels: int,
        *,
        token_mixer: Callable[[int], nn.Module] = SelfAttention,
        max_tokens: int = 512,
    ):
        super().__init__()
        channels = widths[-1]
        self.max_tokens = max_tokens
        self.voxels = [tuple(map(prod, zip(*strides[: i + 1], strict=True))) for i in range(len(strides))]
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
        self, modalities: Sequence[Tensor], index: int, projection: nn.Module | None = None
    ) -> tuple[Tensor, Size]:
        """Tokens ``(B, M * T, C)`` of a level, with their positions in voxels of the deepest level, and their grid."""
        size = modalities[0].shape[2:]
        grid = token_grid(size, self.max_tokens)
        pooled = torch.stack([pool_to_grid(x, grid) for x in modalities], 1).flatten(3).movedim(2, -1)  # (B, M, T, c)
        tokens = pooled if projection is None else projection(pooled)
        steps = zip(self.voxels[index], self.voxels[-1], size, grid, strict=True)
        spacing = [level / deepest * length / cells for level, deepest, length, cells in steps]
        return (tokens + sinusoidal_positions(grid, spacing, tokens)).flatten(1, 2), grid


class DecoderLevel(nn.Module):
    """``D_l = level(cat(E_l, Up(D_(l+1))))``, section 3.3.1, with contextual attention on ``E_l``."""

    def __init__(self, attention: nn.Module, level: nn.Module):
        super().__init__()
        self.attention = attention
        self.level = level

    def forward(self, x: Tensor, modalities: Sequence[Tensor]) -> Tensor:
        skip = self.attention(torch.cat(tuple(modalities), 1))
        return self.level(torch.cat((skip, resize(x, skip.shape[2:])), 1))


class DecoderLevelWithoutSkip(nn.Module):
    """``D_l = level(Up(D_(l+1)))``: what is left without the skips."""

    def __init__(self, level: nn.Module):
        super().__init__()
        self.level = level

    def forward(self, x: Tensor, modalities: Sequence[Tensor]) -> Tensor:
        return self.level(resize(x, modalities[0].shape[2:]))


class Decoder(nn.Module):
    """From the fused bottleneck up: ``(B, C, *S)`` to logits, those of the finest level first.

    Without deep supervision these are all. nnU-Net's ``-pretrained_weights`` leaves out what has ``.seg_layers.`` in
    its name, and so works across datasets.

    Args:
        conv_op: ``nn.Conv2d`` or ``nn.Conv3d``.
        levels: from the finest one down.
        features: channels of the levels that have a head, from the finest one down.
        num_classes: of the heads.
    """

    def __init__(self, conv_op: ConvOp, levels: Sequence[nn.Module], features: Sequence[int], num_classes: int):
        super().__init__()
        self.levels = nn.ModuleList(levels)
        self.seg_layers = nn.ModuleList(conv_op(width, num_classes, 1) for width in features)

    def forward(self, x: Tensor, encoded: Sequence[Sequence[Tensor]], *, deep_supervision: bool) -> list[Tensor]:
        decoded: list[Tensor] = []
        for level, modalities in reversed(list(zip(self.levels, encoded, strict=False))):
            x = level(x, modalities)
            decoded.insert(0, x)
        heads = self.seg_layers if deep_supervision else self.seg_layers[:1]
        return [bounded(head(features), MAX_LOGIT) for head, features in zip(heads, decoded, strict=False)]


class CASNet(nn.Module):
    """Context-aware segmentation network, with one encoder for every imaging modality.

    The modalities' encoders meet in the transformer fusion at the bottleneck and, concatenated, in the skips. M of them
    have ``1 / sqrt(M)`` of the planned features, so that they need as many operations as the one of a single modality;
    their features take sqrt(M) times the memory.

    Args:
        in_channels: channels of the image.
        num_classes: K, segmentation heads: classes with background, or regions.
        conv_op: ``nn.Conv2d`` or ``nn.Conv3d``.
        strides: of every level's pooling, as in nnU-Net's plans: the first does not pool, ``(1, ..., 1)``.
        kernel_sizes: of every level.
        features_per_stage: channels of every level.
        modality_groups: how many successive channels each modality has; one modality for each channel by default.
        deep_supervision: return ``(logits, logits at the level below, ...)``, all but the bottleneck's.
        auxiliary_heads: have the heads for that; by default if ``deep_supervision`` is on. A network that was trained
            with them has them also when it is off.
        use_skips: the decoder sees the encoders' levels ("w/o hierarchical feature extraction", Tables 3 and 4).
        use_contextual_attention: attend to context in these skips ("w/o contextual attention").
        token_mixer: from a number of channels C to the module that mixes the tokens ``(B, T, C)`` of all modalities.
        max_tokens: of a modality at one level.

    Shape:
        ``(B, in_channels, *S)`` to logits ``(B, K, *S)``, bounded by +-1000, for any size S.

    Raises:
        ValueError: levels, or modalities and channels, that do not fit together.

    Example:
        >>> plan = {"strides": [(1, 1), (2, 2)], "kernel_sizes": [(3, 3)] * 2, "features_per_stage": [32, 64]}
        >>> CASNet(2, 3, conv_op=nn.Conv2d, **plan)(torch.zeros(1, 2, 40, 30)).shape
        torch.Size([1, 3, 40, 30])
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        conv_op: ConvOp,
        strides: Sequence[Sequence[int]],
        kernel_sizes: Sequence[Sequence[int]],
        features_per_stage: Sequence[int],
        modality_groups: Sequence[int] | None = None,
        deep_supervision: bool = False,
        auxiliary_heads: bool | None = None,
        use_skips: bool = True,
        use_contextual_attention: bool = True,
        token_mixer: Callable[[int], nn.Module] = SelfAttention,
        max_tokens: int = 512,
    ):
        super().__init__()
        modality_groups = (1,) * in_channels if modality_groups is None else tuple(modality_groups)
        check_levels(convert_conv_op_to_dim(conv_op), strides, kernel_sizes, features_per_stage)
        if sum(modality_groups) != in_channels or min(modality_groups) < 1:
            raise ValueError(
                f"modality_groups {modality_groups} of {in_channels} channels: give the number of channels of each "
                "modality, so that they add up to all channels"
            )
        stride_of, kernel_of = [tuple(s) for s in strides], [tuple(k) for k in kernel_sizes]
        num_modalities = len(modality_groups)
        widths = [multiple_of_8(features / math.sqrt(num_modalities)) for features in features_per_stage]

        self.deep_supervision = deep_supervision
        self.modality_groups = modality_groups
        self.total_stride = tuple(map(prod, zip(*stride_of, strict=True)))
        self.encoders = nn.ModuleList(
            ModalityEncoder(conv_op, channels, widths, stride_of, kernel_of) for channels in modality_groups
        )
        bottleneck = features_per_stage[-1]
        self.transformer_fusion = TransformerFusion(
            conv_op, num_modalities, widths, stride_of, bottleneck, token_mixer=token_mixer, max_tokens=max_tokens
        )
        self.multi_scale_fusion = MultiScaleFusion(conv_op, bottleneck, kernel_of[-1])
        decoder_levels: list[nn.Module] = []
        for width, (out_channels, below), kernel_size in zip(
            widths, pairwise(features_per_stage), kernel_of, strict=False
        ):
            if use_skips:
                skip = num_modalities * width
                attention = ContextualAttention(skip) if use_contextual_attention else nn.Identity()
                decoder_levels.append(DecoderLevel(attention, level(conv_op, skip + below, out_channels, kernel_size)))
            else:
                decoder_levels.append(DecoderLevelWithoutSkip(level(conv_op, below, out_channels, kernel_size)))
        heads = slice(-1 if (deep_supervision if auxiliary_heads is None else auxiliary_heads) else 1)
        self.decoder = Decoder(conv_op, decoder_levels, features_per_stage[heads], num_classes)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        size = x.shape[2:]
        modalities = pad_to_size(x, self.total_stride).split(self.modality_groups, 1)
        pyramids = [encoder(modality) for encoder, modality in zip(self.encoders, modalities, strict=True)]
        encoded = list(zip(*pyramids, strict=True))  # of each level, the features of all modalities
        x = self.multi_scale_fusion(self.transformer_fusion(encoded))
        finest, *coarser = self.decoder(x, encoded, deep_supervision=self.deep_supervision)
        logits = crop(finest, size)
        return (logits, *coarser) if self.deep_supervision else logits


def multiple_of_8(features: float) -> int:
    """The next one: what the tensor cores want, and the attention's heads."""
    return 8 * math.ceil(features / 8)


def check_levels(
    dimensions: int,
    strides: Sequence[Sequence[int]],
    kernel_sizes: Sequence[Sequence[int]],
    features_per_stage: Sequence[int],
) -> None:
    num_levels = {len(strides), len(kernel_sizes), len(features_per_stage)}
    if len(num_levels) > 1 or len(strides) < 2:
        raise ValueError(
            f"{len(strides)} strides, {len(kernel_sizes)} kernel sizes, {len(features_per_stage)} features: give each "
            "level one, and at least two levels"
        )
    if wrong := [size for size in (*strides, *kernel_sizes) if len(size) != dimensions]:
        raise ValueError(f"strides and kernels have {dimensions} numbers in {dimensions}D, not {wrong[0]}")
    if any(step != 1 for step in strides[0]):
        raise ValueError(f"strides begin with {strides[0]}: the first level works at full resolution, give ones")
    if wrong := [size for size in kernel_sizes if any(k % 2 == 0 for k in size)]:
        raise ValueError(f"kernel size {wrong[0]} has no centre: choose odd ones")
