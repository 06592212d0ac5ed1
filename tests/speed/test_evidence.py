"""Proves: the protocol's data are prepared as it says, and evidence from a GPU is gathered within its time.

No GPU is needed: the same stages run on the CPU with tiny sizes.
"""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

# ---- data of docs/protocol.md ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("edge", "strides"), [(64, [1, 2, 2, 2, 2]), (96, [1, 2, 2, 2, 2])])
def test_stages_of_the_protocols_patch_are_those_that_nnunet_gives_it(edge, strides):
    import evidence_data

    patch = evidence_data.patch_of((edge, edge))
    assert patch.size == [edge, edge] and patch.strides == [[step, step] for step in strides]
    assert patch.kernel_sizes == [[3, 3]] * 5
    with pytest.raises(ValueError, match="patch \\(45, 64\\): nnU-Net's network cannot halve it"):
        evidence_data.patch_of((45, 64))


@pytest.fixture
def tiny_data(tmp_path):
    """Ten squares, two in each group, in a folder as the script expects it."""
    rng = np.random.default_rng(0)
    source = tmp_path / "data" / "kidney_stone_ct"
    for part in ("images", "masks"):
        (source / part).mkdir(parents=True)
    for number in range(10):
        mask = np.zeros((80, 96), np.uint8)
        mask[20 + number : 50, 30:60] = 1
        image = 100 * mask + rng.integers(0, 50, mask.shape, dtype=np.uint8)
        for part, content in (("images", image), ("masks", mask)):
            Image.fromarray(content).save(source / part / f"ks_{number}.png")
    (source / "groups.csv").write_text("stem,dup_group\n" + "".join(f"ks_{n},{n // 2}\n" for n in range(10)))
    return tmp_path / "data"


@pytest.mark.slow
def test_evidence_data_are_ready_for_its_suites(tiny_data, tmp_path, monkeypatch, capsys):
    import evidence_data

    for name in evidence_data.environment(tmp_path):
        monkeypatch.setenv(name, "")
    work = tmp_path / "work"
    evidence_data.main([str(tiny_data), str(work), "stones"])
    assert f"Now source {work}/env.sh" in capsys.readouterr().out
    folder = work / "preprocessed" / "Dataset563_KidneyStones"
    plans = json.loads((folder / "nnUNetPlansCPU.json").read_text())
    assert plans["plans_name"] == "nnUNetPlansCPU" and list(plans["configurations"]) == ["2d"]
    configuration = plans["configurations"]["2d"]
    assert (configuration["patch_size"], configuration["batch_size"]) == ([64, 64], 8)
    assert configuration["architecture"]["arch_kwargs"]["n_stages"] == 5
    assert len(list((folder / configuration["data_identifier"]).glob("group*_ks_*.pkl"))) == 10
    for fold in json.loads((folder / "splits_final.json").read_text()):
        training, validation = ({case.split("_")[0] for case in fold[part]} for part in ("train", "val"))
        assert not training & validation
    before = {path: path.stat().st_mtime_ns for path in work.rglob("*.json")}
    evidence_data.main([str(tiny_data), str(work), "stones"])
    assert before.items() <= {path: path.stat().st_mtime_ns for path in work.rglob("*.json")}.items()


def test_evidence_data_name_their_datasets(capsys):
    import evidence_data

    with pytest.raises(SystemExit):
        evidence_data.main(["data", "work", "polyp"])
    assert "polyp: expected names of nuclei, polyps, stones, hippocampus" in capsys.readouterr().err


# ---- evidence from a GPU ---------------------------------------------------------------------------------------------


def test_evidence_from_a_gpu_needs_one(capsys):
    import gpu_evidence

    with pytest.raises(SystemExit):
        gpu_evidence.main(["data", "out"])
    assert "torch sees no GPU here: docs/protocol.md has the trainings for CPUs" in capsys.readouterr().err


def test_trainings_are_as_long_as_the_time_allows():
    import gpu_evidence

    def epochs(seconds, steps=(0.1, 0.3), at_once=2):
        return gpu_evidence.affordable_epochs(seconds, steps, 25, at_once)

    assert epochs(400) == int((400 - 45) / (1.5 * 0.4) / 25)
    assert epochs(400, at_once=1) < epochs(400)
    assert epochs(30) == 2  # the least, one for each stage of ConDSeg


@pytest.fixture
def evidence(tmp_path):
    """A begun collection of evidence, with five minutes' time."""
    import gpu_evidence

    setting = gpu_evidence.Setting(tmp_path / "data", tmp_path / "out", minutes=5, work=tmp_path / "work", device="cpu")
    with gpu_evidence.begun(setting) as begun:
        yield begun


def test_stages_end_when_their_time_is_up_and_are_told(evidence):
    stages = evidence.stages
    assert stages.run("fast", ["-c", "print('found')"], 60, "found.md")
    assert not stages.run("bad", ["-c", "raise SystemExit(3)"], 60)
    child = "import subprocess, sys, time; subprocess.run([sys.executable, '-c', 'import time; time.sleep(99)'])"
    assert not stages.run("slow", ["-c", child], 3)
    assert not stages.run("late", ["-c", "print('never')"], 0)
    assert [stage.outcome.split(",")[0].split(":")[0] for stage in stages.tried] == [
        "done", "failed with 3", "unfinished", "not begun"
    ]  # fmt: skip
    assert (stages.out / "found.md").read_text() == "found\n"
    page = (stages.out / "evidence.md").read_text()
    assert "# Evidence from the CPU" in page and "| slow | " in page and "ended when its time was up |" in page
    assert all(process.poll() is not None for process in stages.processes)
    assert 0 < stages.left < 260  # 40 seconds are for the report
    assert evidence.share("selftest") <= 60
    stages.stop()
    assert stages.left < 0


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path):
    import gpu_evidence

    (tmp_path / "mine.txt").touch()
    with (
        pytest.raises(SystemExit, match=r"holds 'mine\.txt': give an empty folder"),
        gpu_evidence.begun(gpu_evidence.Setting(tmp_path, tmp_path)),
    ):
        pass


@pytest.mark.slow
def test_all_stages_on_tiny_data_end_with_a_report_that_verifies(tiny_data, tmp_path):
    import gpu_evidence
    from evidence_data import Recipe

    from nnunet_plugins.benchmark.report.page import verify

    out = tmp_path / "out"
    recipe = Recipe(566, "Tiny", "kidney_stone_ct", (64, 64), batches=(("2d", 2),), groups_in_names=True, ending="GPU")
    trained = ("nnUNetTrainer", "DLKUNetSTrainer")
    setting = gpu_evidence.Setting(
        *(tiny_data, out, 30.0, tmp_path / "work", "cpu", 1, trained),
        timed=("DLKUNetSTrainer",),
        tested=("nnUNetTrainer",),
        timing=("--patch", "32", "32", "--batch", "1", "--steps", "1"),
        iterations=1,
        recipe=recipe,
    )
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name in gpu_evidence.environment(tmp_path):  # which the script sets in this process, too
            monkeypatch.setenv(name, "")
            monkeypatch.delenv(name)
        monkeypatch.setattr(gpu_evidence, "affordable_epochs", lambda *_: 2)
        stages = gpu_evidence.gather(setting)
    assert [stage.outcome for stage in stages if stage.outcome not in ("done", "chosen")] == ["of 2 of 2 trainings"]
    names = {"evidence.md", "log.txt", "report.tar.gz", "results.md", "selftest.json", "step_time.md"}
    assert {path.name for path in out.iterdir()} == names
    assert json.loads((out / "selftest.json").read_text())["trainers"][0]["passed"]
    assert "| DLKUNetSTrainer | " in (out / "step_time.md").read_text()
    shutil.unpack_archive(out / "report.tar.gz", tmp_path / "report")
    assert not verify(tmp_path / "report")
    assert "| nnUNetTrainer" in (out / "results.md").read_text()
