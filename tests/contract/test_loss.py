"""Proves for every trainer: its loss takes nnU-Net's four target formats, reaches every parameter and stays finite."""

from typing import Any

import pytest
import torch
from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform
from support.cell_datasets import FORMATS, IMAGE_SIZE, LABELS, VOLUME_FORMATS, VOLUME_SIZES, initialized_trainer
from support.fake_cuda import fake_cuda_autocast, on_fake_cuda
from torch import Tensor

from nnunet_plugins.architectures import DCSNet
from nnunet_plugins.trainers import find_trainer

BATCH = 2

pytestmark = pytest.mark.usefixtures("results")


def size_of(dataset_id: int) -> tuple[int, ...]:
    return VOLUME_SIZES.get(dataset_id, IMAGE_SIZE)


def random_image(dataset_id: int, batch: int = BATCH) -> Tensor:
    return torch.randn(batch, 1 if dataset_id in VOLUME_FORMATS else 3, *size_of(dataset_id))


def target_of(kind: str, dataset_id: int) -> Tensor:
    """A target as nnU-Net's loaders make it: a label map, or boolean regions, the ignore mask last."""
    label_format = (FORMATS | VOLUME_FORMATS)[dataset_id]
    labels = torch.zeros(BATCH, 1, *size_of(dataset_id), dtype=torch.int16)
    match kind:
        case "random":
            labels = torch.randint(0, 3, labels.shape, dtype=torch.int16)
        case "full":
            labels[:] = 2
        case "single pixel":
            labels.view(-1)[1234] = 1
        case "all ignored":
            labels[:] = 3
    if "ignore" in label_format and kind != "all ignored":
        labels[..., -8:] = 3
    if not isinstance(label_format["nucleus"], list):
        return labels
    maps = [(labels == 1) | (labels == 2), labels == 2]
    return torch.cat([*maps, labels == 3] if "ignore" in label_format else maps, 1)


def as_nnunet_hands_it(target: Tensor, trainer) -> Tensor | list[Tensor]:
    """The target, or the list of targets at the scales of the trainer's deep supervision."""
    scales = trainer._get_deep_supervision_scales()
    if scales is None:
        return target
    downsample = DownsampleSegForDSTransform(ds_scales=scales)
    samples = [downsample(segmentation=sample)["segmentation"] for sample in target]
    return [torch.stack(scale) for scale in zip(*samples, strict=True)]


def batch_of(kind: str, dataset_id: int, trainer) -> dict:
    """A batch as the trainer's loader makes it, of patches that show no known region of a case."""
    target = as_nnunet_hands_it(target_of(kind, dataset_id), trainer)
    return {"data": random_image(dataset_id), "target": target, "regions": torch.full((BATCH, 1), -1)}


def outputs_for(trainer, images: Tensor, target: Tensor | list[Tensor]) -> Any:
    """Outputs of the network for a batch in training."""
    return trainer.network(trainer.network_input({"data": images, "target": target}))


def gradients(trainer) -> list[torch.Tensor]:
    return [p.grad for p in trainer.network.parameters()]


def test_loss_and_gradients_are_finite_for_every_target(trainer_and_targets):
    trainer_name, dataset_id = trainer_and_targets
    trainer = initialized_trainer(trainer_name, dataset_id)
    kinds = ["random", "empty", "full", "single pixel"]
    if trainer.label_manager.has_ignore_label:
        kinds.append("all ignored")
    for kind in kinds:
        trainer.optimizer.zero_grad(set_to_none=True)
        target = as_nnunet_hands_it(target_of(kind, dataset_id), trainer)
        loss = trainer.loss(outputs_for(trainer, random_image(dataset_id), target), target)
        loss.backward()
        assert loss.isfinite(), kind
        assert all(g is not None and g.isfinite().all() for g in gradients(trainer)), kind
        if kind == "all ignored":
            assert all(not g.any() for g in gradients(trainer)), "what is not annotated must not train"


def test_every_parameter_receives_a_gradient(network_name, monkeypatch):
    """DDP waits for gradients in every stage of a training. They may be zeros in one stage, but not in all."""
    if network_name.startswith("ConDSegTrainer"):  # with few channels its gates have one hidden unit, which may be dead
        wide = find_trainer("ConDSegTrainer").network_kwargs | {"channels": 128}
        monkeypatch.setattr(find_trainer("ConDSegTrainer"), "network_kwargs", wide)
    torch.manual_seed(0)
    trainer = initialized_trainer(f"{network_name}_2epochs", LABELS)
    for parameter in trainer.network.parameters():  # away from gates that start at zero and hide what lies behind
        parameter.data += 0.02 * torch.randn_like(parameter)
    batch = batch_of("random", LABELS, trainer)
    idle = {name for name, _ in trainer.network.named_parameters()}
    for epoch in range(2):
        trainer.current_epoch = epoch
        trainer.on_train_epoch_start()
        trainer.train_step(batch)
        assert all(gradient is not None for gradient in gradients(trainer))
        idle &= {name for name, parameter in trainer.network.named_parameters() if not parameter.grad.any()}
        if not idle:
            break
    assert not idle


def test_loss_is_smaller_where_the_prediction_is_trained(main_network_name):
    torch.manual_seed(0)
    trainer = initialized_trainer(main_network_name, LABELS)
    target = target_of("empty", LABELS)
    target[:, :, 24:] = 1
    batch = batch_of("empty", LABELS, trainer) | {"target": as_nnunet_hands_it(target, trainer)}
    losses = [float(trainer.train_step(batch)["loss"]) for _ in range(12)]
    assert sum(losses[-4:]) < sum(losses[:4])  # ConDSeg's views are random ones


def test_mixed_precision_on_cuda_gives_a_float32_loss_on_the_device(trainer_and_targets):
    trainer_name, dataset_id = trainer_and_targets
    trainer = initialized_trainer(trainer_name, dataset_id)
    target = as_nnunet_hands_it(target_of("random", dataset_id), trainer)
    with fake_cuda_autocast():
        if isinstance(target, list):
            fake_target = [torch.empty(t.shape, dtype=t.dtype) for t in target]
        else:
            fake_target = torch.empty(target.shape, dtype=target.dtype)
        batch = {"data": random_image(dataset_id), "target": fake_target}
        with torch.device("cpu"):  # as in a training: what names no device is made there
            network = trainer.build_network_architecture(
                trainer.plans_manager,
                trainer.configuration_manager,
                batch["data"].shape[1],
                trainer.label_manager.num_segmentation_heads,
                trainer.enable_deep_supervision,
            )
            network = on_fake_cuda(network)
            loss = trainer.loss(network(trainer.network_input(batch)), fake_target)
            saved = network.state_dict().values()
        assert loss.dtype == torch.float32
        assert {tensor.device.type for tensor in (loss, *saved)} == {"cuda"}
        if isinstance(network, DCSNet):  # which detects at inference by values that fake tensors have not
            return
        network.deep_supervision = False
        with torch.no_grad():
            assert network.eval()(random_image(dataset_id, batch=1)).device.type == "cuda"
