"""nnU-Net's plans for data sets of one image size, by its own planner, and the peak of a training step on them."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from nnunet_plugins.trainers.memory.estimate import empty_batch, made_trainer, temporary_home

DATASET = "Dataset999_Planned"


class Planned(NamedTuple):
    """Plans and description of a data set."""

    plans: dict[str, Any]
    dataset_json: dict[str, Any]

    def batch_of(self, configuration: str, batch_size: int) -> "Planned":
        """The same with another batch size."""
        plans = json.loads(json.dumps(self.plans))
        plans["configurations"][configuration]["batch_size"] = batch_size
        return self._replace(plans=plans)


def default_plans(folder: Path, shape: tuple[int, ...], channels: int, classes: int) -> Planned:
    """Plan a data set whose images all have the same shape."""
    dataset_json = {
        "channel_names": {str(c): "MR" for c in range(channels)},
        "labels": {"background": 0} | {f"class{k}": k for k in range(1, classes)},
        "numTraining": 5000,
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "SimpleITKIO",
        "dataset": {"case": {"images": ["case_0000.nii.gz"], "label": "case.nii.gz"}},
    }
    fingerprint = {
        "spacings": [[1.0, 1.0, 1.0]],
        "shapes_after_crop": [[1] * (3 - len(shape)) + list(shape)],
        "median_relative_size_after_cropping": 1.0,
        "foreground_intensity_properties_per_channel": {},
    }
    for name, file, content in (
        ("nnUNet_raw", "dataset.json", dataset_json),
        ("nnUNet_preprocessed", "dataset_fingerprint.json", fingerprint),
    ):
        (folder / name / DATASET).mkdir(parents=True)
        (folder / name / DATASET / file).write_text(json.dumps(content))
    with pytest.MonkeyPatch.context() as monkeypatch, contextlib.redirect_stdout(io.StringIO()):
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            monkeypatch.setenv(name, str(folder / name))
        from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner

        return Planned(ExperimentPlanner(DATASET).plan_experiment(), dataset_json)


def peak_of_a_real_step(trainer_class: type, planned: Planned, configuration: str) -> int:
    """Bytes at the peak of a training step in float32 on the CPU: torch's profiler counts what is allocated."""
    plans = json.loads(json.dumps(planned.plans)) | {"continue_training": False}
    with temporary_home(plans):
        trainer = made_trainer(trainer_class, plans, configuration, planned.dataset_json)
        batch = empty_batch(trainer)
        batch["data"].normal_()
        trainer.train_step(batch)
        states = [v for state in trainer.optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]
        targets = batch["target"] if isinstance(batch["target"], list) else [batch["target"]]
        # The gradients of the first step are gone when the second begins, which the profiler does not notice.
        before = [*trainer.network.parameters(), *trainer.network.buffers(), *states, batch["data"], *targets]
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            trainer.train_step(batch)
    now = peak = sum({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in before}.values())
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak
