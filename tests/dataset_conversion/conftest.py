"""Fixtures of the conversion's tests: nnU-Net's folders, small downloads, and miniatures that are converted once."""

import signal
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import pytest
from support import cell_datasets, files, miniatures, refusals
from support.conversions import Conversion, refused_convert, run_convert, states
from support.miniatures import Miniature

from nnunet_plugins.dataset_conversion import command, writer


@pytest.fixture
def without_integrity_check(monkeypatch) -> None:
    """Leave out nnU-Net's integrity check, which starts processes; ``test_integrity`` runs it."""
    monkeypatch.setattr(command, "convert", partial(writer.convert, check=False))


@pytest.fixture
def nnunet_folders(tmp_path, monkeypatch, without_integrity_check) -> Iterator[Path]:
    """nnU-Net's folders of the test's own; at the end no signal may have kept a handler."""
    cell_datasets.use_nnunet_folders(tmp_path, monkeypatch)
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]
    yield tmp_path
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)] == before


@pytest.fixture
def download(tmp_path) -> Path:
    """Three pictures with masks of 0 and 255."""
    for index in range(3):
        files.save(tmp_path / f"download/images/{index}.png", refusals.picture(index))
        files.save(tmp_path / f"download/masks/{index}.png", refusals.mask())
    return tmp_path / "download"


@pytest.fixture
def volumes(tmp_path) -> Path:
    """Three volumes with masks of 0 and 1."""
    for index in range(3):
        files.save_volume(tmp_path / f"download/images/{index}.nii.gz", refusals.noise_volume(index))
        files.save_volume(tmp_path / f"download/masks/{index}.nii.gz", refusals.mask_volume())
    return tmp_path / "download"


@pytest.fixture(scope="session")
def converted(tmp_path_factory) -> Callable[[str], Conversion]:
    """``converted(name)``: the miniature of a dataset, converted by the command as users give it, only once."""

    @cache
    def convert(name: str) -> Conversion:
        root = tmp_path_factory.mktemp(name)
        conversion = Conversion(miniatures.write(name, root / "source"), root)
        with pytest.MonkeyPatch.context() as monkeypatch:
            cell_datasets.use_nnunet_folders(root, monkeypatch)
            run_convert(name, conversion.miniature.folder)
        return conversion

    return convert


@pytest.fixture
def miniature(converted) -> Callable[[str], Miniature]:
    """``miniature(name)``: a download that no test may change."""
    return lambda name: converted(name).miniature


@pytest.fixture
def convert(tmp_path, monkeypatch) -> Callable[..., Conversion]:
    """``convert(miniature, *options)`` in folders of the test's own."""
    cell_datasets.use_nnunet_folders(tmp_path, monkeypatch)

    def run(miniature: Miniature, *options: object, source: Path | None = None, **how) -> Conversion:
        run_convert(name_of(miniature), source or miniature.folder, *options, **how)
        return Conversion(miniature, tmp_path)

    return run


@pytest.fixture
def refusal(tmp_path, monkeypatch) -> Callable[..., str]:
    """``refusal(miniature, *options)``: the one sentence of a conversion that is refused and writes nothing."""
    cell_datasets.use_nnunet_folders(tmp_path, monkeypatch)

    def run(miniature: Miniature, *options: object, source: Path | None = None, name: str | None = None) -> str:
        before = states(tmp_path)
        sentence = refused_convert(name or name_of(miniature), source or miniature.folder, *options)
        assert states(tmp_path) == before
        return sentence

    return run


def name_of(miniature: Miniature) -> str:
    return next(name for name, facts in miniatures.FACTS.items() if facts == miniature.facts)
