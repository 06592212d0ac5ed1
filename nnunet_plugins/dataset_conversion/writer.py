"""The one writer behind all converters: ``nnUNet_raw/DatasetNNN_Name`` as a whole, or not at all."""

import json
import multiprocessing
import signal
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from nnunet_plugins import nnunet_folders
from nnunet_plugins.dataset_conversion import output, splits
from nnunet_plugins.dataset_conversion.cases import Outcome, convert_case, digest, identifier, source_files
from nnunet_plugins.dataset_conversion.dataset import Case, Dataset
from nnunet_plugins.dataset_conversion.source import Source, without_ending
from nnunet_plugins.dataset_conversion.summary import print_next_steps, print_summary
from nnunet_plugins.errors import UserError

NEAR_DUPLICATE = 0.95
"""Correlation of thumbnails. On 190 slices of kidney CT this gives exactly the groups that were marked there."""

T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """What the user decides for any dataset."""

    paper_split: bool = False
    trust_image_geometry: bool = False
    groups: Mapping[str, str] = field(default_factory=dict)
    """Of published names; empty: the converter's own."""
    record: Mapping[str, Any] = field(default_factory=dict)
    """All that was asked for, as JSON: by it a conversion is recognised as the same."""


def convert(
    dataset: Dataset,
    source: Source,
    options: Options,
    *,
    processes: int,
    overwrite: bool = False,
    dry_run: bool = False,
    check: bool = True,
) -> None:
    """Convert a download and say what was done.

    Args:
        dataset: the converter, with its ``dataset_id``.
        source: the download.
        options: what the user has decided.
        processes: of the conversion and of nnU-Net's integrity check.
        overwrite: whether an existing dataset and existing folds may be replaced.
        dry_run: check everything, write nothing.
        check: whether nnU-Net's integrity check ends the conversion.

    Raises:
        UserError: anything is wrong. Then nothing was written.
    """
    assert dataset.dataset_id is not None
    name = f"Dataset{dataset.dataset_id:03}_{dataset.folder_name}"
    raw = nnunet_folders.raw(required=not dry_run)
    nnunet_folders.refuse_taken_id(dataset.dataset_id, name)
    cases = find_cases(dataset, source, options)
    target = raw / name
    if not dry_run:
        output.recover(target)
    if target.exists() and not overwrite and not dry_run:
        refuse_problems(source, source.problems)
        refuse_other_conversion(target, options, cases, processes)
        print(f"{target} was already converted from these files: nothing to do.")
        nnunet_folders.place_splits(target, overwrite=False)
        return

    folder = raw / f".{name}.partial"
    with output.nothing_half_written(folder, dry_run):
        work = partial(convert_case, dataset, options.trust_image_geometry, source.path, None if dry_run else folder)
        outcomes = in_parallel(work, cases, processes, f"{'Checking' if dry_run else 'Converting'} {dataset.name}")
        refuse_problems(source, [*source.problems, *(o.problem for o in outcomes if o.problem)])
        folds = assign(dataset, options, cases, outcomes)
        print_summary(dataset, source, target, outcomes, folds)
        nnunet_folders.refuse_other_splits(name, folds, overwrite)
        if dry_run:
            there = f" {target} is there already." if target.exists() else ""
            print(f"Dry run: nothing was written.{there}")
            return
        rows = [outcome.row for outcome in outcomes]
        output.move_to_parts(folder, rows, dataset.file_ending)
        output.write_dataset_json(folder / output.DESCRIPTION, dataset, source.path, options.record, rows)
        output.write_report(folder / output.REPORT, rows)
        if folds:
            (folder / nnunet_folders.SPLITS).write_text(json.dumps(folds, indent=4))
        if check:
            nnunet_folders.check_integrity(folder, processes)
        output.replace_folder(folder, target)
    print(f"Written: {target}")
    nnunet_folders.place_splits(target, overwrite)
    print_next_steps(dataset, nnunet_folders.was_planned(name))


# ---- cases -----------------------------------------------------------------------------------------------------------


def find_cases(dataset: Dataset, source: Source, options: Options) -> list[Case]:
    """The cases to convert, of distinct identifiers, with the user's groups.

    Raises:
        UserError: there are none, or an option does not fit the dataset.
    """
    if options.paper_split and not dataset.paper_split:
        raise UserError(
            f"{dataset.name} has no published split (its papers cross-validate or list no cases): leave out "
            "--paper-split"
        )
    cases = list(dataset.find_cases(source))
    if not cases:
        refuse_problems(source, source.problems)
        raise other_dataset(dataset, source)
    if dataset.num_cases and len(cases) != dataset.num_cases:
        unopened = f"; {len(source.unopened)} archives beside them were not opened" if source.unopened else ""
        source.notices.append(f"{len(cases)} cases were found, and {dataset.num_cases} are published{unopened}")
    if options.paper_split and not dataset.paper_ratio:
        cases = [case for case in cases if case.paper_part]
        if not cases:
            raise UserError(f"{source.path} has no case of the published {dataset.name} split: leave out --paper-split")
    if options.groups:
        cases = [replace(case, group=user_group(case, options.groups, source)) for case in cases]
    first: dict[str, Case] = {}
    for case in cases:
        if (other := first.setdefault(identifier(case.name), case)) is not case:
            source.problem(
                f"{case.images[0]} and {other.images[0]} would both be the case {identifier(case.name)!r}: rename one"
            )
    return cases


def user_group(case: Case, groups: Mapping[str, str], source: Source) -> str:
    for name in (case.name, without_ending(case.images[0].name)):
        if name in groups:
            return groups[name]
    source.problem(f"The table of groups has no row for {case.name!r}: add one")
    return ""


def other_dataset(dataset: Dataset, source: Source) -> UserError:
    """Nothing was found: say what was expected, and which converter would find something."""
    from nnunet_plugins.dataset_conversion.datasets import CONVERTERS

    fitting = [
        name
        for name, other in CONVERTERS.items()
        if name != dataset.name and any(True for _ in other.find_cases(source))
    ]
    packed = [path.name for path in source.foreign_archives]
    hint = f" It looks like {' or '.join(fitting)}." if fitting else ""
    hint += f" Unpack {', '.join(packed)} first." if packed else ""
    return UserError(f"{source.path} is not the published {dataset.name}, which has {dataset.layout}.{hint}")


def in_parallel(work: Callable[[Case], T], cases: Sequence[Case], processes: int, description: str) -> list[T]:
    """``work`` of each case, in order.

    Raises:
        UserError: a process has died.
    """
    processes = min(processes, len(cases))
    bar = partial(tqdm, total=len(cases), desc=description, unit="case")
    if processes == 1:
        return list(bar(map(work, cases)))
    ignore_interrupt = partial(signal.signal, signal.SIGINT, signal.SIG_IGN)  # this process ends the others
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), ignore_interrupt) as pool:
        try:
            return list(bar(pool.map(work, cases, chunksize=max(1, min(16, len(cases) // (64 * processes))))))
        except BrokenProcessPool as error:
            raise UserError(
                f"A process of {processes} was killed, perhaps for want of memory: use fewer, with -np"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def refuse_problems(source: Source, problems: Sequence[str]) -> None:
    if len(problems) == 1:
        raise UserError(problems[0])
    if problems:
        listed = "\n".join(f"- {problem}" for problem in problems)
        raise UserError(f"{listed}\n{source.path} has these {len(problems)} problems: nothing was converted.")


# ---- training set, test set, folds -----------------------------------------------------------------------------------


def assign(
    dataset: Dataset, options: Options, cases: Sequence[Case], outcomes: Sequence[Outcome]
) -> list[splits.Split]:
    """Give each row its group and part, and return the folds.

    With the published split there is one fold. Its validation set is the published one, or the published test set
    where none is; a test set besides goes to ``imagesTs``.
    """
    kept = {o.row.case: (case, o) for case, o in zip(cases, outcomes, strict=True) if not o.left_out}
    if not kept:
        raise UserError(
            f"No case of {dataset.name} has a foreground below {dataset.max_foreground_fraction:.4%}: give a higher "
            "--max-foreground-fraction"
        )
    if not any(o.has_foreground for _, o in kept.values()):
        raise UserError(f"No mask of {dataset.name} has any foreground: check --threshold, --label-map or the download")
    if dataset.near_duplicates and not options.groups:
        thumbnails = {name: o.thumbnail for name, (_, o) in kept.items() if o.thumbnail is not None}
        for name, number in splits.alike(thumbnails, NEAR_DUPLICATE).items():
            kept[name][1].row.group = f"alike{number}"
    groups = {name: o.row.group or name for name, (_, o) in kept.items()}
    parts = {name: "test" if case.test else "train" for name, (case, _) in kept.items()}
    if options.paper_split:
        parts = {name: case.paper_part or "train" for name, (case, _) in kept.items()}
        if dataset.paper_ratio:
            parts = splits.draw_parts(groups, dataset.paper_ratio)
    validation = "test" if options.paper_split and not dataset.paper_validation else "val"
    for name, (_, outcome) in kept.items():
        outcome.row.group = groups[name]
        outcome.row.part = "Tr" if parts[name] in ("train", validation) else "Ts"
    if "train" not in parts.values():
        raise UserError(f"{dataset.name} has a test set here, but no training case: complete the download")
    if not options.paper_split:
        return splits.cross_validation({name: groups[name] for name, part in parts.items() if part == "train"})
    train, val = (sorted(name for name in parts if parts[name] == part) for part in ("train", validation))
    if not train or not val:
        raise UserError(
            f"The published split of {dataset.name} needs training and validation cases; there are {len(train)} and "
            f"{len(val)}: complete the download, or leave out --paper-split"
        )
    return [{"train": train, "val": val}]


# ---- again -----------------------------------------------------------------------------------------------------------


def refuse_other_conversion(target: Path, options: Options, cases: Sequence[Case], processes: int) -> None:
    """
    Raises:
        UserError: the existing dataset is not what this conversion would make.
    """
    remedy = "give another --dataset-id, or replace it with --overwrite"
    try:
        record, before = output.read_conversion(target)
    except ValueError:
        raise UserError(f"{target} is there already, and not from this converter: {remedy}") from None
    if record != options.record:
        raise UserError(f"{target} was converted with other options ({json.dumps(record)}): {remedy}")
    digests = in_parallel(source_digest, cases, processes, "Comparing")
    after = dict(zip((identifier(case.name) for case in cases), digests, strict=True))
    if changed := sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name)):
        raise UserError(
            f"{target} was converted from other files ({len(changed)} differ, first {changed[0]}): {remedy}"
        )


def source_digest(case: Case) -> str:
    return digest(source_files(case))
