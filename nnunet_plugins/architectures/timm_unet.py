"""TimmUNet: a plain U-Net decoder on any encoder of timm, and nothing else: a reference for the methods here.

Its widths, and with a ResNet-34 its size, are those that people know as the U-Net of segmentation_models_pytorch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nnunet_plugins.architectures.layers.convolutions import double_conv
from nnunet_plugins.architectures.layers.encoders import timm_encoder
from nnunet_plugins.architectures.layers.logits import bounded
from nnunet_plugins.architectures.layers.padding import crop, pad_to_stride
from nnunet_plugins.architectures.layers.recomputation import recomputable
from nnunet_plugins.architectures.layers.resize import upsample


class DecoderLevel(nn.Module):
    """Double the size of a map, concatenate the encoder's map of that size if there is one, and convolve twice."""

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int):
        super().__init__()
        self.convolutions = double_conv(nn.Conv2d, in_channels + skip_channels, out_channels)

    @recomputable
    def forward(self, x: Tensor, *skip: Tensor) -> Tensor:
        return self.convolutions(torch.cat((upsample(x, 2), *skip), 1))


class Decoder(nn.Module):
    """Decoder levels from the deepest to the one of full resolution, and a segmentation head for each of the finest."""

    def __init__(self, levels: Sequence[nn.Module], features: Sequence[int], num_classes: int):
        super().__init__()
        self.levels = nn.ModuleList(levels)
        self.seg_layers = nn.ModuleList(nn.Conv2d(width, num_classes, 1) for width in features)

    def forward(self, x: Tensor, skips: Sequence[Sequence[Tensor]], *, deep_supervision: bool) -> list[Tensor]:
        """Decode; the finest logits come first and, without deep supervision, alone."""
        decoded: list[Tensor] = []
        for level, skip in zip(self.levels, skips, strict=True):
            x = level(x, *skip)
            decoded.insert(0, x)
        heads = self.seg_layers if deep_supervision else self.seg_layers[:1]
        return [bounded(head(features)) for head, features in zip(heads, decoded, strict=False)]


class TimmUNet(nn.Module):
    """U-Net on a timm encoder, for 2D images of any size, number of channels and number of classes.

    Args:
        in_channels: channels of the image.
        num_classes: K, segmentation heads: classes with background, or regions.
        deep_supervision: return ``(logits, logits of half the size, ...)``, ``num_outputs`` in all.
        num_outputs: decoder levels that have a segmentation head, the finest first.
        backbone: any timm model whose feature maps have strides that are powers of 2, up to that of the deepest.
        decoder_channels: channels of the decoder's levels, the deepest first: one for each halving of the encoder.

    Shape:
        ``(B, in_channels, H, W)`` to logits ``(B, K, H, W)``, bounded by +-1000, for any H and W.

    Raises:
        ValueError: the backbone's strides, the decoder's channels or the outputs do not fit together.

    Example:
        >>> network = TimmUNet(3, 2, deep_supervision=True, num_outputs=3, backbone="resnet18")
        >>> [tuple(logits.shape) for logits in network(torch.zeros(2, 3, 64, 96))]
        [(2, 2, 64, 96), (2, 2, 32, 48), (2, 2, 16, 24)]
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        deep_supervision: bool = False,
        num_outputs: int = 5,
        backbone: str = "resnet34.tv_in1k",
        decoder_channels: Sequence[int] = (256, 128, 64, 32, 16),
    ):
        super().__init__()
        self.deep_supervision = deep_supervision
        self.backbone = backbone
        self.encoder, widths = timm_encoder(backbone, in_channels)
        encoder_strides = self.encoder.feature_info.reduction()
        self.stride = encoder_strides[-1]
        check_levels(backbone, encoder_strides, decoder_channels, num_outputs)

        encoder_channels = dict(zip(encoder_strides, widths, strict=True))
        self.level_strides = [self.stride >> index for index in range(1, len(decoder_channels) + 1)]  # e.g. 16 .. 1
        levels = [
            DecoderLevel(deeper, encoder_channels.get(stride, 0), out_channels)
            for stride, deeper, out_channels in zip(
                self.level_strides, (widths[-1], *decoder_channels), decoder_channels, strict=False
            )
        ]
        self.decoder = Decoder(levels, decoder_channels[::-1][:num_outputs], num_classes)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        features = self.encoder(pad_to_stride(x, self.stride))
        strides = self.encoder.feature_info.reduction()
        skips = [[f for f, s in zip(features, strides, strict=True) if s == stride] for stride in self.level_strides]
        outputs = self.decoder(features[-1], skips, deep_supervision=self.deep_supervision)
        logits = tuple(crop(output, output_size(x, 2**level)) for level, output in enumerate(outputs))
        return logits if self.deep_supervision else logits[0]


def output_size(x: Tensor, stride: int) -> list[int]:
    """Size of the images ``(B, C, H, W)`` at a stride, rounded up."""
    return [-(-length // stride) for length in x.shape[2:]]


def check_levels(backbone: str, strides: Sequence[int], decoder_channels: Sequence[int], num_outputs: int) -> None:
    """Refuse backbones that are not made of halvings, and decoders with more or fewer levels than these."""
    num_levels = strides[-1].bit_length() - 1
    if wrong := [stride for stride in strides if stride.bit_count() != 1]:
        raise ValueError(f"backbone {backbone!r} has a feature map at stride {wrong[0]}: choose one with powers of 2.")
    if len(decoder_channels) != num_levels:
        raise ValueError(
            f"decoder_channels={tuple(decoder_channels)}: expected {num_levels} numbers, one for each halving of "
            f"{backbone!r}, whose deepest map has stride {strides[-1]}."
        )
    if not 1 <= num_outputs <= num_levels:
        raise ValueError(f"num_outputs={num_outputs}: expected 1 to {num_levels}, the levels of the decoder.")
