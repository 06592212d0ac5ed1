"""The table of trainers as the contract suite sees it: main trainers are tested in full, their variants in brief."""

from nnunet_plugins.trainers import TRAINERS, find_trainer
from support.cell_datasets import FORMATS, REGIONS_IGNORE, THICK_VOLUMES, VOLUME_FORMATS

SAME_NETWORK = {"CASNetTrainer": "MedFusionTransNetTrainer"}
"""Trainers with the network of another, and no code that this one does not run."""

COMBINATIONS = ["DCSNetTrainer_baseline", "DCSNetTrainer_base128"]
"""Variants of code that other variants run, one by one or with fewer pixels: only trained, as all are."""

MAIN_TRAINERS = [
    *(name for name, variant in TRAINERS.items() if not variant.overrides and name not in SAME_NETWORK),
    "DLKUNetSTrainer",
]
"""The trainers of the papers, and the one with fewer blocks than nnU-Net's plans have stages. Tested in full."""

WITH_OTHER_OUTPUTS = [
    *MAIN_TRAINERS,
    "DCFFSNetTrainer_woDS",
    "ConDSegTrainer_baseline",
    "MedFusionTransNetTrainer_DS",
]
"""With the variants whose networks have fewer or more outputs."""

LOADING_WEIGHTS = [*MAIN_TRAINERS, "DCFFSNetTrainer_pretrained", "ConDSegTrainer_stage2"]
"""With those that start from weights. The other variants differ from a main trainer in numbers: tested in brief."""

NNUNETS_NETWORK = ["DRGOTrainer"]
"""The trainers of nnU-Net's own network, which is not ours to test."""

OF_THE_TRAINING = {
    "region_sampling",
    "pretrained",
    "pretrained_by",
    "stage_1_percent",
    "stage_2_encoder_lr",
    "consistency_reinforcement",
    "early_stopping_patience",
}
"""Class attributes on which neither the network nor its loss in stage 2 depends."""

OF_THE_LOSS = {"loss_schedule", "beta"}
"""Class attributes on which the network does not depend."""


def first_rows(ignored: set[str]) -> list[str]:
    """Of the rows that differ in these class attributes alone, the first."""
    first: dict[str, str] = {}
    for name, variant in TRAINERS.items():
        rest = {key: value for key, value in variant.overrides.items() if key not in ignored}
        first.setdefault(f"{variant.base} {rest}", name)
    return [name for name in first.values() if name not in (*NNUNETS_NETWORK, *COMBINATIONS)]


DIFFERENT_LOSSES = first_rows(OF_THE_TRAINING)
DIFFERENT_NETWORKS = [name for name in first_rows(OF_THE_TRAINING | OF_THE_LOSS) if name not in SAME_NETWORK]


DIFFERENT_OUTPUTS = [name for name in WITH_OTHER_OUTPUTS if name not in NNUNETS_NETWORK]
MAIN_NETWORKS = [name for name in MAIN_TRAINERS if name not in NNUNETS_NETWORK]


def in_3d(trainer_name: str) -> bool:
    return 3 in find_trainer(trainer_name).supported_dimensions


def dimensions_of(trainer_name: str) -> tuple[int, ...]:
    """All that a main trainer supports, the highest for a variant."""
    supported = find_trainer(trainer_name).supported_dimensions
    return supported if trainer_name in MAIN_TRAINERS else (max(supported),)


def datasets_for_loss(trainer_name: str) -> list[int]:
    """All label formats, and volumes if it can train them, for a main trainer; the richest images for a variant."""
    if trainer_name in MAIN_TRAINERS:
        return [*FORMATS, *(VOLUME_FORMATS if in_3d(trainer_name) else ())]
    return [REGIONS_IGNORE]


def datasets_for_training(trainer_name: str) -> list[int]:
    """The same for a main trainer; for a variant the richest dataset, of volumes if it can train them."""
    if trainer_name in MAIN_TRAINERS:
        return datasets_for_loss(trainer_name)
    return [THICK_VOLUMES if in_3d(trainer_name) else REGIONS_IGNORE]
