"""Proves: all scripts in speed/ run on tiny data and print ratios, the compared forms agree. No times are judged."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from support.repository import REPOSITORY

FOLDER = REPOSITORY / "speed"
TINY = ["--patch", "32", "48", "--batch", "2", "--steps", "1"]
SPREAD = r"\d\S* \(\S+-\S+\)"


def test_step_time_compares_a_trainer_with_stock_nnunet(capsys):
    import step_time

    step_time.main(["DCFFSNetTrainer", *TINY])
    rows = capsys.readouterr().out.splitlines()
    for name in ("nnUNetTrainer", "DCFFSNetTrainer"):
        row = next(row for row in rows if row.startswith(f"| {name} |"))
        assert re.fullmatch(rf"\| {name} (\| {SPREAD} ){{5}}\| \d+ \| [\d.]+ \| \S+ % \(\S+\) \|", row)


def test_step_time_measures_a_trainer_without_deep_supervision():
    import step_time

    setting = step_time.Setting(patch=(16, 32), batch=1, channels=1, threads=1)
    timings = step_time.measure(["DLKUNetSTrainer_C64"], setting, steps=1, warmup=1)
    assert list(timings) == ["nnUNetTrainer", "DLKUNetSTrainer_C64"]
    for timing in timings.values():
        assert min(*timing.train, *timing.inference, *timing.loss, timing.memory, timing.flops) > 0


def test_step_time_plans_three_dimensions_too():
    import step_time

    from nnunet_plugins.benchmark import cost

    setting = step_time.Setting(patch=(16, 32, 32), channels=1, threads=1)
    with step_time.contestants([], setting) as made:
        stock = made["nnUNetTrainer"]
        stock.train()
        assert stock.patch == setting.patch
        assert stock.training_memory() > cost.storage_bytes(list(stock.trainer.network.parameters()))


def test_storages_are_counted_once():
    from nnunet_plugins.benchmark import cost

    x = torch.zeros(10)
    assert cost.storage_bytes([x, x[2:], x.view(2, 5), torch.zeros(1)]) == 44


@pytest.mark.parametrize("classes", [3, 5])
def test_literal_forms_agree_with_the_package_for_more_classes(classes):
    import dcffsnet_ops
    from step_time import Setting

    dcffsnet_ops.require_agreement(Setting(classes=classes))


@pytest.mark.parametrize(("patch", "rows"), [((), 5), (("--patch", "16", "16", "16"), 6)], ids=["2D", "3D"])
def test_dcffsnet_ops_prints_ratios(patch, rows, capsys):
    import dcffsnet_ops

    dcffsnet_ops.main([*TINY, *patch])
    out = capsys.readouterr().out
    assert "agree" in out
    assert len(re.findall(rf"^\| .+ \| {SPREAD} \| {SPREAD} \| {SPREAD} \|$", out, re.M)) == rows
    assert re.search(r"The loss takes \S+ % \(\S+\) of a training step", out)


@pytest.mark.parametrize("patch", [pytest.param(["32", "48"], id="2D"), pytest.param(["8", "12", "16"], id="3D")])
def test_dlkunet_ops_prints_ratios(patch, capsys):
    import dlkunet_ops

    dlkunet_ops.main(["--patch", *patch, "--batch", "1", "--channels", "1", "--steps", "1"])
    out = capsys.readouterr().out
    assert "agree" in out
    names = re.findall(rf"^\| (.+?) (?:\| {SPREAD} ){{4}}\|$", out, re.M)
    assert [name.split(",")[0] for name in names] == ["convolution"] * 3 + ["DLKUNet-S"]


def test_dlkunet_ops_notices_a_form_that_differs(monkeypatch):
    import dlkunet_ops
    from step_time import Setting

    monkeypatch.setattr(dlkunet_ops, "conv_on_grids", lambda conv, x: conv(x) + 1)
    with pytest.raises(AssertionError, match="differ"):
        dlkunet_ops.require_agreement("S", Setting(patch=(16, 16), batch=1, channels=1))


def test_condseg_ops_prints_ratios(capsys):
    import condseg_ops

    condseg_ops.main([*TINY, "--threads", "1"])
    out = capsys.readouterr().out
    assert "agree" in out
    names = re.findall(rf"^\| (.+?) \| {SPREAD} \| {SPREAD} \| \d+ \| [\d.]+ \|$", out, re.M)
    assert [name.split(",")[0] for name in names] == ["aggregation"] * 4 + ["ConDSeg"]
    assert re.search(r"Peak of a training step .*: \d+ MB if literal, ratio [\d.]+", out)


def test_condseg_ops_notices_a_form_that_differs(monkeypatch):
    import condseg_ops
    from step_time import Setting

    literal = condseg_ops.literal_aggregation
    monkeypatch.setattr(condseg_ops, "aggregate_windows", lambda values, outer, inner: literal(values, inner, outer))
    with pytest.raises(AssertionError, match="differ"):
        condseg_ops.require_agreement(3, Setting(patch=(16, 16), batch=1))


@pytest.mark.parametrize("patch", [pytest.param(["32", "48"], id="2D"), pytest.param(["16", "16", "24"], id="3D")])
def test_drgo_ops_prints_ratios(patch, capsys):
    import drgo_ops

    drgo_ops.main(["--patch", *patch, "--batch", "1", "--channels", "1", "--steps", "1", "--batches", "1"])
    out = capsys.readouterr().out
    assert re.findall(rf"^\| (.+?) (?:\| {SPREAD} ){{4}}\| \S+ % \(\S+\) \|$", out, re.M) == [
        "L_seg",
        "DRGO, beta = 0",
        "DRGO",
    ]
    assert re.findall(rf"^\| (\w+) \| {SPREAD} \| {SPREAD} \|$", out, re.M) == ["nnUNetDataLoader", "RegionDataLoader"]
    assert re.search(rf"agree on distances.*\| {SPREAD} \| {SPREAD} \| {SPREAD} \|$", out, re.M | re.S)


def test_drgo_ops_lets_both_loaders_load_the_same_cases_and_augment_them_alike():
    import drgo_ops
    from step_time import Setting, contestants

    setting = Setting(patch=(16, 32), batch=2, channels=1, classes=3, threads=1)
    with contestants(["DRGOTrainer"], setting) as made:
        drgo_ops.write_cases(Path(made["DRGOTrainer"].trainer.preprocessed_dataset_folder), (24, 40), setting)
        drawn = []
        for contestant in made.values():
            loader, states = drgo_ops.training_loader(contestant), []
            for batch in range(3):
                drgo_ops.seed(batch)
                states.append((list(next(loader)["keys"]), np.random.random(), torch.rand(1).item()))  # noqa: NPY002 (batchgenerators' generator)
            drawn.append(states)
    assert drawn[0] == drawn[1]


def test_drgo_ops_notices_distances_that_differ(monkeypatch):
    import drgo_ops

    points = torch.rand(2, 1, 24, 24) > 0.99
    drgo_ops.require_agreement(points)
    monkeypatch.setattr(drgo_ops, "squared_distances", lambda points: points.to(torch.uint8))
    with pytest.raises(AssertionError, match="differ"):
        drgo_ops.require_agreement(points)


def test_dcsnet_ops_prints_shares(capsys):
    import dcsnet_ops

    dcsnet_ops.main([*TINY, "--threads", "1", "--classes", "2"])
    rows = capsys.readouterr().out
    for number in (1, 8, 40):
        for name in ("boxes of", "selection for"):
            assert re.search(rf"^\| {name} {number} objects \| {SPREAD} (\| \S+ % \(\S+\) ){{2}}\| - \|$", rows, re.M)
    for number in (1, 8, 32):
        assert re.search(rf"^\| pasting of {number} boxes \| {SPREAD} \| - \| - \| \S+ % \(\S+\) \|$", rows, re.M)


def test_compiling_on_the_cpu_is_refused(capsys):
    import step_time

    with pytest.raises(SystemExit):
        step_time.main(["DCFFSNetTrainer", "--compile"])
    assert "--device cuda" in capsys.readouterr().err


def test_conversion_is_compared_with_a_bare_loop(capsys):
    import conversion

    conversion.main(["--images", "60", "--size", "32", "--processes", "1", "--turns", "1"])
    assert re.search(r"\| 0( \| [\d.]+){4} \|\n\nmedian ratio [\d.]+\n$", capsys.readouterr().out)


def test_memory_prints_estimates_and_the_gpu_on_which_they_fit(capsys, monkeypatch, tmp_path):
    import memory
    import step_time

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(memory, "DEFAULT_PLANS", (step_time.Setting(patch=(16, 32, 32), batch=2, channels=1),))
    monkeypatch.setattr(memory, "MAIN_TRAINERS", ("nnUNetTrainer", "DCSNetTrainer", "DLKUNetSTrainer"))
    memory.main([])
    _, _, stock, ours = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"\| 2 x 16 x 32 x 32 \| nnUNetTrainer \| [\d.]+ \| 1\.00 \| 8 (\| - ){3}\|", stock)
    assert re.fullmatch(r"\| 2 x 16 x 32 x 32 \| DLKUNetSTrainer (\| [\d.]+ \| [\d.]+ \| 8 ){2}\|", ours)


def test_report_grows_with_trainers_datasets_and_cases(capsys):
    import report

    report.main(["--trainers", "8", "--datasets", "2", "--cases", "10"])
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line[:3].strip("| ")]
    sizes = [row for row in rows if row[0].isdigit()]
    assert [row[:3] for row in sizes] == [
        ["2", "2", "2"],
        ["8", "2", "2"],
        ["2", "2", "2"],
        ["2", "2", "10"],
        ["8", "2", "10"],
    ]
    assert all(float(value) >= 0 for row in sizes for value in row[3:]) and all(float(row[7]) > 0 for row in sizes)


def test_large_suite_shows_that_only_files_of_its_own_are_read_for_each_training(capsys, monkeypatch):
    """Two receipts, a note and perhaps the model's plans; plans, folds and descriptions are those of all."""
    import large_suite

    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, "")  # which the script sets
    sizes = ["--datasets", "1", "--folds", "2", "--cases", "2", "--epochs", "3"]
    large_suite.main(["--trainers", "6", "30", *sizes])
    rows = re.findall(r"^\| (\d+) \| [\d.]+ \| ([\d.]+) \| [\d.]+ \| ([\d.]+) \|$", capsys.readouterr().out, re.M)
    (few, *few_opened), (many, *many_opened) = [[float(cell) for cell in row] for row in rows]
    assert (few, many) == (12, 60)
    for before, after in zip(few_opened, many_opened, strict=True):
        assert many * after - few * before <= 3.5 * (many - few)
