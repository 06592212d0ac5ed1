"""Any folder of images and masks, paired by the wildcards of the user's patterns."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from nnunet_plugins.dataset_conversion.annotations import coco_cases, is_coco, labels_of
from nnunet_plugins.dataset_conversion.dataset import NIFTI, PNG, RGB, Case, Dataset
from nnunet_plugins.dataset_conversion.labels import Binary, LabelMap, LabelRule, Threshold
from nnunet_plugins.dataset_conversion.pairing import paired
from nnunet_plugins.dataset_conversion.pictures import Picture
from nnunet_plugins.dataset_conversion.readers import is_flat, read_mask, read_picture
from nnunet_plugins.dataset_conversion.readers.pages import Reading, page_path
from nnunet_plugins.dataset_conversion.readers.polygons import class_names, is_annotation, read_polygons
from nnunet_plugins.dataset_conversion.source import Source
from nnunet_plugins.dataset_conversion.stacks import separate_pages
from nnunet_plugins.errors import UserError

REMEDY = "give --threshold T for masks with grey edges, or --label-map VALUE=NAME ... for several classes"


def find_cases(source: Source, images: Sequence[str] = (), masks: str = "", pages: Reading = None) -> Iterator[Case]:
    if is_coco(masks):
        return coco_cases(source, images[0], masks)
    cases = paired(source, images, masks) if images else iter(())
    return separate_pages(cases, source) if pages == "images" else cases


DATASET = Dataset(
    name="folder",
    dataset_id=None,
    folder_name="",
    title="a folder of images and masks",
    page="-",
    licence="yours",
    citation="-",
    modality="any",
    layout="what --images and --masks say",
    find_cases=find_cases,
    to_labels=Binary(REMEDY),
    labels={"background": 0, "foreground": 1},
    num_cases=None,
)


def describe(
    source: Source,
    images: Sequence[str],
    masks: str,
    *,
    dataset_id: int,
    folder_name: str,
    channels: Sequence[str] = (),
    label_map: Sequence[str] = (),
    threshold: float | None = None,
    pages: Reading = None,
) -> Dataset:
    """Complete the record for a folder.

    Args:
        source: the folder; its first image and mask tell whether all are volumes, coloured, or JPEG.
        images: the images' pattern, or a pattern for each channel.
        masks: the masks' pattern, with the same wildcards.
        dataset_id: ``NNN`` in ``DatasetNNN_Name``.
        folder_name: ``Name`` in ``DatasetNNN_Name``.
        channels: names of the channels, which decide on nnU-Net's normalisation ("CT").
        label_map: ``VALUE=NAME`` for each value in the masks; the values get the labels 0, 1, 2, ... in this order.
        threshold: value above which a mask with two classes has foreground.
        pages: what the pages of a file are.

    Raises:
        UserError: the options contradict each other or the files.
    """
    for pattern in (*images, *(() if is_coco(masks) else (masks,))):
        if not set("*#") & set(pattern):
            raise UserError(
                f"The pattern {pattern!r} has no wildcard to tell cases apart: give, in quotes, one like 'images/*.png'"
            )
    first_image, first_mask = (first_match(source, pattern) for pattern in (images[0], masks))
    labels, to_labels, read_label = label_rules(source, masks, first_mask, label_map, threshold, pages)
    first = read_picture(page_path(first_image, 1) if pages == "images" else first_image, pages)
    if len(channels) % len(images):
        raise UserError(f"--channels names {len(channels)}, but --images has {len(images)} patterns: name all channels")
    return replace(
        DATASET,
        dataset_id=dataset_id,
        folder_name=folder_name,
        title=f"{folder_name}, images {' '.join(images)} and masks {masks}",
        find_cases=partial(find_cases, images=tuple(images), masks=masks, pages=pages),
        read_image=partial(read_picture, reading=pages),
        read_label=read_label,
        to_labels=to_labels,
        labels=labels,
        channels=tuple(channels) or default_channels(first, first_image, len(images)),
        file_ending=PNG if first.geometry is None else NIFTI,
        flat=first.geometry is not None
        and all(pages == "images" or is_flat(path, pages) for path in source.find(images[0]).values()),
    )


def label_rules(
    source: Source, masks: str, first: Path, label_map: Sequence[str], threshold: float | None, pages: Reading
) -> tuple[dict[str, int], LabelRule, Callable[..., Picture]]:
    """Labels, the rule for the masks' values, and the function that reads masks."""
    if is_annotation(first):
        if label_map or threshold is not None:
            raise UserError(f"{first} names its classes itself: leave out --label-map and --threshold")
        classes = class_names(source.find(masks).values())
        return *labels_of(classes), partial(read_polygons, classes=classes)
    read = partial(read_mask, reading=pages)
    if label_map and threshold is not None:
        raise UserError("--label-map and --threshold contradict each other: give one of them")
    if label_map:
        return *parse_label_map(label_map), read
    two = {"background": 0, "foreground": 1}
    if threshold is not None:
        return two, Threshold(threshold, max_grey=1), read
    return two, Threshold(remedy=REMEDY) if first.suffix.lower() in (".jpg", ".jpeg") else Binary(REMEDY), read


def first_match(source: Source, pattern: str) -> Path:
    for path in source.find(pattern).values():
        return path
    raise UserError(f"No file in {source.path} matches {pattern!r}: a pattern must fit the end of a file's path")


def default_channels(first: Picture, path: Path, num_files: int) -> tuple[str, ...]:
    if num_files > 1:
        raise UserError(f"There are {num_files} patterns of images, but no names: give --channels, e.g. T1 T2")
    match first.num_channels, first.geometry:
        case 1, geometry:
            return ("grey",) if geometry is None else ("image",)
        case 3, None:
            return RGB
    raise UserError(f"{path} has {first.num_channels} channels: name them with --channels, e.g. T1 T2")


def parse_label_map(entries: Sequence[str]) -> tuple[dict[str, int], LabelMap]:
    """Turn ``VALUE=NAME`` entries into nnU-Net's labels and the rule for masks.

    "background" becomes 0 and "ignore" the highest label, at any place in the list.

    Raises:
        UserError: an entry has another form, repeats a value or a name, or there is no background.
    """
    names: dict[int, str] = {}
    for entry in entries:
        value, separator, name = entry.partition("=")
        if not separator or not name or not value.strip().removeprefix("-").isdecimal():
            raise UserError(f"--label-map {entry!r} is not VALUE=NAME, as in 255=polyp")
        if int(value) in names or name in names.values():
            raise UserError(f"--label-map {entry!r} repeats a value or a name: each value must have a label of its own")
        names[int(value)] = name
    if not 2 <= len(names) <= 256:
        raise UserError(
            f"--label-map names {len(names)} values, but 2 to 256 are possible: name background and objects"
        )
    if "background" not in names.values():
        raise UserError("--label-map names no background: add e.g. 0=background")
    order = sorted(names, key=lambda value: {"background": -1, "ignore": 1}.get(names[value], 0))
    rule = LabelMap({value: label for label, value in enumerate(order)}, remedy="name every value in --label-map")
    return {names[value]: label for label, value in enumerate(order)}, rule
