"""Files of networks that run without this package, each proved to compute what the network computes."""

import logging
import warnings
import zipfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from packaging.version import Version
from torch import Tensor, nn

from nnunet_plugins.deployed.model import INPUT, ONNX, OUTPUT
from nnunet_plugins.errors import UserError

PT2 = "pt2"
FREE = "batch"
"""Name of the axis that may have any length."""
LOWEST_TORCH = {ONNX: "2.6", PT2: "2.7"}
"""First torch that can write each format as it is written here."""
ZIP = b"PK\x03\x04"
"""First bytes of what torch pickles."""
NEEDED = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4
"""Largest difference of a logit that counts as none; a share of the largest logit if that is more than 1."""


class Format(NamedTuple):
    """Functions for a format."""

    write: Callable[[nn.Module, Tensor, Path], None]
    """Write a network for images of the shape of an example: one, or two if it may be any number."""
    run: Callable[[Path, Tensor], Tensor]
    """Compute the logits of images with a file."""


def free_batch(images: Tensor, axis: Any) -> tuple[dict[int, Any]] | None:
    """Describe that the first axis of the images may have any length, if the example has more than one."""
    return ({0: axis},) if len(images) > 1 else None


def write_onnx(network: nn.Module, images: Tensor, path: Path) -> None:
    logging.getLogger("onnxscript").setLevel(logging.ERROR)  # it tells what it has not made faster
    program = torch.onnx.export(
        network,
        (images,),
        dynamo=True,
        verbose=False,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=free_batch(images, FREE),
    )
    assert program is not None
    program.save(str(path))


def run_onnx(path: Path, images: Tensor) -> Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(np.asarray(session.run([OUTPUT], {INPUT: images.numpy()})[0]))


def write_pt2(network: nn.Module, images: Tensor, path: Path) -> None:
    program = torch.export.export(network, (images,), dynamic_shapes=free_batch(images, torch.export.Dim(FREE)))
    program.example_inputs = None  # the one thing that would be pickled
    torch.export.save(program, str(path))
    with zipfile.ZipFile(path) as archive:
        if any(archive.read(name).startswith(ZIP) for name in archive.namelist()):
            raise UserError(f"torch {torch.__version__} pickles the weights in {PT2} files: update it")


def run_pt2(path: Path, images: Tensor) -> Tensor:
    return torch.export.load(str(path)).module()(images)


FORMATS = {ONNX: Format(write_onnx, run_onnx), PT2: Format(write_pt2, run_pt2)}


def require(name: str) -> None:
    """Refuse a format that the installed torch cannot write, or whose packages are not installed.

    Raises:
        UserError: with what to install.
    """
    if Version(torch.__version__) < Version(LOWEST_TORCH[name]):
        raise UserError(f"torch {torch.__version__} cannot write {name}: update it to {LOWEST_TORCH[name]} or newer")
    if name == ONNX and (missing := [package for package in NEEDED if find_spec(package) is None]):
        raise UserError(f"{missing[0]} is not installed: pip install {' '.join(NEEDED)}, or choose --format {PT2}")


@torch.no_grad()
def write_network(name: str, network: nn.Module, shape: Sequence[int], path: Path) -> float:
    """Write a network for one size of images in any number, or for one image if it has a method ``for_export``.

    Args:
        name: of the format.
        network: in evaluation mode. What its ``for_export`` returns is written instead, and compared with it.
        shape: ``(C, *S)`` of an image.
        path: of the file.

    Returns:
        The largest difference of a logit between the file and torch.

    Raises:
        UserError: the format cannot express the network, or the file computes something else.
    """
    images = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    for_export: Callable[[], nn.Module] | None = getattr(network, "for_export", None)
    exported, number = (for_export(), 1) if for_export else (network, 2)
    other = PT2 if name == ONNX else ONNX
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about torch's own code
            FORMATS[name].write(exported, images[:number], path)
    except UserError:
        raise
    except Exception as error:  # of any class: each part of the exporter has its own
        cause = error.__cause__ or error
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        raise UserError(
            f"{type(network).__name__} cannot be exported to {name} ({reason}): try --format {other}"
        ) from error
    # One image, where the example had two: nothing may depend on their number.
    logits = network(images[:1])
    difference = float((FORMATS[name].run(path, images[:1]) - logits).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(logits.abs().max())):
        raise UserError(
            f"The {name} file of {type(network).__name__} differs from torch by {difference:.2g}, but {TOLERANCE:g} is "
            f"allowed: try --format {other}, and report this"
        )
    return difference
