"""Proves: DRGO's sampling learns from what training sees, survives ``--c``, and works with any trainer and dataset."""

from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.run.run_training import maybe_load_checkpoint
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from support import cell_datasets
from support.cell_datasets import LABELS, REGIONS_IGNORE, THICK_VOLUMES, VOLUMES, make_trainer

from nnunet_plugins.errors import UserError
from nnunet_plugins.losses.drgo_regions import RegionStatistics
from nnunet_plugins.trainers import find_trainer
from nnunet_plugins.trainers.data.region_importance import class_frequency, count_labels
from nnunet_plugins.trainers.data.region_sampling import RegionDataLoader
from nnunet_plugins.trainers.drgo import DRGO, Observation, gathered

NAME = "DRGOTrainer_2epochs_2iterations"

pytestmark = pytest.mark.usefixtures("results", "narrow")


def started(name=NAME, dataset_id=LABELS, **kwargs):
    trainer = make_trainer(name, dataset_id, **kwargs)
    trainer.save_every = 1
    trainer.on_train_start()
    return trainer


def run_epoch(trainer):
    """Run an epoch in the steps of ``run_training``."""
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    steps = range(trainer.num_iterations_per_epoch)
    trainer.on_train_epoch_end([trainer.train_step(next(trainer.dataloader_train)) for _ in steps])
    with torch.no_grad():
        trainer.on_validation_epoch_start()
        trainer.on_validation_epoch_end([trainer.validation_step(next(trainer.dataloader_val))])
    trainer.on_epoch_end()


def stored(trainer):
    return np.load(trainer.probabilities_file)


def test_the_first_epoch_knows_class_frequency_alone_and_the_next_what_it_saw():
    trainer = started()
    importance = trainer.importance
    assert np.isnan(importance.boundary).all() and np.isnan(importance.entropy).all()
    before = importance.probabilities()
    assert np.array_equal(stored(trainer), before)
    run_epoch(trainer)
    seen = ~np.isnan(importance.entropy)
    assert seen.any()
    assert np.array_equal(seen, ~np.isnan(importance.boundary))
    assert (importance.entropy[seen] > 0).all() and (importance.entropy[seen] <= np.log(3) + 1e-6).all()
    assert not np.array_equal(importance.probabilities(), before)
    assert np.array_equal(stored(trainer), importance.probabilities())


@pytest.mark.parametrize("dataset_id", [LABELS, REGIONS_IGNORE], ids=cell_datasets.NAMES.get)
def test_classes_are_counted_in_the_training_cases_without_what_is_ignored(dataset_id):
    trainer = started(dataset_id=dataset_id)
    dataset, importance = trainer.dataset_tr, trainer.importance
    assert list(importance.cases) == dataset.identifiers
    assert np.isfinite(importance.frequency).any()
    for identifier, case in importance.cases.items():
        labels = np.asarray(dataset.load_case(identifier)[1][0])
        expected = class_frequency(count_labels(labels, case.grid, (0, 1, 2)))
        assert np.array_equal(importance.frequency[case.regions], expected, equal_nan=True)


def test_training_draws_regions_and_validation_as_nnunet():
    trainer = started()
    assert type(trainer.dataloader_train.data_loader) is RegionDataLoader
    assert type(trainer.dataloader_val.data_loader) is nnUNetDataLoader
    plain = started("MedFusionTransNetTrainer_woSampling_1epoch_1iterations")
    assert type(plain.dataloader_train.data_loader) is nnUNetDataLoader
    run_epoch(plain)
    assert not plain.probabilities_file.exists()
    assert not list(Path(plain.output_folder).glob("*_regions.npz"))


def test_loaders_are_made_as_nnunet_makes_them():
    """All options of the loaders equal those of nnU-Net's own; only the class of the training's loader differs."""
    ours, stock = started(), started("MedFusionTransNetTrainer_woSampling_1epoch_1iterations")
    for name in ("dataloader_train", "dataloader_val"):
        made, expected = (getattr(trainer, name).data_loader for trainer in (ours, stock))
        for attribute in ("indices", "batch_size", "patch_size", "final_patch_size", "need_to_pad", "has_ignore"):
            assert np.array_equal(getattr(made, attribute), getattr(expected, attribute)), attribute
        assert made.oversample_foreground_percent == expected.oversample_foreground_percent
        assert made.get_do_oversample.__name__ == expected.get_do_oversample.__name__
    transforms = [
        [type(t) for t in x.transforms]
        for x in (ours.dataloader_train.data_loader.augmentation, stock.dataloader_train.data_loader.transforms)
    ]
    assert transforms[0][: len(transforms[1])] == transforms[1]  # and then the targets of deep supervision
    assert ours.dataloader_train.data_loader.final_patch_size[1:] == tuple(ours.configuration_manager.patch_size)


def test_without_checkpoints_no_state_of_the_regions_is_written():
    trainer = started()
    trainer.disable_checkpointing = True
    run_epoch(trainer)
    assert names_in(trainer) == ["region_probabilities.npy"]


def test_a_trainer_with_data_loaders_of_its_own_is_refused():
    class Own(find_trainer("DLKUNetSTrainer")):
        def get_dataloaders(self):
            return super().get_dataloaders()

    plans = cell_datasets.load_plans(LABELS) | {"continue_training": False}
    dataset_json = cell_datasets.load_dataset_json(LABELS)
    trainer = type("Mine", (DRGO, Own), {})(plans, "2d", 0, dataset_json, torch.device("cpu"))
    trainer.initialize()
    with pytest.raises(UserError, match="region_sampling = False"):
        trainer.get_dataloaders()
    type(trainer).region_sampling = False
    assert type(trainer.get_dataloaders()[0].data_loader) is nnUNetDataLoader


def test_workers_load_what_one_process_loads(monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "2")
    trainer = started()
    try:
        run_epoch(trainer)
    finally:
        trainer.on_train_end()
    assert (~np.isnan(trainer.importance.entropy)).any()


def test_slices_of_volumes_update_the_regions_of_their_volume(planned):
    plans = cell_datasets.load_plans(VOLUMES) | {"continue_training": False}
    assert "2d" in plans["configurations"]
    plans["configurations"]["2d"]["data_identifier"] = "nnUNetPlans_3d_fullres"  # isotropic: the same voxels
    trainer = find_trainer(NAME)(plans, "2d", 0, cell_datasets.load_dataset_json(VOLUMES), torch.device("cpu"))
    trainer.on_train_start()
    assert all(len(case.grid) == 3 and case.shape[0] > 1 for case in trainer.importance.cases.values())
    run_epoch(trainer)
    assert (~np.isnan(trainer.importance.entropy)).any()


def test_observations_are_gathered_cell_by_cell():
    def statistics(values):
        x = torch.tensor(values).view(2, 1, 1, 2)
        return RegionStatistics(x, x / 10, (x > 1).float())  # the first cell has no annotation

    first = Observation(torch.tensor([[4, 5], [-1, 7]]), statistics([1.0, 2.0, 3.0, 4.0]))
    second = Observation(torch.tensor([[5, 6], [7, -1]]), statistics([5.0, 6.0, 7.0, 8.0]))
    regions, boundary, entropy = gathered([first, second])
    assert regions.tolist() == [5, 7, 5, 6, 7]
    assert entropy.tolist() == [2, 4, 5, 6, 7]
    assert boundary.tolist() == pytest.approx([0.2, 0.4, 0.5, 0.6, 0.7])


# ---- files -----------------------------------------------------------------------------------------------------------


def names_in(trainer, pattern="*region*"):
    return sorted(path.name for path in Path(trainer.output_folder).glob(pattern))


@pytest.mark.parametrize("dataset_id", [LABELS, THICK_VOLUMES], ids=cell_datasets.NAMES.get)
def test_a_picture_is_drawn_every_so_many_epochs(dataset_id, monkeypatch):
    assert DRGO.picture_every == 10
    monkeypatch.setattr(DRGO, "picture_every", 2)
    trainer = started("DRGOTrainer_3epochs_1iterations", dataset_id)
    for _ in range(3):
        run_epoch(trainer)
    assert names_in(trainer, "*.png") == ["progress.png", "region_importance_epoch_0002.png"]
    picture = Path(trainer.output_folder, "region_importance_epoch_0002.png").read_bytes()
    assert picture.startswith(b"\x89PNG")


def test_a_finished_training_leaves_the_importance_of_best_and_final_checkpoint():
    trainer = make_trainer(NAME, LABELS)
    trainer.save_every = 1
    trainer.run_training()
    assert names_in(trainer) == [
        "checkpoint_best_regions.npz",
        "checkpoint_final_regions.npz",
        "region_probabilities.npy",
    ]


def test_other_processes_leave_the_files_alone_that_the_first_one_writes(tmp_path, monkeypatch):
    trainer = make_trainer(NAME, LABELS)
    trainer.local_rank = 1  # which has no importance
    monkeypatch.setattr(nnUNetTrainer, "on_train_end", lambda self: None)
    being_written = Path(trainer.output_folder, ".checkpoint_final_regions.npz.next")
    being_written.touch()
    trainer.on_train_end()
    assert being_written.exists()


def interrupted(tmp_path, monkeypatch, epochs=1):
    """A training of two epochs that was stopped after the first."""
    monkeypatch.setenv("NNUNET_PLUGINS_SEED", "5")
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "interrupted"))
    trainer = started()
    for _ in range(epochs):
        run_epoch(trainer)
    return trainer


def resumed(monkeypatch, tmp_path):
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "interrupted"))
    trainer = make_trainer(NAME, LABELS, continue_training=True)
    maybe_load_checkpoint(trainer, continue_training=True, validation_only=False)
    trainer.on_train_start()
    return trainer


def test_the_importance_of_regions_survives_a_resume(tmp_path, monkeypatch):
    first = interrupted(tmp_path, monkeypatch)
    state = first.importance
    second = resumed(monkeypatch, tmp_path)
    assert second.current_epoch == 1
    for name in ("frequency", "boundary", "entropy"):
        assert np.array_equal(getattr(second.importance, name), getattr(state, name), equal_nan=True)
    assert np.array_equal(stored(second), state.probabilities())


def test_a_resumed_training_learns_the_same_importance_as_an_uninterrupted_one(tmp_path, monkeypatch):
    first = interrupted(tmp_path, monkeypatch)
    run_epoch(first)
    second = resumed(monkeypatch, tmp_path)
    assert not np.array_equal(second.importance.entropy, first.importance.entropy, equal_nan=True)
    run_epoch(second)
    assert np.array_equal(second.importance.entropy, first.importance.entropy, equal_nan=True)


def test_a_resumed_training_does_not_count_again(tmp_path, monkeypatch):
    interrupted(tmp_path, monkeypatch)
    monkeypatch.setattr(DRGO, "class_frequency", None)
    resumed(monkeypatch, tmp_path)


def test_a_stop_between_saving_importance_and_checkpoint_is_logged(tmp_path, monkeypatch):
    first = interrupted(tmp_path, monkeypatch)
    first.importance.save(Path(first.output_folder, "checkpoint_latest_regions.npz"), epoch=2)
    second = resumed(monkeypatch, tmp_path)
    assert "is of epoch 2, the checkpoint of epoch 1" in Path(second.log_file).read_text()


def test_a_checkpoint_without_its_importance_begins_with_class_frequency_and_says_so(tmp_path, monkeypatch):
    first = interrupted(tmp_path, monkeypatch)
    Path(first.output_folder, "checkpoint_latest_regions.npz").unlink()
    second = resumed(monkeypatch, tmp_path)
    assert np.isnan(second.importance.entropy).all()
    assert "checkpoint_latest_regions.npz is missing" in Path(second.log_file).read_text()


def test_the_importance_of_another_fold_is_refused(tmp_path, monkeypatch):
    first = interrupted(tmp_path, monkeypatch)
    other = started(fold=1)
    name = "checkpoint_latest_regions.npz"
    other.importance.save(Path(first.output_folder, name), epoch=1)
    with pytest.raises(UserError, match=name):
        resumed(monkeypatch, tmp_path)


# ---- other trainers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["DLKUNetSTrainer", "DCFFSNetTrainer", "nnUNetTrainer"])
def test_any_trainer_can_borrow_drgo(base):
    """Trainers whose augmentation rotates first, with several outputs, and of nnU-Net itself."""
    trainer_class = nnUNetTrainer if base == "nnUNetTrainer" else find_trainer(base)
    mine = type(f"DRGO{base}", (DRGO, trainer_class), {"num_iterations_per_epoch": 1, "num_epochs": 1})
    plans = cell_datasets.load_plans(LABELS) | {"continue_training": False}
    trainer = mine(plans, "2d", 0, cell_datasets.load_dataset_json(LABELS), torch.device("cpu"))
    trainer.num_iterations_per_epoch = 1
    trainer.disable_checkpointing = True
    trainer.on_train_start()
    run_epoch(trainer)
    assert (~np.isnan(trainer.importance.entropy)).any()
    assert np.isfinite(trainer.logger.get_checkpoint()["train_losses"]).all()
