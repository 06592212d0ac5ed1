"""Pairing of images and masks whose patterns have the same wildcards."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from nnunet_plugins.dataset_conversion.dataset import Case, Part
from nnunet_plugins.dataset_conversion.readers.dicom import is_dicom
from nnunet_plugins.dataset_conversion.source import Source
from nnunet_plugins.wording import counted


class Masks(NamedTuple):
    """Pattern of mask files, and the class that they hold."""

    pattern: str
    name: str = ""
    label: int = 0
    """Label of the files' foreground; 0: their values have labels of their own."""


class MaskFile(NamedTuple):
    """Mask file of one image."""

    path: Path
    label: int


def paired(
    source: Source,
    images: str | Sequence[str],
    masks: str | Sequence[Masks],
    *,
    name: Callable[[str], str] = lambda key: key.replace("/", "_"),
    group: Callable[[str], str] = lambda key: "",
    test: bool = False,
    paper_part: Callable[[str], Part] | Part | None = None,
    merge: bool | None = None,
    missing: str = "",
) -> Iterator[Case]:
    """Make a case of each image and the masks with the same wildcards, and note a problem of the source for the others.

    Args:
        source: the download.
        images: the images' pattern, or a pattern for each channel.
        masks: the masks' pattern or patterns; none: the images have no masks. Wildcards beyond those of the images
            number the masks of one image.
        name: gives a case's name from the text that its wildcards stand for.
        group: gives a case's group from that text.
        test: whether the cases belong to the owners' test set.
        paper_part: the cases' part in the published split, or a function that gives it from that text.
        merge: whether one pattern may find several masks of an image; None: no, and there is no option for it.
        missing: what an image without a mask is: "background", "skip", or a problem.
    """
    patterns = [images] if isinstance(images, str) else list(images)
    entries = [Masks(masks)] if isinstance(masks, str) else list(masks)
    channels = [source.find(pattern) for pattern in patterns]
    masks_of = find_masks(source, entries, count_wildcards(patterns[0]), merge)
    unmasked: list[Path] = []
    without_class: dict[str, list[Path]] = {}
    no_images = refuse_masks_as_images(source, channels, masks_of)
    for key in sorted(({key for found in channels for key in found} | masks_of.keys()) - no_images):
        paths = [path for found in channels if (path := found.get(key))]
        files = masks_of.get(key, [])
        absent = [pattern for pattern, found in zip(patterns, channels, strict=True) if key not in found]
        if absent or (entries and not files and not missing):
            present = (paths or [file.path for file in files])[0]
            if entries and not files:
                what, pattern = "mask", entries[0].pattern
            else:
                what, pattern = "other channel" if paths else "image", absent[-1]
            remedy = other_remedies(present, lacks_mask=merge is not None and not absent)
            source.problem(
                f"{present} has no {what}: there is no {filled(pattern, key)}; add it,{remedy} or move the file away"
            )
            continue
        if entries and not files:
            unmasked.append(paths[0])
            if missing == "skip":
                continue
        yield Case(
            name(key),
            images=tuple(paths),
            label=tuple(file.path for file in files) if entries else None,
            classes=() if isinstance(masks, str) else tuple(file.label for file in files),
            group=group(key),
            test=test,
            paper_part=paper_part(key) if callable(paper_part) else paper_part,
        )
        for entry in entries:
            if entry.name and files and entry.label not in {file.label for file in files}:
                without_class.setdefault(entry.name, []).append(paths[0])
    note_unmasked(source, unmasked, missing, without_class)


def find_masks(
    source: Source, entries: Sequence[Masks], num_wildcards: int, merge: bool | None
) -> dict[str, list[MaskFile]]:
    """Find the masks of each image, by the text that its wildcards stand for, in the order of their labels."""
    masks_of: dict[str, list[MaskFile]] = {}
    for entry in sorted(entries, key=lambda entry: entry.label):
        here: dict[str, list[MaskFile]] = {}
        for key, path in source.find(entry.pattern).items():
            here.setdefault("/".join(key.split("/")[:num_wildcards]), []).append(MaskFile(path, entry.label))
        for key, files in here.items():
            if len(files) > 1 and not merge:
                source.problem(
                    f"{files[0].path} and {files[1].path} belong to one image: give --merge-masks if they are parts of "
                    "one mask, or a pattern for each class, as in --masks a='*_a.png' b='*_b.png'"
                )
            known = {file.path for file in masks_of.get(key, [])}
            masks_of.setdefault(key, []).extend(file for file in files if entry.label or file.path not in known)
    return masks_of


def other_remedies(present: Path, lacks_mask: bool) -> str:
    """Remedies for a file without its counterpart, besides adding it and moving the file away."""
    options = " or give --missing-masks skip (or background)," if lacks_mask else ""
    if present.is_file() and is_dicom(present):
        options += f" or give a series of DICOM by its folder, as in --images '*/{present.parent.name}',"
    return options


def refuse_masks_as_images(
    source: Source, channels: Sequence[Mapping[str, Path]], masks_of: Mapping[str, Sequence[MaskFile]]
) -> set[str]:
    """Note a problem for files that are found as images and as masks of others, and tell by what text they were."""
    owners = {file.path: key for key, files in masks_of.items() for file in files}
    found = {key: path for images in channels for key, path in images.items() if path in owners and owners[path] != key}
    for path in found.values():
        source.problem(
            f"{path} is found as an image, but it is a mask of {owners[path]!r}: narrow the pattern of the images, "
            "e.g. with # for a number, or move the masks to a folder of their own"
        )
    return set(found)


def note_unmasked(
    source: Source, unmasked: Sequence[Path], missing: str, without_class: Mapping[str, Sequence[Path]]
) -> None:
    for name, images in without_class.items():
        source.note_files(f"{counted(len(images), 'image')} without a mask of {name}", images)
    if unmasked:
        done = "left out" if missing == "skip" else "all background"
        source.note_files(f"{counted(len(unmasked), 'image')} without a mask, {done}", unmasked)


def count_wildcards(pattern: str) -> int:
    return sum(character in "*#" for character in pattern)


def filled(pattern: str, key: str) -> str:
    """Name of a missing file: the pattern with its wildcards filled in."""
    wildcards = [character for character in pattern if character in "*#"]
    return pattern.replace(wildcards[0], key) if len(wildcards) == 1 else f"{pattern} for {key}"
