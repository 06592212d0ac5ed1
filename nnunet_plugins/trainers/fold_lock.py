"""One training per fold: two would write the same checkpoints."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import torch.distributed as dist
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_plugins.errors import UserError
from nnunet_plugins.files import remove_partial
from nnunet_plugins.locks import NoLocks, holder, is_locked, lock

LOCK = ".training.lock"


class FoldLock(nnUNetTrainer):
    """Mixin: a training holds its fold's folder until it ends, and a second one is refused before it writes there."""

    def run_training(self) -> None:
        if self.local_rank != 0:
            super().run_training()
            return
        with one_training(Path(self.output_folder), self.print_to_log_file):
            super().run_training()


@contextmanager
def one_training(folder: Path, log: Callable[[str], None]) -> Iterator[None]:
    """Hold a fold's folder, and remove what a killed training has left half written there.

    Args:
        folder: of the fold.
        log: told if the folder's file system has no locks; the training then goes on without one.

    Raises:
        UserError: another training holds it.
    """
    path = folder / LOCK
    with ExitStack() as stack:
        try:
            held = stack.enter_context(lock(path, wait=False))
        except NoLocks as error:
            log(f"{error}, or see to it yourself that no second training of this fold runs.")
        else:
            if not held:
                raise in_training(folder)
            remove_partial(folder, "checkpoint_")
        yield


def refuse_fold_in_training(folder: Path) -> None:
    """Raise if another process trains a fold; of a training on several GPUs, the first process alone asks.

    Raises:
        UserError: it does.
    """
    is_first = not dist.is_initialized() or dist.get_rank() == 0
    with suppress(NoLocks):
        if is_first and is_locked(folder / LOCK):
            raise in_training(folder)


def in_training(folder: Path) -> UserError:
    process = holder(folder / LOCK)
    return UserError(f"{folder} is being trained by {process}: wait until that training ends, or end it first.")
