"""Names of plans that are made for a trainer and a GPU; nothing here needs torch or nnU-Net."""

import re

NOTE = "nnunet_plugins"
"""Key of such plans under which they say how they were made; nnU-Net does not read it."""
LENGTH = re.compile(r"(_(1epoch|[1-9]\d*epochs))?(_[1-9]\d*iterations)?$")
"""Length of a training in a trainer's name, which changes nothing in its memory."""


PLANNERS = {
    "nnUNetPlans": "ExperimentPlanner",
    "nnUNetResEncUNetMPlans": "nnUNetPlannerResEncM",
    "nnUNetResEncUNetLPlans": "nnUNetPlannerResEncL",
    "nnUNetResEncUNetXLPlans": "nnUNetPlannerResEncXL",
}
"""nnU-Net's planners by the names of their plans."""
FITTED = re.compile(r"(?P<plans>\w+)_(?P<trainer>[A-Za-z][A-Za-z0-9]*Trainer\w*)_(?P<memory>[\d.]+)G")
"""Names of plans that :func:`fitted_plans_name` gives."""


def planner_option(plans_name: str) -> str:
    """The option, with a space before it, with which nnU-Net's planning commands write plans of a name.

    Example:
        >>> planner_option("nnUNetPlans"), planner_option("nnUNetResEncUNetLPlans"), planner_option("MyPlans")
        ('', ' -pl nnUNetPlannerResEncL', ' -pl PLANNER -overwrite_plans_name MyPlans')
    """
    if plans_name == "nnUNetPlans":
        return ""
    return f" -pl {PLANNERS.get(plans_name) or f'PLANNER -overwrite_plans_name {plans_name}'}"


def planning_command(dataset_id: int, plans_name: str) -> str:
    """The command that writes plans of a name, for a dataset that has a fingerprint.

    Example:
        >>> planning_command(1, "nnUNetResEncUNetMPlans")
        'nnUNetv2_plan_experiment -d 1 -pl nnUNetPlannerResEncM'
        >>> planning_command(1, "nnUNetPlans_DLKUNetTrainer_24G")
        'nnunet-plugins plan -d 1 -tr DLKUNetTrainer --gpu-memory 24'
        >>> planning_command(1, "nnUNetPlans_mine_CASNetTrainer_DS_8G")
        'nnunet-plugins plan -d 1 -tr CASNetTrainer_DS --gpu-memory 8 -p nnUNetPlans_mine'
    """
    if (fitted := FITTED.fullmatch(plans_name)) is None:
        return f"nnUNetv2_plan_experiment -d {dataset_id}{planner_option(plans_name)}"
    start = "" if fitted["plans"] == "nnUNetPlans" else f" -p {fitted['plans']}"
    return f"nnunet-plugins plan -d {dataset_id} -tr {fitted['trainer']} --gpu-memory {fitted['memory']}{start}"


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
