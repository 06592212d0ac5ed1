"""The data of docs/protocol.md: four small datasets converted, planned and preprocessed for trainings on a CPU.

python speed/evidence_data.py DATA WORK nuclei polyps

``DATA`` has a folder for each dataset with ``images``, ``masks`` and perhaps ``groups.csv``; nothing is written there.
Below ``WORK`` arise nnU-Net's three folders and ``env.sh``, which sets the environment of the trainings. What is there
already stays.
"""

import argparse
import csv
import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props

from nnunet_plugins.cli import main as nnunet_plugins
from nnunet_plugins.files import usable_cores, write_json
from nnunet_plugins.planning.names import PLANNERS
from nnunet_plugins.planning.patches import Patch, integers, with_patch

BATCH = 8
PLANS = ("nnUNetPlans", "nnUNetResEncUNetMPlans")


class Recipe(NamedTuple):
    """How one dataset is made from a folder of images and masks."""

    id: int
    name: str
    folder: str
    size: tuple[int, int] | None = None
    """Height and width to which images are resized; None leaves them as they are."""
    patch: tuple[int, int] | None = None
    """Patch in 2D; None keeps nnU-Net's."""
    batches: tuple[tuple[str, int], ...] = (("2d", BATCH),)
    """Configurations, with the patches of a batch in each."""
    label_map: tuple[str, ...] = ()
    groups_in_names: bool = False
    """Whether names of cases begin with that of their group, from which the statistics know it."""
    ending: str = "CPU"
    """End of the names of the recipe's plans."""

    @property
    def dataset(self) -> str:
        return f"Dataset{self.id}_{self.name}"


RECIPES = {
    "nuclei": Recipe(561, "Nuclei", "dsb2018", (128, 128), (64, 64)),
    "polyps": Recipe(562, "Polyps", "kvasir_seg", (64, 64), (64, 64)),
    "stones": Recipe(563, "KidneyStones", "kidney_stone_ct", (256, 256), (64, 64), groups_in_names=True),
    "hippocampus": Recipe(
        564,
        "Hippocampus",
        "msd_hippocampus",
        batches=(("2d", BATCH), ("3d_fullres", 2)),
        label_map=("0=background", "1=anterior", "2=posterior"),
    ),
}
"""The datasets of docs/protocol.md."""
FULL_SIZE = Recipe(565, "NucleiFullSize", "dsb2018", batches=(("2d", 12),), ending="GPU")
"""The nuclei for ``gpu_evidence.py``: images as they are, nnU-Net's patch."""


def environment(work: Path) -> dict[str, str]:
    """Variables of the trainings: nnU-Net's folders in ``work``, one thread, no further processes, one seed."""
    folders = {f"nnUNet_{name}": str(work / name) for name in ("raw", "preprocessed", "results")}
    single = {"nnUNet_n_proc_DA": "0", "nnUNet_def_n_proc": "1", "nnUNet_compile": "f", "OMP_NUM_THREADS": "1"}
    return folders | single | {"NNUNET_PLUGINS_SEED": "0"}


def write_environment(work: Path) -> Path:
    work.mkdir(parents=True, exist_ok=True)
    path = work / "env.sh"
    path.write_text("".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment(work).items()))
    return path


# ---- conversion ------------------------------------------------------------------------------------------------------


def convert(recipe: Recipe, source: Path) -> None:
    """Convert the recipe's pairs, folds of groups included, unless the dataset is there."""
    if (Path(os.environ["nnUNet_raw"]) / recipe.dataset / "dataset.json").exists():
        return
    with tempfile.TemporaryDirectory() as folder:
        names = links_to_pairs(recipe, source, Path(folder))
        options = ["-d", str(recipe.id), "--dataset-name", recipe.name, "-np", str(usable_cores())]
        options += ["--images", "images/*", "--masks", "masks/*"]
        if recipe.size:
            options += ["--resize", *map(str, recipe.size)]
        if recipe.label_map:
            options += ["--label-map", *recipe.label_map]
        if names:
            table = Path(folder, "groups.csv")
            table.write_text("stem,group\n" + "".join(f"{stem},{group}\n" for stem, group in names.items()))
            options += ["--groups", str(table)]
        nnunet_plugins(["convert", "folder", folder, *options])


def links_to_pairs(recipe: Recipe, source: Path, folder: Path) -> dict[str, str]:
    """Fill a folder with links to images and masks; return the group of each, if there are groups."""
    groups = groups_of(source)
    for part in ("images", "masks"):
        (folder / part).mkdir()
        for path in sorted((source / part).iterdir()):
            stem = path.name.split(".")[0]
            prefix = f"group{groups[stem]}_" if recipe.groups_in_names else ""
            (folder / part / f"{prefix}{path.name}").symlink_to(path.resolve())
    if not recipe.groups_in_names:
        return groups
    return {f"group{group}_{stem}": group for stem, group in groups.items()}


def groups_of(source: Path) -> dict[str, str]:
    """Group of each stem, as ``groups.csv`` says; none if there is no such file."""
    path = source / "groups.csv"
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {row["stem"]: row["dup_group"] for row in csv.DictReader(file)}


# ---- plans -----------------------------------------------------------------------------------------------------------


def plan(recipe: Recipe, plans_names: Sequence[str] = PLANS) -> None:
    """Make nnU-Net's plans, and beside them those with the recipe's patch and batch, unless they are there."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments

    folder = Path(os.environ["nnUNet_preprocessed"]) / recipe.dataset
    extract_fingerprints([recipe.id], num_processes=1, clean=False)
    for name in plans_names:
        if not (folder / f"{name}.json").exists():
            plan_experiments([recipe.id], PLANNERS[name])
        target = folder / f"{name}{recipe.ending}.json"
        if not target.exists():
            write_json(target, smaller_plans(json.loads((folder / f"{name}.json").read_text()), recipe))


def smaller_plans(plans: dict, recipe: Recipe) -> dict:
    """The plans under another name, with the recipe's configurations, patch and batch."""
    made = {}
    for name, batch in recipe.batches:
        configuration = plans["configurations"][name]
        if recipe.patch and list(recipe.patch) != configuration["patch_size"]:
            configuration = with_patch(configuration, patch_of(recipe.patch))
        made[name] = configuration | {"batch_size": batch}
    return plans | {"plans_name": plans["plans_name"] + recipe.ending, "configurations": made}


def patch_of(size: Sequence[int]) -> Patch:
    """The stages that nnU-Net's planner gives a patch of isotropic pixels."""
    _, strides, kernel_sizes, patch, _ = get_pool_and_conv_props((1.0,) * len(size), size, 4, 999_999)
    if integers(patch) != list(size):
        raise ValueError(f"patch {tuple(size)}: nnU-Net's network cannot halve it, and would enlarge it to {patch}")
    return Patch(list(size), integers(strides), integers(kernel_sizes))


def preprocess(recipe: Recipe, plans_names: Sequence[str]) -> None:
    """Preprocess the recipe's configurations, unless all cases are there."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import preprocess_dataset

    root = Path(os.environ["nnUNet_preprocessed"]) / recipe.dataset
    num_cases = json.loads((root / "dataset.json").read_text())["numTraining"]
    for plans_name in plans_names:
        plans = json.loads((root / f"{plans_name}.json").read_text())
        for name, _ in recipe.batches:
            folder = root / plans["configurations"][name]["data_identifier"]
            if len(list(folder.glob("*.pkl"))) < num_cases:
                shutil.rmtree(folder, ignore_errors=True)
                preprocess_dataset(recipe.id, plans_name, [name], [usable_cores()])


def prepare(recipe: Recipe, data: Path, plans_names: Sequence[str] = PLANS) -> None:
    """Do all that the environment's folders lack of a recipe."""
    convert(recipe, data / recipe.folder)
    plan(recipe, plans_names)
    preprocess(recipe, [f"nnUNetPlans{recipe.ending}"])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("work", type=Path, metavar="WORK")
    parser.add_argument("names", nargs="*", default=list(RECIPES), metavar="NAME", help=f"of {', '.join(RECIPES)}")
    arguments = parser.parse_args(argv)
    if unknown := [name for name in arguments.names if name not in RECIPES]:
        parser.error(f"{unknown[0]}: expected names of {', '.join(RECIPES)}")
    path = write_environment(arguments.work.resolve())
    os.environ.update(environment(arguments.work.resolve()) | {"nnUNet_n_proc_DA": "1"})  # planning fails with 0
    for recipe in (RECIPES[name] for name in arguments.names):
        prepare(recipe, arguments.data)
    print(f"\nNow source {path} and run 'nnunet-plugins benchmark run' with the suites of docs/protocol.md.")


if __name__ == "__main__":
    main()
