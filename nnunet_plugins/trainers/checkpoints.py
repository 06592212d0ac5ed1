"""Checkpoints that are written whole or not at all, and one sentence about one that cannot be read."""

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_plugins.checkpoint_files import read_checkpoint
from nnunet_plugins.errors import UserError, reason
from nnunet_plugins.files import atomic_write_with_companions
from nnunet_plugins.nnunet_folders import CHECKPOINTS

TORCH_WRITES = ("PytorchStreamWriter", "inline_container", "iostream error")
"""Parts of the errors with which torch meets a full disk."""


class SafeCheckpoints(nnUNetTrainer):
    """Mixin: a checkpoint's file is the old one until the new one is on the disk, and a damaged one is named.

    nnU-Net writes a checkpoint where the last one was: a training that is killed meanwhile cannot go on.
    """

    own_checkpoints: frozenset[str] = frozenset()
    """Names of the checkpoints that this training has saved or gone on from; others are of an earlier one."""

    def save_checkpoint(self, filename: str) -> None:
        if self.local_rank != 0 or self.disable_checkpointing:
            super().save_checkpoint(filename)
        else:
            self.write_whole(filename)
        if not self.disable_checkpointing:  # the processes that write nothing may have to name the file too
            self.own_checkpoints |= {Path(filename).name}

    def write_whole(self, filename: str) -> None:
        """Let nnU-Net write the checkpoint under another name, and give it its own when it is on the disk.

        Raises:
            UserError: it cannot be written.
        """
        try:
            with atomic_write_with_companions(Path(filename)) as temporary:
                super().save_checkpoint(str(temporary))
        except (OSError, RuntimeError) as error:
            if not (reason := reason_not_written(error)):
                raise
            raise UserError(self.cannot_be_written(filename, reason)) from error

    def load_checkpoint(self, filename_or_checkpoint: dict | str) -> None:
        try:
            super().load_checkpoint(filename_or_checkpoint)
        except Exception as error:
            if isinstance(filename_or_checkpoint, str):
                refuse_damaged(Path(filename_or_checkpoint), error)
            raise
        if isinstance(filename_or_checkpoint, str):
            self.own_checkpoints |= {Path(filename_or_checkpoint).name}

    def last_checkpoint(self) -> "Checkpoint | None":
        """Checkpoint of this training from which ``--c`` goes on: the first one that is whole and finite."""
        own = (Path(self.output_folder, name) for name in CHECKPOINTS if name in self.own_checkpoints)
        return next((found for found in map(readable, own) if found and found.finite), None)

    def cannot_be_written(self, place: str, reason: str | None) -> str:
        """Tell what to do about a file or folder that cannot be written."""
        return f"{place} cannot be written ({reason}): make room or mend the permissions; {self.how_to_go_on()}."

    def how_to_go_on(self) -> str:
        """Tell how this training goes on, now that it ends too early."""
        checkpoint = self.last_checkpoint()
        if checkpoint is None:
            return "it has saved no checkpoint yet, so begin again with the same command"
        folder = checkpoint.path.parent
        before = [n for n in CHECKPOINTS[: CHECKPOINTS.index(checkpoint.path.name)] if (folder / n).exists()]
        away = f"move {' and '.join(before)}, of an earlier training, out of the folder, then " if before else ""
        return f"{away}the same command with --c goes on from {checkpoint}"


def reason_not_written(error: OSError | RuntimeError) -> str:
    """Reason for which a file could not be written, or nothing if the error is another one."""
    if isinstance(error, OSError):
        return reason(error)
    return "torch could not write all of it" if any(part in f"{error}" for part in TORCH_WRITES) else ""


# ---- reading ---------------------------------------------------------------------------------------------------------


class Checkpoint(NamedTuple):
    """A checkpoint that can be read."""

    path: Path
    epochs: int
    """Number of epochs that it has been trained."""
    finite: bool
    """Whether all weights are numbers."""

    def __str__(self) -> str:
        return f"{self.path.name} (after epoch {self.epochs - 1})"


def all_finite(values: Iterable[Any]) -> bool:
    """Whether all values of all tensors are numbers, with a single wait for each device; other values are ignored."""
    found: dict[torch.device, list[torch.Tensor]] = {}
    for value in values:
        if isinstance(value, torch.Tensor):
            found.setdefault(value.device, []).append(value.isfinite().all())
    return all(bool(torch.stack(of_device).all()) for of_device in found.values())


def readable(path: Path) -> Checkpoint | None:
    """Read a checkpoint without running code from it; ``None`` if it cannot be read so."""
    try:
        content = read_checkpoint(path)
        weights = content["network_weights"].values()
        return Checkpoint(path, int(content["current_epoch"]), all_finite(weights))
    except (UserError, KeyError, AttributeError, TypeError, ValueError):
        return None


def refuse_damaged(path: Path, error: Exception) -> None:
    """Refuse a checkpoint whose file is damaged, and tell what ``--c`` would go on from without it.

    Args:
        path: file that could not be loaded.
        error: that loading has raised. If the file is a checkpoint nevertheless, it has another cause.

    Raises:
        UserError: the file is damaged.
    """
    try:
        if {"network_weights", "current_epoch", "init_args", "logging"} <= read_checkpoint(path).keys():
            return
        reason = "it is no checkpoint of nnU-Net"
    except UserError as refusal:
        if refusal.__cause__ and is_whole(path):  # it holds more than weights
            return
        damage = refusal.__cause__ or refusal
        reason = (f"{damage}".strip().splitlines() or [type(damage).__name__])[0].partition(". ")[0]
    names = CHECKPOINTS[CHECKPOINTS.index(path.name) + 1 :] if path.name in CHECKPOINTS else CHECKPOINTS
    rest = [path.with_name(name) for name in names if path.with_name(name).exists()]
    whole = next((found for found in map(readable, rest) if found), None)
    damaged = rest[: rest.index(whole.path)] if whole else rest
    away = ", and with it ".join(["it", *(other.name for other in damaged)])
    then = f"--c then goes on from {whole}" if whole else "--c then begins anew, for no other checkpoint can be read"
    raise UserError(f"{path} cannot be read ({reason}): move {away} out of the folder; {then}.") from error


def is_whole(path: Path) -> bool:
    """Whether a file is an archive, as torch writes them, without damage."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False
