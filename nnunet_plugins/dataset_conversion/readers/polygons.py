"""Polygons of labelme and COCO, drawn as masks: a pixel belongs to the polygon in which its centre lies."""

import base64
import io
import math
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nnunet_plugins.dataset_conversion.pictures import Picture, refuse_empty
from nnunet_plugins.dataset_conversion.readers.pages import split_page
from nnunet_plugins.errors import UserError, reason
from nnunet_plugins.files import read_json

BACKGROUND, IGNORED = ("background", "_background_"), ("ignore", "__ignore__")
"""Names that labelme's converters give to what is no object."""
MAX_CLASSES = 254


class Annotation(NamedTuple):
    """Objects in an image, of which later ones lie on earlier ones."""

    size: tuple[int, int]
    """Height and width of the image."""
    objects: list[tuple[str, list[Any]]]
    """Name of each object's class, and its parts as they stand in the file."""


def is_annotation(path: Path) -> bool:
    return split_page(path)[0].name.lower().endswith(".json")


@lru_cache(maxsize=2)
def read_annotations(path: Path, changed: int) -> dict[int, tuple[str, Annotation]]:
    """Read a file by the numbers of its images, with each image's file name; labelme's only image has the number 0.

    Raises:
        UserError: the file is neither labelme's nor COCO's.
    """
    refuse_empty(path)
    try:
        content = read_json(path)
        if "shapes" in content:
            return {0: (Path(content.get("imagePath") or "").name, labelme_annotation(content))}
        names = {category["id"]: str(category["name"]) for category in content["categories"]}
        images = {
            int(image["id"]): (str(image["file_name"]), Annotation((int(image["height"]), int(image["width"])), []))
            for image in content["images"]
        }
        for one in content["annotations"]:
            outline = one.get("segmentation") or []
            parts = outline if isinstance(outline, list) else [outline]
            images[one["image_id"]][1].objects.append((names[one["category_id"]], parts))
        return images
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} cannot be read as labelme's or COCO's annotations ({type(error).__name__} {reason(error)}): it is "
            "damaged or of another kind; save masks as PNG"
        ) from error


def labelme_annotation(content: Mapping[str, Any]) -> Annotation:
    objects = [(str(shape["label"]), [shape]) for shape in content["shapes"]]
    return Annotation((int(content["imageHeight"]), int(content["imageWidth"])), objects)


def annotations_in(path: Path) -> dict[int, tuple[str, Annotation]]:
    refuse_empty(path)
    return read_annotations(path, path.stat().st_mtime_ns)


def read_polygons(paths: tuple[Path, ...], shape: tuple[int, ...], classes: Mapping[str, int]) -> Picture:
    """Draw the objects of an image ``(H, W)`` with the numbers of their classes.

    Raises:
        UserError: the file says another size, an object cannot be drawn, or a class is covered by others altogether.
    """
    (path,) = paths
    file, number = split_page(path)
    annotation = annotations_in(file)[number or 0][1]
    if annotation.size != shape:
        ours, theirs = ("x".join(map(str, size[::-1])) for size in (shape, annotation.size))
        raise UserError(f"{path} is for an image of {theirs} pixels, but its image has {ours}: annotate the same file")
    mask, drawn = np.zeros(shape, np.uint8), set()
    for name, parts in annotation.objects:
        try:
            regions = [inside(part, annotation.size) for part in parts]
        except (ValueError, LookupError, TypeError, OSError) as error:
            raise UserError(f"{path} has an object {name!r} that cannot be drawn ({error}): draw it anew") from error
        if not regions:
            raise UserError(f"{path} has an object {name!r} with a box alone: outline it, or remove it from the file")
        for region in regions:
            mask[region] = classes[name]
            drawn |= {classes[name]} if region.any() else set()
    if covered := [name for name, value in classes.items() if value in drawn and not (mask == value).any()]:
        raise UserError(
            f"{path} has {covered[0]!r} only below objects of other classes, which lie on it: change their order"
        )
    return Picture(mask)


def inside(part: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels of a part of an object.

    Args:
        part: labelme's shape, COCO's polygon ``[x, y, x, y, ...]``, or COCO's uncompressed run lengths.
        size: height and width of the image.

    Raises:
        ValueError: the part is of another kind.
    """
    if not isinstance(part, Mapping):
        return polygon_mask(np.reshape(np.asarray(part, float), (-1, 2)), size)
    if "counts" in part:
        if not isinstance(part["counts"], list):
            raise ValueError("compressed run lengths, which pycocotools can turn into PNG")
        values = np.arange(len(part["counts"])) % 2 == 1
        return np.repeat(values, part["counts"]).reshape(size, order="F")
    points = np.asarray(part["points"], float)
    match part.get("shape_type") or "polygon":
        case "polygon":
            return polygon_mask(points, size)
        case "rectangle":
            (left, top), (right, bottom) = points.min(0), points.max(0)
            return polygon_mask(np.array([(left, top), (right, top), (right, bottom), (left, bottom)]), size)
        case "circle":
            rows, columns = np.indices(size) + 0.5
            return np.hypot(columns - points[0, 0], rows - points[0, 1]) <= math.dist(*points)
        case "mask":
            return embedded_mask(part["mask"], points, size)
        case other:
            raise ValueError(f"a {other} encloses nothing")


def polygon_mask(points: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels whose centres lie in a polygon of points (x, y); the corner of the image is (0, 0)."""
    from skimage.draw import polygon

    if len(points) < 3:
        raise ValueError(f"{len(points)} points enclose nothing")
    mask = np.zeros(size, bool)
    mask[polygon(points[:, 1] - 0.5, points[:, 0] - 0.5, size)] = True
    return mask


def embedded_mask(text: str, points: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels of a mask that labelme keeps as PNG, from its upper left corner on."""
    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        array = np.asarray(image) > 0
    left, top = points.min(0).astype(int)
    mask = np.zeros(size, bool)
    mask[top : top + array.shape[0], left : left + array.shape[1]] = array
    return mask


def class_names(paths: Iterable[Path]) -> dict[str, int]:
    """Number the classes of all files by name; background is 0, and what is to be ignored has the highest number."""
    paths = list(paths)
    names = annotated_names(paths)
    objects = sorted(names - {*BACKGROUND, *IGNORED})
    if not 1 <= len(objects) <= MAX_CLASSES:
        raise UserError(
            f"{paths[0]}{' and others' * (len(paths) > 1)}: objects of {len(objects)} classes are annotated, but 1 to "
            f"{MAX_CLASSES} are possible: give other annotations"
        )
    numbers = {name: number for number, name in enumerate(objects, 1)}
    return numbers | dict.fromkeys(BACKGROUND, 0) | {name: len(objects) + 1 for name in names & {*IGNORED}}


def numbered_as(paths: Iterable[Path], labels: Mapping[str, int]) -> dict[str, int]:
    """Number the classes of all files as a dataset does, which may have further ones.

    Where the dataset's masks have no name for their foreground, one class of any name is it.

    Raises:
        UserError: there is a class that the dataset does not have.
    """
    paths = list(paths)
    ignored = dict.fromkeys(IGNORED, labels["ignore"]) if "ignore" in labels else {}
    numbers = {**labels, **dict.fromkeys(BACKGROUND, 0), **ignored}
    unknown = sorted(annotated_names(paths) - numbers.keys())
    if len(unknown) == 1 and list(labels) == ["background", "foreground"]:
        return numbers | {unknown[0]: labels["foreground"]}
    if unknown:
        raise UserError(
            f"{paths[0]}{' and others' * (len(paths) > 1)}: {unknown[0]!r} is none of the dataset's labels, which are "
            f"{', '.join(labels)}: rename its objects, or remove them"
        )
    return numbers


def annotated_names(paths: Iterable[Path]) -> set[str]:
    """Names of the classes of all objects in some files."""
    return {name for path in paths for _, one in annotations_in(path).values() for name, _ in one.objects}
