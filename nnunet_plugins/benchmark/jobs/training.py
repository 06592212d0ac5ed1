"""The step train: a fold as ``nnUNetv2_train --c`` trains it, with the prediction of the test set."""

import io
import math
import os
import re
import shutil
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any

from nnunet_plugins.benchmark.checks import check_folds, check_test_sets
from nnunet_plugins.benchmark.jobs.gpus import one_gpu
from nnunet_plugins.benchmark.jobs.receipts import read_receipt
from nnunet_plugins.benchmark.jobs.sources import (
    content_of_test_set,
    current_split,
    description_differs,
    is_other_test_set,
    model_has_changed,
    split_has_changed,
)
from nnunet_plugins.benchmark.progress import is_begun
from nnunet_plugins.benchmark.readers import nnunet_metrics
from nnunet_plugins.benchmark.runs import (
    SUMMARY,
    VALIDATION,
    Run,
    dataset_json,
    images_folder,
    is_test_set,
    predictions,
)
from nnunet_plugins.benchmark.suite import Suite
from nnunet_plugins.errors import UserError
from nnunet_plugins.files import digest, usable_cores, write_json
from nnunet_plugins.locks import lock
from nnunet_plugins.nnunet_folders import CHECKPOINTS, RESULTS, SPLITS

SEARCH = re.compile(r"Trainer '.*' not found in nnunetv2|Searching (in|for)\b|Inspecting |Found class |Using trainer '")
"""Lines of nnU-Net's on its search for trainers outside its own folder."""
SEED_VARIABLE = "NNUNET_PLUGINS_SEED"
CURVES = ("train_losses", "val_losses", "mean_fg_dice", "ema_fg_dice", "lrs")
MACHINE = ("hostname", "device", "gpu_name", "torch_version", "cudnn_version")


def train(suite: Suite, run: Run) -> None:
    """Train a fold, or go on training it, and predict its validation cases and test set.

    A fold that is finished only gets its receipt.

    Raises:
        UserError: an earlier training of the fold had other plans, cases or labels; the test set is not whole; or
            nnU-Net has left a file out.
    """
    os.environ[RESULTS] = str(run.results)
    if (seed := os.environ.get(SEED_VARIABLE, "").strip()).isdecimal():
        os.environ[SEED_VARIABLE] = str(int(seed) + run.repeat - 1)  # repetitions must differ
    with lock(run.lock_file):
        end_orphans(str(run.training_receipt))
        refuse_changed_model(run)
        check_folds(run, suite.folds)
        refuse_changed_split(run)
        check_test_sets(run)
        remove_predictions_of_other_test_sets(run)
        if first_missing_file(run, run.parts):
            with one_gpu():
                train_and_predict(suite, run)
        if missing := first_missing_file(run, run.parts):
            raise UserError(f"{missing} is not there after the training of {run}: see the log")
        write_json(run.training_receipt, training_receipt(run))


def end_orphans(receipt: str) -> None:
    """Kill the forked workers of an earlier attempt that was killed: processes with this process's command.

    Args:
        receipt: file of this fold alone. Where it is not part of the command, other processes may rightly have the
            same, and none is killed.
    """
    import psutil

    own = psutil.Process()
    command = own.cmdline()
    if receipt not in command:
        return
    for process in psutil.process_iter(["cmdline"]):
        if process.pid != own.pid and process.info["cmdline"] == command:
            with suppress(psutil.Error):
                process.kill()


def refuse_changed_model(run: Run) -> None:
    """Refuse a model that was trained with plans, channels or labels that have changed since.

    Raises:
        UserError: they have.
    """
    if model_has_changed(run):
        what = "channels or labels" if description_differs(run) else "plans"
        raise UserError(f"{run.model} was trained with other {what} than the dataset has now: move that folder away")


def remove_predictions_of_other_test_sets(run: Run) -> None:
    """Remove the predictions of test sets that have changed since, so that they are predicted again."""
    for part in run.test_sets:
        if is_other_test_set(run, part):
            shutil.rmtree(run.folder / part, ignore_errors=True)


def refuse_changed_split(run: Run) -> None:
    """Note the fold's cases when its training starts, and refuse to go on if they or their labels change later.

    Raises:
        UserError: they have changed, so that cases for validation may have been trained on.
    """
    expected = predictions(run, VALIDATION)
    predicted = {path.name for path in (run.folder / VALIDATION).glob(f"*{dataset_json(run)['file_ending']}")}
    foreign = predicted - {path.name for path in expected.values()}
    validated = nnunet_metrics(run)
    other_cases = validated and not run.split_note.exists() and set(validated) != set(expected)
    if foreign or other_cases or split_has_changed(run):
        raise UserError(
            f"{run.folder} was trained with other cases than {SPLITS} gives it now, or with other labels: move that "
            "folder away"
        )
    write_json(run.split_note, current_split(run))


# ---- nnU-Net's training ----------------------------------------------------------------------------------------------


def train_and_predict(suite: Suite, run: Run) -> None:
    """Train or go on training, predict the validation cases and perhaps the test set; finished files stay."""
    import torch

    device = torch.device(suite.resources.device)
    torch.set_num_threads(usable_threads(suite.resources.cpus) if device.type == "cpu" else 1)
    set_aside_unreadable_checkpoints(run.folder)
    trained = (run.folder / CHECKPOINTS[0]).exists()
    trainer = load_trainer(run, trained, device)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    if not trained:
        for path in run.folder.glob("*"):  # predictions of another model
            if path.name == VALIDATION or is_test_set(path.name):
                shutil.rmtree(path, ignore_errors=True)
        trainer.run_training()
        if device.type == "cuda":
            note_measured(run, peak_bytes_allocated=torch.cuda.max_memory_allocated())
            note_measured(run, peak_bytes_reserved=torch.cuda.max_memory_reserved())
    if first_missing_file(run, [VALIDATION]):
        start = time.perf_counter()
        trainer.perform_actual_validation()
        compiled = bool(trainer._do_i_compile())
        note_measured(run, validation_seconds=time.perf_counter() - start, compiled=compiled)
    for part in run.test_sets:
        if first_missing_file(run, [part]):
            predict_test_set(suite, run, part, device)


def usable_threads(cpus: int) -> int:
    """Number of threads that a training on the CPU computes with.

    No more than the machine has cores, or than ``OMP_THREAD_LIMIT`` allows: oneDNN waits for ever for a thread that
    OpenMP does not start.
    """
    limit = os.environ.get("OMP_THREAD_LIMIT", "").strip()
    return max(1, min(cpus, usable_cores(), *([int(limit)] if limit.isdecimal() else [])))


def load_trainer(run: Run, trained: bool, device: Any) -> Any:
    """The run's trainer as ``nnUNetv2_train`` makes it, with its last checkpoint, which it saves more often."""
    from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint

    begun = is_begun(run)  # if not, nnU-Net would warn that it cannot continue
    with without_search():
        trainer: Any = get_trainer_from_args(
            run.dataset, run.configuration, run.fold, run.trainer_name, run.plans, begun and not trained, device
        )
    trainer.save_every = max(1, min(trainer.save_every, trainer.num_epochs // 20))
    maybe_load_checkpoint(trainer, continue_training=begun and not trained, validation_only=trained)
    return trainer


@contextmanager
def without_search() -> Iterator[None]:
    """Leave out of the log that nnU-Net has not found a trainer among its own, which looks like an error."""
    output = io.StringIO()
    try:
        with redirect_stdout(output):
            yield
    finally:
        lines = [line for line in output.getvalue().splitlines() if not SEARCH.match(line.strip())]
        print(*lines, sep="\n", flush=True)


def set_aside_unreadable_checkpoints(folder: Path) -> None:
    """Rename checkpoints that a killed training has left half written, so that nnU-Net takes the next best one."""
    for path in (folder / name for name in CHECKPOINTS):
        if path.exists() and not zipfile.is_zipfile(path):  # its directory is written last
            print(f"{path} is half written: going on from another checkpoint.", flush=True)
            path.replace(path.with_name(path.name + ".unreadable"))


def predict_test_set(suite: Suite, run: Run, part: str, device: Any) -> None:
    """Predict the ``imagesTs`` of a part with this fold's model, as ``nnUNetv2_predict`` does."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(device=device, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(run.model), (run.fold,), CHECKPOINTS[0])
    processes = max(1, suite.resources.cpus // 2)
    partial = run.folder / f"{part}.partial"  # a kill must leave no half-written file that looks like a prediction
    shutil.rmtree(partial, ignore_errors=True)
    predictor.predict_from_files(
        str(images_folder(run, part)),
        str(partial),
        num_processes_preprocessing=processes,
        num_processes_segmentation_export=processes,
    )
    shutil.rmtree(run.folder / part, ignore_errors=True)
    noted = read_receipt(run.test_note) if run.test_note.exists() else {}
    write_json(run.test_note, noted | {part: content_of_test_set(run, part)})
    partial.rename(run.folder / part)


# ---- what a training leaves ------------------------------------------------------------------------------------------


def first_missing_file(run: Run, parts: Sequence[str]) -> Path | None:
    """First file that a finished fold would have, with predictions of these parts, and this one lacks."""
    expected = [run.folder / CHECKPOINTS[0], run.folder / SUMMARY]
    expected += [path for part in parts for path in predictions(run, part).values()]
    return next((path for path in expected if not path.exists()), None)


def predicted_parts(run: Run) -> list[str]:
    """Parts that the suite wants, and test sets that other suites have had predicted."""
    others = sorted({path.name for path in run.folder.glob("*") if is_test_set(path.name)} - {*run.parts})
    return [*run.parts, *(part for part in others if predictions(run, part) and not first_missing_file(run, [part]))]


def measured(run: Run) -> dict[str, float]:
    """Times and memory that attempts have measured, and later attempts could not measure again."""
    path = run.folder / "bench_measured.json"
    return read_receipt(path) if path.exists() else {}


def note_measured(run: Run, **values: float) -> None:
    write_json(run.folder / "bench_measured.json", measured(run) | values)


def training_receipt(run: Run) -> dict[str, Any]:
    """Receipt of a training, with what the report needs of it: hashes, curves, costs, machine."""
    from nnunet_plugins.checkpoint_files import read_checkpoint

    checkpoint = run.folder / CHECKPOINTS[0]
    log = read_checkpoint(checkpoint)["logging"]
    seconds = [
        end - start for start, end in zip(log["epoch_start_timestamps"], log["epoch_end_timestamps"], strict=False)
    ]
    debug_file = run.folder / "debug.json"
    debug = read_receipt(debug_file) if debug_file.exists() else {}
    parts = predicted_parts(run)
    files = [checkpoint, *(path for part in parts for path in predictions(run, part).values())]
    return {
        "parts": parts,
        "epoch_seconds": seconds,
        "curves": {name: [float(value) if math.isfinite(value) else None for value in log[name]] for name in CURVES},
        "measured": measured(run),
        "machine": {name: debug.get(name) for name in MACHINE},
        "sha256": {str(path.relative_to(run.folder)): digest(path) for path in files},
    }
