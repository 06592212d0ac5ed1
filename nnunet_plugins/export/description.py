"""The description of an exported model: what nnU-Net's prediction reads of plans, dataset and checkpoint."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nnunet_plugins
from nnunet_plugins.deployed.model import Model
from nnunet_plugins.deployed.normalization import STATISTICS
from nnunet_plugins.errors import UserError
from nnunet_plugins.export.trained_model import TrainedModel
from nnunet_plugins.files import read_json

TILE_STEP_SIZE = 0.5
"""nnU-Net's default."""
STANDARD = {"preprocessor_name": "DefaultPreprocessor", "label_manager": "LabelManager"}
"""Parts of nnU-Net that plans may replace, and an exported model may not."""
KEEP_LARGEST = "remove_all_but_largest_component_from_segmentation"


def describe(model: TrainedModel, networks: list[dict[str, Any]], network_format: str) -> Model:
    """Describe a model.

    Raises:
        UserError: the model has a part of its own, which an exported model cannot have.
    """
    configuration, plans, labels = model.configuration, model.plans.plans, model.labels
    parts = {**plans, **configuration.configuration}
    for part, standard in STANDARD.items():
        if (own := parts.get(part, standard)) != standard:
            raise UserError(f"The plans have the {part} {own}: only models with nnU-Net's {standard} can be exported")
    return Model(
        networks=networks,
        network_format=network_format,
        patch_size=list(configuration.patch_size),
        spacing=list(configuration.spacing),
        transpose_forward=list(model.plans.transpose_forward),
        transpose_backward=list(model.plans.transpose_backward),
        channels=channel_names(model),
        normalization=normalization(model),
        resampling={what: resampling(configuration.configuration, what) for what in ("data", "probabilities")},
        labels=model.dataset_json["labels"],
        regions_class_order=list(labels.regions_class_order) if labels.has_regions else None,
        num_segmentation_heads=labels.num_segmentation_heads,
        bytes_of_labels=1 if len(labels.foreground_labels) < 255 else 2,
        mirror_axes=model.mirror_axes,
        tile_step_size=TILE_STEP_SIZE,
        postprocessing=postprocessing(model.folder, model.folds),
        file_ending=model.dataset_json["file_ending"],
        image_reader_writer=plans["image_reader_writer"],
        resized_to=(model.dataset_json.get("conversion") or {}).get("resize"),
        dataset=plans["dataset_name"],
        trainer=model.trainer_name,
        plans=plans["plans_name"],
        configuration=model.configuration_name,
        checkpoint=model.checkpoint,
        versions={"nnunet-plugins": nnunet_plugins.__version__} | {n: version(n) for n in ("nnunetv2", "torch")},
    )


def channel_names(model: TrainedModel) -> list[str]:
    names = model.dataset_json.get("channel_names") or model.dataset_json["modality"]
    return [names[str(index)] for index in range(model.num_channels)]


def normalization(model: TrainedModel) -> list[dict[str, Any]]:
    """Scheme of each channel, with the numbers that the scheme takes from the training data."""
    intensities = model.plans.foreground_intensity_properties_per_channel
    configuration = model.configuration
    channels = zip(configuration.normalization_schemes, configuration.use_mask_for_norm, strict=True)
    return [
        {
            "scheme": scheme,
            "use_mask": use_mask,
            "intensities": {name: float(intensities[str(index)][name]) for name in STATISTICS},
        }
        for index, (scheme, use_mask) in enumerate(channels)
    ]


def resampling(configuration: dict[str, Any], what: str) -> dict[str, Any]:
    name = f"resampling_fn_{what}"
    return {"function": configuration[name], "kwargs": configuration[f"{name}_kwargs"]}


def postprocessing(folder: Path, folds: Sequence[str]) -> list[list[int]]:
    """Steps that ``nnUNetv2_find_best_configuration`` has found for these folds; none if it was not run.

    nnU-Net writes them twice, as a pickle and as JSON, which alone is read.

    Raises:
        UserError: the JSON is missing beside the pickle, or has a step that is not nnU-Net's.
    """
    start = "crossval_results_folds_"
    found_for = {frozenset(found.name.removeprefix(start).split("_")): found for found in folder.glob(f"{start}*")}
    path = found_for.get(frozenset(folds), folder / start) / "postprocessing.json"
    if not path.exists() and not path.with_suffix(".pkl").exists():
        return []
    found = read_json(path, "run nnUNetv2_determine_postprocessing, which writes it beside postprocessing.pkl")
    if unknown := set(found["postprocessing_fns"]) - {KEEP_LARGEST}:
        raise UserError(f"{path} has the step {unknown.pop()}, which only nnU-Net has: remove the file to go without")
    steps = [kwargs["labels_or_regions"] for kwargs in found["postprocessing_kwargs"]]
    return [flat(labels) for labels in steps]


def flat(labels: int | Sequence[Any]) -> list[int]:
    """Labels of a region or list of regions.

    Example:
        >>> flat(1), flat([1, [2, 3]])
        ([1], [1, 2, 3])
    """
    return [labels] if isinstance(labels, int) else [label for part in labels for label in flat(part)]
