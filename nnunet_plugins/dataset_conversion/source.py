"""The user's download, a folder or an archive, in which files are found by the published patterns."""

import os
import re
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path

from nnunet_plugins.dataset_conversion import archives
from nnunet_plugins.dataset_conversion.readers import IMAGE_ENDINGS, VOLUME_ENDINGS, files_behind
from nnunet_plugins.dataset_conversion.readers.dicom import DICOM_ENDINGS, is_dicom
from nnunet_plugins.errors import UserError
from nnunet_plugins.wording import enumeration

UNPACKED = ".nnunet_plugins_unpacked_"
"""Beginning of the names of folders with unpacked archives."""
JUNK = ("thumbs.db", "desktop.ini")
"""Files that Windows leaves in folders with pictures, in lower case."""


class Source(AbstractContextManager):
    """A downloaded folder or archive.

    Archives in the folder are opened only for patterns that no plain file matches, so they may stay beside their
    unpacked files. They are unpacked into a temporary folder, which is removed on exit.

    Args:
        path: the folder or archive.
        scratch: folder in which archives are unpacked; None: the machine's folder for temporary files.

    Raises:
        UserError: ``path`` does not exist, or is neither a folder nor an archive.
    """

    def __init__(self, path: Path, scratch: Path | None = None):
        path = Path(os.path.abspath(path))
        if not path.exists():
            raise UserError(f"{path} does not exist: give the folder, or the archive, that you have downloaded")
        if path.is_file() and not archives.is_archive(path):
            known = ", ".join(archives.ENDINGS)
            raise UserError(f"{path} is neither a folder nor an archive ({known}): unpack it and give the folder")
        self.path = path
        self.scratch = scratch
        self.problems: list[str] = []
        """Problems found while looking for cases, a sentence each."""
        self.notices: list[str] = []
        """Facts that are no errors, but that the user should know, a sentence each."""
        self._found: set[Path] = set()
        self._unpacked: tempfile.TemporaryDirectory | None = None

    def __exit__(self, *_: object) -> None:
        if self._unpacked:
            self._unpacked.cleanup()

    def find(self, pattern: str) -> dict[str, Path]:
        """Find the files, and the folders with a series of DICOM, whose path ends as ``pattern`` says.

        Upper and lower case are the same. ``*`` stands for any part of a name, ``#`` for a number, ``?`` for a
        character and ``{a,b}`` for either of two texts. Two files for one text are a problem of the source.

        Returns:
            The files in order, by the text that ``*`` and ``#`` stand for; several texts are joined with ``/``.
        """
        found = self._matches(pattern, self._plain_files) or self._matches(pattern, self._archived_files)
        self._found.update(found.values())
        return found

    @property
    def unopened(self) -> list[Path]:
        """Archives in the folder that were not opened."""
        return [] if self._unpacked else self._archives

    @property
    def foreign_archives(self) -> list[Path]:
        """Archives that cannot be opened here."""
        files = [*self._plain_files, *(self._archived_files if self._unpacked else [])]
        return [path for path in files if path.name.lower().endswith(archives.FOREIGN_ENDINGS)]

    @property
    def others(self) -> list[Path]:
        """Files in or below the folders of all files that were found, which no pattern has found."""
        folders = {path.parent for path in self._found}
        known = self._found | {file for path in self._found for file in files_behind(path)}
        files = [*self._plain_files, *(self._archived_files if self._unpacked else [])]
        return [path for path in files if path not in known and not folders.isdisjoint(path.parents)]

    def contents(self) -> str:
        """The most frequent kinds of files, for a sentence on a pattern that finds none."""
        files = [*self._plain_files, *(self._archived_files if self._unpacked else [])]
        kinds = Counter(
            f"{path.parent.name}/*{path.name.removeprefix(without_ending(path.name)) or path.suffix}" for path in files
        )
        listed = [f"{number} {kind}" for kind, number in kinds.most_common(4)]
        series = " (a series of DICOM is given by its folder, as in --images '*/ct')"
        hint = series if any(kind.lower().endswith(DICOM_ENDINGS) for kind in kinds) else ""
        return f"it has {enumeration(listed)}{hint}" if listed else "it is empty"

    def note_files(self, what: str, files: Sequence[Path]) -> None:
        """Note a fact about files, with three of them as examples."""
        examples = [relative_path(path, self.path) for path in files[:3]]
        self.note(f"{what}, such as {enumeration(examples)}" if len(files) > 1 else f"{what}: {examples[0]}")

    def _matches(self, pattern: str, files: Sequence[Path]) -> dict[str, Path]:
        expression = pattern_expression(composed(pattern.rstrip("/")))
        found: dict[str, Path] = {}
        for path in (*files, *series_folders(files, expression)):
            if match := expression.search(composed(path.as_posix())):
                key = without_ending("/".join(match.groups()))
                if key in found and os.path.realpath(found[key]) != os.path.realpath(path):
                    self.problem(f"{found[key]} and {path} are both {key!r}: give a pattern that tells them apart")
                found.setdefault(key, path)
        return found

    def note(self, sentence: str) -> None:
        if sentence not in self.notices:
            self.notices.append(sentence)

    def problem(self, sentence: str) -> None:
        if sentence not in self.problems:
            self.problems.append(sentence)

    @cached_property
    def _plain_files(self) -> list[Path]:
        return [path for path in walk(self.path) if not archives.is_archive(path)] if self.path.is_dir() else []

    @cached_property
    def _archives(self) -> list[Path]:
        return [path for path in walk(self.path) if archives.is_archive(path)] if self.path.is_dir() else [self.path]

    @cached_property
    def _archived_files(self) -> list[Path]:
        if not self._archives:
            return []
        try:
            self._unpacked = tempfile.TemporaryDirectory(prefix=UNPACKED, dir=self.scratch)
        except OSError as error:
            raise UserError(
                f"{self.scratch} cannot be written ({error.strerror}): unpack the archives yourself"
            ) from error
        folder = Path(self._unpacked.name)
        for index, archive in enumerate(self._archives):
            place = folder / str(index) / archive.parent.relative_to(self.path.parent)
            archives.unpack(archive, place / archives.stem(archive))
        return walk(folder)


def walk(folder: Path) -> list[Path]:
    """List all files below a folder in order, without hidden files and those that macOS and Windows add."""
    files, real = [], dict[str, str]()
    for root, folders, names in os.walk(folder, followlinks=True):
        real[root] = os.path.realpath(root)
        if any(real.get(str(above)) == real[root] for above in Path(root).parents):  # a link to a folder above
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        files += [Path(root, name) for name in names if not is_hidden(name)]
    return sorted(files)


def is_hidden(name: str) -> bool:
    """Whether a file is hidden, or one of those that Windows adds."""
    return name.startswith(".") or name.lower() in JUNK


def relative_path(path: Path, root: Path) -> str:
    """Path relative to the download or to the archive that a file comes from."""
    unpacked = [i for i, part in enumerate(path.parts) if part.startswith(UNPACKED)]
    return (Path(*path.parts[unpacked[-1] + 1 :]) if unpacked else path.relative_to(root)).as_posix()


def series_folders(files: Sequence[Path], expression: re.Pattern[str]) -> list[Path]:
    """List the folders with a series of DICOM whose path fits, in order."""
    folders = sorted({path.parent for path in files})
    return [folder for folder in folders if expression.search(composed(folder.as_posix())) and is_dicom(folder)]


def composed(text: str) -> str:
    """Unicode's composed form of a name: a Mac writes an accent as a character of its own, and keyboards do not."""
    return unicodedata.normalize("NFC", text)


def pattern_expression(pattern: str) -> re.Pattern[str]:
    """Translate a pattern into a regular expression for the end of a path.

    Raises:
        UserError: a brace is not closed.
    """
    expression, depth = "", 0
    for character in pattern.replace("\\", "/").removeprefix("./"):
        match character:
            case "*":
                expression += "([^/]*)"
            case "#":
                expression += "([0-9]+)"
            case "?":
                expression += "[^/]"
            case "{":
                expression, depth = expression + "(?:", depth + 1
            case "}" if depth:
                expression, depth = expression + ")", depth - 1
            case "," if depth:
                expression += "|"
            case _:
                expression += re.escape(character)
    if depth:
        raise UserError(f"The pattern {pattern!r} has a brace that is not closed: close it")
    return re.compile(f"(?:^|/){expression}$", re.IGNORECASE)


def without_ending(name: str) -> str:
    for ending in (*VOLUME_ENDINGS, *IMAGE_ENDINGS):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name
