"""The command ``nnunet-plugins predict-exported``."""

import functools
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from nnunet_plugins.deployed.images import FORMATS, read_case
from nnunet_plugins.deployed.model import DESCRIPTION, INPUT, OUTPUT, Model, read_model
from nnunet_plugins.deployed.postprocessing import keep_largest
from nnunet_plugins.deployed.preprocessing import prepare, segment
from nnunet_plugins.deployed.sliding_window import Network, number_of_tiles, predict_logits
from nnunet_plugins.errors import UserError
from nnunet_plugins.files import atomic_write_with_companions, usable_cores, write_json
from nnunet_plugins.wording import counted

DATASET = "dataset.json"
"""File that nnU-Net, too, writes beside segmentations, from which evaluations know their labels."""


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
    cases, strange = find_cases(images, model)
    make_writable(output)
    networks = [load_network(folder / network["file"], model) for network in model.networks]
    for path in strange:
        print(f"{path.name} is not called CASE_0000{model.file_ending}: rename it", file=sys.stderr)
    sizes: dict[str, list[int]] = {}
    for case, paths in cases.items():
        try:
            sizes[case] = predict_case(case, paths, output / f"{case}{model.file_ending}", networks, model)
        except UserError as error:
            print(f"{case}: {error}", file=sys.stderr)
        except Exception as error:  # one image that the libraries cannot bear leaves the others alone
            reason = " ".join(str(error).split()[:30])
            print(f"{case}: it cannot be segmented ({type(error).__name__}: {reason})", file=sys.stderr)
    if sizes:
        write_json(output / DATASET, model.dataset_json)
    tell_other_sizes(sizes, model)
    print(f"{len(sizes)} of {len(cases)} cases were segmented into {output}")
    return len(sizes) == len(cases) and not strange


def tell_other_sizes(sizes: Mapping[str, list[int]], model: Model) -> None:
    """Print a note on segmented images whose height and width are not those to which training images were resized."""
    others = [case for case, size in sizes.items() if size != model.resized_to]
    if model.resized_to and others:
        size, told = " x ".join(map(str, model.resized_to)), f"{counted(len(others), 'case')}, such as {others[0]}"
        remedy = f"convert them, with {model.how_to_convert}"
        print(f"Note: {told}, not {size}, to which the training images were resized: {remedy}", file=sys.stderr)


def find_cases(folder: Path, model: Model) -> tuple[dict[str, list[Path]], list[Path]]:
    """Files of the images in a folder by the names of their cases, the channels in their order, and oddly named ones.

    Raises:
        UserError: there are none.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: give -i the folder of the images")
    ending = model.file_ending
    pattern = re.compile(rf"(?P<case>.+)_\d{{4}}{re.escape(ending)}", re.DOTALL)
    cases: dict[str, list[Path]] = {}
    strange = []
    for path in sorted(folder.iterdir()):
        if match := pattern.fullmatch(path.name):
            cases.setdefault(match["case"], []).append(path)
        elif path.name.lower().endswith(ending.lower()) and not path.name.startswith("."):
            strange.append(path)
    if not cases:
        raise UserError(
            f"{folder} has no images CASE_0000{ending}: name them so if they are like the training images, or convert "
            f"them, with {model.how_to_convert}"
        )
    return cases, strange


def make_writable(folder: Path) -> None:
    """Make a folder, and prove that files can be written there, before anything is computed.

    Raises:
        UserError: they cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}): give -o another folder") from error


def predict_case(
    case: str, paths: Sequence[Path], target: Path, networks: Sequence[Network], model: Model
) -> list[int]:
    """Segment a case and write its file, whole or not at all; return height and width of the image.

    Raises:
        UserError: a file cannot be read, used or written.
    """
    refuse_missing_channels(paths, model.file_ending)
    image = read_case(model.image_reader_writer, paths, model.channels, f", or convert it, with {model.how_to_convert}")
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
    return list(image.data.shape[-2:])


def refuse_missing_channels(paths: Sequence[Path], ending: str) -> None:
    """Check that a case's files are those of its first channels.

    Raises:
        UserError: a number is left out.
    """
    for number, path in enumerate(paths):
        if not path.name.endswith(f"_{number:04}{ending}"):
            missing = f"_{number:04}{ending}"
            raise UserError(f"{path.name} is there, but no file {missing}: add it, or number the channels anew")


def load_network(path: Path, model: Model) -> Network:
    """Load a network for the CPU.

    Raises:
        UserError: onnxruntime is not installed, cannot read the file, or the network is for other images.
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
    channels = {INPUT: len(model.channels), OUTPUT: model.num_segmentation_heads}
    expected = {name: [number, *model.patch_size] for name, number in channels.items()}
    found = {value.name: value.shape[1:] for value in (*session.get_inputs(), *session.get_outputs())}
    if found != expected:
        raise UserError(f"{path} computes {found}, but {DESCRIPTION} has {expected}: export the model again")
    return functools.partial(run_network, session)


def run_network(session: Any, image: np.ndarray) -> np.ndarray:
    return session.run([OUTPUT], {INPUT: image})[0]
