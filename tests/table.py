"""The table of trainers as the contract suite sees it: main trainers are tested in full, their variants in brief."""

from cell_datasets import FORMATS, LABELS, REGIONS_IGNORE, THICK_VOLUMES, VOLUME_FORMATS

from nnunet_plugins.trainers import TRAINERS, find_trainer

MAIN_TRAINERS = [name for name, variant in TRAINERS.items() if not variant.overrides]
"""The trainers of the papers. A variant shares their code and has other class attributes."""


def in_3d(trainer_name: str) -> bool:
    return 3 in find_trainer(trainer_name).supported_dimensions


def datasets_for(trainer_name: str) -> list[int]:
    """All label formats and volumes for a main trainer, the plainest and the richest for a variant."""
    if trainer_name in MAIN_TRAINERS:
        return [*FORMATS, *(VOLUME_FORMATS if in_3d(trainer_name) else ())]
    return [LABELS, THICK_VOLUMES if in_3d(trainer_name) else REGIONS_IGNORE]
