"""Printed summary of a conversion, with notices and the next commands."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from nnunet_plugins.dataset_conversion.cases import Outcome
from nnunet_plugins.dataset_conversion.dataset import PNG, Dataset
from nnunet_plugins.dataset_conversion.output import REPORT
from nnunet_plugins.dataset_conversion.source import Source
from nnunet_plugins.nnunet_folders import Split
from nnunet_plugins.wording import counted, enumeration


def print_summary(
    dataset: Dataset, source: Source, target: Path, outcomes: Sequence[Outcome], folds: Sequence[Split]
) -> None:
    kept = [outcome for outcome in outcomes if not outcome.left_out]
    parts = Counter(outcome.row.part for outcome in kept)
    pixels: Counter[int] = sum((Counter(outcome.label_counts) for outcome in kept), Counter())
    share = {value: count / max(1, pixels.total()) for value, count in pixels.items()}
    num_groups = len({outcome.row.group for outcome in kept if outcome.row.part == "Tr"})
    print(f"{dataset.title} -> {target}")
    test = f", {parts['Ts']} for testing" if parts["Ts"] else ""
    left_out = f"; {len(outcomes) - len(kept)} left out for their foreground" if len(outcomes) > len(kept) else ""
    print(f"  cases      {parts['Tr']} for training{test}{left_out}; {num_groups} groups")
    if dataset.size:
        published = sizes_text([outcome.row.shape for outcome in kept])
        print(f"  size       {' x '.join(map(str, dataset.size))}, resized from {published}")
    print(f"  channels   {', '.join(dataset.channels)} ({dataset.file_ending})")
    labels = [f"{value} {name} ({share.get(value, 0):.3%})" for name, value in dataset.labels.items()]
    print(f"  labels     {', '.join(labels)}")
    sizes = ", ".join(f"{len(fold['train'])}/{len(fold['val'])}" for fold in folds) or "none: they need two groups"
    print(f"  folds      {sizes} (training/validation)")
    print(f"  licence    {dataset.licence}")
    print(f"  page       {dataset.page}")
    print(f"  cite       {dataset.citation}")
    for notice in (*source.notices, *notices(outcomes, folds), *rare_labels(dataset, kept), *losses(dataset, kept)):
        print(f"  Note: {notice}.")


def notices(outcomes: Sequence[Outcome], folds: Sequence[Split]) -> Iterator[str]:
    """Facts about the cases and folds that are no errors, but that the user should know."""
    kept = [outcome for outcome in outcomes if not outcome.left_out]
    rows = [outcome.row for outcome in kept]
    groups = {row.case: row.group for row in rows}
    sides = [(fold["train"], fold["val"]) for fold in folds]
    sides.append(([row.case for row in rows if row.part == "Tr"], [row.case for row in rows if row.part == "Ts"]))
    both: set[str] = set()
    for train, other in sides:
        both |= {groups[case] for case in train} & {groups[case] for case in other}
    if both:
        yield f"{len(both)} groups, such as {min(both)}, are on both sides of the published split"
    if empty := [outcome.row.case for outcome in kept if outcome.labelled and not outcome.has_foreground]:
        yield f"No foreground in {counted(len(empty), 'case')}, such as {enumeration(empty[:3])}"
    yield from grey_images(kept)
    if large := [row.case for row in rows if row.foreground_fraction and float(row.foreground_fraction) > 0.5]:
        told = f"{counted(len(large), 'image')}, such as {enumeration(large[:3])}"
        yield (
            f"The foreground covers more than half of {told}: if it should be the background there, name both in "
            "--label-map, as in 255=background 0=object"
        )


def grey_images(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """A sentence about the images that got two more channels, if there are any."""
    if grey := [outcome.row.case for outcome in outcomes if outcome.grey]:
        told = f"{counted(len(grey), 'grey image')}, such as {enumeration(grey[:3])},"
        yield f"{told} became RGB by repeating the channel, as the dataset is RGB"


def rare_labels(dataset: Dataset, kept: Sequence[Outcome]) -> Iterator[str]:
    """Sentences about the labels that no case, or only one group, of the training set has."""
    training = [outcome for outcome in kept if outcome.row.part == "Tr"]
    for name, value in dataset.labels.items():
        cases = [outcome.row.case for outcome in training if value in outcome.label_counts]
        groups = {outcome.row.group for outcome in training if value in outcome.label_counts}
        if not cases:
            yield f"No training case has the label {name}"
        elif value and len(groups) == 1 < len({outcome.row.group for outcome in training}):
            who = f"{cases[0]}, has" if len(cases) == 1 else f"of the group {min(groups)}, have"
            cases_text = counted(len(cases), "training case")
            yield (
                f"Only {cases_text}, {who} the label {name}: the fold that is validated on it has not learnt it, and "
                "no other fold tells how well it is found"
            )


def sizes_text(shapes: Sequence[str]) -> str:
    """Smallest and largest of the sizes in shapes such as ``12x512x512``, by their area."""
    sizes = sorted({tuple(map(int, shape.split("x")[-2:])) for shape in shapes}, key=math.prod)
    return " to ".join(" x ".join(map(str, size)) for size in dict.fromkeys((sizes[0], sizes[-1])))


def losses(dataset: Dataset, kept: Sequence[Outcome]) -> Iterator[str]:
    """Sentences about the objects of each label that resizing has removed."""
    for name, value in dataset.labels.items():
        cases = [outcome for outcome in kept if value in outcome.vanished]
        if cases:
            objects = sum(outcome.vanished[value] for outcome in cases)
            gone = sum(value not in outcome.label_counts for outcome in cases)
            yield (
                f"Resizing removes {objects} objects of the label {name}, in {len(cases)} cases such as "
                f"{cases[0].row.case}; {gone} cases lose the label altogether (vanished_objects in {REPORT})"
            )


def print_next_steps(dataset: Dataset, planned: bool) -> None:
    configuration = "2d" if dataset.file_ending == PNG or dataset.flat or dataset.size else "3d_fullres"
    print("Next:")
    print(f"  nnUNetv2_plan_and_preprocess -d {dataset.dataset_id} -c {configuration}{' --clean' if planned else ''}")
    train = f"nnUNetv2_train {dataset.dataset_id} {configuration} 0 -tr DCFFSNetTrainer"
    print(f"  {train}   # 'nnunet-plugins list' has the other trainers")
    if planned:
        print("--clean, because nnU-Net would otherwise go on with what it knows of the dataset that was there before.")
