"""The work of one job: ``python -m nnunet_plugins.benchmark.jobs.steps STEP SUITE RECEIPT``.

A step writes its receipt last, and only then counts as done. Whatever killed the step before, the next attempt goes on
from what nnU-Net has kept.
"""

import math
import os
import shutil
import signal
import sys
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from nnunet_plugins import _startup
from nnunet_plugins.benchmark.checks import check_folds, check_test_set
from nnunet_plugins.benchmark.jobs.locks import lock, one_gpu
from nnunet_plugins.benchmark.jobs.receipts import (
    current_source,
    current_split,
    missing_cases,
    plans_have_changed,
    preprocessed_data_are_stale,
    split_has_changed,
)
from nnunet_plugins.benchmark.readers import label_manager, reader_of
from nnunet_plugins.benchmark.runs import (
    TEST,
    VALIDATION,
    Run,
    dataset_json,
    images_folder,
    log_file,
    planned_configuration,
    predictions,
    references,
    runs,
    stop_file,
)
from nnunet_plugins.benchmark.suite import Suite, read_suite
from nnunet_plugins.errors import UserError
from nnunet_plugins.files import digest, read_json, write_json
from nnunet_plugins.nnunet_folders import RAW, RESULTS, SPLITS, nnunet_folder

CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_latest.pth", "checkpoint_best.pth")
SUMMARY = f"{VALIDATION}/summary.json"  # nnU-Net's
SEED_VARIABLE = "NNUNET_PLUGINS_SEED"
CURVES = ("train_losses", "val_losses", "mean_fg_dice", "ema_fg_dice", "lrs")
PROCESS_VARIABLES = ("nnUNet_n_proc_DA", "nnUNet_def_n_proc")


def main(arguments: Sequence[str]) -> None:
    step, suite_path, receipt = arguments[0], Path(arguments[1]), Path(arguments[2])
    suite = read_suite(suite_path)
    if stop_file(suite).exists():
        raise SystemExit(1)
    run = next(
        run
        for run in runs(suite)
        if receipt in (run.plan_receipt, run.preprocessing_receipt, run.training_receipt, run.validation_receipt)
    )
    for variable in PROCESS_VARIABLES:
        os.environ.setdefault(variable, str(suite.resources.cpus))
    _startup.extend()
    with logged(log_file(suite, step, receipt), f"{step} {run}"):
        STEPS[step](suite, run)


@contextmanager
def logged(path: Path, title: str) -> Iterator[None]:
    """Append all that this process and its children print to the file; say on the terminal only what went wrong."""
    path.parent.mkdir(parents=True, exist_ok=True)
    terminal = os.dup(2)
    with path.open("a", encoding="utf-8") as log:
        sys.stdout.flush()
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # whatever kills us, the log is complete
    os.environ["PYTHONUNBUFFERED"] = "1"  # for nnU-Net's workers
    print(f"\n==== {time.strftime('%Y-%m-%d %H:%M:%S')} {title} (process {os.getpid()})", flush=True)
    try:
        yield
    except KeyboardInterrupt:  # the terminal's, which the driver has too
        print("Interrupted", flush=True)
        raise SystemExit(128 + signal.SIGINT) from None
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        with os.fdopen(terminal, "w", encoding="utf-8") as file:
            print(
                f"{title} failed: {' '.join(str(error).split())[:500] or type(error).__name__}. See {path}", file=file
            )
        raise SystemExit(1) from None
    os.close(terminal)


# ---- plan and preprocess ---------------------------------------------------------------------------------------------


def plan(suite: Suite, run: Run) -> None:
    """Plans, and folds, which all trainings then share; those that are there already stay."""
    allow_planning()
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments

    plans_file = run.plans_file
    with lock(run.preprocessed / ".bench.lock"):
        if not plans_file.exists():
            if run.data.plans != "nnUNetPlans":
                raise UserError(
                    f"{plans_file} is not there: make it with nnUNetv2_plan_experiment -d {run.data.id} "
                    "-pl PLANNER, or leave the suite's key plans out"
                )
            extract_fingerprints([run.data.id], num_processes=suite.resources.cpus, clean=False)
            plan_experiments([run.data.id])
        for configuration in run.data.configurations:
            planned_configuration(replace(run, configuration=configuration))
        write_missing_splits(run)
        check_folds(run, suite.folds)
        write_json(run.plan_receipt, {"sha256": digest(plans_file)})


def write_missing_splits(run: Run) -> None:
    """The folds that nnU-Net would draw, if there are none: trainings that start together must not all write them."""
    from nnunetv2.utilities.crossval_split import generate_crossval_split
    from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

    path = run.preprocessed / SPLITS
    if path.exists():
        return
    cases = sorted(get_filenames_of_train_images_and_targets(str(nnunet_folder(RAW) / run.dataset)))
    if len(cases) < 5:
        raise UserError(
            f"{run.dataset} has {len(cases)} training cases, too few for nnU-Net's five folds: write {path}"
        )
    write_json(path, generate_crossval_split(cases, seed=12345, n_splits=5))


def preprocess(suite: Suite, run: Run) -> None:
    """nnU-Net's preprocessing, unless all cases are there, made of what they would be made of now.

    Also of the next stage of a cascade: nnU-Net's validation of a low resolution predicts for it.
    """
    allow_planning()
    from nnunetv2.experiment_planning.plan_and_preprocess_api import preprocess_dataset

    stages = planned_configuration(run).get("next_stage") or []
    stages = [run.configuration, *([stages] if isinstance(stages, str) else stages)]
    with lock(run.preprocessed / ".bench.lock"):
        for stage in (replace(run, configuration=name) for name in stages):
            if missing_cases(stage) or preprocessed_data_are_stale(stage):
                preprocess_dataset(run.data.id, run.data.plans, [stage.configuration], [suite.resources.cpus])
            write_json(stage.source_note, current_source(stage))
            if missing := missing_cases(stage):
                raise UserError(
                    f"{run.preprocessed / SPLITS} names {len(missing)} cases, such as {min(missing)}, that "
                    f"{run.dataset} does not have: correct or remove it"
                )
        write_json(run.preprocessing_receipt, {"configurations": stages})


def allow_planning() -> None:
    """Trainings may load data in their own process; nnU-Net cannot plan so."""
    if os.environ["nnUNet_n_proc_DA"] == "0":
        os.environ["nnUNet_n_proc_DA"] = "1"


# ---- train -----------------------------------------------------------------------------------------------------------


def train(suite: Suite, run: Run) -> None:
    """What ``nnUNetv2_train ... --c`` does, with a checkpoint more often, and the test set after it.

    A fold that is finished only gets its receipt.
    """
    os.environ[RESULTS] = str(run.results)
    if (seed := os.environ.get(SEED_VARIABLE, "").strip()).isdecimal():
        os.environ[SEED_VARIABLE] = str(int(seed) + run.repeat - 1)  # repetitions must differ
    with lock(run.folder / ".bench.lock"):
        end_orphans(str(run.training_receipt))
        refuse_other_plans(run)
        refuse_other_split(suite, run)
        if run.data.test:
            check_test_set(run)
        if unfinished(run, run.parts):
            with one_gpu():
                train_and_predict(suite, run)
        if missing := unfinished(run, run.parts):
            raise UserError(f"{missing} is not there after the training of {run}: see the log")
        write_json(run.training_receipt, training_receipt(run))


def end_orphans(receipt: str) -> None:
    """Kill the forked workers of an earlier attempt that was killed; nothing else can run the same command now.

    Args:
        receipt: must be part of this process's command, which otherwise is none that is run for this fold alone.
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


def train_and_predict(suite: Suite, run: Run) -> None:
    """Train or go on training, predict the validation cases and perhaps the test set; what is there stays."""
    import torch
    from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint

    device = torch.device(suite.resources.device)
    torch.set_num_threads(suite.resources.cpus if device.type == "cpu" else 1)
    set_aside_unreadable_checkpoints(run.folder)
    trained = (run.folder / CHECKPOINTS[0]).exists()
    trainer: Any = get_trainer_from_args(
        run.dataset, run.configuration, run.fold, run.trainer_name, run.data.plans, not trained, device
    )
    trainer.save_every = max(1, min(trainer.save_every, trainer.num_epochs // 20))
    maybe_load_checkpoint(trainer, continue_training=not trained, validation_only=trained)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    if not trained:
        for part in (VALIDATION, TEST):  # another model's
            shutil.rmtree(run.folder / part, ignore_errors=True)
        trainer.run_training()
        if device.type == "cuda":
            note_measured(run, peak_bytes_allocated=torch.cuda.max_memory_allocated())
            note_measured(run, peak_bytes_reserved=torch.cuda.max_memory_reserved())
    if unfinished(run, [VALIDATION]):
        start = time.perf_counter()
        trainer.perform_actual_validation()
        compiled = bool(trainer._do_i_compile())
        note_measured(run, validation_seconds=time.perf_counter() - start, compiled=compiled)
    if run.data.test:
        predict_test_set(suite, run, device)


def measured(run: Run) -> dict[str, float]:
    """What the attempts have measured; a later one could not do it again."""
    path = run.folder / "bench_measured.json"
    return read_json(path, remedy="remove it and run the benchmark again") if path.exists() else {}


def note_measured(run: Run, **values: float) -> None:
    write_json(run.folder / "bench_measured.json", measured(run) | values)


def predict_test_set(suite: Suite, run: Run, device: Any) -> None:
    """``nnUNetv2_predict`` on ``imagesTs``, with this fold's model."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(device=device, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(run.model), (run.fold,), CHECKPOINTS[0])
    processes = max(1, suite.resources.cpus // 2)
    partial = run.folder / f"{TEST}.partial"  # a kill must leave no half-written file that looks like a prediction
    shutil.rmtree(partial, ignore_errors=True)
    predictor.predict_from_files(
        str(images_folder(run, TEST)),
        str(partial),
        num_processes_preprocessing=processes,
        num_processes_segmentation_export=processes,
    )
    shutil.rmtree(run.folder / TEST, ignore_errors=True)
    partial.rename(run.folder / TEST)


def refuse_other_plans(run: Run) -> None:
    """
    Raises:
        UserError: the model was trained with plans that are no longer the dataset's.
    """
    if plans_have_changed(run):
        raise UserError(f"{run.model} was trained with other plans than the dataset has now: move that folder away")


def refuse_other_split(suite: Suite, run: Run) -> None:
    """Note the fold's cases when its training starts, and see later that they still are those of the dataset's split.

    Raises:
        UserError: they are not, or their labels have changed; cases for validation may have been trained on.
    """
    check_folds(run, suite.folds)
    split = current_split(run)
    expected = predictions(run, VALIDATION)
    predicted = {path.name for path in (run.folder / VALIDATION).glob(f"*{dataset_json(run)['file_ending']}")}
    foreign = predicted - {path.name for path in expected.values()}
    evaluated = summary(run)
    if (
        foreign
        or split_has_changed(run)
        or (evaluated and not run.split_note.exists() and set(evaluated) != set(expected))
    ):
        raise UserError(
            f"{run.folder} was trained with other cases than {SPLITS} gives it now, or with other labels: move that "
            "folder away"
        )
    write_json(run.split_note, split)


def set_aside_unreadable_checkpoints(folder: Path) -> None:
    """Rename checkpoints that a killed training has left half written, so that nnU-Net takes the next best one."""
    for path in (folder / name for name in CHECKPOINTS):
        if path.exists() and not zipfile.is_zipfile(path):  # its directory is written last
            print(f"{path} is half written: going on from another checkpoint.", flush=True)
            path.replace(path.with_name(path.name + ".unreadable"))


def unfinished(run: Run, parts: Sequence[str]) -> Path | None:
    """The first file that a fold has whose parts are finished, and this one has not."""
    expected = [run.folder / CHECKPOINTS[0], run.folder / SUMMARY]
    expected += [path for part in parts for path in predictions(run, part).values()]
    return next((path for path in expected if not path.exists()), None)


def finished_parts(run: Run) -> list[str]:
    """What the suite wants, and a test set that another suite has wanted."""
    both = [VALIDATION, TEST]
    return both if predictions(run, TEST) and not unfinished(run, both) else run.parts


def training_receipt(run: Run) -> dict[str, Any]:
    """What the report needs of a training: hashes, curves, costs, machine."""
    import nnunetv2  # noqa: F401 (its checkpoints may hold its classes)
    import torch

    checkpoint = run.folder / CHECKPOINTS[0]
    log = torch.load(checkpoint, map_location="cpu", weights_only=False, mmap=True)["logging"]
    seconds = [
        end - start for start, end in zip(log["epoch_start_timestamps"], log["epoch_end_timestamps"], strict=False)
    ]
    debug_file = run.folder / "debug.json"
    debug = read_json(debug_file, remedy="remove it and run the benchmark again") if debug_file.exists() else {}
    parts = finished_parts(run)
    files = [checkpoint, *(path for part in parts for path in predictions(run, part).values())]
    return {
        "parts": parts,
        "epoch_seconds": seconds,
        "curves": {name: [float(value) if math.isfinite(value) else None for value in log[name]] for name in CURVES},
        "measured": measured(run),
        "machine": {
            name: debug.get(name) for name in ("hostname", "device", "gpu_name", "torch_version", "cudnn_version")
        },
        "sha256": {str(path.relative_to(run.folder)): digest(path) for path in files},
    }


# ---- validate --------------------------------------------------------------------------------------------------------


def validate(suite: Suite, run: Run) -> None:
    """All metrics of all cases.

    Raises:
        UserError: our Dice is not nnU-Net's: predictions or references have changed since.
    """
    with lock(run.folder / ".bench.lock"):
        parts = finished_parts(run)
        rows = [row for part in parts for row in case_rows(run, part)]
        check_against_summary(run, rows)
        write_json(run.validation_receipt, {"tolerance": run.data.tolerance, "parts": parts, "cases": rows})


def case_rows(run: Run, part: str) -> Iterator[dict[str, Any]]:
    """A row for each case and label of the part."""
    from nnunetv2.evaluation.evaluate_predictions import region_or_label_to_mask
    from tqdm import tqdm

    from nnunet_plugins.benchmark.metrics import score

    manager = label_manager(run)
    values = manager.foreground_regions if manager.has_regions else manager.foreground_labels
    names = {as_tuple(value): name for name, value in dataset_json(run)["labels"].items()}
    files, predicted = references(run, part), predictions(run, part)
    reader = reader_of(run, next(iter(files.values())))
    for case, file in tqdm(files.items(), desc=f"Metrics, {part}"):
        reference, properties = reader.read_seg(str(file))
        prediction, _ = reader.read_seg(str(predicted[case]))
        ignored = reference[0] == manager.ignore_label if manager.has_ignore_label else None
        for value in values:
            masks = [region_or_label_to_mask(array[0], value) for array in (reference, prediction)]
            scores = score(masks[0], masks[1], properties["spacing"], run.data.tolerance, ignored)
            label = names[as_tuple(value)]
            yield {"part": part, "case": case, "label": label, "key": str(value)} | scores._asdict()


def as_tuple(value: Any) -> tuple[int, ...]:
    """A label or a region of ``dataset.json`` or of nnU-Net's."""
    return tuple(value) if isinstance(value, Sequence) else (value,)


def summary(run: Run) -> dict[str, dict[str, Any]]:
    """Each validated case's metrics of each label, as nnU-Net has written them; none before it has."""
    path, ending = run.folder / SUMMARY, dataset_json(run)["file_ending"]
    cases = (
        read_json(path, remedy=f"remove {path.parent} and run the benchmark again")["metric_per_case"]
        if path.exists()
        else []
    )
    return {Path(case["prediction_file"]).name.removesuffix(ending): case["metrics"] for case in cases}


def check_against_summary(run: Run, rows: Sequence[Mapping[str, Any]]) -> None:
    known = summary(run)
    for row in rows:
        if row["part"] == VALIDATION:
            theirs = known.get(row["case"], {}).get(row["key"], {}).get("Dice")
            ours = float("nan") if row["Dice"] is None else row["Dice"]
            if theirs is None or not (theirs == ours or (theirs != theirs and ours != ours)):
                path = run.folder / SUMMARY
                raise UserError(
                    f"{path} gives {row['case']} ({row['label']}) a Dice of {theirs}, and its prediction has {ours}: "
                    f"predictions or references have changed; remove {path.parent} and run the benchmark again"
                )


STEPS: dict[str, Callable[[Suite, Run], None]] = {
    "plan": plan,
    "preprocess": preprocess,
    "train": train,
    "validate": validate,
}

if __name__ == "__main__":
    main(sys.argv[1:])
