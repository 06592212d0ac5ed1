"""Pairing of images and masks whose patterns have the same wildcards."""

from collections.abc import Callable, Iterator, Sequence

from nnunet_plugins.dataset_conversion.dataset import Case, Part
from nnunet_plugins.dataset_conversion.source import Source


def paired(
    source: Source,
    images: str | Sequence[str],
    masks: str,
    *,
    name: Callable[[str], str] = lambda key: key.replace("/", "_"),
    group: Callable[[str], str] = lambda key: "",
    test: bool = False,
    paper_part: Callable[[str], Part] | Part | None = None,
) -> Iterator[Case]:
    """Make a case of each image and the mask with the same wildcards, and note a problem of the source for the others.

    Args:
        source: the download.
        images: the images' pattern, or a pattern for each channel.
        masks: the masks' pattern.
        name: gives a case's name from the text that its wildcards stand for.
        group: gives a case's group from that text.
        test: whether the cases belong to the owners' test set.
        paper_part: the cases' part in the published split, or a function that gives it from that text.
    """
    patterns = [images] if isinstance(images, str) else images
    channels = [source.find(pattern) for pattern in patterns]
    labels = source.find(masks)
    for key in sorted({key for found in (*channels, labels) for key in found}):
        files = [*(found.get(key) for found in channels), labels.get(key)]
        if None in files:
            present = next(path for path in files if path)
            lacking = [pattern for pattern, path in zip([*patterns, masks], files, strict=True) if path is None][-1]
            what = "mask" if lacking == masks else "other channel" if any(files[:-1]) else "image"
            source.problem(f"{present} has no {what}: there is no {filled(lacking, key)}; add it, or remove the file")
            continue
        yield Case(
            name(key),
            images=tuple(path for path in files[:-1] if path),
            label=tuple(path for path in files[-1:] if path),
            group=group(key),
            test=test,
            paper_part=paper_part(key) if callable(paper_part) else paper_part,
        )


def filled(pattern: str, key: str) -> str:
    """Name of a missing file: the pattern with its wildcards filled in."""
    wildcards = [character for character in pattern if character in "*#"]
    return pattern.replace(wildcards[0], key) if len(wildcards) == 1 else f"{pattern} for {key}"
