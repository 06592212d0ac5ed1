"""The description of an exported model, ``model.json``, which lies beside its networks."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from nnunet_plugins.deployed.checks import check
from nnunet_plugins.deployed.images import FORMATS
from nnunet_plugins.deployed.normalization import SCHEMES
from nnunet_plugins.deployed.resampling import FUNCTIONS
from nnunet_plugins.errors import UserError
from nnunet_plugins.files import digest, read_json, write_json

DESCRIPTION = "model.json"
FORMAT = 1
"""Version of the description, which changes whenever an older reader would misunderstand it."""
ONNX = "onnx"
INPUT, OUTPUT = "image", "logits"
"""Names of a network's input ``(B, C, *patch)`` and output ``(B, K, *patch)``, both float32."""


@dataclass(frozen=True)
class Model:
    """Everything that inference needs to know of a model, under nnU-Net's names where it has them."""

    networks: list[dict[str, Any]]
    """For each fold: ``fold``, ``file``, ``sha256``, and the ``largest_difference`` of its logits from torch's."""
    network_format: str
    patch_size: list[int]
    spacing: list[float]
    transpose_forward: list[int]
    transpose_backward: list[int]
    channels: list[str]
    normalization: list[dict[str, Any]]
    """For each channel: ``scheme``, ``use_mask`` and, if the scheme needs them, ``intensities``."""
    resampling: dict[str, dict[str, Any]]
    """For ``data`` and ``probabilities``: ``function`` and ``kwargs``."""
    labels: dict[str, Any]
    regions_class_order: list[int] | None
    """Labels that the logits' regions become, later ones over earlier ones; ``None`` if the logits are of classes."""
    num_segmentation_heads: int
    bytes_of_labels: int
    """Bytes with which a label is written."""
    mirror_axes: list[int]
    tile_step_size: float
    postprocessing: list[list[int]]
    """Steps that keep only the largest component of all these labels together."""
    file_ending: str
    image_reader_writer: str
    resized_to: list[int] | None
    """Height and width to which ``nnunet-plugins convert`` resized the training images, if it did."""
    dataset: str
    trainer: str
    plans: str
    configuration: str
    checkpoint: str
    versions: dict[str, str]

    def write(self, folder: Path) -> None:
        write_json(folder / DESCRIPTION, {"format": FORMAT, **asdict(self)})

    @property
    def how_to_convert(self) -> str:
        """The command that makes new images, where the dataset is, what the training images were."""
        number = self.dataset.removeprefix("Dataset").partition("_")[0]
        return f"nnunet-plugins convert folder IMAGES -d {number} --test-images PATTERN -o NEW"

    @property
    def dataset_json(self) -> dict[str, Any]:
        """Description of the segmentations, as nnU-Net writes it beside its own."""
        order = {} if self.regions_class_order is None else {"regions_class_order": self.regions_class_order}
        channels = {str(index): name for index, name in enumerate(self.channels)}
        return {"channel_names": channels, "labels": self.labels, **order, "file_ending": self.file_ending}


def read_model(folder: Path) -> Model:
    """Read the description of a model, and prove that the files of its networks are those that were exported.

    Raises:
        UserError: the folder holds no such model, a file has changed, or the networks are of another format.
    """
    path = folder / DESCRIPTION
    content = read_json(path, "give the folder that 'nnunet-plugins export' has written")
    if not isinstance(content, dict) or repr(content.pop("format", None)) != repr(FORMAT):
        raise UserError(f"{path} has not format {FORMAT}: export the model again with this version of nnunet-plugins")
    if content.keys() != {field.name for field in fields(Model)}:
        different = sorted(content.keys() ^ {field.name for field in fields(Model)})
        raise UserError(f"{path} lacks {different[0]!r}, or should not have it: export the model again")
    model = Model(**content)
    if model.network_format != ONNX:
        raise UserError(
            f"{folder} has networks in the format {model.network_format}, which only torch can run: export the model "
            f"with --format {ONNX}"
        )
    check(model, path)
    refuse_unknown(model)
    for network in model.networks:
        if digest(folder / network["file"]) != network["sha256"]:
            raise UserError(f"{folder / network['file']} is not the file that was exported: copy the model again")
    return model


def refuse_unknown(model: Model) -> None:
    """Refuse a model whose images cannot be prepared without nnU-Net.

    Raises:
        UserError: with the first step that only nnU-Net has.
    """
    steps: list[tuple[str, str, Mapping[str, object]]] = [("image reader", model.image_reader_writer, FORMATS)]
    steps += [("normalization", channel["scheme"], SCHEMES) for channel in model.normalization]
    steps += [("resampling", step["function"], FUNCTIONS) for step in model.resampling.values()]
    for what, name, known in steps:
        if name not in known:
            raise UserError(
                f"The model needs the {what} {name}, which only nnU-Net has: predict with nnUNetv2_predict, or train "
                f"with one of {', '.join(known)}"
            )
