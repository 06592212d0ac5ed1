"""Narrow networks for the tests of trainers."""

from collections.abc import Iterator

import pytest
from support.narrow import narrow_networks


@pytest.fixture(scope="module")
def narrow() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        narrow_networks(monkeypatch.setattr)
        yield
