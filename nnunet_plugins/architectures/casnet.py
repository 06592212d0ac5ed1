"""CASNet: context-aware segmentation network (MedFusion-TransNet's paper, section 3.3).

One code for 2D and 3D: ``conv_op`` decides. The paper's equations are missing from its text and were rebuilt from its
sentences. Where these leave a choice, the docstrings say what was chosen.
"""

import math
from collections.abc import Callable, Sequence
from math import prod

import torch
from dynamic_network_architectures.building_blocks.helper import convert_conv_op_to_dim, get_matching_pool_op
from torch import Tensor, nn

from nnunet_plugins.architectures.layers.convolutions import ConvOp, conv, double_conv
from nnunet_plugins.architectures.layers.dilation import dilated_conv
from nnunet_plugins.architectures.layers.logits import MAX_LOGIT, bounded
from nnunet_plugins.architectures.layers.padding import crop, pad_to_size, total_stride
from nnunet_plugins.architectures.layers.recomputation import Recomputable, recomputable
from nnunet_plugins.architectures.layers.resize import resize
from nnunet_plugins.architectures.layers.scales import EncoderPlan, round_up
from nnunet_plugins.architectures.layers.tokens import SelfAttention
from nnunet_plugins.architectures.layers.transformer_fusion import TransformerFusion


class ModalityEncoder(nn.ModuleList):
    """Encoder of one modality: ``E_l = ReLU(BN(Conv(.)))``, twice, of the pooled ``E_(l-1)`` (section 3.3.1).

    Args:
        conv_op: ``nn.Conv2d`` or ``nn.Conv3d``.
        in_channels: c, channels of the modality.
        widths: channels of every level.
        strides: pooling before every level.
        kernel_sizes: kernel size of every level.

    Shape:
        ``(B, c, *S)`` to the features ``(B, widths[l], *S_l)`` of every level.
    """

    def __init__(
        self,
        conv_op: ConvOp,
        in_channels: int,
        widths: Sequence[int],
        strides: Sequence[Sequence[int]],
        kernel_sizes: Sequence[Sequence[int]],
    ):
        super().__init__()
        max_pool = get_matching_pool_op(conv_op, pool_type="max")
        for width, stride, kernel_size in zip(widths, strides, kernel_sizes, strict=True):
            pool = nn.Identity() if prod(stride) == 1 else max_pool(tuple(stride))
            self.append(Recomputable(pool, double_conv(conv_op, in_channels, width, kernel_size)))
            in_channels = width

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for level in self:
            x = level(x)
            features.append(x)
        return features


class ContextualAttention(nn.Module):
    """Contextual attention ``F_out = a A F + (1 - a) F`` with ``A = sigmoid(MLP(pooled F))``, section 3.3.2.

    F is pooled over all axes, which gives one score per channel, and over all axes but one, which gives one per channel
    and position along that axis. The same MLP turns all these means into scores, and the scores that meet in a position
    are added. ``a`` is learned, 1/2 at first, and kept between 0 and 1 by a sigmoid. ``(B, C, *S)`` to the same.
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
    """Multi-scale fusion ``Conv1x1(sum_r w_r AtrousConv_r(F))`` over dilations r, section 3.3.3.

    The weights w_r are learned and equal at first. ``(B, C, *S)`` to the same.
    """

    def __init__(
        self, conv_op: ConvOp, channels: int, kernel_size: Sequence[int], dilations: Sequence[int] = (1, 2, 4, 8)
    ):
        super().__init__()
        self.atrous = nn.ModuleList(conv(conv_op, channels, channels, kernel_size, dilation=r) for r in dilations)
        self.weights = nn.Parameter(torch.full((len(dilations),), 1 / len(dilations)))
        self.pointwise = conv_op(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        scales = [w * dilated_conv(atrous, x) for w, atrous in zip(self.weights, self.atrous, strict=True)]  # type: ignore[arg-type]
        return self.pointwise(torch.stack(scales).sum(0))


class DecoderLevel(nn.Module):
    """Decoder level ``D_l = Conv(cat(E_l, Up(D_(l+1))))`` with contextual attention on ``E_l``, section 3.3.1."""

    def __init__(
        self,
        conv_op: ConvOp,
        skip_channels: int,
        deeper_channels: int,
        out_channels: int,
        kernel_size: Sequence[int],
        *,
        use_contextual_attention: bool = True,
    ):
        super().__init__()
        self.attention = ContextualAttention(skip_channels) if use_contextual_attention else nn.Identity()
        self.level = double_conv(conv_op, skip_channels + deeper_channels, out_channels, kernel_size)

    @recomputable
    def forward(self, x: Tensor, modalities: Sequence[Tensor]) -> Tensor:
        skip = self.attention(torch.cat(tuple(modalities), 1))
        return self.level(torch.cat((skip, resize(x, skip.shape[2:])), 1))


class DecoderLevelWithoutSkip(nn.Module):
    """Decoder level ``D_l = Conv(Up(D_(l+1)))`` of the ablation without skips."""

    def __init__(self, conv_op: ConvOp, deeper_channels: int, out_channels: int, kernel_size: Sequence[int]):
        super().__init__()
        self.level = double_conv(conv_op, deeper_channels, out_channels, kernel_size)

    @recomputable
    def forward(self, x: Tensor, modalities: Sequence[Tensor]) -> Tensor:
        return self.level(resize(x, modalities[0].shape[2:]))


class Decoder(nn.Module):
    """Decoder from the fused bottleneck ``(B, C, *S)`` to logits of the finest level and of coarser ones.

    nnU-Net's ``-pretrained_weights`` leaves out weights with ``.seg_layers.`` in their name, and so works across
    datasets.

    Args:
        conv_op: ``nn.Conv2d`` or ``nn.Conv3d``.
        levels: decoder levels, the finest first.
        features: channels of the levels that have a segmentation head, the finest first.
        num_classes: K, channels of a segmentation head.
    """

    def __init__(self, conv_op: ConvOp, levels: Sequence[nn.Module], features: Sequence[int], num_classes: int):
        super().__init__()
        self.levels = nn.ModuleList(levels)
        self.seg_layers = nn.ModuleList(conv_op(width, num_classes, 1) for width in features)

    def forward(self, x: Tensor, encoded: Sequence[Sequence[Tensor]], *, deep_supervision: bool) -> list[Tensor]:
        """Decode; the finest logits come first and, without deep supervision, alone."""
        decoded: list[Tensor] = []
        for index in reversed(range(len(self.levels))):
            x = self.levels[index](x, encoded[index])
            decoded.insert(0, x)
        heads = self.seg_layers if deep_supervision else self.seg_layers[:1]
        return [bounded(head(features), MAX_LOGIT) for head, features in zip(heads, decoded, strict=False)]


class CASNet(nn.Module):
    """Context-aware segmentation network, with one encoder for every imaging modality.

    The modalities' encoders meet in the transformer fusion at the bottleneck and, concatenated, in the skips. Each of M
    encoders has ``1 / sqrt(M)`` of the planned features, so that all together need as many operations as the single
    encoder of one modality; their features take sqrt(M) times the memory.

    Args:
        in_channels: channels of the image.
        num_classes: K, segmentation heads: classes with background, or regions.
        conv_op: ``nn.Conv2d`` or ``nn.Conv3d``.
        strides: pooling before every level, as in nnU-Net's plans: none before the first, ``(1, ..., 1)``.
        kernel_sizes: kernel size of every level.
        features_per_stage: channels of every level.
        modality_groups: number of successive channels of each modality; one channel each by default.
        deep_supervision: return ``(logits, logits at the level below, ...)``, for all levels but the bottleneck.
        auxiliary_heads: whether the network has the heads for deep supervision; by default if ``deep_supervision`` is
            on. A network that was trained with them also has them when it is off.
        use_skips: ``False`` gives a decoder that sees the bottleneck alone ("w/o hierarchical feature extraction",
            Tables 3 and 4).
        use_contextual_attention: ``False`` gives skips without it ("w/o contextual attention").
        token_mixer: makes the module that mixes the tokens ``(B, T, C)`` of all modalities, given C.
        max_tokens: most tokens of a modality at one level.

    Shape:
        ``(B, in_channels, *S)`` to logits ``(B, K, *S)``, bounded by +-1000, for any size S.

    Raises:
        ValueError: levels, or modalities and channels, do not fit together.

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
        plan = EncoderPlan(list(map(tuple, strides)), list(map(tuple, kernel_sizes)), features_per_stage)
        plan.check(fewest=2, dimensions=convert_conv_op_to_dim(conv_op))
        self.deep_supervision = deep_supervision
        self.modality_groups = (1,) * in_channels if modality_groups is None else tuple(modality_groups)
        check_modalities(self.modality_groups, in_channels)
        self.total_stride = total_stride(strides)

        num_modalities, bottleneck = len(self.modality_groups), features_per_stage[-1]
        widths = [round_up(features / math.sqrt(num_modalities), 8) for features in features_per_stage]
        self.encoders = nn.ModuleList(
            ModalityEncoder(conv_op, channels, widths, strides, kernel_sizes) for channels in self.modality_groups
        )
        self.transformer_fusion = TransformerFusion(
            conv_op, num_modalities, widths, strides, bottleneck, token_mixer=token_mixer, max_tokens=max_tokens
        )
        self.multi_scale_fusion = MultiScaleFusion(conv_op, bottleneck, kernel_sizes[-1])

        def decoder_level(index: int) -> nn.Module:
            out_channels, deeper_channels = features_per_stage[index : index + 2]
            if not use_skips:
                return DecoderLevelWithoutSkip(conv_op, deeper_channels, out_channels, kernel_sizes[index])
            return DecoderLevel(
                conv_op,
                num_modalities * widths[index],
                deeper_channels,
                out_channels,
                kernel_sizes[index],
                use_contextual_attention=use_contextual_attention,
            )

        levels = [decoder_level(index) for index in range(len(strides) - 1)]
        num_heads = len(levels) if (deep_supervision if auxiliary_heads is None else auxiliary_heads) else 1
        self.decoder = Decoder(conv_op, levels, features_per_stage[:num_heads], num_classes)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        size = x.shape[2:]
        modalities = pad_to_size(x, self.total_stride).split(self.modality_groups, 1)
        pyramids = [encoder(modality) for encoder, modality in zip(self.encoders, modalities, strict=True)]
        encoded = list(zip(*pyramids, strict=True))  # for each level, the features of all modalities
        x = self.multi_scale_fusion(self.transformer_fusion(encoded))
        finest, *coarser = self.decoder(x, encoded, deep_supervision=self.deep_supervision)
        logits = crop(finest, size)
        return (logits, *coarser) if self.deep_supervision else logits


def check_modalities(modality_groups: Sequence[int], in_channels: int) -> None:
    """Refuse modalities whose channels are not all channels."""
    if sum(modality_groups) != in_channels or min(modality_groups) < 1:
        raise ValueError(
            f"modality_groups {modality_groups} of {in_channels} channels: give the number of channels of each "
            "modality, so that they add up to all channels"
        )
