"""Both benchmarks run, tiny, and print their ratios; the literal forms agree with the package. No times are judged."""

import re
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
TINY = ["--patch", "32", "48", "--batch", "2", "--steps", "1"]
SPREAD = r"\d\S* \(\S+-\S+\)"


@pytest.fixture(autouse=True)
def benchmarks_are_importable(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    yield
    for name in ("step_time", "dcffsnet_ops"):
        sys.modules.pop(name, None)


def test_step_time_compares_a_trainer_with_stock_nnunet(capsys):
    import step_time

    step_time.main(["DCFFSNetTrainer", *TINY])
    rows = capsys.readouterr().out.splitlines()
    for name in ("nnUNetTrainer", "DCFFSNetTrainer"):
        row = next(row for row in rows if row.startswith(f"| {name} |"))
        assert re.fullmatch(rf"\| {name} (\| {SPREAD} ){{4}}\| \d+ \| [\d.]+ \| \S+ % \(\S+\) \|", row)


def test_step_time_plans_three_dimensions_too():
    import step_time

    setting = step_time.Setting(patch=(16, 32, 32), channels=1, threads=1)
    with step_time.contestants([], setting) as made:
        stock = made["nnUNetTrainer"]
        stock.train()
        assert stock.patch == setting.patch
        assert stock.training_memory() > step_time.storage_bytes(list(stock.trainer.network.parameters()))


def test_storages_are_counted_once():
    import step_time
    import torch

    x = torch.zeros(10)
    assert step_time.storage_bytes([x, x[2:], x.view(2, 5), torch.zeros(1)]) == 44


@pytest.mark.parametrize("classes", [3, 5])
def test_literal_forms_agree_with_the_package_for_more_classes(classes):
    import dcffsnet_ops
    from step_time import Setting

    dcffsnet_ops.require_agreement(Setting(classes=classes))


def test_dcffsnet_ops_prints_ratios(capsys):
    import dcffsnet_ops

    dcffsnet_ops.main(TINY)
    out = capsys.readouterr().out
    assert "agree" in out
    assert len(re.findall(rf"^\| .+ \| {SPREAD} \| {SPREAD} \| {SPREAD} \|$", out, re.M)) == 5
    assert re.search(r"The loss takes \S+ % \(\S+\) of a training step", out)


def test_compiling_on_the_cpu_is_refused(capsys):
    import step_time

    with pytest.raises(SystemExit):
        step_time.main(["DCFFSNetTrainer", "--compile"])
    assert "--device cuda" in capsys.readouterr().err
