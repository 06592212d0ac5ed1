"""Models for the tests of deployed inference: nnU-Net's plans, and the description that an export makes of them."""

from pathlib import Path
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_plugins.deployed.model import Model
from nnunet_plugins.export.description import describe
from nnunet_plugins.export.trained_model import TrainedModel

INTENSITIES = {"mean": 90.0, "std": 40.0, "percentile_00_5": 10.0, "percentile_99_5": 170.0}
LABELS = {"background": 0, "cell": 1, "nucleus": 2}
REGIONS = {"background": 0, "cell": [1, 2], "nucleus": [2], "ignore": 3}
CUBIC = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
LINEAR = {**CUBIC, "order": 1}


def trained_model(labels: dict[str, Any] = LABELS, mirror_axes: tuple[int, ...] = (), **configuration: Any) -> Any:
    """A model of two channels that lies in no folder.

    Args:
        labels: of its dataset.
        mirror_axes: along which it may mirror.
        configuration: what its configuration has besides the defaults.
    """
    default = {
        "patch_size": [8, 12, 10],
        "spacing": [2.0, 1.0, 1.0],
        "normalization_schemes": ["ZScoreNormalization"] * 2,
        "use_mask_for_norm": [False] * 2,
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": CUBIC,
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_seg_kwargs": {**LINEAR, "is_seg": True},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": LINEAR,
        "preprocessor_name": "DefaultPreprocessor",
        "architecture": {},
    }
    plans = {
        "dataset_name": "Dataset900_Tests",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [1, 0, 2],
        "transpose_backward": [1, 0, 2],
        "foreground_intensity_properties_per_channel": {"0": INTENSITIES, "1": INTENSITIES},
        "configurations": {"tested": default | configuration},
    }
    dataset_json = {"channel_names": {"0": "T1", "1": "T2"}, "labels": labels, "file_ending": ".nii.gz"}
    if labels == REGIONS:
        dataset_json["regions_class_order"] = [1, 2]
    nowhere = Path("nowhere")
    return TrainedModel(
        nowhere, ["0"], "checkpoint_final.pth", PlansManager(plans), dataset_json, "Trainer", "tested", [*mirror_axes]
    )


def described(model: TrainedModel) -> Model:
    return describe(model, [], "onnx")
