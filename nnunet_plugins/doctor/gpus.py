"""Checks of GPUs, their driver and torch's build for them."""

import os
import subprocess
import warnings
from collections.abc import Iterator

from nnunet_plugins.doctor.findings import GB, Finding, summary


def gpus() -> Iterator[Finding]:
    """Whether torch can compute on this machine's GPUs."""
    try:
        import torch
    except Exception as error:
        yield Finding("PROBLEM", f"torch cannot be imported: {summary(error)}", "reinstall it, see pytorch.org")
        return
    with warnings.catch_warnings(record=True) as caught:  # torch only warns of a driver that is too old
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    build = f"torch {torch.__version__} built for {f'CUDA {torch.version.cuda}' if torch.version.cuda else 'the CPU'}"
    if available:
        yield from (cuda_device(index, build) for index in range(torch.cuda.device_count()))
    else:
        yield no_cuda_device(build, "".join(f" ({warning.message})" for warning in caught[:1]))


def cuda_device(index: int, build: str) -> Finding:
    """Compute something on a GPU that torch sees."""
    import torch

    driver = nvidia_driver()
    try:
        torch.ones(2, device=f"cuda:{index}").sum().item()
        free, total = torch.cuda.mem_get_info(index)
    except RuntimeError as error:
        if isinstance(error, torch.cuda.OutOfMemoryError) or "busy or unavailable" in str(error):
            return Finding("note", f"GPU {index} is in use: {summary(error)}", "nvidia-smi shows by which programs")
        return Finding(
            "PROBLEM",
            f"GPU {index} does not work with {build}, driver {driver}: {summary(error)}",
            "install a torch for this GPU and driver, see pytorch.org",
        )
    memory = f"{free / GB:.0f} of {total / GB:.0f} GB free"
    return Finding("ok", f"GPU {index}: {torch.cuda.get_device_name(index)}, {memory}, {build}, driver {driver}")


def no_cuda_device(build: str, reason: str) -> Finding:
    """Tell why torch sees no NVIDIA GPU: there is none, it is hidden, or driver and torch do not fit."""
    import torch

    driver = nvidia_driver()
    if torch.backends.mps.is_available():
        return Finding("note", "Apple GPU: add -device mps to nnU-Net's commands")
    if not driver:
        return Finding("note", f"no GPU ({build}): add -device cpu to nnU-Net's commands; training is slow")
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return Finding("note", "CUDA_VISIBLE_DEVICES hides the GPU", "unset CUDA_VISIBLE_DEVICES, or add -device cpu")
    return Finding(
        "PROBLEM",
        f"there is an NVIDIA GPU (driver {driver}) that torch cannot use: {build}{reason}",
        "update the driver" if torch.version.cuda else "install a torch built for CUDA, see pytorch.org",
    )


def nvidia_driver() -> str | None:
    """Version of the NVIDIA driver; ``None`` without a driver that works."""
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return output.partition("\n")[0].strip() or None
