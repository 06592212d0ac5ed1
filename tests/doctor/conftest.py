"""An environment with which the doctor is content."""

from pathlib import Path

import pytest

from nnunet_plugins._startup import DISCOVERY_FOLDER


@pytest.fixture
def healthy(tmp_path, monkeypatch) -> Path:
    """nnU-Net's folders, and the search path as an installation leaves it."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    monkeypatch.setenv("nnUNet_extTrainer", DISCOVERY_FOLDER)
    monkeypatch.delenv("NNUNET_PLUGINS_DISABLE_AUTOLOAD", raising=False)
    monkeypatch.delenv("OMP_THREAD_LIMIT", raising=False)
    return tmp_path
