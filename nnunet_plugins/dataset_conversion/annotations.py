"""Labels that are polygons: their classes by name, and the cases of one file of COCO for all images."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from nnunet_plugins.dataset_conversion.dataset import Case
from nnunet_plugins.dataset_conversion.labels import LabelMap
from nnunet_plugins.dataset_conversion.readers.pages import page_path
from nnunet_plugins.dataset_conversion.readers.polygons import IGNORED, annotations_in
from nnunet_plugins.dataset_conversion.source import Source, composed


def is_coco(masks: str) -> bool:
    """Whether the masks' pattern names one file for all images."""
    return masks.lower().endswith(".json") and not set("*#?{") & set(masks)


def coco_cases(
    source: Source, images: str, annotations: str, *, group: Callable[[str], str], test: bool = False
) -> Iterator[Case]:
    """Make a case of each image that a file of COCO lists, by the name of its file.

    Listed images that are not there, and others that are not listed, are problems of the source.
    """
    (file,) = source.find(annotations).values()
    listed = {composed(name): number for number, (name, _) in annotations_in(file).items()}
    if len(short := {Path(name).name: number for name, number in listed.items()}) == len(listed):
        listed = short  # folders may have been renamed
    for key, path in source.find(images).items():
        endings = (composed("/".join(path.parts[first:])) for first in range(1, len(path.parts)))
        if (name := next((ending for ending in endings if ending in listed), None)) is None:
            source.problem(f"{path} is not among the images that {file} lists: narrow --images, or annotate it")
        else:
            label = (page_path(file, listed.pop(name)),)
            yield Case(key.replace("/", "_"), (path,), label, group=group(key), test=test)
    for name in listed:
        source.problem(f"{file} lists {name}, which no file of {images!r} is: add it, or widen --images")


def labels_of(classes: Mapping[str, int]) -> tuple[dict[str, int], LabelMap]:
    """Labels and their rule for classes from :func:`.readers.polygons.class_names`."""
    names = {number: name for name, number in classes.items()} | {0: "background"}
    names |= {number: "ignore" for name, number in classes.items() if name in IGNORED}
    return {names[number]: number for number in sorted(names)}, LabelMap({number: number for number in names})
