"""Environment of the whole suite: nnU-Net in one process, not compiled, no download, temporary folders."""

import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterator
from multiprocessing.pool import ThreadPool
from pathlib import Path

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # two cores, many processes: waiting threads must not spin

import torch
from hypothesis import settings
from support import cell_datasets
from support.cell_datasets import NAMES, NNUNET_FOLDERS
from support.narrow import narrow_networks

os.environ["nnUNet_compile"] = "f"
os.environ["nnUNet_n_proc_DA"] = "1"  # 0 breaks nnU-Net's planning
os.environ["nnUNet_def_n_proc"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "agg"
os.environ["MATPLOTLIBRC"] = str(Path(__file__).with_name("matplotlibrc"))
for variable in [name for name in os.environ if name.startswith("NNUNET_PLUGINS_") or name in NNUNET_FOLDERS]:
    del os.environ[variable]

torch.serialization.set_crc32_options(False)  # a third of the time that large checkpoints take

settings.register_profile("suite", deadline=None, max_examples=30, derandomize=True)
settings.load_profile("suite")


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Fail a test that leaves a handler of SIGTERM behind: nnU-Net's pools, which end with it, would wait for ever."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    after = signal.signal(signal.SIGTERM, before)
    assert after == before


@pytest.fixture(autouse=True)
def threads() -> None:
    """Give every test its share of two cores, whatever the test before has set."""
    torch.set_num_threads(max(1, min(2, os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))))


@pytest.fixture(scope="session", autouse=True)
def fork_server() -> Iterator[None]:
    """Make the processes that nnU-Net spawns copies of one that has imported it, instead of importing it every time.

    They get the environment of the start of the tests: whoever needs more must hand it over. Real spawning is what
    ``tests/discovery`` and all tests of commands do.
    """
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["nnunetv2.training.nnUNetTrainer.nnUNetTrainer"])
    get_context = multiprocessing.get_context
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(
            multiprocessing, "get_context", lambda method=None: server if method == "spawn" else get_context(method)
        )
        yield


@pytest.fixture(scope="session")
def planned(tmp_path_factory) -> Iterator[Path]:
    """Folders of nnU-Net with all small datasets, planned and preprocessed."""
    root = tmp_path_factory.mktemp("nnunet")
    with pytest.MonkeyPatch.context() as monkeypatch:
        cell_datasets.use_nnunet_folders(root, monkeypatch)
        monkeypatch.setattr("nnunetv2.utilities.utils.Pool", ThreadPool)  # 12 processes to list ten files, 24 times
        for dataset_id in NAMES:
            cell_datasets.write_raw_dataset(dataset_id)
        cell_datasets.plan_and_preprocess(list(NAMES))
        yield root


@pytest.fixture
def results(planned, tmp_path, monkeypatch) -> Iterator[Path]:
    """A results folder of the test's own, and data loading in this process."""
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    yield tmp_path
    shutil.rmtree(tmp_path)  # checkpoints are large


@pytest.fixture(scope="module")
def narrow() -> Iterator[None]:
    """Narrow networks for all trainers while a module's tests run."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        narrow_networks(monkeypatch.setattr)
        yield


SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture
def shared_data():
    """``shared_data(name)``: a real dataset beside the checkout, or a clear skip."""

    def folder(name: str) -> Path:
        if not (SHARED_DATA / name).is_dir():
            pytest.skip(f"{SHARED_DATA / name} is not there: real data are not part of the repository")
        return SHARED_DATA / name

    return folder
