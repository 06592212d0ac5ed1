"""Proves for every trainer: its loss takes nnU-Net's four target formats, reaches every parameter and stays finite."""

import pytest
import torch
from cell_datasets import IGNORE, LABELS, REGIONS, REGIONS_IGNORE, initialized_trainer
from fake_cuda import fake_cuda_autocast

BATCH, CHANNELS, SIZE = 2, 3, (48, 64)

pytestmark = pytest.mark.usefixtures("results")


def target_of(kind: str, dataset_id: int) -> torch.Tensor:
    """A target as nnU-Net's loaders make it (contract 1.4): a label map, or boolean regions, the ignore mask last."""
    labels = torch.zeros(BATCH, 1, *SIZE, dtype=torch.int16)
    match kind:
        case "random":
            labels = torch.randint(0, 3, labels.shape, dtype=torch.int16)
        case "full":
            labels[:] = 2
        case "single pixel":
            labels[0, 0, 10, 10] = 1
        case "all ignored":
            labels[:] = 3
    if dataset_id in (IGNORE, REGIONS_IGNORE) and kind != "all ignored":
        labels[:, :, 30:] = 3
    if dataset_id in (REGIONS, REGIONS_IGNORE):
        maps = [(labels == 1) | (labels == 2), labels == 2]
        if dataset_id == REGIONS_IGNORE:
            maps.append(labels == 3)
        return torch.cat(maps, 1)
    return labels


def gradients(trainer) -> list[torch.Tensor]:
    return [p.grad for p in trainer.network.parameters()]


def test_loss_and_gradients_are_finite_for_every_target(trainer_and_dataset):
    trainer_name, dataset_id = trainer_and_dataset
    trainer = initialized_trainer(trainer_name, dataset_id)
    kinds = ["random", "empty", "full", "single pixel"]
    if dataset_id in (IGNORE, REGIONS_IGNORE):
        kinds.append("all ignored")
    for kind in kinds:
        trainer.optimizer.zero_grad(set_to_none=True)
        loss = trainer.loss(trainer.network(torch.randn(BATCH, CHANNELS, *SIZE)), [target_of(kind, dataset_id)])
        loss.backward()
        assert loss.isfinite(), kind
        assert all(g is not None and g.isfinite().all() for g in gradients(trainer)), kind
        if kind == "all ignored":
            assert all(not g.any() for g in gradients(trainer)), "what is not annotated must not train"


def test_every_parameter_receives_a_gradient(trainer_name):
    trainer = initialized_trainer(trainer_name, LABELS)
    torch.manual_seed(0)
    for parameter in trainer.network.parameters():  # away from gates that start at zero and hide what lies behind
        parameter.data += 0.02 * torch.randn_like(parameter)
    loss = trainer.loss(trainer.network(torch.randn(BATCH, CHANNELS, *SIZE)), [target_of("random", LABELS)])
    loss.backward()
    without = [name for name, p in trainer.network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without


def test_loss_is_smaller_where_the_prediction_is_trained(main_trainer_name):
    trainer = initialized_trainer(main_trainer_name, LABELS)
    torch.manual_seed(0)
    batch = {"data": torch.randn(BATCH, CHANNELS, *SIZE), "target": [target_of("random", LABELS)]}
    batch["target"][0][:, :, :24], batch["target"][0][:, :, 24:] = 0, 1
    losses = [float(trainer.train_step(batch)["loss"]) for _ in range(8)]
    assert losses[-1] < losses[0]


def test_mixed_precision_on_cuda_gives_a_float32_loss_on_the_device(trainer_and_dataset):
    trainer_name, dataset_id = trainer_and_dataset
    trainer = initialized_trainer(trainer_name, dataset_id)
    target = target_of("random", dataset_id)
    with fake_cuda_autocast():
        network = trainer.build_network_architecture(
            trainer.plans_manager,
            trainer.configuration_manager,
            CHANNELS,
            trainer.label_manager.num_segmentation_heads,
            True,
        )
        fake_target = torch.empty(target.shape, dtype=target.dtype)
        loss = trainer.loss(network(torch.randn(BATCH, CHANNELS, *SIZE)), [fake_target])
        assert loss.dtype == torch.float32
        assert loss.device.type == "cuda"
        network.deep_supervision = False
        with torch.no_grad():
            assert network.eval()(torch.randn(1, CHANNELS, *SIZE)).device.type == "cuda"
