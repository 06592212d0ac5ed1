"""Proves that the dry run names what is left, and estimates the disk that it takes."""

import os
import shutil
from dataclasses import replace

import pytest
import torch
from support.benchmark_commands import everything, finish, refusal
from support.cell_datasets import LABELS
from support.holders import HOLD, line, process
from support.suite_files import TWO_DATASETS
from support.tiny_suite import write_suite

from nnunet_plugins.benchmark.jobs import disk, remaining
from nnunet_plugins.benchmark.jobs.disk import Needs
from nnunet_plugins.benchmark.runs import runs
from nnunet_plugins.benchmark.survey import survey
from nnunet_plugins.cli import main
from nnunet_plugins.planning.source import find_trainer_class


def test_trainings_are_named_by_dataset_and_trainer(folders):
    all_runs = runs(TWO_DATASETS)
    finish(all_runs[0])
    all_runs[5].folder.mkdir(parents=True)
    (all_runs[5].folder / "checkpoint_latest.pth").touch()
    for run in all_runs[6:]:
        finish(run)
    assert list(remaining.trainings_left(survey(TWO_DATASETS))) == [
        "Dataset001_Cells 2d: 3 of 4: 1 of A, 2 of B",
        "Dataset002_Nuclei 2d: all 2",
        "1 of these goes on from a checkpoint, before all others",
    ]
    with process(HOLD, all_runs[5].lock_file) as holder:
        line(holder, "held")
        *_, last = remaining.trainings_left(survey(TWO_DATASETS))
    assert last == "1 of these is being trained by another process"


def test_what_does_not_fit_is_said(tmp_path, monkeypatch):
    for variable in ("nnUNet_results", "nnUNet_preprocessed"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**12, 0, 5 * 10**10))
    results, preprocessed, unknown = disk.in_words(Needs(40 * 10**9, 20 * 10**9, 10**9, ("nnUNetTrainer",)))
    assert results == (
        f"at most about 60 GB in {tmp_path / 'nnUNet_results'} (checkpoints 40 GB, predictions 20 GB); 50 GB are free: "
        "too few, make room or choose another disk"
    )
    assert preprocessed == f"at most about 1 GB in {tmp_path / 'nnUNet_preprocessed'}; 50 GB are free"
    assert "nnUNetTrainer" in unknown


def test_preprocessed_data_take_no_more_than_estimated(run):
    """From the fingerprint and the plans, and from the images alone."""
    data = run.preprocessed / "nnUNetPlans_2d"
    taken = sum(path.stat().st_size for path in data.glob("*.b2nd"))
    estimated = disk.preprocessed_bytes(run)
    assert 0 < taken < estimated < 20 * taken
    run.plans_file.unlink()
    assert disk.preprocessed_bytes(run) == pytest.approx(estimated, rel=0.3)


def test_checkpoints_take_no_more_than_estimated(run, tmp_path):
    trained = replace(run, trainer="DLKUNetSTrainer_C64", trainer_name="DLKUNetSTrainer_C64_1epoch")
    estimated = disk.checkpoint_bytes(trained)
    trainer = find_trainer_class(trained.trainer_name)
    network = trainer.build_network_architecture(*disk.arguments_of_network(trained))
    optimizer = torch.optim.Adam(network.parameters())
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.save({"weights": network.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "checkpoint")
    taken = 2 * (tmp_path / "checkpoint").stat().st_size
    assert estimated == pytest.approx(taken, rel=0.1)
    run.plans_file.unlink()
    assert disk.checkpoint_bytes(trained) == pytest.approx(estimated, rel=0.2)
    assert disk.checkpoint_bytes(replace(run, trainer="nnUNetTrainer", trainer_name="nnUNetTrainer_1epoch")) is None


def test_the_dry_run_counts_prints_and_writes_nothing(run, tmp_path, capsys):
    path = write_suite(tmp_path / "tiny.toml", ("nnUNetTrainer", "DLKUNetSTrainer_C64"), f"{{ id = {LABELS} }}")
    before = everything(tmp_path)
    main(["benchmark", "run", str(path), "--dry-run"])
    assert everything(tmp_path) == before
    out = capsys.readouterr().out
    counts = [line.split() for line in out.split("\n\n")[0].splitlines()]
    assert counts == [["plan", "0"], ["preprocess", "0"], ["train", "4"], ["validate", "4"]]
    assert f"To be trained:\n  Dataset{LABELS}_Cells 2d: all 4\n" in out
    assert f"in {os.environ['nnUNet_results']} (checkpoints " in out and "at most about 0 MB in" in out


def test_the_dry_run_says_what_has_been_done_by_hand(run, tmp_path, capsys):
    path = write_suite(tmp_path / "tiny.toml", ("nnUNetTrainer",), f"{{ id = {LABELS} }}")
    run.plan_receipt.unlink()
    run.preprocessing_receipt.unlink()
    main(["benchmark", "run", str(path), "--dry-run"])
    to_look = "1   (1 of them only to look: it is done already)"
    assert capsys.readouterr().out.startswith(f"plan             {to_look}\npreprocess       {to_look}\ntrain ")


def test_the_dry_run_says_that_there_is_no_gpu_and_still_what_is_left(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    path = write_suite(tmp_path / "tiny.toml", ("nnUNetTrainer",), f"{{ id = {LABELS} }}", device="cuda")
    assert refusal(tmp_path, "run", path, "--dry-run").startswith("There is no GPU here: set device = 'cpu'")
    assert "train            2\n" in capsys.readouterr().out
    main(["benchmark", "run", str(path), "--dry-run", "--executor", "slurm"])


def test_predictions_are_estimated_by_the_true_segmentations(run):
    labels = run.preprocessed.parent.parent / "nnUNet_raw" / run.dataset / "labelsTr"
    total = sum(path.stat().st_size for path in labels.iterdir())
    assert disk.bytes_of_predictions(run) == total // 5
