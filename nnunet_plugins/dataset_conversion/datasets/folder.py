"""Any folder of images and masks, paired by the wildcards of the user's patterns."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from nnunet_plugins.dataset_conversion.annotations import coco_cases, is_coco, labels_of, refuse_beside_coco
from nnunet_plugins.dataset_conversion.colours import ColourMap, read_colours, read_values
from nnunet_plugins.dataset_conversion.dataset import NIFTI, PNG, RGB, Case, Dataset
from nnunet_plugins.dataset_conversion.label_maps import nested, parse_label_map, parse_masks
from nnunet_plugins.dataset_conversion.labels import Binary, LabelRule, Threshold
from nnunet_plugins.dataset_conversion.pairing import Masks, count_wildcards, paired
from nnunet_plugins.dataset_conversion.pictures import Picture
from nnunet_plugins.dataset_conversion.readers import has_pages, is_flat, read_mask, read_picture
from nnunet_plugins.dataset_conversion.readers.pages import Reading, page_path
from nnunet_plugins.dataset_conversion.readers.polygons import class_names, is_annotation, numbered_as, read_polygons
from nnunet_plugins.dataset_conversion.source import Source, without_ending
from nnunet_plugins.dataset_conversion.stacks import separate_pages
from nnunet_plugins.dataset_conversion.tables import group_by_folder
from nnunet_plugins.errors import UserError
from nnunet_plugins.wording import counted

REMEDY = "give --threshold T for masks with grey edges, or for several classes --label-map {entries}"


@dataclass(frozen=True)
class Layout:
    """Patterns that find a user's files, and how they belong together."""

    images: tuple[str, ...]
    """A pattern for each channel."""
    masks: tuple[Masks, ...]
    test_images: tuple[str, ...] = ()
    test_masks: tuple[Masks, ...] = ()
    """Patterns of the test set; without masks, its labels are not known."""
    merge: bool = False
    """Whether several masks that one pattern finds for an image are parts of one mask; so are those of two patterns."""
    missing: str = ""
    """Meaning of an image without a mask: "background", "skip", or empty for a problem."""
    own_groups: bool = False
    """Whether the user gives the groups, in whose place folders are none."""
    pages: Reading = None
    """Meaning of a file's pages."""


def find_cases(source: Source, layout: Layout | None = None) -> Iterator[Case]:
    if layout is None:
        return
    cases: list[Case] = []
    for images, masks, test in (
        (layout.images, layout.masks, False),
        (layout.test_images, layout.test_masks, True),
    ):
        if not images:
            continue
        group = first_wildcard(images[0])
        if masks and is_coco(masks[0].pattern):
            file, missing = masks[0].pattern, layout.missing
            cases += coco_cases(source, images[0], file, group=group, test=test, missing=missing)
        else:
            cases += paired(source, images, masks, test=test, group=group, merge=layout.merge, missing=layout.missing)
    refuse_training_images(cases, source)
    cases = tell_apart(cases if layout.own_groups else group_by_folder(cases, source))
    yield from separate_pages(cases, source) if layout.pages == "images" else cases
    if others := source.others:
        source.note_files(f"{counted(len(others), 'file')} beside those of the patterns left out", others)


def refuse_training_images(cases: Sequence[Case], source: Source) -> None:
    """Note a problem of the source for test images that are training images too."""
    training = {path for case in cases if not case.test for path in case.images}
    for path in sorted({path for case in cases if case.test for path in case.images} & training):
        source.problem(f"{path} is found by --images and by --test-images: a test set has images of its own")


def tell_apart(cases: Sequence[Case]) -> list[Case]:
    """Let the names of all test cases begin with ``test_`` if one of them is the name of a training case."""
    training = {case.name for case in cases if not case.test}
    if not any(case.test and case.name in training for case in cases):
        return list(cases)
    return [replace(case, name=f"test_{case.name}") if case.test else case for case in cases]


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
    test_images: Sequence[str] = (),
    test_masks: Sequence[str] = (),
    dataset_id: int,
    folder_name: str,
    channels: Sequence[str] = (),
    label_map: Sequence[str] = (),
    threshold: float | None = None,
    merge: bool = False,
    missing: str = "",
    regions: bool = False,
    pages: Reading = None,
    own_groups: bool = False,
    trained_labels: Mapping[str, int] | None = None,
) -> Dataset:
    """Complete the record for a folder.

    Args:
        source: the folder; its first image and mask tell whether all are volumes, coloured, or JPEG.
        images: the images' pattern, or a pattern for each channel.
        masks: the masks' patterns, with the same wildcards; ``NAME=PATTERN`` for files of one class.
        test_images: the same of a test set; then there need be no training set.
        test_masks: the same of a test set.
        dataset_id: ``NNN`` in ``DatasetNNN_Name``.
        folder_name: ``Name`` in ``DatasetNNN_Name``.
        channels: names of the channels, which decide on nnU-Net's normalisation ("CT").
        label_map: ``VALUE=NAME`` for each value in the masks; the values get the labels 0, 1, 2, ... in this order.
        threshold: value above which a mask with two classes has foreground.
        merge: whether several masks that one pattern finds for an image are parts of one mask.
        missing: what an image without a mask is, "background" or "skip"; empty: an error.
        regions: whether each class contains those that are named after it, where they overlap.
        pages: what the pages of a file are.
        own_groups: whether the user gives the groups, in whose place folders are none.
        trained_labels: labels that polygons get, of a dataset that is there already.

    Raises:
        UserError: the options contradict each other or the files.
    """
    (entries, named), (test_entries, test_named) = parse_masks(masks), parse_masks(test_masks, "--test-masks")
    refuse_beside_coco(images, [entry.pattern for entry in entries], "--masks")
    refuse_beside_coco(test_images, [entry.pattern for entry in test_entries], "--test-masks")
    refuse_fixed_patterns([*images, *test_images, *(entry.pattern for entry in (*entries, *test_entries))])
    if entries and test_entries and named != test_named:
        raise UserError("--masks and --test-masks name different classes, or in another order: name the same")
    names = named if entries else test_named
    rules = label_rules(source, [*entries, *test_entries], names, label_map, threshold, pages, trained_labels)
    first_image, *_ = [first_match(source, pattern) for pattern in (*images, *test_images)]
    if pages and not has_pages(first_image):
        raise UserError(f"--pages {pages} is for TIFF and arrays, but {first_image} is neither: leave it out")
    first = read_picture(page_path(first_image, 1) if pages == "images" else first_image, pages)
    refuse_odd_channels(channels, images, "--images")
    refuse_odd_channels(channels, test_images, "--test-images")
    layout = Layout(
        tuple(images),
        tuple(entries),
        tuple(test_images),
        tuple(test_entries),
        merge=merge or any(len(e) > 1 and not e[0].name for e in (entries, test_entries)),
        missing=missing,
        own_groups=own_groups,
        pages=pages,
    )
    return replace(
        DATASET,
        dataset_id=dataset_id,
        folder_name=folder_name,
        title=f"{folder_name}, images {' '.join(images)} and masks {' '.join(masks)}",
        find_cases=partial(find_cases, layout=layout),
        read_image=partial(read_picture, reading=pages),
        read_label=rules.read_label,
        to_labels=rules.to_labels,
        labels=rules.labels,
        channels=tuple(channels) or default_channels(first, first_image, len(images or test_images)),
        file_ending=PNG if first.geometry is None else NIFTI,
        flat=first.geometry is not None
        and all(is_flat(path, pages) for path in source.find([*images, *test_images][0]).values()),
        regions=nested(rules.labels if label_map else names, all_overlap=bool(label_map)) if regions else None,
    )


def refuse_fixed_patterns(patterns: Sequence[str]) -> None:
    for pattern in patterns:
        if not count_wildcards(pattern) and not is_coco(pattern):
            raise UserError(
                f"The pattern {pattern!r} has no wildcard to tell cases apart: give, in quotes, one like "
                f"{with_wildcard(pattern)!r}"
            )


def with_wildcard(path: str) -> str:
    """Pattern for the files beside one, or in a folder.

    Example:
        >>> with_wildcard("images/a.nii.gz"), with_wildcard("images/"), with_wildcard("a.png")
        ('images/*.nii.gz', 'images/*.png', '*.png')
    """
    folder, slash, name = path.rstrip("/").rpartition("/")
    ending = name.removeprefix(without_ending(name))
    return f"{folder}{slash}*{ending}" if ending else f"{path.rstrip('/')}/*.png"


def refuse_odd_channels(channels: Sequence[str], patterns: Sequence[str], option: str) -> None:
    if patterns and len(channels) % len(patterns):
        raise UserError(
            f"--channels names {len(channels)}, but {option} has {len(patterns)} patterns: name all channels"
        )


class Rules(NamedTuple):
    """Labels, and how they come out of masks."""

    labels: dict[str, int]
    to_labels: LabelRule
    read_label: Callable[..., Picture]


def label_rules(
    source: Source,
    entries: Sequence[Masks],
    labels: dict[str, int],
    label_map: Sequence[str],
    threshold: float | None,
    pages: Reading,
    trained_labels: Mapping[str, int] | None = None,
) -> Rules:
    """Choose labels and rules by the options and by the first mask of each pattern.

    Raises:
        UserError: options contradict each other or the files.
    """
    firsts = [first_match(source, entry.pattern) for entry in entries]
    if any(map(is_annotation, firsts)):
        given = bool(label_map) or threshold is not None
        return annotation_rules(source, entries, firsts, given, trained_labels)
    read = partial(read_mask, reading=pages)
    if label_map:
        refuse_contradiction(entries, threshold)
        labels, rule = parse_label_map(label_map)
        if isinstance(rule, ColourMap):
            return Rules(labels, rule, partial(read_colours, colours=tuple(rule.labels), reading=pages))
        return Rules(labels, rule, partial(read_values, read=read))
    read_label = partial(read_values, read=read, binary=True, numbered=threshold is not None)
    return Rules(labels, binary_rule(threshold, firsts), read_label)


def annotation_rules(
    source: Source,
    entries: Sequence[Masks],
    firsts: Sequence[Path],
    named: bool,
    trained_labels: Mapping[str, int] | None,
) -> Rules:
    if named or entries[0].name or not all(map(is_annotation, firsts)):
        raise UserError(f"{firsts[0]} names its classes itself: leave out --label-map and --threshold, and other masks")
    paths = [path for entry in entries for path in source.find(entry.pattern).values()]
    classes = numbered_as(paths, trained_labels) if trained_labels else class_names(paths)
    labels, rule = labels_of(classes)
    return Rules(labels, rule, partial(read_polygons, classes=classes))


def binary_rule(threshold: float | None, first_masks: Sequence[Path]) -> LabelRule:
    if threshold is not None:
        return Threshold(threshold, max_grey=1)
    if any(path.suffix.lower() in (".jpg", ".jpeg") for path in first_masks):
        return Threshold(remedy=REMEDY)
    return Binary(REMEDY)


def refuse_contradiction(entries: Sequence[Masks], threshold: float | None) -> None:
    if threshold is not None:
        raise UserError("--label-map and --threshold contradict each other: give one of them")
    if any(entry.name for entry in entries):
        raise UserError("--label-map and --masks with names of classes contradict each other: leave out --label-map")


def first_match(source: Source, pattern: str) -> Path:
    for path in source.find(pattern).values():
        return path
    there = source.contents()
    raise UserError(
        f"No file in {source.path} matches {pattern!r}, but {there}: a pattern must fit the end of a file's path"
    )


def default_channels(first: Picture, path: Path, num_files: int) -> tuple[str, ...]:
    if num_files > 1:
        raise UserError(f"There are {num_files} patterns of images, but no names: give --channels, e.g. T1 T2")
    match first.num_channels, first.geometry:
        case 1, geometry:
            return ("grey",) if geometry is None else ("image",)
        case 3, None:
            return RGB
    raise UserError(f"{path} has {first.num_channels} channels: name them with --channels, e.g. T1 T2")
