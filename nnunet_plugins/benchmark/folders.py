"""Pairs of predictions and references in two folders, with their ``dataset.json`` and nnU-Net's reader of the files."""

import contextlib
import io
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from nnunet_plugins.errors import UserError
from nnunet_plugins.files import read_json

ENDINGS = (".nii.gz", ".nii", ".mha", ".nrrd", ".gipl", ".png", ".bmp", ".tif", ".tiff")
"""Endings of the files that nnU-Net's readers read, the longer of two that fit first."""
NAMED = 5
"""Number of files or labels that a message names."""


class Pairs(NamedTuple):
    """The cases to be measured, and how to read them."""

    files: dict[str, tuple[Path, Path]]
    """Reference and prediction of each case."""
    reader: Any
    description_file: Path | None
    """The ``dataset.json``, if there is one."""
    description: dict[str, Any] | None
    left_out: list[str]
    """Sentences on files without a partner."""


def find_pairs(predictions: Path, references: Path, description_file: Path | None, chill: bool) -> Pairs:
    """Find the cases of two folders.

    Args:
        predictions: folder.
        references: folder, whose files have the same names.
        description_file: a ``dataset.json``; if None, the one in ``predictions``, or none.
        chill: whether files without a partner are left out.

    Raises:
        UserError: a folder or a file is missing, or cannot be read.
    """
    for folder in (predictions, references):
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder: give the folder of predictions, then that of references")
    if description_file is None and (predictions / "dataset.json").is_file():
        description_file = predictions / "dataset.json"
    description = None if description_file is None else read_description(description_file)
    ending = (description or {}).get("file_ending") or ending_of(references)
    true, predicted = (files_with(ending, folder) for folder in (references, predictions))
    without = {predictions: [case for case in true if case not in predicted]}
    without[references] = [case for case in predicted if case not in true]
    sentences = [
        f"{folder} has no {named(f'{c}{ending}' for c in cases)}" for folder, cases in without.items() if cases
    ]
    pairs = {case: (true[case], predicted[case]) for case in true if case in predicted}
    if not pairs:
        raise UserError(
            f"{predictions} and {references} share no file *{ending}: predictions and references need the same names"
        )
    if sentences and not chill:
        raise UserError(f"{' and '.join(sentences)}: add what is missing, or leave these cases out with --chill")
    return Pairs(
        pairs, reader_of(description, ending, next(iter(pairs.values()))[0]), description_file, description, sentences
    )


def read_description(path: Path) -> dict[str, Any]:
    """Read a ``dataset.json`` with labels of nnU-Net's second version.

    Raises:
        UserError: it cannot be read, or its labels are other than names with numbers.
    """
    description = read_json(path, remedy="give nnU-Net's dataset.json with -djfile")
    labels = description.get("labels") if isinstance(description, dict) else None
    remedy = "expected names with numbers, e.g. {'background': 0, 'polyp': 1}, as nnU-Net's documentation says"
    if not isinstance(labels, dict) or not labels:
        raise UserError(f"{path} has no labels: {remedy}")
    for name, value in labels.items():
        numbers = value if isinstance(value, list) else [value]
        if not numbers or any(not isinstance(n, int) or isinstance(n, bool) for n in numbers):
            raise UserError(f"{path} has the label {name!r}: {value!r}: {remedy}")
    if any(isinstance(value, list) for value in labels.values()) and "regions_class_order" not in description:
        raise UserError(f"{path} has regions but no regions_class_order: add it, as nnU-Net's documentation says")
    return description


def ending_of(folder: Path) -> str:
    """The ending that most files of a folder have, of those that nnU-Net's readers know.

    Raises:
        UserError: no file has any.
    """
    names = [path.name for path in folder.glob("[!.]*") if path.is_file()]
    counts = Counter(next((e for e in ENDINGS if name.lower().endswith(e)), None) for name in names)
    del counts[None]
    if not counts:
        raise UserError(f"{folder} has no segmentations: expected files that end with {', '.join(ENDINGS)}")
    return counts.most_common(1)[0][0] or ""


def files_with(ending: str, folder: Path) -> dict[str, Path]:
    """Files of a folder by the names of their cases."""
    return {path.name.removesuffix(ending): path for path in sorted(folder.glob(f"[!.]*{ending}")) if path.is_file()}


def reader_of(description: dict[str, Any] | None, ending: str, example: Path) -> Any:
    """nnU-Net's reader of files like the example.

    Raises:
        UserError: none can read it.
    """
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

    told = {"file_ending": ending} | (description or {})
    with contextlib.redirect_stderr(io.StringIO()):  # tracebacks of the readers that were tried
        try:
            return determine_reader_writer_from_dataset_json(told, str(example), verbose=False)()
        except RuntimeError as error:
            raise UserError(
                f"{example} cannot be read: give an intact segmentation with one of nnU-Net's endings"
            ) from error


def named(things: Iterable[Any]) -> str:
    """The first of some things, and how many more there are."""
    texts = [str(thing) for thing in things]
    more = len(texts) - NAMED
    return ", ".join(texts[:NAMED]) + (f" and {more} more" if more > 0 else "")
