"""Proves: a training recomputes where it must and says why, and one that runs out of memory ends in one sentence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support import cell_datasets
from support.cell_datasets import LABELS

from nnunet_plugins.errors import UserError
from nnunet_plugins.trainers.memory import fitting
from nnunet_plugins.trainers.memory.fitting import Decision, estimates_of_another_process
from nnunet_plugins.trainers.memory.margin import GIB

pytestmark = pytest.mark.usefixtures("planned", "narrow", "results")
NAME = "DCFFSNetTrainer_1epoch_2iterations"


@pytest.fixture
def results(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("nnUNet_results", str(tmp_path))


def recomputing(trainer) -> set[bool]:
    return {part.recomputes for part in trainer.network.modules() if hasattr(part, "recomputes")}


@pytest.fixture
def trainer(monkeypatch):
    """A trainer whose step needs 12 GiB, or 6 with recomputation."""
    trainer = cell_datasets.make_trainer(NAME, LABELS)
    monkeypatch.setattr(trainer, "needed_memory", lambda: (12 * GIB, 6 * GIB))
    return trainer


@pytest.mark.parametrize(("free", "recompute"), [(13, False), (11, True), (5, True)])
def test_network_recomputes_only_if_it_must(trainer, free, recompute):
    decision = trainer.compare_with(free * GIB)
    assert decision.recompute == recompute
    for number in ("12.0 GiB", "6.0 GiB", f"{free:.1f} GiB"):
        assert number in decision.reason
    command = f"nnunet-plugins plan -d 901 -tr {NAME} -c 2d --gpu-memory 5.0"
    assert (command in decision.reason) == (free == 5)


@pytest.mark.parametrize(("value", "recompute"), [("0", False), ("1", True), (None, False), ("", False)])
def test_variable_decides_and_the_log_says_so(value, recompute, monkeypatch):
    if value is None:
        monkeypatch.delenv("NNUNET_PLUGINS_RECOMPUTE", raising=False)
    else:
        monkeypatch.setenv("NNUNET_PLUGINS_RECOMPUTE", value)
    trainer = cell_datasets.make_trainer(NAME, LABELS)
    trainer.run_training()
    assert recomputing(trainer) == {recompute}
    reason = f"NNUNET_PLUGINS_RECOMPUTE={value}" if value else "it is for GPUs, and this is cpu"
    assert f"recomputation {'on' if recompute else 'off'}: {reason}" in Path(trainer.log_file).read_text()


def test_value_that_is_neither_is_refused_before_the_training(monkeypatch):
    monkeypatch.setenv("NNUNET_PLUGINS_RECOMPUTE", "yes")
    with pytest.raises(UserError, match="NNUNET_PLUGINS_RECOMPUTE=yes: expected 0 or 1"):
        cell_datasets.make_trainer(NAME, LABELS).run_training()


def test_nnunets_own_network_has_nothing_to_recompute(monkeypatch):
    trainer = cell_datasets.make_trainer("DRGOTrainer_1epoch_1iterations", LABELS)
    trainer.run_training()
    assert "recomputation" not in Path(trainer.log_file).read_text()


def test_plan_is_made_from_what_the_plans_were_made_from(trainer):
    assert " -p " not in trainer.how_to_fit(8 * GIB)
    trainer.plans_manager.plans["plans_name"] = "nnUNetResEncUNetMPlans"
    assert trainer.how_to_fit(0.1 * GIB).endswith("--gpu-memory 2.0 -p nnUNetResEncUNetMPlans")
    trainer.plans_manager.plans |= {"plans_name": "nnUNetPlans_X_8G", "nnunet_plugins": {"from": "nnUNetPlans"}}
    assert " -p " not in trainer.how_to_fit(8 * GIB)


@pytest.mark.parametrize("error", [OSError("no memory"), subprocess.TimeoutExpired("estimate", 300)])
def test_process_that_cannot_answer_is_no_error_of_the_training(error, monkeypatch):
    def fail(*_, **__):
        raise error

    trainer = cell_datasets.make_trainer(NAME, LABELS)
    trainer._set_batch_size_and_oversample()
    monkeypatch.setattr(subprocess, "run", fail)
    decision = trainer.compare_with(GIB)
    assert not decision.recompute and "cannot be estimated" in decision.reason


def test_failing_estimate_is_said_and_changes_nothing(trainer, monkeypatch):
    def fail() -> tuple[int, int]:
        raise UserError("the memory of X cannot be estimated (why)")

    monkeypatch.setattr(trainer, "needed_memory", fail)
    assert trainer.compare_with(GIB) == Decision(False, "the memory of X cannot be estimated (why)")


def test_another_process_answers(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    question = {
        "trainer": "DLKUNetSTrainer",
        "plans": cell_datasets.load_plans(LABELS),
        "configuration": "2d",
        "dataset_json": cell_datasets.load_dataset_json(LABELS),
        "batch_size": 2,
    }
    keeping, recomputing = estimates_of_another_process(question)
    assert keeping.peak > 4 * keeping.parameters > 0
    assert (keeping.recomputes, recomputing.recomputes) == (False, True)
    with pytest.raises(UserError, match="memory of NoTrainer cannot be estimated"):
        estimates_of_another_process(question | {"trainer": "NoTrainer"})


@pytest.mark.parametrize("recompute", ["0", "1"])
def test_running_out_of_memory_ends_in_one_sentence(recompute, monkeypatch):
    monkeypatch.setenv("NNUNET_PLUGINS_RECOMPUTE", recompute)
    trainer = cell_datasets.make_trainer(NAME, LABELS)

    def out_of_memory(batch: dict) -> dict:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    monkeypatch.setattr(trainer, "train_step", out_of_memory)
    monkeypatch.setattr(fitting, "total_memory", lambda device: 8 * GIB)
    with pytest.raises(UserError) as stopped:
        trainer.run_training()
    sentence = str(stopped.value)
    assert (
        "DCFFSNetTrainer_1epoch_2iterations needs more memory than the GPU has for a batch of 2 x 48 x 64" in sentence
    )
    assert f"nnunet-plugins plan -d 901 -tr {NAME} -c 2d --gpu-memory 6.8" in sentence  # less than the GPU has
    begin = "set NNUNET_PLUGINS_RECOMPUTE=1 (it has saved no checkpoint yet, so begin again with the same command)"
    assert (begin in sentence) == (recompute == "0")
    log = Path(trainer.log_file).read_text()
    assert "\n" not in sentence and sentence in log and "Traceback" in log


def test_command_that_runs_out_of_memory_exits_with_1(planned, tmp_path):
    """nnU-Net's command with a trainer of the user's that runs out of memory."""
    (tmp_path / "trainers").mkdir()
    (tmp_path / "trainers" / "greedy.py").write_text(
        "import torch\n"
        "from nnunet_plugins.trainers import find_trainer\n"
        "from nnunet_plugins.trainers.memory import fitting\n"
        "fitting.total_memory = lambda device: 8 * 2**30\n"
        "class GreedyTrainer(find_trainer('DLKUNetSTrainer')):\n"
        "    def train_step(self, batch):\n"
        "        raise torch.cuda.OutOfMemoryError('CUDA out of memory')\n"
    )
    command = Path(sys.executable).with_name("nnUNetv2_train")
    done = subprocess.run(
        [command, str(LABELS), "2d", "0", "-tr", "GreedyTrainer", "-device", "cpu"],
        env={**os.environ, "nnUNet_extTrainer": str(tmp_path / "trainers"), "nnUNet_n_proc_DA": "0"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "make a plan that fits by: nnunet-plugins plan" in done.stderr
