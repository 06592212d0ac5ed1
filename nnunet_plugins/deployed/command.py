"""The command ``nnunet-plugins predict-exported``."""

import functools
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from nnunet_plugins.deployed.images import FORMATS, read_case
from nnunet_plugins.deployed.model import INPUT, OUTPUT, Model, read_model
from nnunet_plugins.deployed.postprocessing import keep_largest
from nnunet_plugins.deployed.preprocessing import prepare, segment
from nnunet_plugins.deployed.sliding_window import Network, number_of_tiles, predict_logits
from nnunet_plugins.errors import UserError
from nnunet_plugins.files import atomic_write_with_companions, usable_cores


def predict_exported(folder: Path, images: Path, output: Path) -> bool:
    """Segment all cases of a folder, and tell whether none was left out; each that was is told in a sentence.

    Args:
        folder: of the exported model.
        images: folder of images, named as nnU-Net names them.
        output: folder for the segmentations, which is made.

    Raises:
        UserError: the model cannot be used, or there are no images.
    """
    model = read_model(folder)
    cases = find_cases(images, model.file_ending)
    networks = [load_network(folder / network["file"]) for network in model.networks]
    failed = 0
    for case, paths in cases.items():
        try:
            predict_case(case, paths, output / f"{case}{model.file_ending}", networks, model)
        except UserError as error:
            failed += 1
            print(f"{case}: {error}", file=sys.stderr)
    print(f"{len(cases) - failed} of {len(cases)} cases were segmented into {output}")
    return failed == 0


def find_cases(folder: Path, ending: str) -> dict[str, list[Path]]:
    """Files of the images in a folder by the names of their cases, the channels in their order.

    Raises:
        UserError: there are none.
    """
    pattern = re.compile(rf"(?P<case>.+)_\d{{4}}{re.escape(ending)}")
    cases: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if match := pattern.fullmatch(path.name):
            cases.setdefault(match["case"], []).append(path)
    if not cases:
        raise UserError(f"{folder} has no images CASE_0000{ending}: name them so, or give another folder")
    return cases


def predict_case(case: str, paths: Sequence[Path], target: Path, networks: Sequence[Network], model: Model) -> None:
    """Segment a case and write its file, whole or not at all.

    Raises:
        UserError: a file cannot be read, used or written.
    """
    image = read_case(model.image_reader_writer, paths, model.channels)
    prepared = prepare(image, model)
    number = len(networks) * number_of_tiles(prepared.data.shape[1:], model)
    with tqdm(total=number, desc=case) as bar:
        logits = predict_logits(networks, prepared.data, model, bar.update)
    labels = keep_largest(segment(logits, prepared, model), model.postprocessing)
    try:
        with atomic_write_with_companions(target) as temporary:
            FORMATS[model.image_reader_writer].write(np.ascontiguousarray(labels), temporary, image.geometry)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{target} cannot be written ({error}): make room or mend the permissions") from error


def load_network(path: Path) -> Network:
    """Load a network for the CPU.

    Raises:
        UserError: onnxruntime is not installed or cannot read the file.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"onnxruntime cannot be imported ({error}): pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # classes of onnxruntime that it does not export
        raise UserError(f"onnxruntime {onnxruntime.__version__} cannot load {path} ({error}): update it") from error
    return functools.partial(run_network, session)


def run_network(session: object, image: np.ndarray) -> np.ndarray:
    return session.run([OUTPUT], {INPUT: image})[0]  # type: ignore[attr-defined]
