"""Narrow networks for the tests of trainers: a small backbone and few channels, with every module of the wide ones.

The published sizes are proved in ``tests/architectures``. Networks that follow the plans are narrow because the plans
of ``support.cell_datasets`` are.
"""

from collections.abc import Callable
from typing import Any

from nnunet_plugins.trainers import TRAINERS, find_trainer

BACKBONES = ("resnet10t", "test_resnet")

NETWORK_KWARGS: dict[str, dict[str, Any]] = {
    "DCFFSNetTrainer": {"backbone": "resnet10t", "decoder_channels": (16, 16, 16, 16, 16)},
    "ConDSegNet0Trainer": {"backbone": "test_resnet", "head_channels": 16},
    "ConDSegTrainer": {"channels": 16},
    "DCSNetTrainer": {
        "backbone": "test_resnet",
        "base_size": 16,
        "features": 16,
        "widths": (16, 16, 32, 32),
        "fused_channels": 16,
        "box_head_channels": 32,
        "max_boxes": 2,
    },
    "DLKUNetTrainer": {"base_channels": 12},
    "TimmUNetTrainer": {"backbone": "test_resnet", "decoder_channels": (16, 16, 16, 16, 16)},
}
"""Arguments for the networks of the main trainers, which their variants inherit."""


def narrow_networks(set_attribute: Callable[[Any, str, Any], None] = setattr) -> None:
    """Make the networks of all trainers narrow; rows of other widths keep their proportion to the main trainer.

    Args:
        set_attribute: pytest's ``monkeypatch.setattr``, to undo it; the default is for child processes.
    """
    for name, kwargs in NETWORK_KWARGS.items():
        set_attribute(find_trainer(name), "network_kwargs", kwargs)
    for name, row in TRAINERS.items():
        own = row.overrides.get("network_kwargs", {})
        if "base_channels" in own:
            narrow = {**own, "base_channels": own["base_channels"] // 8}
            set_attribute(find_trainer(name), "network_kwargs", narrow)
