"""The shared writer behind all converters: writes ``nnUNet_raw/DatasetNNN_Name`` as a whole, or not at all."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image
from tqdm import tqdm

from nnunet_plugins.dataset_conversion import output
from nnunet_plugins.dataset_conversion.cases import Outcome, convert_case, identifier, source_digest
from nnunet_plugins.dataset_conversion.dataset import NIFTI, Case, Dataset, Options
from nnunet_plugins.dataset_conversion.integrity import check_integrity
from nnunet_plugins.dataset_conversion.masks import nested_regions
from nnunet_plugins.dataset_conversion.own_splits import read_own_splits
from nnunet_plugins.dataset_conversion.preview import PREVIEW, choose_cases, draw_tile, write_sheet
from nnunet_plugins.dataset_conversion.problems import by_folder, refuse_problems
from nnunet_plugins.dataset_conversion.source import Source
from nnunet_plugins.dataset_conversion.splits import assign
from nnunet_plugins.dataset_conversion.summary import print_next_steps, print_summary
from nnunet_plugins.dataset_conversion.tables import group_by_name, group_by_table
from nnunet_plugins.errors import UserError
from nnunet_plugins.files import recover_folder, replace_folder
from nnunet_plugins.nnunet_folders import RAW, find_nnunet_folder, make_nnunet_folder, was_planned
from nnunet_plugins.processes import in_processes

S = TypeVar("S")
T = TypeVar("T")


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
    """Convert a download and print what was done.

    Args:
        dataset: the converter's record, with a ``dataset_id``.
        source: the download.
        options: the user's decisions.
        processes: number of processes for the conversion and for nnU-Net's integrity check.
        overwrite: whether an existing dataset and existing folds may be replaced.
        dry_run: whether everything is checked and nothing written.
        check: whether nnU-Net's integrity check ends the conversion.

    Raises:
        UserError: anything is wrong; then nothing was written.
    """
    assert dataset.dataset_id is not None
    name = f"Dataset{dataset.dataset_id:03}_{dataset.folder_name}"
    raw = (find_nnunet_folder(RAW) or Path()) if dry_run else make_nnunet_folder(RAW)
    output.refuse_taken_id(dataset.dataset_id, name)
    cases = find_cases(dataset, source, options)
    target, folder = raw / name, None if dry_run else raw / f".{name}.partial"
    if not dry_run:
        recover_folder(target)
        if target.exists() and not overwrite:
            refuse_problems(dataset, source, source.problems)
            refuse_other_conversion(target, options, cases, processes)
            print(f"{target} was already converted from these files: nothing to do.")
            output.place_splits(target, overwrite=False)
            return
    if target.exists():
        output.read_conversion(target)  # raises if it comes from elsewhere
        output.refuse_to_replace(target, files_read(source, options, cases), "give another --dataset-id")
    with output.temporary_dataset(folder) if folder else nullcontext():
        outcomes = convert_cases(dataset, source, options, cases, processes, folder)
        if any(outcome.shared for outcome in outcomes):
            dataset = replace(dataset, regions=nested_regions(dataset.labels, [o.shared for o in outcomes]))
        folds = assign(dataset, source, options, cases, outcomes)
        print_summary(dataset, source, target, outcomes, folds)
        output.refuse_other_splits(name, folds, overwrite)
        if folder is None:
            print("Dry run: nothing was written." + (f" {target} is there already." if target.exists() else ""))
            return
        rows = [outcome.row for outcome in outcomes]
        output.complete_dataset(folder, dataset, source.path, options.record, rows, folds)
        draw_preview(folder, dataset, outcomes, processes)
        if check:
            check_integrity(folder, processes)
        replace_folder(folder, target)
    print(f"Written: {target}\nLook at {target / PREVIEW}, which has some cases with their labels.")
    output.place_splits(target, overwrite)
    print_next_steps(dataset, was_planned(name))


# ---- cases -----------------------------------------------------------------------------------------------------------


def find_cases(dataset: Dataset, source: Source, options: Options) -> list[Case]:
    """Find the cases to convert and give them the user's groups.

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
        refuse_problems(dataset, source, source.problems)
        raise other_dataset(dataset, source)
    if dataset.num_cases and len(cases) != dataset.num_cases:
        unopened = f"; {len(source.unopened)} archives beside them were not opened" if source.unopened else ""
        source.notices.append(f"{len(cases)} cases were found, and {dataset.num_cases} are published{unopened}")
    if options.paper_split and not dataset.paper_ratio:
        cases = [case for case in cases if case.paper_part]
        if not cases:
            raise UserError(f"{source.path} has no case of the published {dataset.name} split: leave out --paper-split")
    if options.groups:
        cases = group_by_table(cases, options.groups, source)
    if options.splits:
        test = read_own_splits(options.splits, cases, source).test
        cases = [replace(case, test=case.test or case.name in test) for case in cases]
    if options.group is not None:
        cases = group_by_name(cases, options.group, source)
    note_equal_identifiers(cases, source)
    return cases


def note_equal_identifiers(cases: Sequence[Case], source: Source) -> None:
    """Note a problem of the source for every case whose identifier another case has already."""
    first: dict[str, Case] = {}
    for case in cases:
        if (other := first.setdefault(identifier(case.name), case)) is not case:
            source.problem(
                f"{case.images[0]} and {other.images[0]} would both be the case {identifier(case.name)!r}: rename one"
            )


def other_dataset(dataset: Dataset, source: Source) -> UserError:
    """Error for a download without any case, with the expected layout and the converters that do find cases."""
    from nnunet_plugins.dataset_conversion.datasets import CONVERTERS

    fitting = [
        name
        for name, other in CONVERTERS.items()
        if name != dataset.name and any(True for _ in other.find_cases(source))
    ]
    packed = [path.name for path in source.foreign_archives]
    hint = f". It looks like {' or '.join(fitting)}" if fitting else ""
    hint += f". Unpack {', '.join(packed)} first" if packed else ""
    hint = hint or f"; {by_folder(dataset, source)}"
    return UserError(f"{source.path} is not the published {dataset.name}, which has {dataset.layout}{hint}")


def convert_cases(
    dataset: Dataset,
    source: Source,
    options: Options,
    cases: Sequence[Case],
    processes: int,
    folder: Path | None,
) -> list[Outcome]:
    """Check all cases and write them into ``folder``, if one is given.

    Raises:
        UserError: the source or any case has a problem.
    """
    work = partial(convert_case, dataset, options.trust_image_geometry, source.path, folder)
    outcomes = in_parallel(work, cases, processes, f"{'Converting' if folder else 'Checking'} {dataset.name}")
    refuse_problems(dataset, source, [*source.problems, *(outcome.problem for outcome in outcomes if outcome.problem)])
    return outcomes


def in_parallel(work: Callable[[S], T], cases: Sequence[S], processes: int, description: str) -> list[T]:
    """Call ``work`` with each case, in several processes, and return the results in the order of the cases."""
    return list(tqdm(in_processes(work, cases, processes), total=len(cases), desc=description, unit="case"))


def draw_preview(folder: Path, dataset: Dataset, outcomes: Sequence[Outcome], processes: int) -> None:
    """Draw some of the converted cases in ``folder``."""
    parts = {outcome.row.case: outcome.row.part for outcome in outcomes}
    tiles = in_parallel(
        partial(draw_case, folder, dataset.file_ending, dict(dataset.labels), parts),
        choose_cases(outcomes, dataset.labels),
        processes if dataset.file_ending == NIFTI else 1,
        "Drawing",
    )
    write_sheet(tiles, folder / PREVIEW)


def draw_case(folder: Path, ending: str, labels: dict[str, int], parts: dict[str, str], case: str) -> Image.Image:
    return draw_tile(folder, ending, labels, parts[case], case)


# ---- repeated conversions --------------------------------------------------------------------------------------------


def files_read(source: Source, options: Options, cases: Iterable[Case]) -> Iterator[Path]:
    """All files and folders that a conversion reads."""
    yield from filter(None, (source.path, options.groups, options.splits))
    for case in cases:
        yield from (*case.images, *(case.label or ()))


def refuse_other_conversion(target: Path, options: Options, cases: Sequence[Case], processes: int) -> None:
    """Check that the existing dataset was converted from the same files with the same options.

    Raises:
        UserError: this conversion would make another dataset.
    """
    remedy = "give another --dataset-id, or replace it with --overwrite"
    record, before = output.read_conversion(target)
    if record != options.record:
        raise UserError(f"{target} was converted with other options ({differences(record, options.record)}): {remedy}")
    digests = in_parallel(source_digest, cases, processes, "Comparing")
    after = dict(zip((identifier(case.name) for case in cases), digests, strict=True))
    if changed := sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name)):
        raise UserError(
            f"{target} was converted from other files ({len(changed)} differ, first {changed[0]}): {remedy}"
        )


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Options of a conversion that are not those of an earlier one, with both values.

    Example:
        >>> differences({"group": "patient.", "resize": [64, 64]}, {"resize": [96, 96]})
        'group patient., now none; resize 64 64, now 96 96'
    """
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return "; ".join(f"{name} {option_text(before.get(name))}, now {option_text(now.get(name))}" for name in names)


def option_text(value: Any) -> str:
    match value:
        case None:
            return "none"
        case True:
            return "yes"
        case [*values]:
            return " ".join(map(str, values)) or "none"
        case str() if re.fullmatch("[0-9a-f]{64}", value):
            return f"a table ({value[:8]})"
    return str(value)
