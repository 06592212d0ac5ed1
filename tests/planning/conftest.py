"""Datasets that nnU-Net has planned for its own network, and estimates that only these tests share."""

import shutil
from pathlib import Path

import pytest
from support import cell_datasets
from support.described_datasets import IMAGES, LARGE_VOLUMES, VOLUMES, describe


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """A cache of the tests' own: elsewhere, networks of the same names may be narrow."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def described(tmp_path_factory) -> Path:
    """nnU-Net's folders with the described datasets, planned."""
    root = tmp_path_factory.mktemp("described")
    with pytest.MonkeyPatch.context() as monkeypatch:
        cell_datasets.use_nnunet_folders(root, monkeypatch)
        for dataset in (IMAGES, VOLUMES, LARGE_VOLUMES):
            describe(dataset)
        describe(VOLUMES, "nnUNetPlannerResEncM")
    return root


@pytest.fixture
def root(described, tmp_path, monkeypatch) -> Path:
    """The same, in folders that the test may change."""
    shutil.copytree(described, tmp_path, dirs_exist_ok=True)
    cell_datasets.use_nnunet_folders(tmp_path, monkeypatch)
    return tmp_path
