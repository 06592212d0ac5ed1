"""Images for a dataset that is there already, converted as it was, so that its models can predict them."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Any

from nnunet_plugins.dataset_conversion import output
from nnunet_plugins.dataset_conversion.dataset import NIFTI, PNG, Dataset, Options
from nnunet_plugins.dataset_conversion.source import Source, is_hidden
from nnunet_plugins.dataset_conversion.summary import grey_images
from nnunet_plugins.dataset_conversion.writer import convert_cases, files_read, find_cases
from nnunet_plugins.errors import UserError
from nnunet_plugins.files import read_json, recover_folder, replace_folder
from nnunet_plugins.nnunet_folders import (
    CHECKPOINTS,
    PREPROCESSED,
    RAW,
    RESULTS,
    dataset_name,
    find_nnunet_folder,
    folds_with,
    model_names,
)
from nnunet_plugins.wording import counted, enumeration

WRITTEN = ("imagesTs", "labelsTs", output.REPORT)
"""All that a conversion of new images writes."""


def read_description(dataset_id: int) -> dict[str, Any]:
    """Read the ``dataset.json`` of a dataset in one of nnU-Net's folders.

    Raises:
        UserError: there is none, or its files are of another kind than those that are written here.
    """
    variables = tuple(variable for variable in (RAW, PREPROCESSED) if find_nnunet_folder(variable))
    if not variables:
        raise UserError(f'{RAW} is not set: say where dataset {dataset_id} lies, e.g. export {RAW}="$PWD/raw"')
    name = dataset_name(dataset_id, variables)
    for variable in variables:
        path = (find_nnunet_folder(variable) or Path()) / name / "dataset.json"
        if path.is_file():
            description = read_json(path)
            if (ending := description.get("file_ending")) not in (PNG, NIFTI):
                raise UserError(f"{path} has files with {ending!r}, but {PNG} and {NIFTI} are written: copy the images")
            return description
    raise UserError(f"{name} has no dataset.json in {' or '.join(variables)}: convert it again")


def trained_labels(description: Mapping[str, Any]) -> dict[str, int]:
    """Labels in the files of a dataset; a region's is the one that nnU-Net writes for it."""
    names = list(description["labels"])
    if "regions_class_order" not in description:
        return dict(description["labels"])
    order = iter(description["regions_class_order"])
    return {name: description["labels"][name] if name in ("background", "ignore") else next(order) for name in names}


def conversion_of(description: Mapping[str, Any]) -> dict[str, Any]:
    """Options of ``folder`` by which a dataset's channels and labels come out the same again."""
    channels, record = list(description["channel_names"].values()), dict(description.get("conversion", {}))
    given = {"channels": channels, "resize": record.get("resize")}
    if record.get("name") == "folder":
        return given | {name: record.get(name) for name in ("label_map", "threshold", "pages")}
    labels = trained_labels(description)
    return given | ({"label_map": [f"{value}={name}" for name, value in labels.items()]} if len(labels) > 2 else {})


def as_trained(dataset: Dataset, description: Mapping[str, Any], has_masks: bool) -> Dataset:
    """The record for new images of a dataset, with the dataset's kind of files and its labels.

    Raises:
        UserError: the masks would get other labels.
    """
    labels = trained_labels(description)
    if has_masks and dict(dataset.labels) != labels and not len(dataset.labels) == len(labels) == 2:
        raise UserError(
            f"The masks would get the labels {', '.join(dataset.labels)}, but the dataset has {', '.join(labels)}: "
            "give --label-map, or names in --test-masks, as for the dataset"
        )
    regions = {name: tuple(values) for name, values in description["labels"].items() if isinstance(values, list)}
    ending = description["file_ending"]
    flat = dataset.flat and ending == NIFTI
    return replace(dataset, labels=labels, file_ending=ending, flat=flat, regions=regions or None)


def convert_new_images(
    dataset: Dataset, source: Source, target: Path, options: Options, *, processes: int, overwrite: bool, dry_run: bool
) -> None:
    """Write ``target/imagesTs``, and ``target/labelsTs`` if there are masks, and print how to predict.

    Raises:
        UserError: anything is wrong; then nothing was written.
    """
    recover_folder(target)
    refuse_existing(target, overwrite)
    cases = find_cases(dataset, source, options)
    output.refuse_to_replace(target, files_read(source, options, cases), "give another --output")
    folder = None if dry_run else target.with_name(f".{target.name}.partial")
    with output.temporary_dataset(folder, "give another --output") if folder else nullcontext():
        outcomes = convert_cases(dataset, source, options, cases, processes, folder)
        for outcome in outcomes:
            outcome.row.part = "Ts"
        for notice in [*source.notices, *grey_images(outcomes)]:
            print(f"Note: {notice}.")
        if folder is None:
            print(f"Dry run: nothing was written of {counted(len(cases), 'image')}.")
            return
        rows = [outcome.row for outcome in outcomes]
        output.move_to_parts(folder, rows, dataset.file_ending)
        output.write_report(folder / output.REPORT, rows)
        replace_folder(folder, target)
    print_prediction(dataset, target, len(cases))


def refuse_existing(target: Path, overwrite: bool) -> None:
    """Check that nothing is there, or with ``overwrite`` only what an earlier conversion of new images has written.

    Raises:
        UserError: there is something that must be kept.
    """
    names = {path.name for path in target.iterdir() if not is_hidden(path.name)} if target.is_dir() else set()
    if others := sorted(names.difference(WRITTEN)):
        what = f"holds {enumeration(others[:3])}{' and more' * (len(others) > 3)} besides converted images"
        raise UserError(f"{target} {what}: give another --output, or move that away")
    if target.is_file() or (names and output.REPORT not in names):
        raise UserError(f"{target} is there already, and not from this converter: give another --output")
    if target.exists() and not overwrite:
        raise UserError(f"{target} is there already: give another --output, or --overwrite")


def print_prediction(dataset: Dataset, target: Path, number: int) -> None:
    resized = f", resized to {' x '.join(map(str, dataset.size))} as the dataset was" if dataset.size else ""
    print(f"Written: {target / 'imagesTs'} ({counted(number, 'image')}{resized})\nNext:")
    images, predictions, labels = (quote(str(target / name)) for name in ("imagesTs", "predictions", "labelsTs"))
    configuration = "2d" if dataset.file_ending == PNG or dataset.size or dataset.flat else "3d_fullres"
    model = newest_model(f"Dataset{dataset.dataset_id:03}_*") or f"-c {configuration} -tr TRAINER -f FOLDS"
    command = f"nnUNetv2_predict -d {dataset.dataset_id} {model}"
    print(f"  {command} -i {images} -o {predictions}")
    if (target / "labelsTs").is_dir():
        print(f"  nnunet-plugins evaluate {predictions} {labels}")


def newest_model(dataset: str) -> str | None:
    """Options with which nnU-Net predicts with the model of a dataset that was trained last; None without any."""
    results = find_nnunet_folder(RESULTS)
    folders = list(results.glob(dataset)) if results else []
    folds = {folder / name: folds_with(folder / name) for folder in folders for name in model_names(folder)}
    ended = [model / f"fold_{fold}" / CHECKPOINTS[0] for model, names in folds.items() for fold in names]
    if not ended:
        return None
    model = max(ended, key=lambda path: path.stat().st_mtime).parents[1]
    trainer, plans, configuration = model.name.split("__")
    return f"-c {configuration} -tr {trainer} -p {plans} -f {' '.join(folds[model])}"
