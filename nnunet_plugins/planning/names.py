"""Names of plans that are made for a trainer and a GPU; nothing here needs torch or nnU-Net."""

import re

NOTE = "nnunet_plugins"
"""Key of such plans under which they say how they were made; nnU-Net does not read it."""
LENGTH = re.compile(r"(_(1epoch|[1-9]\d*epochs))?(_[1-9]\d*iterations)?$")
"""Length of a training in a trainer's name, which changes nothing in its memory."""


def fitted_plans_name(plans_name: str, trainer: str, gpu_memory_gb: float) -> str:
    """Name of the plans with which a trainer fits a GPU.

    Example:
        >>> fitted_plans_name("nnUNetPlans", "DLKUNetTrainer_100epochs", 24)
        'nnUNetPlans_DLKUNetTrainer_24G'
    """
    return f"{plans_name}_{without_length(trainer)}_{gpu_memory_gb:g}G"


def without_length(trainer: str) -> str:
    """Name of a trainer without the length of its training."""
    return LENGTH.sub("", trainer)
