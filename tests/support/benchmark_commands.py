"""Commands of the benchmark in this process, and how they refuse."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from nnunet_plugins.benchmark.runs import Run
from nnunet_plugins.cli import main
from nnunet_plugins.files import write_json


def everything(root):
    """All files and folders, with the contents of files."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in root.rglob("*")}


def refusal(root, *arguments):
    """One sentence that a command ends with, having written nothing."""
    before = everything(root)
    with pytest.raises(SystemExit) as ended:
        main(["benchmark", *map(str, arguments)])
    assert everything(root) == before
    sentence = ended.value.code  # text: Python prints it and exits with 1
    assert isinstance(sentence, str) and len(sentence.strip().splitlines()) == 1, sentence
    return sentence


def never(*_, **__):
    raise AssertionError("this must not be reached")


def finish(run: Run, cases: Sequence[Mapping[str, Any]] = (), **trained: Any) -> None:
    """Write both receipts of a run; without further values, of one that has predicted nothing."""
    write_json(run.training_receipt, {"parts": ["validation"], "sha256": {}} | trained)
    write_json(run.validation_receipt, {"tolerance": 1.0, "parts": ["validation"], "cases": list(cases)})
