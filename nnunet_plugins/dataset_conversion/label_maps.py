"""Labels by the entries of ``--label-map``, which name values or colours, and of ``--masks``, which name files."""

import re
from collections.abc import Mapping, Sequence

from nnunet_plugins.dataset_conversion.colours import ColourMap
from nnunet_plugins.dataset_conversion.labels import LabelMap
from nnunet_plugins.dataset_conversion.pairing import Masks
from nnunet_plugins.errors import UserError


def parse_label_map(entries: Sequence[str]) -> tuple[dict[str, int], LabelMap | ColourMap]:
    """Turn ``VALUE=NAME`` entries into nnU-Net's labels and the rule for masks.

    "background" becomes 0 and "ignore" the highest label, at any place in the list. Values are numbers, or colours as
    in ``#ff0000`` or ``255,0,0``.

    Raises:
        UserError: an entry has another form, repeats a value or a name, or there is no background.
    """
    names: dict[int, str] = {}
    colours = [is_colour(entry) for entry in entries]
    for entry in entries:
        value, separator, name = entry.partition("=")
        number = parse_value(value.strip())
        if not separator or not name or number is None:
            raise UserError(f"--label-map {entry!r} is not VALUE=NAME, as in 255=polyp or '#ff0000=polyp'")
        if number in names or name in names.values():
            raise UserError(f"--label-map {entry!r} repeats a value or a name: each value must have a label of its own")
        names[number] = name
    if any(colours) and not all(colours):
        entry = entries[colours.index(False)]
        raise UserError(f"--label-map {entry!r} is no colour, but others are: write a colour too, as in '#000000=name'")
    if not 2 <= len(names) <= 256:
        raise UserError(
            f"--label-map names {len(names)} values, but 2 to 256 are possible: name background and objects"
        )
    if "background" not in names.values():
        raise UserError(f"--label-map names no background: add e.g. {'#000000' if any(colours) else 0}=background")
    order = sorted(names, key=lambda value: {"background": -1, "ignore": 1}.get(names[value], 0))
    labels = {value: label for label, value in enumerate(order)}
    remedy = "add to --label-map {entries}"
    rule = ColourMap(labels, remedy) if any(colours) else LabelMap(labels, remedy=remedy)
    return {names[value]: label for label, value in enumerate(order)}, rule


def is_colour(entry: str) -> bool:
    value = entry.partition("=")[0].strip()
    return value.startswith("#") or "," in value


def parse_value(text: str) -> int | None:
    """Read a number, or a colour as ``0xRRGGBB``; None: it is neither."""
    if re.fullmatch(r"-?[0-9]+", text):
        return int(text)
    if re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        return int(text[1:], 16)
    if re.fullmatch(r"([0-9]+) *, *([0-9]+) *, *([0-9]+)", text):
        red, green, blue = map(int, text.split(","))
        return (red << 16) | (green << 8) | blue if max(red, green, blue) < 256 else None
    return None


def parse_masks(masks: Sequence[str], option: str = "--masks") -> tuple[list[Masks], dict[str, int]]:
    """Turn ``PATTERN`` or ``NAME=PATTERN`` entries into patterns with classes, and into nnU-Net's labels.

    Raises:
        UserError: some patterns have names and others none.
    """
    named = [re.match(r"([^*#?/{}=]+)=(.+)", entry) for entry in masks]
    if not any(named):
        return [Masks(entry) for entry in masks], {"background": 0, "foreground": 1}
    if not all(named):
        lacking = next(entry for entry, match in zip(masks, named, strict=True) if not match)
        raise UserError(f"{option} {lacking!r} has no class, but others have: write NAME={lacking}")
    entries = [(match[1], match[2]) for match in named if match]
    names = sorted(dict.fromkeys(name for name, _ in entries), key=lambda name: name == "ignore")
    if "background" in names:
        raise UserError(
            f"{option} has a pattern for the background: leave it out, since background is what is in no mask"
        )
    labels = {"background": 0} | {name: label for label, name in enumerate(names, 1)}
    return [Masks(pattern, name, labels[name]) for name, pattern in entries], labels


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
