"""Dynamic Region-Guided Optimization as a mixin: its losses and its sampling for any trainer of nnU-Net's kind."""

from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class, nnUNetBaseDataset
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from torch import Tensor, nn

from nnunet_plugins.errors import UserError
from nnunet_plugins.losses import DRGOLoss
from nnunet_plugins.losses.common import LabelFormat
from nnunet_plugins.losses.drgo_regions import RegionStatistics, region_grid
from nnunet_plugins.trainers.data.region_importance import (
    Case,
    DamagedImportance,
    RegionImportance,
    class_frequency_of_cases,
    find_cases,
)
from nnunet_plugins.trainers.data.region_picture import draw_importance
from nnunet_plugins.trainers.data.region_sampling import RegionDataLoader
from nnunet_plugins.trainers.loss_terms import LossTerms
from nnunet_plugins.trainers.safe_training import SafeTraining


class Observation(NamedTuple):
    """Regions that a training step has seen, and its prediction in them."""

    regions: Tensor
    """Indices of the cases' regions, ``(B, cells of the patch)``; -1 where the patch shows no part of the case."""
    statistics: RegionStatistics
    """Statistics of the prediction in the cells."""


class DRGO(SafeTraining, LossTerms):
    """Mixin: ``class MyTrainer(DRGO, AnyTrainer)`` trains AnyTrainer's network with DRGO (docs/drgo.md).

    AnyTrainer's loss becomes ``L_seg``; its optimiser, schedule and augmentation stay. Its foreground oversampling is
    replaced by the sampling of regions, in training; validation draws its patches as nnU-Net does.

    The loader's workers read ``region_probabilities.npy`` in the fold's folder. Beside every checkpoint there is a file
    ``<checkpoint>_regions.npz``, from which ``--c`` goes on.
    """

    alpha: ClassVar[float] = 0.5  # weight of the adaptive loss, sec. 3.4.3
    beta: ClassVar[float] = 0.1  # weight of the boundary loss
    gamma: ClassVar[tuple[float, float]] = (0.7, 0.3)  # first and last epoch, sec. 3.4.2
    region_sampling: ClassVar[bool] = True
    picture_every: ClassVar[int] = 10  # epochs

    importance: RegionImportance | None = None
    """Importance of the training cases' regions; rank 0 alone has it, from the start of the training on."""
    regions_to_load: Path | None = None
    """File beside the checkpoint from which the training goes on."""
    observed: list[Observation]
    """Observations of this epoch's training steps."""

    def initialize(self) -> None:
        self.observed = []
        super().initialize()

    # ---- loss --------------------------------------------------------------------------------------------------------

    def _build_loss(self) -> nn.Module:
        label_format = LabelFormat(self.label_manager.has_regions, self.label_manager.ignore_label)
        return DRGOLoss(super()._build_loss(), label_format, alpha=self.alpha, beta=self.beta, gamma=self.gamma)

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self.observed = []
        self.print_to_log_file(f"gamma (uncertainty against imbalance): {self.loss.gamma:.4f}")

    def train_step(self, batch: dict) -> dict:
        result = super().train_step(batch)
        if self.region_sampling:
            self.observed.append(Observation(batch["regions"], self.loss.regions))
        return result

    # ---- sampling ----------------------------------------------------------------------------------------------------

    @property
    def probabilities_file(self) -> Path:
        return Path(self.output_folder, "region_probabilities.npy")

    def get_dataloaders(self):  # type: ignore[no-untyped-def]
        """Make nnU-Net's data loaders, that of the training with sampling of regions."""
        if not self.region_sampling:
            return super().get_dataloaders()
        if super().get_dataloaders.__func__ is not nnUNetTrainer.get_dataloaders:
            raise UserError(
                f"{type(self).__name__}: the trainer that DRGO is put on makes data loaders of its own, which region "
                "sampling would replace; set region_sampling = False."
            )
        if self.dataset_class is None:  # type: ignore[has-type]
            self.dataset_class = infer_dataset_class(self.preprocessed_dataset_folder)
        scales = self._get_deep_supervision_scales()
        label_options: dict[str, Any] = {
            "is_cascaded": self.is_cascaded,
            "foreground_labels": self.label_manager.foreground_labels,
            "regions": self.label_manager.foreground_regions if self.label_manager.has_regions else None,
            "ignore_label": self.label_manager.ignore_label,
        }
        self.dataset_tr, dataset_val = self.get_tr_and_val_datasets()
        training = self.training_loader(self.dataset_tr, scales, label_options)
        validation = nnUNetDataLoader(
            dataset_val,
            self.batch_size,
            self.configuration_manager.patch_size,
            self.configuration_manager.patch_size,
            self.label_manager,
            transforms=self.get_validation_transforms(scales, **label_options),
            **self.oversampling,
        )
        loaders = self.in_workers(training, 1), self.in_workers(validation, 2)
        for loader in loaders:
            next(loader)
        return loaders

    def training_loader(
        self, dataset: nnUNetBaseDataset, scales: list[list[float]] | None, label_options: dict[str, Any]
    ) -> RegionDataLoader:
        """Make the loader of the training, and prepare the importance from which it draws.

        Args:
            dataset: of the training cases.
            scales: of the targets for deep supervision.
            label_options: what nnU-Net's transforms must know of labels and cascade.
        """
        patch_size = self.configuration_manager.patch_size
        rotation, dummy_2d, loaded_size, mirror_axes = self.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        mask = self.configuration_manager.use_mask_for_norm
        transforms = self.get_training_transforms(
            patch_size, rotation, scales, mirror_axes, dummy_2d, use_mask_for_norm=mask, **label_options
        )
        cases = find_cases(dataset, patch_size)
        self.prepare_importance(dataset, cases)
        return RegionDataLoader(
            dataset,
            self.batch_size,
            loaded_size,
            patch_size,
            self.label_manager,
            cases=cases,
            probabilities=self.probabilities_file,
            patch_grid=region_grid(patch_size),
            transforms=transforms,
            **self.oversampling,
        )

    @property
    def oversampling(self) -> dict[str, Any]:
        """nnU-Net's options of a data loader for the oversampling of the foreground."""
        return {
            "oversample_foreground_percent": self.oversample_foreground_percent,
            "probabilistic_oversampling": self.probabilistic_oversampling,
        }

    def in_workers(self, loader: nnUNetDataLoader, divisor: int):  # type: ignore[no-untyped-def]
        """Run the loader in as many processes as nnU-Net would, divided by ``divisor``."""
        num_processes = get_allowed_n_proc_DA()
        if num_processes == 0:
            return SingleThreadedAugmenter(loader, None)
        return NonDetMultiThreadedAugmenter(
            loader,
            None,
            num_processes=max(1, num_processes // divisor),
            num_cached=max(6 // divisor, num_processes // (2 * divisor)),
            seeds=None,
            pin_memory=self.device.type == "cuda",
            wait_time=0.002,
        )

    def prepare_importance(self, dataset: nnUNetBaseDataset, cases: dict[str, Case]) -> None:
        """Load the importance that belongs to the checkpoint from which the training goes on, or begin a new one."""
        path = self.regions_to_load
        loaded = self.load_importance(path, cases) if path is not None else None
        importance = loaded or RegionImportance(cases, self.class_frequency(dataset, cases))
        if self.local_rank == 0:
            self.importance = importance
            np.save(self.probabilities_file, importance.probabilities())
        if self.is_ddp:
            dist.barrier()

    def load_importance(self, path: Path, cases: dict[str, Case]) -> RegionImportance | None:
        """Load the importance of a checkpoint, and say so if there is none, or if it is another epoch's."""
        if self.local_rank == 0:
            finish_saving(path, cases, self.current_epoch)
        if self.is_ddp:
            dist.barrier()
        try:
            if not path.is_file():
                raise DamagedImportance(f"{path} is missing")
            importance, epoch = RegionImportance.load(path, cases)
        except DamagedImportance as damage:
            self.print_to_log_file(
                f"{damage}: the importance of the regions begins anew with their classes' frequency."
            )
            return None
        if epoch != self.current_epoch:
            self.print_to_log_file(
                f"{path.name} is of epoch {epoch}, the checkpoint of epoch {self.current_epoch}: the training was "
                "stopped while it saved them. It goes on with both."
            )
        return importance

    def class_frequency(self, dataset: nnUNetBaseDataset, cases: dict[str, Case]) -> np.ndarray:
        """Compute the class frequency of each region, ``(regions,)``; every process does its share of the cases."""
        labels = self.label_manager.all_labels  # without the ignore label
        if not self.is_ddp:
            of_cases = class_frequency_of_cases(dataset, cases, labels)
        else:
            rank, num_ranks = dist.get_rank(), dist.get_world_size()
            of_ranks: list[dict[str, np.ndarray]] = [{}] * num_ranks
            dist.all_gather_object(of_ranks, class_frequency_of_cases(dataset, cases, labels, rank, num_ranks))
            of_cases = {identifier: values for of_rank in of_ranks for identifier, values in of_rank.items()}
        return np.concatenate([of_cases[identifier] for identifier in cases])

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        super().on_train_epoch_end(train_outputs)
        if self.region_sampling:
            seen = gathered(self.observed)
            if self.importance is not None:
                self.importance.update(*seen)
                np.load(self.probabilities_file, mmap_mode="r+")[:] = self.importance.probabilities()

    def on_epoch_end(self) -> None:
        if self.importance is not None and (self.current_epoch + 1) % self.picture_every == 0:
            path = Path(self.output_folder, f"region_importance_epoch_{self.current_epoch + 1:04d}.png")
            draw_importance(self.dataset_tr, self.importance, path)
        super().on_epoch_end()

    # ---- checkpoints -------------------------------------------------------------------------------------------------

    def save_checkpoint(self, filename: str) -> None:
        """Save the checkpoint, and the importance that belongs to it, so that a stop in between separates neither."""
        if self.importance is None or self.disable_checkpointing:
            super().save_checkpoint(filename)
            return
        path = regions_file(filename)
        self.importance.save(next_regions_file(path), self.current_epoch + 1)
        super().save_checkpoint(filename)
        self.put_importance_in_place(path)

    def put_importance_in_place(self, path: Path) -> None:
        """Let the importance that was saved replace that of the checkpoint before."""
        next_regions_file(path).replace(path)

    def load_checkpoint(self, filename_or_checkpoint: dict | str) -> None:
        super().load_checkpoint(filename_or_checkpoint)
        if isinstance(filename_or_checkpoint, str):
            self.regions_to_load = regions_file(filename_or_checkpoint)

    def on_train_end(self) -> None:
        super().on_train_end()
        if self.importance is None:
            return  # rank 0, which writes these files, may be at it
        regions_file(Path(self.output_folder, "checkpoint_latest.pth")).unlink(missing_ok=True)
        for left_by_an_interruption in Path(self.output_folder).glob(next_regions_file(Path("*")).name):
            left_by_an_interruption.unlink()


def regions_file(checkpoint: str | Path) -> Path:
    """File beside a checkpoint that holds the importance of the regions."""
    return Path(checkpoint).with_name(f"{Path(checkpoint).stem}_regions.npz")


def next_regions_file(path: Path) -> Path:
    """File that takes the place of a regions file when the checkpoint has been saved."""
    return path.with_name(f".{path.name}.next")


def finish_saving(path: Path, cases: dict[str, Case], epoch: int) -> None:
    """Put a newer regions file in its place, if the training was stopped right after it had saved the checkpoint.

    Args:
        path: regions file.
        cases: all training cases.
        epoch: of the checkpoint.
    """
    newer = next_regions_file(path)
    with suppress(DamagedImportance):
        if newer.is_file() and RegionImportance.load(newer, cases)[1] == epoch:
            newer.replace(path)


def gathered(observed: list[Observation]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gather regions, boundary uncertainties and entropies that all processes have seen, each ``(n,)``."""
    regions = torch.cat([o.regions.flatten() for o in observed]).numpy()
    boundary, entropy, annotated = (
        torch.cat([getattr(o.statistics, name).flatten() for o in observed]).cpu().numpy()
        for name in ("boundary", "uncertainty", "annotated")
    )
    known = (regions >= 0) & (annotated > 0)
    mine = (regions[known], boundary[known], entropy[known])
    if not dist.is_initialized():
        return mine
    of_all: list[tuple[np.ndarray, ...]] = [()] * dist.get_world_size()
    dist.all_gather_object(of_all, mine)
    regions, boundary, entropy = map(np.concatenate, zip(*of_all, strict=True))
    return regions, boundary, entropy
