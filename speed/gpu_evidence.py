"""Evidence from one GPU within minutes: self-test, step times, and a short training of each method at full resolution.

python speed/gpu_evidence.py DATA OUT --minutes 12

``DATA`` has the folder ``dsb2018`` as for ``evidence_data.py``. The stages, each with its share of the time: data;
``nnunet-plugins selftest``; ``step_time.py`` with mixed precision and compilation; the costs of a step on the plans of
the data, from which the number of steps follows that all trainers can have; fold 0, equal steps for all, nnU-Net first.
Whatever has not ended when the time is up is ended, and said to be unfinished. ``OUT`` then has at most eight files of
less than 16 MB: ``evidence.md`` says what was done, ``report.tar.gz`` is a report for ``benchmark verify``.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from evidence_data import FULL_SIZE, Recipe, environment, prepare
from stages import Stage, Stages

from nnunet_plugins.benchmark.cost import suite_costs
from nnunet_plugins.benchmark.report.collection import cost_file
from nnunet_plugins.benchmark.runs import Run, runs
from nnunet_plugins.benchmark.suite import read_suite
from nnunet_plugins.benchmark.survey import survey
from nnunet_plugins.files import read_json, usable_cores, write_json
from nnunet_plugins.processes import exit_on_signals
from nnunet_plugins.trainers import HALVES, MAIN_TRAINERS

TRAINED = (
    "nnUNetTrainer",
    "TimmUNetTrainer",
    *(name for name in MAIN_TRAINERS if name not in HALVES),
)
TIMED = ("TimmUNetTrainer", *MAIN_TRAINERS)
SHARES = {"selftest": 0.2, "step times": 0.2}
"""Largest shares of the whole time."""
OVERHEAD = 45.0
"""Seconds of a training's start and validation."""
SLACK = 1.5
"""Time of a step with loading and online validation, as a multiple of that of the step alone."""
FOR_THE_REPORT = 40.0
"""Seconds that are left for the report."""
MAX_BYTES = 15 * 2**20


class Setting(NamedTuple):
    """Data, folders, time, and the sizes of all stages, which are by default those for a GPU."""

    data: Path
    out: Path
    minutes: float = 12.0
    work: Path | None = None
    """Folder for nnU-Net's folders; None: a temporary one."""
    device: str = "cuda"
    at_once: int = 2
    """Trainings at a time."""
    trained: Sequence[str] = TRAINED
    timed: Sequence[str] = TIMED
    tested: Sequence[str] = ()
    """Trainers of the self-test; none for all main ones."""
    timing: Sequence[str] = ("--patch", "256", "256", "--batch", "12", "--steps", "10")
    """Options of ``step_time.py``."""
    iterations: int = 25
    recipe: Recipe = FULL_SIZE


class Evidence(NamedTuple):
    """A collection of evidence that has begun."""

    setting: Setting
    work: Path
    """Folder of nnU-Net's folders."""
    stages: Stages

    def share(self, stage: str) -> float:
        return min(self.stages.left, SHARES[stage] * 60 * self.setting.minutes)


@contextmanager
def begun(setting: Setting) -> Iterator[Evidence]:
    """Evidence whose processes end with this block, in its folders."""
    setting.out.mkdir(parents=True, exist_ok=True)
    if foreign := sorted(path.name for path in setting.out.iterdir()):
        raise SystemExit(f"{setting.out} holds {foreign[0]!r}: give an empty folder, or a new one")
    device = torch.cuda.get_device_name() if setting.device == "cuda" else "the CPU"
    heading = f"# Evidence from {device}\n\ntorch {torch.__version__}, {usable_cores()} cores; "
    heading += f"{setting.minutes:g} minutes were given. Self-test: `selftest.json`. Step times: `step_time.md`. "
    heading += "Trainings: `results.md`, from `report.tar.gz`."
    with ExitStack() as stack:
        stack.enter_context(exit_on_signals())
        work = setting.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        own = environment(work)
        del own["nnUNet_n_proc_DA"], own["nnUNet_def_n_proc"]  # those of the suite's cores
        own |= {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)), "PYTHONWARNINGS": "ignore"}
        stages = Stages(setting.out, 60 * setting.minutes - FOR_THE_REPORT, os.environ | own, heading)
        try:
            yield Evidence(setting, work, stages)
        except BaseException:  # a signal, too
            stages.stop()
            raise


# ---- stages ----------------------------------------------------------------------------------------------------------


def prepare_data(evidence: Evidence) -> bool:
    setting = evidence.setting
    code = f"import gpu_evidence; gpu_evidence.prepare_here({str(setting.data)!r}, {tuple(setting.recipe)!r})"
    return evidence.stages.run("data", ["-c", code], evidence.stages.left, nnUNet_n_proc_DA="1")


def prepare_here(data: str, recipe: tuple) -> None:
    prepare(Recipe(*recipe), Path(data), ["nnUNetPlans"])


def test_trainers(evidence: Evidence) -> None:
    file = evidence.setting.out / "selftest.json"
    command = ["-m", "nnunet_plugins", "selftest", *evidence.setting.tested, "--json", str(file)]
    command += ["--device", evidence.setting.device]
    compiled = "t" if evidence.setting.device == "cuda" else "f"
    evidence.stages.run("selftest", command, evidence.share("selftest"), nnUNet_compile=compiled)


def time_steps(evidence: Evidence) -> None:
    """Time each trainer's step beside nnU-Net's in a process of its own, until the stage's time is up."""
    setting = evidence.setting
    finish = time.monotonic() + evidence.share("step times")
    script = str(Path(__file__).with_name("step_time.py"))
    for name in setting.timed:
        command = [script, name, *setting.timing, "--device", setting.device]
        command += ["--compile"] if setting.device == "cuda" else []
        limit = min(finish - time.monotonic(), evidence.stages.left)
        evidence.stages.run(f"step time of {name}", command, limit, "step_time.md")


def write_suite(evidence: Evidence, epochs: int) -> Path:
    setting = evidence.setting
    cpus = max(1, usable_cores() // setting.at_once)
    path = evidence.work / "gpu_evidence.toml"
    path.write_text(
        f'name = "gpu_evidence"\ntrainers = {list(setting.trained)}\nreference = "{setting.trained[0]}"\n'
        f"epochs = {epochs}\niterations = {setting.iterations}\nfolds = [0]\n\n"
        f'[[datasets]]\nid = {setting.recipe.id}\nplans = "nnUNetPlans{setting.recipe.ending}"\n\n'
        f'[resources]\ndevice = "{setting.device}"\ncpus = {cpus}\n',
        encoding="utf-8",
    )
    return path


def affordable_epochs(seconds: float, step_seconds: Sequence[float], iterations: int, at_once: int) -> int:
    """Number of epochs that every trainer can have, so that all together take about this long; two at least.

    Example:
        >>> affordable_epochs(400, [0.1, 0.3], iterations=25, at_once=2)
        23
    """
    steps = (seconds - OVERHEAD * len(step_seconds) / at_once) / (SLACK * sum(step_seconds))
    return max(2, int(steps / iterations))


def measure_costs(suite_file: str) -> None:
    """Measure the steps of a suite's trainers, as ``benchmark cost`` does."""
    found = survey(read_suite(Path(suite_file)))
    write_json(cost_file(found.suite), suite_costs(found, steps=3))


def step_seconds(suite_file: Path) -> Mapping[str, float]:
    """Measured time of each trainer's step."""
    rows = read_json(cost_file(read_suite(suite_file)), remedy="run this again")
    return {row["trainer"]: row["step_ms"] / 1000 for row in rows}


def train_all(evidence: Evidence) -> Path | None:
    """Train all trainers for equal steps, in the suite's order; return the suite, unless its steps have no times."""
    setting = evidence.setting
    suite_file = write_suite(evidence, 2)
    code = f"import gpu_evidence; gpu_evidence.measure_costs({str(suite_file)!r})"
    if not evidence.stages.run("costs of a step", ["-c", code], evidence.stages.left, nnUNet_compile="f"):
        return None
    seconds = list(step_seconds(suite_file).values())
    epochs = affordable_epochs(evidence.stages.left, seconds, setting.iterations, setting.at_once)
    write_suite(evidence, epochs)
    evidence.stages.note(f"length of the trainings: {epochs} epochs of {setting.iterations} steps", 0.0, "chosen")
    todo = runs(read_suite(suite_file))
    with ThreadPoolExecutor(setting.at_once) as pool:
        try:
            list(pool.map(lambda run: train(evidence, suite_file, run), todo))
        except BaseException:  # before the pool waits for its threads
            evidence.stages.stop()
            raise
    return suite_file


def train(evidence: Evidence, suite_file: Path, run: Run) -> None:
    module = ["-m", "nnunet_plugins.benchmark.jobs.steps"]
    for step, receipt in (("train", run.training_receipt), ("validate", run.validation_receipt)):
        command = [*module, step, str(suite_file), str(receipt)]
        if not evidence.stages.run(f"{step} {run.trainer}", command, evidence.stages.left, nnUNet_compile="f"):
            return


def report(evidence: Evidence, suite_file: Path) -> None:
    """Write the report of the trainings that are done, as an archive that is not too large."""
    from nnunet_plugins.benchmark.report.page import write_report

    found = survey(read_suite(suite_file))
    if not found.done:
        evidence.stages.note("report", 0.0, "not written: no training is done")
        return
    start, out = time.monotonic(), evidence.setting.out
    folder = evidence.work / "report"
    write_report(found, folder, with_cases=False)
    shutil.copy(folder / "results.md", out)
    archive = Path(shutil.make_archive(str(out / "report"), "gztar", folder))
    outcome = f"of {len(found.done)} of {len(found.runs)} trainings"
    if sum(path.stat().st_size for path in out.iterdir()) > MAX_BYTES:
        archive.unlink()
        outcome += ", but too large to be kept"
    evidence.stages.note("report", time.monotonic() - start, outcome)


def gather(setting: Setting) -> list[Stage]:
    """Do all stages."""
    with begun(setting) as evidence:
        os.environ.update(environment(evidence.work))
        if prepare_data(evidence):
            test_trainers(evidence)
            time_steps(evidence)
            if suite_file := train_all(evidence):
                report(evidence, suite_file)
        return evidence.stages.tried


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Setting(Path(), Path())
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--minutes", type=float, default=default.minutes, help="default: %(default)g")
    parser.add_argument("--at-once", type=int, help="trainings at a time; default: 2 on a GPU of 40 GB or more, else 1")
    parser.add_argument("--work", type=Path, metavar="DIR", help="keep nnU-Net's folders there")
    arguments = parser.parse_args(argv)
    if not torch.cuda.is_available():
        parser.error("torch sees no GPU here: docs/protocol.md has the trainings for CPUs")
    at_once = arguments.at_once
    if at_once is None:  # two count on the same free memory when they begin
        at_once = 2 if torch.cuda.get_device_properties(0).total_memory >= 40e9 else 1
    if at_once < 1 or arguments.minutes < 1:
        parser.error("--at-once and --minutes: expected 1 or more")
    work = None if arguments.work is None else arguments.work.resolve()
    gather(Setting(arguments.data.resolve(), arguments.out.resolve(), arguments.minutes, work, at_once=at_once))


if __name__ == "__main__":
    main()
