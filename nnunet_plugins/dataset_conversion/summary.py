"""What the user reads of a conversion."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from nnunet_plugins.dataset_conversion.cases import Outcome
from nnunet_plugins.dataset_conversion.dataset import PNG, Dataset
from nnunet_plugins.dataset_conversion.source import Source
from nnunet_plugins.dataset_conversion.splits import Split


def print_summary(
    dataset: Dataset, source: Source, target: Path, outcomes: Sequence[Outcome], folds: Sequence[Split]
) -> None:
    kept = [outcome for outcome in outcomes if not outcome.left_out]
    parts = Counter(outcome.row.part for outcome in kept)
    pixels: Counter[int] = sum((Counter(outcome.label_counts) for outcome in kept), Counter())
    share = {value: count / max(1, pixels.total()) for value, count in pixels.items()}
    groups = {outcome.row.part: {o.row.group for o in kept if o.row.part == outcome.row.part} for outcome in kept}
    print(f"{dataset.title} -> {target}")
    test = f", {parts['Ts']} for testing" if parts["Ts"] else ""
    left_out = f"; {len(outcomes) - len(kept)} left out for their foreground" if len(outcomes) > len(kept) else ""
    print(f"  cases      {parts['Tr']} for training{test}{left_out}; {len(groups['Tr'])} groups")
    print(f"  channels   {', '.join(dataset.channels)} ({dataset.file_ending})")
    labels = [f"{value} {name} ({share.get(value, 0):.3%})" for name, value in dataset.labels.items()]
    print(f"  labels     {', '.join(labels)}")
    sizes = ", ".join(f"{len(fold['train'])}/{len(fold['val'])}" for fold in folds) or "none: they need two groups"
    print(f"  folds      {sizes} (training/validation)")
    print(f"  licence    {dataset.licence}")
    print(f"  page       {dataset.page}")
    print(f"  cite       {dataset.citation}")
    for notice in notices(dataset, source, outcomes, groups):
        print(f"  Note: {notice}.")


def notices(
    dataset: Dataset, source: Source, outcomes: Sequence[Outcome], groups: Mapping[str, set[str]]
) -> Iterator[str]:
    """What is no error, but should be known."""
    if dataset.num_cases and len(outcomes) != dataset.num_cases:
        archives = f"; {len(source.unopened)} archive(s) beside them were not opened" if source.unopened else ""
        yield f"{len(outcomes)} cases were found, and {dataset.num_cases} are published{archives}"
    if both := groups.get("Tr", set()) & groups.get("Ts", set()):
        yield f"{len(both)} groups, such as {min(both)}, are in the training and in the published test set"
    if empty := [outcome.row.case for outcome in outcomes if outcome.row.note == "no foreground"]:
        yield f"{len(empty)} cases, such as {empty[0]}, have no foreground"


def print_next_steps(dataset: Dataset) -> None:
    configuration = "2d" if dataset.file_ending == PNG else "3d_fullres"
    print("Next:")
    print(f"  nnUNetv2_plan_and_preprocess -d {dataset.dataset_id} -c {configuration}")
