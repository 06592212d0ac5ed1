"""The refusal of a download with problems: equal ones are said once, with their number and examples."""

import re
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from nnunet_plugins.dataset_conversion.dataset import NIFTI, Dataset
from nnunet_plugins.dataset_conversion.labels import entries_to_name
from nnunet_plugins.dataset_conversion.source import UNPACKED, Source, relative_path
from nnunet_plugins.errors import UserError
from nnunet_plugins.wording import enumeration

MAX_ALIKE = 3
"""Number of problems of one kind that are listed; the others are counted."""
ENTRY = re.compile(r"'?[-#\w]+=(?:NAME\d*|background)'?")
"""Entry of ``--label-map`` in a sentence on a mask's values."""


def refuse_problems(dataset: Dataset, source: Source, problems: Sequence[str]) -> None:
    """Refuse a download that has problems.

    Raises:
        UserError: it has.
    """
    if not problems:
        return
    hint = by_folder(dataset, source)
    if len(problems) == 1:
        raise UserError(problems[0] + (f"; {hint}" if hint else ""))
    kinds: dict[str, list[str]] = {}
    for problem in problems:
        kinds.setdefault(kind_of(problem, source), []).append(problem)
    listed = "\n".join(f"- {line}" for alike in kinds.values() for line in lines_of(alike, source))
    last = f"{source.path} has these {len(problems)} problems: nothing was converted."
    if any(len(alike) > MAX_ALIKE for alike in kinds.values()):
        last += f" All of them are in {write_list(problems)}"
    raise UserError(f"{listed}\n{last}" + (f"\n{hint[0].upper()}{hint[1:]}" if hint else ""))


def by_folder(dataset: Dataset, source: Source) -> str:
    """How ``folder`` would convert files that are not those that a named dataset's owners publish."""
    if dataset.name == "folder":
        return ""
    ending = "nii.gz" if dataset.file_ending == NIFTI else "png"
    channels = " --channels CT" if dataset.channels == ("CT",) else ""
    label_map = " --label-map VALUE=NAME ..." if len(dataset.labels) > 2 else ""
    return (
        "other files than the published ones convert with: nnunet-plugins convert folder "
        f"{shlex.quote(str(source.path))} -d {dataset.dataset_id} --dataset-name {dataset.folder_name} "
        f"--images 'images/*.{ending}' --masks 'masks/*.{ending}'{channels}{label_map}"
    )


def path_pattern(source: Source) -> re.Pattern[str]:
    """Expression for the path of a file of the download in a sentence."""
    root = re.escape(str(source.path))
    return re.compile(rf"(?:{root}|/\S*/{re.escape(UNPACKED)}\w+)/.*?\.\w+(?=[ ,:;]|$)")


def kind_of(problem: str, source: Source) -> str:
    """The sentence without its files, names, numbers and values."""
    kind = path_pattern(source).sub("FILE", problem)
    kind = re.sub(r"'[^']*'", "NAME", ENTRY.sub("ENTRY", kind))
    kind = re.sub(r"\S*/\S*\.\w+", "FILE", kind)
    kind = re.sub(r"#[0-9a-f]{6}|-?[0-9][0-9.x]*", "N", kind)
    kind = re.sub(r"(?:N \(N%\)(?:, )?)+(?: and N rarer ones?)?", "VALUES", kind)
    return re.sub(r"(?:ENTRY ?)+", "ENTRY", kind)


def lines_of(alike: Sequence[str], source: Source) -> Sequence[str]:
    """Problems of one kind, or the first of them and the number of the others, with two of their files."""
    if len(alike) <= MAX_ALIKE:
        return alike
    found = [match[0] for problem in alike[1:] if (match := path_pattern(source).search(problem))]
    examples = f", such as {enumeration(relative_path(Path(path), source.path) for path in found[:2])}" if found else ""
    line = f"{alike[0]} (and {len(alike) - 1} more of this kind{examples})"
    entries = dict(entry.strip("'").split("=") for problem in reversed(alike) for entry in ENTRY.findall(problem))
    if len(entries) > len(set(ENTRY.findall(alike[0]))):
        together = [all_entries(entries, colours) for colours in (False, True)]
        line += f"; all of them together need --label-map {' or '.join(filter(None, together))}"
    return [line]


def all_entries(entries: Mapping[str, str], colours: bool) -> str:
    """Entries for all values that are numbers, or for all that are colours."""
    values = sorted((value for value in entries if value.startswith("#") == colours), key=value_order)
    background = next((value for value in values if entries[value] == "background"), None)
    return " ".join(entries_to_name(values, background))


def value_order(value: str) -> tuple[float, str]:
    return (float(value) if re.fullmatch(r"-?[0-9]+", value) else 0, value)


def write_list(problems: Sequence[str]) -> Path:
    with tempfile.NamedTemporaryFile(
        "w", prefix="conversion_problems_", suffix=".txt", encoding="utf-8", errors="backslashreplace", delete=False
    ) as file:
        file.write("\n".join(problems) + "\n")
    return Path(file.name)
