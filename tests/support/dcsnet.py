"""A narrow DCSNet, and detections for it, for more than one test."""

import torch

from nnunet_plugins.architectures import DCSNet
from nnunet_plugins.architectures.dcsnet import OUTSIDE

SIZE = (64, 96)
BOXES = torch.tensor([[0.0, 8, 8, 40, 40], [1, 30, 20, 60.5, 50], [1, 10, 5, 50, 30]])
NARROW = {
    "backbone": "resnet10t",
    "features": 32,
    "widths": (8, 16, 24, 32),
    "fused_channels": 8,
    "box_head_channels": 32,
}


def narrow_dcsnet(in_channels=1, num_classes=2, **options):
    """DCSNet with few channels; always the same weights."""
    torch.manual_seed(0)
    return DCSNet(in_channels, num_classes, **NARROW, **options)


def detects(monkeypatch, network, boxes):
    """Let the detector find these boxes in any image."""
    monkeypatch.setattr(network.detector, "detect", lambda features, proposals, size: boxes)


def background(network, images):
    """Logits where nothing is detected."""
    logits = torch.full((len(images), network.num_classes, *images.shape[2:]), OUTSIDE)
    logits[:, 0] = 0 if network.msfa.has_background else OUTSIDE
    return logits
