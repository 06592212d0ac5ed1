"""Proves that costs of nnU-Net's trainers are those counted by hand, and that measuring changes no folder of it."""

import json
import os
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from support.cell_datasets import LABELS, REGIONS_IGNORE, VOLUMES, dataset_name, load_plans, make_trainer
from support.narrow import narrow_networks
from torch import nn
from torch.nn import functional

from nnunet_plugins.architectures.layers.recomputation import is_recomputing
from nnunet_plugins.benchmark import cost
from nnunet_plugins.benchmark.cost import (
    Contestant,
    contestant_of,
    flop_counter,
    quartiles,
    random_batch,
    run_cost,
    seconds,
    suite_costs,
)
from nnunet_plugins.benchmark.report import tables
from nnunet_plugins.benchmark.runs import runs
from nnunet_plugins.benchmark.suite import Data, Resources, Suite
from nnunet_plugins.benchmark.survey import survey
from nnunet_plugins.errors import UserError

STOCK, SMALL = "nnUNetTrainer", "DLKUNetSTrainer_C64"


def test_attention_on_the_cpu_is_counted():
    """Two products of 16 x 16 x 8 for each of two heads, each multiplication with an addition."""
    tokens = torch.randn(1, 2, 16, 8)
    with flop_counter() as counter, torch.inference_mode():
        functional.scaled_dot_product_attention(tokens, tokens, tokens)
    assert counter.get_total_flops() == 2 * 2 * 2 * 16 * 16 * 8


def suite_of(*datasets, trainers=(STOCK, SMALL), device="cpu"):
    return Suite("costs", trainers, trainers[0], 1, datasets, folds=(0,), resources=Resources(device=device, cpus=1))


def survey_of(*datasets, **options):
    return survey(suite_of(*datasets, **options))


def contents(root):
    return {str(path): path.stat().st_mtime_ns for path in root.rglob("*")}


@pytest.fixture(scope="module")
def measured(planned, tmp_path_factory):
    """Costs of two trainers on images, and of one on images with regions and ignored voxels; nnU-Net's folders."""
    results = tmp_path_factory.mktemp("results")
    (results / "kept.txt").write_text("mine")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("nnUNet_results", str(results))
        monkeypatch.setenv("nnUNet_n_proc_DA", "0")
        before = contents(planned), contents(results)
        rows = suite_costs(survey_of(Data(LABELS)), steps=2)
        rows += suite_costs(survey_of(Data(REGIONS_IGNORE), trainers=(STOCK,)), steps=1)
        assert (contents(planned), contents(results)) == before
        assert os.environ["nnUNet_results"] == str(results)
    return rows


def plan_of(row):
    """Configuration in the plans of the dataset of a row of costs."""
    return load_plans(int(row["dataset"][7:10]))["configurations"][row["configuration"]]


def network_of(trainer_name, dataset_id, **options):
    trainer = make_trainer(trainer_name, dataset_id, **options)
    trainer.initialize()
    return trainer.network


def distinct_parameters(network):
    return sum({id(p): p.numel() for module in network.modules() for p in module.parameters(recurse=False)}.values())


def flops_by_hand(network, image):
    """FLOPs of all (transposed) convolutions that run: 2 x MACs, from the shapes that each one sees."""
    found = []

    def count(module, inputs, output):
        positions = (inputs[0] if module.transposed else output)[0, 0].numel()
        found.append(2 * positions * module.weight.numel())

    for module in network.modules():
        if isinstance(module, nn.modules.conv._ConvNd):
            module.register_forward_hook(count)
    network.decoder.deep_supervision = False
    with torch.inference_mode():
        network(image)
    return sum(found)


def test_every_trainer_has_a_row(measured, results):
    assert [(row["dataset"], row["trainer"]) for row in measured] == [
        (dataset_name(LABELS), STOCK),
        (dataset_name(LABELS), SMALL),
        (dataset_name(REGIONS_IGNORE), STOCK),
    ]
    for row in measured:
        plan = plan_of(row)
        assert row["patch"] == " x ".join(map(str, plan["patch_size"])) and row["batch"] == plan["batch_size"]
        assert (row["configuration"], row["device"], row["compiled"]) == ("2d", "cpu", False)
        assert row["torch_version"] == torch.__version__ and row["cudnn_version"] is None
        for name in ("step_ms", "latency_ms"):
            assert 0 < row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
        assert row["latency_ms"] < row["step_ms"]
        assert row["memory_mb"] * 2**20 > 4 * 4 * row["parameters"] * 0.7  # parameters, gradients, momentum and more
    assert json.loads(json.dumps(measured, allow_nan=False)) == measured  # as it is written


def test_parameters_are_counted_once_each(measured, results):
    for row, dataset_id in zip(measured, (LABELS, LABELS, REGIONS_IGNORE), strict=True):
        assert row["parameters"] == distinct_parameters(network_of(row["trainer"], dataset_id))
    assert measured[0]["parameters"] != measured[1]["parameters"]


def test_flops_of_nnunets_network_are_those_of_its_convolutions(measured, results):
    for row, dataset_id in ((measured[0], LABELS), (measured[2], REGIONS_IGNORE)):
        patch = plan_of(row)["patch_size"]
        assert row["flops"] == flops_by_hand(network_of(STOCK, dataset_id), torch.zeros(1, 3, *patch))


class Plain(nn.Module):
    """A network whose FLOPs anybody can count; deep supervision would run a second convolution."""

    def __init__(self):
        super().__init__()
        self.decoder = nn.Module()
        self.decoder.deep_supervision = True
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 1)
        self.tied = self.first.weight

    def forward(self, x):
        return [self.first(x), self.second(x)] if self.decoder.deep_supervision else self.first(x)


def test_flops_of_a_convolution_are_twice_its_multiplications_of_one_patch(results):
    contestant = Contestant(make_trainer(STOCK, LABELS), *random_batch((16, 32), 2, 3, 3))
    contestant.trainer.network = Plain()
    assert contestant.flops() == 2 * (16 * 32) * (8 * 3 * 3 * 3)  # of one patch of the batch, without deep supervision
    assert contestant.parameters() == 8 * 3 * 3 * 3 + 8 + 8 * 3 + 8
    assert contestant.trainer.network.training and contestant.trainer.network.decoder.deep_supervision


def test_a_method_of_two_stages_is_measured_in_its_last(results, monkeypatch):
    """The last stage is the one that predicts, and that most epochs train."""
    narrow_networks(monkeypatch.setattr)
    first, second = (
        Contestant(make_trainer(name, LABELS), *random_batch((32, 32), 2, 3, 3))
        for name in ("ConDSegTrainer_oneStage", "ConDSegTrainer")
    )
    assert second.trainer.num_stage_1_epochs > 0
    assert second.flops() == first.flops()
    second.train()
    assert second.trainer.network.stage == 2


def test_volumes_are_measured_too(results):
    (run,) = runs(suite_of(Data(VOLUMES, ("3d_fullres",)), trainers=(STOCK,)))
    row = run_cost(run, torch.device("cpu"), steps=1)
    assert row["configuration"] == "3d_fullres" and len(row["patch"].split(" x ")) == 3
    patch = tuple(map(int, row["patch"].split(" x ")))
    assert row["flops"] == flops_by_hand(network_of(STOCK, VOLUMES), torch.zeros(1, 1, *patch))


def test_only_the_first_fold_and_repetition_is_measured(results, monkeypatch):
    measured = []
    monkeypatch.setattr(cost, "run_cost", lambda run, device, steps: measured.append(run) or {})
    datasets = (Data(LABELS), Data(VOLUMES, ("3d_fullres", "3d_lowres")))
    suite = Suite(
        "many", (STOCK, SMALL), STOCK, 1, datasets, folds=(3, 1), repeats=2, resources=Resources(device="cpu", cpus=1)
    )
    assert len(suite_costs(survey(suite), steps=1)) == 6
    assert {(run.fold, run.repeat) for run in measured} == {(3, 1)} and len(measured) == 6


def test_a_trainer_that_needs_too_much_memory_is_left_out_and_the_others_stay(results, monkeypatch, capsys):
    def measure(run, device, steps):
        if run.trainer == STOCK:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return {"trainer": run.trainer}

    monkeypatch.setattr(cost, "run_cost", measure)
    assert suite_costs(survey_of(Data(LABELS)), steps=1) == [{"trainer": SMALL}]
    assert f"{STOCK}_1epoch fold 0 is left out: its step needs more memory than the GPU has" in capsys.readouterr().out


@pytest.mark.parametrize("value", ["0", "1"])
def test_recomputation_is_that_of_a_training(results, monkeypatch, value):
    monkeypatch.setenv("NNUNET_PLUGINS_RECOMPUTE", value)
    run = next(run for run in runs(suite_of(Data(LABELS))) if run.trainer == SMALL)
    assert is_recomputing(contestant_of(run, torch.device("cpu")).trainer.network) is (value == "1")


def test_results_folder_is_restored_after_a_failure(results, monkeypatch):
    def fail(run, device, steps):
        assert os.environ["nnUNet_results"] != str(results)
        raise RuntimeError("out of memory")

    monkeypatch.setattr(cost, "run_cost", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        suite_costs(survey_of(Data(LABELS)), steps=1)
    assert os.environ["nnUNet_results"] == str(results) and not list(results.iterdir())


def test_configuration_that_is_not_preprocessed_is_refused(results):
    """The volumes are preprocessed in 3D only."""
    with pytest.raises(UserError, match=rf"plan_and_preprocess -d {VOLUMES} -c 2d"):
        suite_costs(survey_of(Data(VOLUMES, ("2d",)), trainers=(STOCK,)), steps=1)


def test_gpu_that_is_not_there_is_refused(results, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="There is no GPU here"):
        suite_costs(survey_of(Data(LABELS), device="cuda"), steps=1)


def test_rows_become_a_table(measured):
    import pandas as pd

    shown = tables.measured_cost(pd.DataFrame(measured))
    assert len(shown.rows) == 3 and {len(row) for row in shown.rows} == {len(shown.columns)}
    assert shown.rows[0][5].text == f"{measured[0]['parameters'] / 1e6:.2f}"
    assert shown.rows[0][6].text == f"{measured[0]['flops'] / 1e9:.2f}"


# ---- pieces ----------------------------------------------------------------------------------------------------------


def test_targets_are_regions_and_the_ignored_voxels_at_every_scale(results):
    trainer = make_trainer(STOCK, REGIONS_IGNORE)
    patch = load_plans(REGIONS_IGNORE)["configurations"]["2d"]["patch_size"]
    image, mask = random_batch(patch, 2, 3, len(trainer.label_manager.all_labels) + 1)
    assert set(mask.unique().tolist()) == {0, 1, 2, 3}
    target = Contestant(trainer, image, mask).batch["target"]
    assert isinstance(target, list) and len(target) > 1
    assert target[0].shape == (2, 3, *patch)
    expected = torch.cat([mask > 0, mask == 2, mask == 3], dim=1)
    expected[:, 0] = (mask[:, 0] == 1) | (mask[:, 0] == 2)
    assert torch.equal(target[0].bool(), expected)
    assert all(small.shape[2] < large.shape[2] for large, small in pairwise(target))


def test_random_batch_has_all_classes_and_is_the_same_every_time():
    for patch in ((48, 64), (16, 16, 24)):
        image, mask = random_batch(patch, 3, 2, 4)
        assert image.shape == (3, 2, *patch) and mask.shape == (3, 1, *patch) and mask.dtype == torch.int16
        assert all(0.15 < (mask == label).float().mean() < 0.35 for label in range(4))
        again = random_batch(patch, 3, 2, 4)
        assert torch.equal(image, again[0]) and torch.equal(mask, again[1])


def test_quartiles_are_of_the_values_themselves():
    assert quartiles([4, 1, 3, 2, 5]) == (2, 3, 4)
    assert quartiles([1, 2]) == (1.25, 1.5, 1.75)
    assert quartiles([7]) == (7, 7, 7)


def test_seconds_are_those_of_the_call():
    ticks, calls = iter([10.0, 12.5]), []
    assert seconds(lambda: calls.append(1), torch.device("cpu"), clock=lambda: next(ticks)) == 2.5
    assert calls == [1]


def test_memory_counts_what_a_step_keeps(results):
    """A trainer of one layer: its weights, their gradients and momentum, and the input that the backward needs."""
    layer = nn.Linear(100, 10, bias=False)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    x = torch.randn(50, 100)

    def train_step(_):
        optimizer.zero_grad()
        layer(x).sum().backward()
        optimizer.step()

    contestant = object.__new__(Contestant)
    contestant.trainer = SimpleNamespace(network=layer, optimizer=optimizer, train_step=train_step)
    contestant.device, contestant.batch = torch.device("cpu"), {}
    contestant.train()
    assert contestant.training_memory() >= 4 * (3 * 1000 + 5000)
    assert contestant.training_memory() <= 4 * (4 * 1000 + 5000 + 50 * 10)
