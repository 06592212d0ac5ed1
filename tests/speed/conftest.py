"""The scripts of the folder speed, importable by their names, and anew for each test."""

import sys

import pytest
from support.repository import REPOSITORY

FOLDER = REPOSITORY / "speed"


@pytest.fixture(autouse=True)
def scripts_are_importable(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    yield
    for path in FOLDER.glob("*.py"):
        sys.modules.pop(path.stem, None)
