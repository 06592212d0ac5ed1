"""Any folder of images and masks, paired by the wildcards of the user's patterns."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from nnunet_plugins.dataset_conversion.colours import ColourMap, read_colours, read_values
from nnunet_plugins.dataset_conversion.dataset import NIFTI, PNG, RGB, Case, Dataset
from nnunet_plugins.dataset_conversion.label_maps import parse_label_map
from nnunet_plugins.dataset_conversion.labels import Binary, LabelRule, Threshold, counted
from nnunet_plugins.dataset_conversion.pairing import Masks, count_wildcards, paired
from nnunet_plugins.dataset_conversion.pictures import Picture
from nnunet_plugins.dataset_conversion.readers import is_flat, read_mask, read_picture
from nnunet_plugins.dataset_conversion.readers.pages import Reading, page_path
from nnunet_plugins.dataset_conversion.source import Source
from nnunet_plugins.dataset_conversion.stacks import separate_pages
from nnunet_plugins.dataset_conversion.tables import group_by_folder
from nnunet_plugins.errors import UserError

REMEDY = "give --threshold T for masks with grey edges, or for several classes --label-map {entries}"


@dataclass(frozen=True)
class Layout:
    """Patterns that find a user's files, and how they belong together."""

    images: tuple[str, ...]
    """A pattern for each channel."""
    masks: tuple[Masks, ...]
    merge: bool = False
    """Whether several masks that one pattern finds for an image are parts of one mask; so are those of two patterns."""
    pages: Reading = None
    """Meaning of a file's pages."""


def find_cases(source: Source, layout: Layout | None = None) -> Iterator[Case]:
    if layout is None:
        return
    group = first_wildcard(layout.images[0])
    cases = list(paired(source, layout.images, layout.masks, merge=layout.merge, group=group))
    cases = group_by_folder(cases, source)
    yield from separate_pages(cases, source) if layout.pages == "images" else cases
    if others := source.others:
        source.note_files(f"{counted(len(others), 'file')} beside those of the patterns left out", others)


def first_wildcard(pattern: str) -> Callable[[str], str]:
    """Function that gives the text of the first wildcard, if it stands for a folder or for a part of its name."""
    if count_wildcards(pattern.rpartition("/")[0]):
        return lambda key: key.split("/")[0]
    return lambda key: ""


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
    masks: Sequence[str],
    *,
    dataset_id: int,
    folder_name: str,
    channels: Sequence[str] = (),
    label_map: Sequence[str] = (),
    threshold: float | None = None,
    merge: bool = False,
    regions: bool = False,
    pages: Reading = None,
) -> Dataset:
    """Complete the record for a folder.

    Args:
        source: the folder; its first image and mask tell whether all are volumes, coloured, or JPEG.
        images: the images' pattern, or a pattern for each channel.
        masks: the masks' patterns, with the same wildcards; ``NAME=PATTERN`` for files of one class.
        dataset_id: ``NNN`` in ``DatasetNNN_Name``.
        folder_name: ``Name`` in ``DatasetNNN_Name``.
        channels: names of the channels, which decide on nnU-Net's normalisation ("CT").
        label_map: ``VALUE=NAME`` for each value in the masks; the values get the labels 0, 1, 2, ... in this order.
        threshold: value above which a mask with two classes has foreground.
        merge: whether several masks that one pattern finds for an image are parts of one mask.
        regions: whether each class contains those that are named after it, where they overlap.
        pages: what the pages of a file are.

    Raises:
        UserError: the options contradict each other or the files.
    """
    entries, labels = parse_masks(masks)
    for pattern in (*images, *(entry.pattern for entry in entries)):
        if not set("*#") & set(pattern):
            raise UserError(
                f"The pattern {pattern!r} has no wildcard to tell cases apart: give, in quotes, one like 'images/*.png'"
            )
    first_image = first_match(source, images[0])
    first_masks = [first_match(source, entry.pattern) for entry in entries]
    to_labels: LabelRule = binary_rule(threshold, first_masks)
    if label_map:
        refuse_contradiction(entries, threshold)
        labels, to_labels = parse_label_map(label_map)
    merge = merge or (len(entries) > 1 and not entries[0].name)
    first = read_picture(page_path(first_image, 1) if pages == "images" else first_image, pages)
    if len(channels) % len(images):
        raise UserError(f"--channels names {len(channels)}, but --images has {len(images)} patterns: name all channels")
    return replace(
        DATASET,
        dataset_id=dataset_id,
        folder_name=folder_name,
        title=f"{folder_name}, images {' '.join(images)} and masks {' '.join(masks)}",
        find_cases=partial(find_cases, layout=Layout(tuple(images), tuple(entries), merge, pages)),
        read_image=partial(read_picture, reading=pages),
        to_labels=to_labels,
        read_label=partial(read_colours, colours=tuple(to_labels.labels))
        if isinstance(to_labels, ColourMap)
        else partial(read_values, read=partial(read_mask, reading=pages), binary=not label_map),
        labels=labels,
        channels=tuple(channels) or default_channels(first, first_image, len(images)),
        file_ending=PNG if first.geometry is None else NIFTI,
        flat=first.geometry is not None
        and all(pages == "images" or is_flat(path, pages) for path in source.find(images[0]).values()),
        regions=nested(labels, all_overlap=bool(label_map)) if regions else None,
    )


def parse_masks(masks: Sequence[str]) -> tuple[list[Masks], dict[str, int]]:
    """Turn ``PATTERN`` or ``NAME=PATTERN`` entries into patterns with classes, and into nnU-Net's labels.

    Raises:
        UserError: some patterns have names and others none.
    """
    named = [re.match(r"([^*#?/{}=]+)=(.+)", entry) for entry in masks]
    if not any(named):
        return [Masks(entry) for entry in masks], {"background": 0, "foreground": 1}
    if not all(named):
        lacking = next(entry for entry, match in zip(masks, named, strict=True) if not match)
        raise UserError(f"--masks {lacking!r} has no class, but others have: write NAME={lacking}")
    entries = [(match[1], match[2]) for match in named if match]
    names = sorted(dict.fromkeys(name for name, _ in entries), key=lambda name: name == "ignore")
    if "background" in names:
        raise UserError(
            "--masks has a pattern for the background: leave it out, since background is what is in no mask"
        )
    labels = {"background": 0} | {name: label for label, name in enumerate(names, 1)}
    return [Masks(pattern, name, labels[name]) for name, pattern in entries], labels


def binary_rule(threshold: float | None, first_masks: Sequence[Path]) -> LabelRule:
    if threshold is not None:
        return Threshold(threshold, max_grey=1)
    if any(path.suffix.lower() in (".jpg", ".jpeg") for path in first_masks):
        return Threshold(remedy=REMEDY)
    return Binary(REMEDY)


def refuse_contradiction(entries: Sequence[Masks], threshold: float | None) -> None:
    if threshold is not None:
        raise UserError("--label-map and --threshold contradict each other: give one of them")
    if entries[0].name:
        raise UserError("--label-map and --masks with names of classes contradict each other: leave out --label-map")


def nested(labels: Mapping[str, int], all_overlap: bool) -> dict[str, tuple[int, ...]]:
    """Regions of which each contains those that are named after it, or only itself if the masks will tell.

    Raises:
        UserError: there is only one class.
    """
    values = {name: value for name, value in labels.items() if value and name != "ignore"}
    if len(values) < 2:
        raise UserError("--regions needs two classes or more, from --label-map or --masks NAME=PATTERN: leave it out")
    return {
        name: tuple(v for v in values.values() if v == value or (all_overlap and v > value))
        for name, value in values.items()
    }


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
