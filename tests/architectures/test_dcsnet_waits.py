"""Proves: a training step of DCSNet makes a GPU wait once, and needs no data to know its shapes."""

import pytest
import torch
from support.dcsnet import SIZE, narrow_dcsnet
from support.waits import counted_waits
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torchvision.ops import nms

from nnunet_plugins.architectures.dcsnet import Annotated
from nnunet_plugins.architectures.layers.detector import Objects
from nnunet_plugins.losses import DCSNetLoss
from nnunet_plugins.losses.common import LabelFormat

UNKNOWN = (DataDependentOutputException, DynamicOutputShapeException)
DETECTION_LOSSES = 4


@pytest.mark.parametrize(
    "run",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).any()),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.unique(),
        lambda x: nms(x[None].expand(1, 4), x[:1], 0.5),
    ],
    ids=["item", "bool", "mask", "nonzero", "unique", "nms"],
)
def test_what_needs_values_is_refused(run):
    with counted_waits(), pytest.raises(UNKNOWN):
        run(torch.ones(4, device="cuda"))


@pytest.mark.parametrize(
    ("run", "counts"),
    [
        (lambda x: x.cpu(), (1, 0)),
        (lambda x: torch.ones(4).copy_(x), (1, 0)),
        (lambda x: torch.tensor([1.0, 2.0], device=x.device), (0, 1)),
        (lambda x: torch.tensor(1.0, device=x.device), (0, 1)),
        (lambda x: x.copy_(torch.ones(4)), (0, 1)),
        (lambda x: x.copy_(torch.ones(4), non_blocking=True), (0, 0)),
        (lambda x: torch.ones(4).to(x.device, non_blocking=True), (0, 0)),
        (lambda x: x.half().mul_(2), (0, 0)),
    ],
)
def test_copies_that_wait_are_counted(run, counts):
    with counted_waits() as waits:
        run(torch.ones(4, device="cuda"))
    assert (waits.from_device, waits.to_device) == counts


def loss_of(network, label_format, device):
    """Loss of a batch as nnU-Net's ``train_step`` hands it over, with five objects and what is not annotated."""
    images, target = torch.randn(2, 1, *SIZE), torch.zeros(2, 1, *SIZE, dtype=torch.int16)
    objects = Objects(torch.zeros(5, 5), None if label_format.ignore_label is None else target == 0)
    annotated = Annotated(images, objects).to(device, non_blocking=True)
    outputs = network(annotated)
    return DCSNetLoss(label_format)(outputs, [target.to(device, non_blocking=True)]), outputs


@pytest.mark.parametrize("label_format", [LabelFormat(), LabelFormat(ignore_label=3)], ids=["labels", "ignore"])
@pytest.mark.parametrize("options", [{}, {"use_dghc": False}, {"use_msfa": False}], ids=["all", "no DGHC", "no MSFA"])
def test_forward_pass_and_loss_wait_once_for_the_device(options, label_format):
    with counted_waits() as waits:
        with torch.device("cuda"):
            network = narrow_dcsnet(num_classes=3, deep_supervision=True, **options)
        waits.from_device = waits.to_device = 0  # the network's values come from the host
        loss, outputs = loss_of(network, label_format, torch.device("cuda"))
        assert loss.is_cuda and outputs.boxes.is_cuda
    assert (waits.from_device, waits.to_device) == (1, 0)


def test_a_whole_step_needs_no_values():
    """This is how an estimate of its memory runs it."""
    with FakeTensorMode():
        network = narrow_dcsnet(num_classes=3, deep_supervision=True)
        optimizer = torch.optim.AdamW(network.parameters())
        loss, outputs = loss_of(network, LabelFormat(), torch.device("cpu"))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        assert all(p.grad.shape == p.shape for p in network.parameters())
    assert len(outputs.segments.logits) == 4


def test_a_step_on_data_has_the_shapes_of_one_without():
    shapes = []
    for mode in (FakeTensorMode(), torch.enable_grad()):
        with mode:
            network = narrow_dcsnet(num_classes=3, deep_supervision=True)
            _, outputs = loss_of(network, LabelFormat(), torch.device("cpu"))
            shapes.append([x.shape for x in (outputs.boxes, outputs.weights, outputs.segments.logits)])
            assert len(outputs.detection_losses) == DETECTION_LOSSES
    assert shapes[0] == shapes[1]
