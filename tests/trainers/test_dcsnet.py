"""Proves: DCSNet's trainer works at the paper's rates whatever a patch shows, and blends tiles and mirrors well."""

import numpy as np
import pytest
import timm
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from support import cell_datasets
from support.cell_datasets import LABELS, REGIONS, initialized_trainer
from support.narrow import NETWORK_KWARGS

from nnunet_plugins.architectures import DCSNet
from nnunet_plugins.architectures.dcsnet import Segments
from nnunet_plugins.architectures.layers.boxes import crop_boxes
from nnunet_plugins.errors import UserError
from nnunet_plugins.losses.common import LabelFormat
from nnunet_plugins.trainers import find_trainer
from nnunet_plugins.trainers.data.object_boxes import objects_in
from nnunet_plugins.trainers.dcsnet import clip_gradients

pytestmark = pytest.mark.usefixtures("results", "narrow")


@pytest.fixture
def small(monkeypatch):
    """``small(name)``: an initialised trainer with a narrow network, and other arguments of it if they matter."""

    def trainer(name="DCSNetTrainer", dataset_id=LABELS, **network_kwargs):
        trainer_class = find_trainer(name)
        monkeypatch.setattr(trainer_class, "network_kwargs", trainer_class.network_kwargs | network_kwargs)
        return initialized_trainer(name, dataset_id)

    return trainer


def with_lesions(boxes, size=(48, 60)):
    """A batch of two, with squares of class 1 in the first image."""
    labels = torch.zeros(2, 1, *size, dtype=torch.int16)
    for x1, y1, x2, y2 in boxes:
        labels[0, 0, y1:y2, x1:x2] = 1
    return {"data": torch.randn(2, 3, *size) + labels, "target": [labels]}


def test_volumes_are_refused_in_one_sentence():
    with pytest.raises(UserError, match=r"^DCSNetTrainer works in 2D only, but configuration 3d_fullres is 3D: .*\.$"):
        initialized_trainer("DCSNetTrainer", cell_datasets.VOLUMES)


# ---- training --------------------------------------------------------------------------------------------------------

FORTY = [(x, y, x + 2, y + 2) for x in range(0, 60, 6) for y in range(0, 40, 10)]


@pytest.mark.parametrize(
    "boxes",
    [[], FORTY, [(30, 20, 31, 21)], [(0, 0, 60, 48)]],
    ids=["no lesion", "forty", "a pixel", "the whole patch"],
)
@pytest.mark.parametrize("name", ["DCSNetTrainer", "DCSNetTrainer_woDGHC"])
def test_degenerate_batches_train_and_validate(small, name, boxes):
    trainer = small(name, max_boxes=24)
    trainer.on_train_epoch_start()
    batch = with_lesions(boxes)
    assert np.isfinite(trainer.train_step(batch)["loss"])
    gradients = [p.grad for p in trainer.network.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    trainer.on_validation_epoch_start()
    with torch.no_grad():
        assert np.isfinite(trainer.validation_step(batch)["loss"])


def test_boxes_to_detect_and_to_segment_have_the_trainers_margin(small, monkeypatch):
    trainer, batch = small(), with_lesions([(20, 12, 32, 24)])
    assert trainer.network_input(batch).objects.boxes.tolist() == [[0, 15, 7, 37, 29]]
    monkeypatch.setattr(type(trainer), "box_margin", 0.0)
    torch.testing.assert_close(trainer.network_input(batch).objects.boxes, torch.tensor([[0, 18.8, 10.8, 33.2, 25.2]]))


def test_optimiser_is_the_papers_and_gradients_are_clipped_to_one(small):
    trainer = small()
    assert isinstance(trainer.optimizer, torch.optim.AdamW)
    (group,) = trainer.optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (2e-4, 1e-4)
    trainer.on_train_epoch_start()
    for parameter in trainer.network.parameters():  # a loss that is far too large
        parameter.data *= 1.5
    trainer.train_step(with_lesions(FORTY))
    norms = torch.stack([p.grad.norm() for p in trainer.network.parameters()])
    assert norms.norm().item() == pytest.approx(1.0, rel=1e-4)


def test_clipping_leaves_small_gradients_alone():
    parameter = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    for gradient, expected in (([0.3, 0.4], [0.3, 0.4]), ([3.0, 4.0], [0.6, 0.8])):
        parameter.grad = torch.tensor(gradient)
        clip_gradients(optimizer, max_norm=1.0)
        torch.testing.assert_close(parameter.grad, torch.tensor(expected), rtol=1e-4, atol=0)


def test_a_training_of_the_first_versions_goes_on(small):
    """Their levels shared positions; the moments of these begin anew, those of all others stay."""
    trainer, batch = small(), with_lesions(FORTY)
    trainer.on_train_epoch_start()
    trainer.train_step(batch)
    names = [name for name, _ in trainer.network.named_parameters()]
    saved = trainer.optimizer.state_dict()
    index = names.index("msfa.attention.positions")
    saved["state"][index] |= {key: saved["state"][index][key][0] for key in ("exp_avg", "exp_avg_sq")}
    trainer.optimizer.load_state_dict(saved)
    moments = [trainer.optimizer.state[parameter] for parameter in trainer.network.parameters()]
    assert [name for name, own in zip(names, moments, strict=True) if not own] == ["msfa.attention.positions"]
    assert np.isfinite(trainer.train_step(batch)["loss"])


WIDE = {
    "backbone": "resnet10t",
    "base_size": 32,
    "features": 256,
    "widths": (64, 128, 256, 512),
    "fused_channels": 64,
    "box_head_channels": 1024,
    "max_boxes": 24,
}
"""The published network with a small backbone, which learns in a few steps."""


@pytest.mark.slow
def test_detector_learns_where_an_object_is_and_the_head_what_it_looks_like(small):
    """The same batch is shown again and again."""
    torch.manual_seed(0)
    trainer = small(**WIDE)
    trainer.on_train_epoch_start()
    batch = with_lesions([(20, 12, 32, 24)])
    batch["data"] += 4 * (batch["target"][0] > 0)
    for _ in range(35):
        trainer.train_step(batch)
    with torch.no_grad():  # so few steps leave the running statistics behind the weights
        for _ in range(50):
            trainer.network(trainer.network_input(batch))
    trainer.on_validation_epoch_start()
    with torch.no_grad():
        outcome = trainer.validation_step(batch)
    tp, fp, fn = (outcome[key][0] for key in ("tp_hard", "fp_hard", "fn_hard"))
    dice = 2 * tp / (2 * tp + fp + fn)
    assert dice > 0.7, dice


def test_heads_are_regions_if_the_dataset_has_regions(small):
    assert small().bare_network.msfa.has_background == 1
    assert small(dataset_id=REGIONS).bare_network.msfa.has_background == 0


def test_pretrained_encoder_starts_from_the_weights_in_the_folder(tmp_path, monkeypatch):
    torch.manual_seed(3)
    backbone = NETWORK_KWARGS["DCSNetTrainer"]["backbone"]
    weights = timm.create_model(backbone, pretrained=False).state_dict()
    torch.save(weights, tmp_path / f"{backbone}.pth")
    monkeypatch.setenv("NNUNET_PLUGINS_WEIGHTS", str(tmp_path))
    encoder = initialized_trainer("DCSNetTrainer_pretrained", LABELS).bare_network.encoder.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in encoder.items())


# ---- rate ------------------------------------------------------------------------------------------------------------


def test_trainers_rates_follow_the_logged_validation_losses(small):
    trainer = small()
    for epoch in range(13):
        trainer.current_epoch = epoch
        trainer.on_train_epoch_start()
        trainer.logger.log("val_losses", 1.0 if epoch else 2.0, epoch)
    assert trainer.logger.get_value("lrs", step=None) == [2e-4] * 11 + [1e-4] * 2


# ---- tiles and mirrors -----------------------------------------------------------------------------------------------

LESION = (slice(30, 44), slice(56, 74))
"""Place in an image of 96 x 128; tiles of 64 x 64 begin at columns 0, 32 and 64, so that two of them cut it."""


def seeing(monkeypatch, network, overlooks=lambda image, boxes: boxes):
    """Let the network detect all bright objects but those that it overlooks, and segment them perfectly."""

    def detect(features, images):
        return overlooks(images, objects_in((images > 0.5).short(), LabelFormat()).boxes)

    def segment(features, boxes):
        maps = crop_boxes(12 * features - 6, boxes, 64)
        return Segments(torch.cat((torch.zeros_like(maps), maps), 1), (), maps)

    monkeypatch.setattr(network, "pyramid", lambda images: images)
    monkeypatch.setattr(network, "detect", detect)
    monkeypatch.setattr(network, "segment", segment)


def predicted(network, image):
    """Segmentation by nnU-Net's sliding window with mirroring."""
    plans = PlansManager(cell_datasets.plans_for_patch((64, 64)))
    predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False)
    dataset_json = {"labels": {"background": 0, "lesion": 1}, "channel_names": {"0": "CT"}}
    configuration = plans.get_configuration("2d")
    predictor.manual_initialization(network, plans, configuration, None, dataset_json, "DCSNetTrainer", (0, 1))
    return predictor.predict_sliding_window_return_logits(image[None, None])[:, 0].argmax(0)


def overlook_what_is_cut(images, boxes):
    """Detect only boxes that do not touch the border of the tile."""
    height, width = images.shape[2:]
    _, x1, y1, x2, y2 = boxes.T
    return boxes[(x1 > 0) & (y1 > 0) & (x2 < width) & (y2 < height)]


class EveryFourth:
    """Detector that finds nothing at every fourth call, which is one of the four mirrored copies of a tile."""

    calls = 0

    def __call__(self, images, boxes):
        self.calls += 1
        return boxes[: len(boxes) if self.calls % 4 else 0]


@pytest.mark.parametrize("overlooks", [lambda images, boxes: boxes, overlook_what_is_cut, EveryFourth()])
def test_a_lesion_cut_by_tile_borders_comes_out_whole(planned, monkeypatch, overlooks):
    network = DCSNet(1, 2, backbone="resnet10t")
    seeing(monkeypatch, network, overlooks)
    truth = torch.zeros(96, 128)
    truth[LESION] = 1
    assert torch.equal(predicted(network, truth).long(), truth.long())


def test_logits_far_below_the_heads_would_let_a_tile_outvote_the_others(planned, monkeypatch):
    """The authors write -1e9 outside of a box: with such a value the test above fails."""
    from nnunet_plugins.architectures import dcsnet as architecture

    monkeypatch.setattr(architecture, "OUTSIDE", -1000.0)
    network = DCSNet(1, 2, backbone="resnet10t")
    seeing(monkeypatch, network, overlook_what_is_cut)
    truth = torch.zeros(96, 128)
    truth[LESION] = 1
    assert not torch.equal(predicted(network, truth).long(), truth.long())
