"""Proves: ``nnunet-plugins memory`` tells of every trainer what it needs and whether that fits."""

import re
from types import SimpleNamespace

import pytest
import torch
from support.described_datasets import IMAGES, VOLUMES
from support.refusals import everything_below

from nnunet_plugins.cli import main
from nnunet_plugins.planning.fitting import MAIN_TRAINERS
from nnunet_plugins.trainers import TRAINERS


def memory(capsys, *arguments: object) -> str:
    before = everything_below()
    main(["memory", *map(str, arguments)])
    assert everything_below() == before
    return capsys.readouterr().out


def row_of(output: str, trainer: str) -> list[str]:
    (line,) = [line for line in output.splitlines() if re.search(rf"\d +{trainer} ", line)]
    return re.split(r" {2,}", line)


def test_every_verdict_has_its_words(root, capsys):
    trainers = ("-tr", "nnUNetTrainer", "CASNetTrainer", "DLKUNetSTrainer")
    output = memory(capsys, "-d", IMAGES.id, "--gpu-memory", "6.3", *trainers)
    assert output.startswith("nnUNetPlans of Dataset921_Described, on a GPU of 6.3 GiB\n")
    stock = row_of(output, "nnUNetTrainer")
    assert stock[:5] == ["2d", "512 x 512", "12", "nnUNetTrainer", "46.32 M"]
    assert stock[6:] == ["cannot", "6.1", "fits"]
    casnet = row_of(output, "CASNetTrainer")
    assert casnet[-1] == "fits with recomputation"
    assert float(casnet[5]) > float(casnet[6]) > 0
    assert float(casnet[7]) == pytest.approx(1.05 * float(casnet[6]) + 1, abs=0.11)
    assert row_of(output, "DLKUNetSTrainer")[-1] == "plan it"
    assert "\nnnunet-plugins plan -d 921 -tr TRAINER --gpu-memory 6.3\n" in output
    output = memory(capsys, "-d", IMAGES.id, "--gpu-memory", "1.001", "-tr", "nnUNetTrainer")
    assert row_of(output, "nnUNetTrainer")[-1] == "cannot"
    assert "nnunet-plugins plan" not in output


def test_dimensions_that_a_method_does_not_have_are_told(root, capsys):
    output = memory(
        capsys, "-d", VOLUMES.id, "-c", "3d_fullres", "--gpu-memory", 8, "-tr", "nnUNetTrainer", "DCSNetTrainer"
    )
    assert row_of(output, "DCSNetTrainer")[-1] == "2D only"
    assert row_of(output, "nnUNetTrainer")[-1] == "fits"
    assert "2d" not in output


@pytest.mark.parametrize("gpu", [False, True])
def test_the_gpu_is_this_machines_or_nnunets_default(root, capsys, monkeypatch, gpu):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    card = SimpleNamespace(total_memory=11 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    output = memory(capsys, "-d", IMAGES.id, "-tr", "nnUNetTrainer")
    assert ("this machine's GPU of 11 GiB" if gpu else "(none is here; --gpu-memory says which) of 8 GiB") in output


def test_main_trainers_are_nnunets_and_one_or_more_of_each_method(root):
    assert {TRAINERS[name].base for name in MAIN_TRAINERS if name != "nnUNetTrainer"} == {
        row.base for row in TRAINERS.values() if "Net0" not in row.base and "TimmUNet" not in row.base
    }


def test_a_trainer_that_cannot_be_estimated_is_told_with_the_reason(root, capsys, monkeypatch):
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    def fail(*_):
        raise RuntimeError("no step today")

    monkeypatch.setattr(nnUNetTrainer, "train_step", fail)
    monkeypatch.setenv("XDG_CACHE_HOME", str(root / "cache"))
    main(["memory", "-d", str(IMAGES.id), "--gpu-memory", "8", "-tr", "nnUNetTrainer"])
    output = capsys.readouterr().out
    assert row_of(output, "nnUNetTrainer")[-1] == "not known"
    assert (
        "The memory of nnUNetTrainer on 2d, patch 512 x 512, batch 12, cannot be estimated (RuntimeError: no" in output
    )


@pytest.mark.parametrize("arguments", [("-d", "921", "--gpu-memory", "24GB"), ("-d", "998"), ("-d", "921", "-c", "3d")])
def test_bad_input_is_told_in_one_sentence(root, arguments):
    with pytest.raises(SystemExit) as ended:
        main(["memory", *arguments])
    assert isinstance(ended.value.code, str) and "\n" not in ended.value.code
