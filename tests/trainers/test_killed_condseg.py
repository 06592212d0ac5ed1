"""Proves: a ConDSeg training that is killed in either stage or between them, and resumed, ends as one that was not."""

import multiprocessing
import os
import signal

import pytest
import torch
from support import cell_datasets, killed_training

pytestmark = (
    pytest.mark.slow
)  # six processes; in this process contract/test_resuming.py resumes a training of two stages


def run(environment, resume, last=None, name="ConDSegTrainer_6epochs_1iterations"):
    process = multiprocessing.get_context("spawn").Process(
        target=killed_training.train, args=(dict(os.environ) | environment, name, resume, last)
    )
    process.start()
    process.join()
    assert process.exitcode == (0 if last is None else -signal.SIGKILL)


def test_killed_in_stage_1_at_the_boundary_and_in_stage_2_and_resumed_equals_an_uninterrupted_training(
    tmp_path, monkeypatch
):
    """Six epochs, of which the first two are stage 1: the same weights, optimiser, log and best average."""
    cell_datasets.use_nnunet_folders(tmp_path, monkeypatch)
    cell_datasets.write_raw_dataset(cell_datasets.LABELS)
    cell_datasets.plan_and_preprocess([cell_datasets.LABELS])
    environment = {"nnUNet_n_proc_DA": "0", "NNUNET_PLUGINS_SEED": "4"}

    whole, killed = ({**environment, "nnUNet_results": str(tmp_path / folder)} for folder in ("whole", "killed"))
    run(whole, resume=False)
    run(killed, resume=False, last=(1, "train_step"))
    run(killed, resume=True, last=(2, "on_epoch_start"))
    run(killed, resume=True, last=(4, "train_step"))
    run(killed, resume=True)

    expected, found = (
        torch.load(next((tmp_path / folder).rglob("checkpoint_final.pth")), weights_only=False)
        for folder in ("whole", "killed")
    )
    for key, value in expected["network_weights"].items():
        assert torch.equal(value, found["network_weights"][key]), key
    for number, state in expected["optimizer_state"]["state"].items():
        for key, value in state.items():
            assert torch.equal(value, found["optimizer_state"]["state"][number][key])
    falling = [(1 - epoch / 4) ** 0.9 for epoch in range(4)]  # over the epochs of stage 2
    rates = [group["lr"] for group in found["optimizer_state"]["param_groups"]]
    assert rates == pytest.approx([1e-5 * falling[-1], 1e-4 * falling[-1]])
    assert found["_best_ema"] == expected["_best_ema"]
    for key in ("lrs", "train_losses", "val_losses", "mean_fg_dice", "ema_fg_dice"):
        assert found["logging"][key] == expected["logging"][key]
    assert expected["logging"]["lrs"] == pytest.approx([1e-4, 1e-4, *(1e-5 * factor for factor in falling)])
