"""The judgement of the self-test: what a trainer's record says, and the table that is printed."""

import importlib.metadata
import platform
import signal
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from nnunet_plugins import __version__
from nnunet_plugins.doctor.gpus import nvidia_driver
from nnunet_plugins.text_tables import aligned
from nnunet_plugins.wording import counted


class Outcome(NamedTuple):
    """End of a process: its exit code, negative for a signal, or ``None`` if it took too long; time; last output."""

    exit_code: int | None
    seconds: float
    log: list[str]


def row_of(name: str, record: dict[str, Any], outcome: Outcome) -> dict[str, Any]:
    """A trainer's row of the report."""
    steps = record.get("steps", [])
    reason = reason_of_failure(record, outcome)
    return {
        "trainer": name,
        "passed": reason is None,
        "reason": reason,
        "step_ms": median_step(steps),
        "peak_bytes": peak(steps),
        "estimate_bytes": record.get("estimate_bytes"),
        "parameters": record.get("parameters"),
        "compiled": record.get("compiled"),
        "non_finite": non_finite(record),
        "prediction": record.get("part") == "end",
        "steps": steps,
        "log": [] if reason is None else outcome.log,
        "gpu": record.get("gpu"),
    }


def reason_of_failure(record: dict[str, Any], outcome: Outcome) -> str | None:
    """Why a trainer has failed, in a line; ``None`` if it has passed."""
    part = record.get("part", "start")
    if "error" in record:  # a training whose losses are no numbers is ended by its trainer
        return non_finite_losses(record) or f"{part}: {record['error']}"
    if outcome.exit_code != 0 or part != "end":
        return f"{part}: the process {ending(outcome)}"
    return non_finite_problem(record)


def non_finite_problem(record: dict[str, Any]) -> str | None:
    """Problem with values that are not finite.

    A gradient scaler begins with too large a scale on purpose, skips the steps whose gradients overflow, and lowers it.
    So such a step is none, unless the scaler has found no scale until the last one.
    """
    counts, steps = non_finite(record), record["steps"]
    if losses := non_finite_losses(record):
        return losses
    if counts["gradients"] and not record["gradient_scaler"]:
        return f"training: the gradients of {counts['gradients']} of {len(steps)} steps are not finite"
    if not steps[-1]["gradients_finite"]:
        return "training: the gradients of the last step still overflow half precision"
    return "training: weights or running statistics are not finite" if counts["weights"] else None


def non_finite_losses(record: dict[str, Any]) -> str | None:
    """Problem with losses that are not finite."""
    losses = non_finite(record)["losses"]
    return f"training: {losses} of {len(record['steps'])} losses are not finite" if losses else None


def non_finite(record: dict[str, Any]) -> dict[str, Any]:
    """Number of losses and of steps' gradients that are not finite, and whether any weight is not."""
    steps = record.get("steps", [])
    return {
        "losses": sum(step["loss"] is None for step in steps),
        "gradients": sum(not step["gradients_finite"] for step in steps),
        "weights": not record.get("weights_finite", True),
    }


def ending(outcome: Outcome) -> str:
    """End of a process in words."""
    if outcome.exit_code is None:
        return f"had not ended after {outcome.seconds / 60:.0f} minutes"
    if outcome.exit_code == -signal.SIGKILL:
        return "was killed, perhaps for want of memory"
    if outcome.exit_code < 0:
        return f"was ended by signal {-outcome.exit_code}"
    return f"ended with exit code {outcome.exit_code}"


def median_step(steps: Sequence[dict[str, Any]]) -> float | None:
    """Median milliseconds of the last epoch's steps without the first, in which the network may be compiled."""
    times = [step["milliseconds"] for step in later_steps(steps) if step["milliseconds"] is not None]
    return statistics.median(times) if times else None


def peak(steps: Sequence[dict[str, Any]]) -> int | None:
    """Peak memory of the last epoch's steps without the first, in which cuDNN tries its algorithms."""
    peaks = [step["peak"] for step in later_steps(steps) if step["peak"] is not None]
    return max(peaks, default=None)


def later_steps(steps: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Steps of the last epoch but its first."""
    return [step for step in steps if step["epoch"] == steps[-1]["epoch"]][1:]


# ---- printing --------------------------------------------------------------------------------------------------------


def versions(device: str, gpu: str | None) -> dict[str, str | None]:
    """Versions of what computes here; ``None`` for what is not there."""
    import torch

    cuda = device == "cuda"
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if cuda else None,
        "cudnn": str(torch.backends.cudnn.version()) if cuda else None,
        "gpu": gpu,
        "driver": nvidia_driver() if cuda else None,
        "nnunetv2": importlib.metadata.version("nnunetv2"),
        "nnunet-plugins": __version__,
    }


def print_report(report: dict[str, Any]) -> None:
    """Print the table, what it was measured with, and the last output of the trainers that have failed."""
    header = ("TRAINER", "RESULT", "STEP", "PEAK", "ESTIMATE", "NOT FINITE", "PREDICTION", "REASON")
    rows = [header, *(cells(row) for row in report["trainers"])]
    print(aligned(rows))
    found = ", ".join(f"{name} {version}" for name, version in report["versions"].items() if version)
    print(f"\n{conditions(report)}\n{found}")
    for row in report["trainers"]:
        if row["log"]:
            print(f"\nThe output of {row['trainer']} ends with:", *row["log"], sep="\n  ")
    failed = sum(not row["passed"] for row in report["trainers"])
    print(f"\n{failed} of {len(report['trainers'])} trainers failed." if failed else "\nAll trainers passed.")


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """A trainer's row in words."""
    return (
        row["trainer"],
        "pass" if row["passed"] else "FAIL",
        "-" if row["step_ms"] is None else f"{row['step_ms']:.0f} ms",
        mebibytes(row["peak_bytes"]),
        mebibytes(row["estimate_bytes"]) + difference(row["estimate_bytes"], row["peak_bytes"]),
        non_finite_in_words(row),
        "ok" if row["prediction"] else "none",
        row["reason"] or "",
    )


def mebibytes(number: int | None) -> str:
    return "-" if number is None else f"{number / 2**20:.0f} MiB"


def difference(estimate: int | None, peak: int | None) -> str:
    """Relative difference of an estimate from the measured peak, in brackets; nothing without both."""
    return f" ({estimate / peak - 1:+.0%})" if estimate and peak else ""


def non_finite_in_words(row: dict[str, Any]) -> str:
    """Numbers of losses and gradients that are not finite, and of all steps."""
    counts, number = row["non_finite"], len(row["steps"])
    found = [f"{counts[name]} of {number} {name}" for name in ("losses", "gradients") if counts[name]]
    return ", ".join([*found, *(["weights"] if counts["weights"] else [])]) or ("none" if number else "-")


def conditions(report: dict[str, Any]) -> str:
    """Sizes and precision of the steps, in a sentence."""
    patch = " x ".join(map(str, report["patch"]))
    cuda = report["device"] == "cuda"
    compiled = any(row["compiled"] for row in report["trainers"])
    precision = f"mixed precision, {'compiled' if compiled else 'not compiled'}" if cuda else "float32, not compiled"
    memory = "" if cuda else "; a CPU's peak is that of the tensors"
    return (
        f"Device {report['device']}, patch {patch}, batch {report['batch']}, {counted(report['epochs'], 'epoch')} of "
        f"{counted(report['iterations'], 'step')}, {precision}{memory}."
    )
