"""The table of trainers as the contract suite sees it: main trainers are tested in full, their variants in brief."""

from nnunet_plugins.trainers import TRAINERS, find_trainer
from support.cell_datasets import FORMATS, REGIONS_IGNORE, THICK_VOLUMES, VOLUME_FORMATS

SAME_NETWORK = {"CASNetTrainer": "MedFusionTransNetTrainer"}
"""Trainers with the network of another, and no code that this one does not run."""

COMBINATIONS = ["DCSNetTrainer_baseline"]
"""Variants whose code other variants run one by one: only trained."""

MAIN_TRAINERS = [
    *(name for name, row in TRAINERS.items() if not row.overrides and name not in SAME_NETWORK),
    "DLKUNetSTrainer",
]
"""The trainers of the papers, and the one with fewer blocks than nnU-Net's plans have stages. Tested in full."""

WITH_OTHER_OUTPUTS = [
    *MAIN_TRAINERS,
    "DCFFSNetTrainer_woDS",
    "ConDSegTrainer_baseline",
    "MedFusionTransNetTrainer_DS",
]
"""The main trainers, and the variants whose networks have fewer or more outputs."""

LOADING_WEIGHTS = [*MAIN_TRAINERS, "DCFFSNetTrainer_pretrained", "ConDSegTrainer_stage2"]
"""The main trainers, and the ways to start from weights."""

NNUNETS_NETWORK = ["DRGOTrainer"]
"""Trainers of nnU-Net's own network, which is not ours to test."""

NUMBERS_OF_THE_NETWORK = {"base_channels", "depthwise_kernel", "large_kernels", "variant", "base_size"}
"""Arguments of networks that change its sizes and no code: rows that differ in them alone are only trained."""

OF_THE_TRAINING = {
    "region_sampling",
    "pretrained",
    "initial_encoder",
    "not_pretrained_because",
    "stage_1_percent",
    "stage_2_encoder_lr",
    "consistency_reinforcement",
    "early_stopping_patience",
}
"""Class attributes on which neither the network nor its loss in stage 2 depends."""

OF_THE_LOSS = {"loss_schedule", "beta"}
"""Class attributes on which the network does not depend."""


def first_rows(ignored: set[str]) -> list[str]:
    """The first row of every group that differs in these class attributes, or numbers of the network, alone."""
    first: dict[str, str] = {}
    for name, row in TRAINERS.items():
        rest = {key: value for key, value in row.overrides.items() if key not in ignored}
        network_kwargs = rest.pop("network_kwargs", {})
        rest |= {key: value for key, value in network_kwargs.items() if key not in NUMBERS_OF_THE_NETWORK}
        first.setdefault(f"{row.base} {rest}", name)
    names = [name for name in first.values() if name not in (*NNUNETS_NETWORK, *COMBINATIONS)]
    return [*names, "DLKUNetSTrainer"]


DIFFERENT_LOSSES = first_rows(OF_THE_TRAINING)
DIFFERENT_NETWORKS = [name for name in first_rows(OF_THE_TRAINING | OF_THE_LOSS) if name not in SAME_NETWORK]
DIFFERENT_OUTPUTS = [name for name in WITH_OTHER_OUTPUTS if name not in NNUNETS_NETWORK]
MAIN_NETWORKS = [name for name in MAIN_TRAINERS if name not in NNUNETS_NETWORK]

VARIANTS_IN_NUMBERS = [
    name
    for name, row in TRAINERS.items()
    if name not in MAIN_TRAINERS
    and row.overrides.keys() == {"network_kwargs"}
    and row.overrides["network_kwargs"].keys() <= NUMBERS_OF_THE_NETWORK
]
VARIANTS_IN_CODE = [name for name in TRAINERS if name not in (*MAIN_TRAINERS, *VARIANTS_IN_NUMBERS)]


def in_3d(trainer_name: str) -> bool:
    return 3 in find_trainer(trainer_name).supported_dimensions


def dimensions_of(trainer_name: str) -> tuple[int, ...]:
    """All dimensions that a main trainer supports, the highest for a variant."""
    supported = find_trainer(trainer_name).supported_dimensions
    return supported if trainer_name in MAIN_TRAINERS else (max(supported),)


def datasets_for_loss(trainer_name: str) -> list[int]:
    """All label formats, and volumes if it can train them, for a main trainer; the richest images for a variant."""
    if trainer_name in MAIN_TRAINERS:
        return [*FORMATS, *(VOLUME_FORMATS if in_3d(trainer_name) else ())]
    return [REGIONS_IGNORE]


def richest_dataset(trainer_name: str) -> int:
    """The dataset with the most that can go wrong: regions and ignored voxels, of volumes if it can train them.

    The suite's weights of a stage 1 are of images.
    """
    of_volumes = in_3d(trainer_name) and trainer_name != "ConDSegTrainer_stage2"
    return THICK_VOLUMES if of_volumes else REGIONS_IGNORE
