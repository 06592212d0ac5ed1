"""Time of the converter ``folder`` against a bare loop that reads and writes the same files.

python speed/conversion.py --images 1000 --size 352 --processes 2

The bare loop decodes every JPEG image and PNG mask and encodes both as PNG, with Pillow and as many processes; nothing
is checked. The conversion does all that it always does: hashes, checks of every value, folds, report. nnU-Net's own
integrity check, which reads the images once more and the masks twice, is timed apart. They take turns.
"""

import argparse
import contextlib
import io
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter
from tqdm import tqdm

from nnunet_plugins.dataset_conversion.datasets import folder
from nnunet_plugins.dataset_conversion.integrity import check_integrity
from nnunet_plugins.dataset_conversion.source import Source
from nnunet_plugins.dataset_conversion.writer import Options, convert

DISTINCT = 50  # images that are drawn; the others are copies under names of their own


def write_download(root: Path, number: int, size: int) -> None:
    """Photo-like JPEG images, and PNG masks with one blob."""
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    for index in tqdm(range(number), desc="Drawing", leave=False):
        image, mask = (root / part / f"{index:05}" for part in ("images", "masks"))
        if index < DISTINCT:
            texture = sum(s * gaussian_filter(rng.normal(size=(size, size, 3)), (s, s, 0)) for s in (1, 4, 16, 64))
            Image.fromarray((128 + 60 * texture).clip(0, 255).astype(np.uint8)).save(f"{image}.jpg", quality=90)
            blob = gaussian_filter(rng.normal(size=(size, size)), size / 12)
            Image.fromarray(np.where(blob > blob.std(), 255, 0).astype(np.uint8)).save(f"{mask}.png")
        else:
            for path, ending in ((image, "jpg"), (mask, "png")):
                source = path.with_name(f"{index % DISTINCT:05}.{ending}")
                Path(f"{path}.{ending}").write_bytes(source.read_bytes())


def recode(target: Path, path: Path) -> None:
    with Image.open(path) as image:
        Image.fromarray(np.asarray(image)).save(target / f"{path.stem}.png")


def bare_loop(download: Path, target: Path, processes: int) -> None:
    for part in ("images", "masks"):
        (target / part).mkdir(parents=True)
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        for part in ("images", "masks"):
            list(pool.map(partial(recode, target / part), sorted((download / part).iterdir()), chunksize=16))


def conversion(download: Path, target: Path, processes: int) -> None:
    with (
        mock.patch.dict(os.environ, nnUNet_raw=str(target)),
        Source(download) as source,
        contextlib.redirect_stdout(io.StringIO()),
    ):
        dataset = folder.describe(source, ["images/*.jpg"], ["masks/*.png"], folder_name="Benchmark", dataset_id=999)
        convert(dataset, source, Options(), processes=processes, check=False)


def integrity_check(converted: Path, processes: int) -> None:
    check_integrity(converted / "Dataset999_Benchmark", processes)


def seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--size", type=int, default=352)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args(arguments)
    rows = []
    with tempfile.TemporaryDirectory() as root:
        download = Path(root, "download")
        write_download(download, options.images, options.size)
        for turn in range(options.turns):
            bare, converted = Path(root, f"bare{turn}"), Path(root, f"converted{turn}")
            loop = seconds(partial(bare_loop, download, bare, options.processes))
            whole = seconds(partial(conversion, download, converted, options.processes))
            check = seconds(partial(integrity_check, converted, options.processes))
            rows.append((loop, whole, check, whole / loop))
    print("| turn | bare loop, s | conversion, s | nnU-Net's check, s | conversion / bare loop |")
    print("|---|---|---|---|---|")
    for turn, row in enumerate(rows):
        print(f"| {turn} | " + " | ".join(f"{value:.3g}" for value in row) + " |")
    print(f"\nmedian ratio {np.median([row[-1] for row in rows]):.3g}")


if __name__ == "__main__":
    main()
