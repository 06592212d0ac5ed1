"""The command ``nnunet-plugins convert``: checks its options and calls the writer."""

import argparse
import math
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from nnunet_plugins import __version__
from nnunet_plugins.dataset_conversion.dataset import Dataset, Options
from nnunet_plugins.dataset_conversion.datasets import CONVERTERS, folder
from nnunet_plugins.dataset_conversion.source import Source
from nnunet_plugins.dataset_conversion.writer import convert
from nnunet_plugins.errors import UserError
from nnunet_plugins.files import digest, usable_cores
from nnunet_plugins.nnunet_folders import RAW, make_nnunet_folder
from nnunet_plugins.processes import exit_on_signals
from nnunet_plugins.text_tables import aligned

MIN_SIZE, MAX_SIZE = 8, 8192
"""Bounds of ``--resize``, in pixels; the largest dermoscopic images have 6748."""
FOLDER_OPTIONS = ("images", "masks", "merge_masks", "dataset_name", "channels", "label_map", "threshold", "pages")
EXAMPLE = "--images 'images/*.png' --masks 'masks/*.png' --dataset-name Polyps -d 123"


def list_converters() -> None:
    rows = [("NAME", "ID", "MODALITY", "CLASSES", "CASES", "LICENCE", "PAGE")]
    for dataset in CONVERTERS.values():
        classes = ", ".join(name for name in dataset.labels if name != "background")
        number = "-" if dataset.dataset_id is None else str(dataset.dataset_id)
        cases = "any" if dataset.num_cases is None else str(dataset.num_cases)
        rows.append((dataset.name, number, dataset.modality, classes, cases, dataset.licence, dataset.page))
    print(aligned(rows))
    print("\nPublished splits, for --paper-split:")
    for dataset in CONVERTERS.values():
        if dataset.paper_split:
            print(f"  {dataset.name}: {dataset.paper_split}")


def run(options: argparse.Namespace) -> None:
    """Convert a download as the options say.

    Raises:
        UserError: an option or the data will not do; nothing was written.
    """
    check_options(options)
    scratch = None if options.dry_run else make_nnunet_folder(RAW)
    with exit_on_signals(), Source(options.source, scratch) as source:
        convert(
            apply_options(CONVERTERS[options.name], source, options),
            source,
            Options(
                paper_split=options.paper_split,
                trust_image_geometry=options.trust_image_geometry,
                groups=options.groups,
                group=options.group,
                record=recorded_options(options),
            ),
            processes=options.np or usable_cores(),
            overwrite=options.overwrite,
            dry_run=options.dry_run,
        )


def check_options(options: argparse.Namespace) -> None:
    if not options.name or not options.source:
        raise UserError("Give the name of a dataset and your download, or --list for all names: convert NAME SOURCE")
    if options.name not in CONVERTERS:
        similar = get_close_matches(options.name.lower(), CONVERTERS, cutoff=0.5) or list(CONVERTERS)
        raise UserError(f"There is no dataset {options.name!r}. Did you mean {' or '.join(similar)}?")
    given = [name for name in FOLDER_OPTIONS if is_given(getattr(options, name))]
    if options.name != "folder" and given:
        raise UserError(f"--{given[0].replace('_', '-')} is for 'folder' only: {options.name} knows its own layout")
    needed = {name: getattr(options, name) for name in ("images", "masks", "dataset_name", "dataset_id")}
    if options.name == "folder" and (missing := [name for name, value in needed.items() if value is None]):
        listed = ", ".join(f"--{name.replace('_', '-')}" for name in missing)
        raise UserError(f"'folder' needs {listed} too, e.g. {EXAMPLE}")
    if options.dataset_name is not None and not options.dataset_name.replace("_", "").replace("-", "").isalnum():
        raise UserError(f"--dataset-name {options.dataset_name!r} may only have letters, digits, _ and -")
    if options.group is not None and options.groups is not None:
        raise UserError("--group and --groups contradict each other: give one of them")
    if options.max_foreground_fraction is not None and not 0 < options.max_foreground_fraction <= 1:
        raise UserError(f"--max-foreground-fraction {options.max_foreground_fraction} must be above 0 and at most 1")
    if options.threshold is not None and not math.isfinite(options.threshold):
        raise UserError(f"--threshold {options.threshold} must be a number, e.g. 127")
    if options.resize and not all(MIN_SIZE <= length <= MAX_SIZE for length in options.resize):
        raise UserError(
            f"--resize {' '.join(map(str, options.resize))} must be a height and a width from {MIN_SIZE} to {MAX_SIZE} "
            "pixels, e.g. 256 256"
        )
    if options.np is not None and options.np < 1:
        raise UserError(f"-np {options.np} must be at least 1")


def apply_options(dataset: Dataset, source: Source, options: argparse.Namespace) -> Dataset:
    """Replace a record's defaults by the user's options; complete the record of ``folder``.

    Raises:
        UserError: an option does not fit the dataset.
    """
    if dataset.name == "folder":
        dataset = folder.describe(
            source,
            options.images,
            options.masks,
            dataset_id=options.dataset_id,
            folder_name=options.dataset_name,
            channels=options.channels or (),
            label_map=options.label_map or (),
            threshold=options.threshold,
            merge=options.merge_masks,
            regions=options.regions,
            pages=options.pages,
        )
    if options.regions and not dataset.regions:
        raise UserError(f"{dataset.name} has no overlapping regions: leave out --regions")
    changes: dict[str, Any] = {} if options.regions else {"regions": None}
    if options.dataset_id is not None:
        changes["dataset_id"] = options.dataset_id
    if options.max_foreground_fraction is not None:
        changes["max_foreground_fraction"] = (
            options.max_foreground_fraction if options.max_foreground_fraction < 1 else None
        )
    if options.near_duplicates:
        changes["near_duplicates"] = True
    if options.resize:
        changes["size"] = tuple(options.resize)
    return replace(dataset, **changes)


def recorded_options(options: argparse.Namespace) -> dict[str, Any]:
    """Collect the given options that decide what is written, as ``dataset.json`` keeps them."""
    names = (
        "name",
        "paper_split",
        "regions",
        "group",
        "max_foreground_fraction",
        "trust_image_geometry",
        "near_duplicates",
    )
    given = {name: getattr(options, name) for name in (*names, "resize", *FOLDER_OPTIONS)}
    if options.groups and options.groups.is_file():
        given["groups"] = digest(options.groups)
    return {"version": __version__} | {name: value for name, value in given.items() if is_given(value)}


def is_given(value: object) -> bool:
    return value is not None and value is not False  # a threshold may be 0
