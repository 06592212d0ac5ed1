"""Labels that are polygons: their classes by name, and the cases of one file of COCO for all images."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from nnunet_plugins.dataset_conversion.dataset import Case
from nnunet_plugins.dataset_conversion.labels import LabelMap
from nnunet_plugins.dataset_conversion.pairing import note_unmasked
from nnunet_plugins.dataset_conversion.readers.pages import page_path
from nnunet_plugins.dataset_conversion.readers.polygons import IGNORED, annotations_in
from nnunet_plugins.dataset_conversion.source import Source, composed
from nnunet_plugins.errors import UserError
from nnunet_plugins.wording import counted


def is_coco(masks: str) -> bool:
    """Whether the masks' pattern names one file for all images."""
    return masks.lower().endswith(".json") and not set("*#?{") & set(masks)


def refuse_beside_coco(images: Sequence[str], masks: Sequence[str], option: str) -> None:
    """Check that a file of COCO, which lists one file for each image, stands alone.

    Raises:
        UserError: there are several patterns of images, or other masks.
    """
    if any(map(is_coco, masks)) and (len(masks) > 1 or len(images) > 1):
        raise UserError(
            f"{option} {' '.join(masks)} with {counted(len(images), 'pattern')} of images: a file of COCO has all "
            "masks of images of one file each; unite annotations in one file, and channels too"
        )


def coco_cases(
    source: Source,
    images: str,
    annotations: str,
    *,
    group: Callable[[str], str],
    test: bool = False,
    missing: str = "",
) -> Iterator[Case]:
    """Make a case of each image that a file of COCO lists, by the name of its file.

    Listed images that are not there, or twice in the list, are problems of the source; so are others that are not
    listed, unless ``missing`` says what they are.
    """
    (file,) = source.find(annotations).values()
    listed: dict[str, int] = {}
    for number, (entry, _) in annotations_in(file).items():
        if composed(entry) in listed:
            source.problem(f"{file} lists {entry} twice: give all of its objects one entry among the images")
        listed[composed(entry)] = number
    unlisted: list[Path] = []
    if len(short := {Path(name).name: number for name, number in listed.items()}) == len(listed):
        listed = short  # folders may have been renamed
    for key, path in source.find(images).items():
        endings = (composed("/".join(path.parts[first:])) for first in range(1, len(path.parts)))
        name = next((ending for ending in endings if ending in listed), None)
        label = () if name is None else (page_path(file, listed.pop(name)),)
        if label or missing == "background":
            yield Case(key.replace("/", "_"), (path,), label, group=group(key), test=test)
        if not label and missing:
            unlisted.append(path)
        elif not label:
            source.problem(
                f"{path} is not among the images that {file} lists: narrow --images, annotate it, or give "
                "--missing-masks skip (or background)"
            )
    note_unmasked(source, unlisted, missing, {})
    for entry in listed:
        source.problem(f"{file} lists {entry}, which no file of {images!r} is: add it, or widen --images")


def labels_of(classes: Mapping[str, int]) -> tuple[dict[str, int], LabelMap]:
    """Labels and their rule for classes from :func:`.readers.polygons.class_names`."""
    names = {number: name for name, number in classes.items()} | {0: "background"}
    names |= {number: "ignore" for name, number in classes.items() if name in IGNORED}
    return {names[number]: number for number in sorted(names)}, LabelMap({number: number for number in names})
