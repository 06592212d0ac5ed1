"""The command ``nnunet-plugins convert``: checks its options and calls the writer."""

import argparse
import math
import os
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from nnunet_plugins import __version__
from nnunet_plugins.dataset_conversion.dataset import Dataset, Options
from nnunet_plugins.dataset_conversion.datasets import CONVERTERS, folder
from nnunet_plugins.dataset_conversion.label_maps import parse_masks
from nnunet_plugins.dataset_conversion.labels import Binary, Threshold
from nnunet_plugins.dataset_conversion.new_images import (
    as_trained,
    conversion_of,
    convert_new_images,
    read_description,
    trained_labels,
)
from nnunet_plugins.dataset_conversion.readers import has_pages
from nnunet_plugins.dataset_conversion.readers.polygons import is_annotation
from nnunet_plugins.dataset_conversion.source import Source
from nnunet_plugins.dataset_conversion.writer import convert
from nnunet_plugins.errors import UserError
from nnunet_plugins.files import digest, usable_cores
from nnunet_plugins.nnunet_folders import RAW, make_nnunet_folder
from nnunet_plugins.processes import exit_on_signals
from nnunet_plugins.text_tables import aligned

MIN_SIZE, MAX_SIZE = 8, 8192
"""Bounds of ``--resize``, in pixels; the largest dermoscopic images have 6748."""
FOLDER_OPTIONS = (
    "images",
    "masks",
    "merge_masks",
    "test_images",
    "test_masks",
    "missing_masks",
    "dataset_name",
    "channels",
    "label_map",
    "pages",
    "output",
)
NEW_IMAGES = "convert folder new_photos -d 123 --test-images '*.jpg' --output new_photos_123"
EXAMPLE = "--images 'images/*.png' --masks 'masks/*.png' --dataset-name Polyps -d 123"


def list_converters() -> None:
    rows = [("NAME", "ID", "MODALITY", "CLASSES", "CASES", "LICENCE", "PAGE")]
    for dataset in CONVERTERS.values():
        classes = ", ".join(name for name in dataset.labels if name != "background")
        number = "-" if dataset.dataset_id is None else str(dataset.dataset_id)
        cases = "any" if dataset.num_cases is None else str(dataset.num_cases)
        cases = f"of {cases}" if dataset.max_foreground_fraction else cases
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
    scratch = None if options.dry_run or options.output else make_nnunet_folder(RAW)
    how = {"processes": options.np or usable_cores(), "overwrite": options.overwrite, "dry_run": options.dry_run}
    decisions = Options(
        paper_split=options.paper_split,
        trust_image_geometry=options.trust_image_geometry,
        groups=options.groups,
        group=options.group,
        splits=options.splits,
        record=recorded_options(options),
    )
    with exit_on_signals(), Source(options.source, scratch) as source:
        if options.output:
            description = read_description(options.dataset_id)
            for name, value in fitting_options(description, options, source).items():
                setattr(options, name, value if getattr(options, name) is None else getattr(options, name))
            dataset = apply_options(folder.DATASET, source, options, trained_labels(description))
            dataset = as_trained(dataset, description, has_masks=bool(options.test_masks))
            convert_new_images(dataset, source, Path(os.path.abspath(options.output)), decisions, **how)
        else:
            convert(apply_options(CONVERTERS[options.name], source, options), source, decisions, **how)


def check_options(options: argparse.Namespace) -> None:
    if not options.name or not options.source:
        raise UserError(
            "Give the name of a dataset and your download, or --list for all names: convert NAME SOURCE, before options"
        )
    if options.name not in CONVERTERS:
        similar = get_close_matches(options.name.lower(), CONVERTERS, cutoff=0.5) or list(CONVERTERS)
        raise UserError(f"There is no dataset {options.name!r}. Did you mean {' or '.join(similar)}?")
    given = [name for name in FOLDER_OPTIONS if is_given(getattr(options, name))]
    if options.name != "folder" and given:
        raise UserError(f"--{given[0].replace('_', '-')} is for 'folder' only: {options.name} knows its own layout")
    if options.output and (options.images or options.masks or options.test_images is None or not options.dataset_id):
        raise UserError(f"--output is for new images of a dataset that is there already, e.g. {NEW_IMAGES}")
    names = ("dataset_id",) if options.output else ("images", "masks", "dataset_name", "dataset_id")
    needed = {name: getattr(options, name) for name in names}
    if options.name == "folder" and (missing := [name for name, value in needed.items() if value is None]):
        listed = ", ".join(f"--{name.replace('_', '-')}" for name in missing)
        raise UserError(f"'folder' needs {listed} too, e.g. {EXAMPLE}")
    if options.dataset_name is not None and not options.dataset_name.replace("_", "").replace("-", "").isalnum():
        raise UserError(f"--dataset-name {options.dataset_name!r} may only have letters, digits, _ and -")
    for one, other in (("group", "groups"), ("splits", "paper_split")):
        if is_given(getattr(options, one)) and is_given(getattr(options, other)):
            raise UserError(f"--{one} and --{other.replace('_', '-')} contradict each other: give one of them")
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


def fitting_options(description: Mapping[str, Any], options: argparse.Namespace, source: Source) -> dict[str, Any]:
    """Options of a dataset's conversion that new images are to be converted with: those that fit their files."""
    given = conversion_of(description)
    masks, _ = parse_masks(options.test_masks or (), "--test-masks")
    have_names = any(mask.name or is_annotation(Path(mask.pattern)) for mask in masks)
    if have_names or options.label_map is not None or options.threshold is not None:
        given |= {"label_map": None, "threshold": None}
    if not has_pages(folder.first_match(source, options.test_images[0])):
        given["pages"] = None
    return given


def apply_options(
    dataset: Dataset, source: Source, options: argparse.Namespace, labels: Mapping[str, int] | None = None
) -> Dataset:
    """Replace a record's defaults by the user's options; complete the record of ``folder``.

    Args:
        dataset: the record.
        source: the download.
        options: the user's.
        labels: those of the dataset for which new images are converted.

    Raises:
        UserError: an option does not fit the dataset.
    """
    if dataset.name == "folder":
        dataset = folder.describe(
            source,
            options.images or (),
            options.masks or (),
            test_images=options.test_images or (),
            test_masks=options.test_masks or (),
            dataset_id=options.dataset_id,
            folder_name=options.dataset_name or "",
            channels=options.channels or (),
            label_map=options.label_map or (),
            threshold=options.threshold,
            merge=options.merge_masks,
            missing=options.missing_masks or "",
            regions=options.regions,
            pages=options.pages,
            own_groups=bool(options.groups or options.group),
            trained_labels=labels,
        )
    if options.regions and not dataset.regions:
        raise UserError(f"{dataset.name} has no overlapping regions: leave out --regions")
    changes: dict[str, Any] = {} if options.regions else {"regions": None}
    if options.threshold is not None and dataset.name != "folder":
        if not isinstance(dataset.to_labels, Binary | Threshold):
            raise UserError(f"--threshold is for masks of two values, but {dataset.name} has other ones: leave it out")
        changes["to_labels"] = Threshold(options.threshold, max_grey=1)
    if options.dataset_id is not None:
        changes["dataset_id"] = options.dataset_id
    if options.max_foreground_fraction is not None:
        changes["max_foreground_fraction"] = (
            options.max_foreground_fraction if options.max_foreground_fraction < 1 else None
        )
    if options.near_duplicates or options.groups or options.group:
        changes["near_duplicates"] = options.near_duplicates  # declared groups replace what a dataset does by itself
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
    given = {name: getattr(options, name) for name in (*names, "threshold", "resize", *FOLDER_OPTIONS)}
    for name in ("groups", "splits"):
        if (table := getattr(options, name)) and table.is_file():
            given[name] = digest(table)
    return {"version": __version__} | {name: value for name, value in given.items() if is_given(value)}


def is_given(value: object) -> bool:
    return value is not None and value is not False  # a threshold may be 0
