"""Proves: without boxes DCSNet segments whole images as finely as its pyramid is, and not with old weights."""

import copy

import pytest
import torch
from support.dcsnet import SIZE, narrow_dcsnet
from support.perfect_head import discs, perfect_dice

from nnunet_plugins.architectures.dcsnet import DGHC, STRIDES, Annotated, whole_images
from nnunet_plugins.architectures.layers.detector import Objects
from nnunet_plugins.errors import UserError
from nnunet_plugins.losses import DCSNetLoss
from nnunet_plugins.losses.common import LabelFormat


@pytest.fixture
def network():
    return narrow_dcsnet(use_dghc=False, deep_supervision=True)


def test_levels_of_the_pyramid_stay_as_they_are():
    features = [torch.randn(2, 4, SIZE[0] // stride, SIZE[1] // stride) for stride in STRIDES]
    for before, after in zip(features, DGHC(None)(features, whole_images(torch.empty(2, 1, *SIZE))), strict=True):
        assert torch.equal(before, after)


@pytest.mark.parametrize(("size", "finest"), [((64, 96), (16, 24)), ((100, 70), (32, 24)), ((20, 20), (16, 16))])
def test_images_of_any_size_are_segmented_in_a_quarter_of_their_padded_size(network, size, finest):
    images, target = torch.randn(2, 1, *size), torch.zeros(2, 1, *size, dtype=torch.int16)
    target[0, 0, 4:15, 6:19] = 1
    outputs = network(Annotated(images, Objects(torch.tensor([[0.0, 6, 4, 19, 15]]))))
    assert outputs.segments.logits.shape == (2, 2, *finest)
    assert torch.equal(outputs.boxes, whole_images(images))
    DCSNetLoss(LabelFormat())(outputs, [target]).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    with torch.no_grad():
        assert network.eval()(images).logits.shape == (2, 2, *size)


@pytest.mark.parametrize(("radius", "least", "once"), [(4, 0.6, 0.5), (8, 0.83, 0.83), (13, 0.92, 0.9)])
def test_small_objects_survive_a_quarter_of_the_size_of_an_image(radius, least, once):
    """Dice of a perfect head in 512 x 512; in the 64 x 64 of a box it would be far less."""
    network, labels = narrow_dcsnet(), discs(radius, 512, number=12)
    dice = [perfect_dice(network, labels, whole_images(labels), size).mean().item() for size in (64, 512 // STRIDES[0])]
    assert dice[0] < once and dice[1] > least
    assert dice[1] > dice[0] + 0.02


# ---- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use_msfa", [True, False])
def test_weights_for_maps_of_64_are_refused_in_a_sentence_that_names_their_version(use_msfa):
    network = narrow_dcsnet(use_dghc=False, use_msfa=use_msfa)
    own = network.state_dict()
    copy.deepcopy(network).load_state_dict(own)
    old = {name: value for name, value in own.items() if name != "msfa.seg_layers.stride"}
    with pytest.raises(UserError, match=r"^the checkpoint has no .*: .* nnunet_plugins 0\.2\.0, whose DCSNet .*\.$"):
        copy.deepcopy(network).load_state_dict(old)
