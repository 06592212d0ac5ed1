"""Proves: the boxes of a patch are those of the connected components of its classes or regions."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import find_objects, label
from support.dcsnet import NARROW
from support.label_maps import IGNORE, LABELS, LABELS_IGNORE, REGIONS, REGIONS_IGNORE, as_regions, boxes_in, drawing
from torch._subclasses.fake_tensor import FakeTensorMode

from nnunet_plugins.architectures import DCSNet
from nnunet_plugins.trainers.data.object_boxes import objects_in


def components(mask):
    """The pixels ``(H, W)`` bool of every component of 8 neighbours, by scipy, and its slices."""
    numbered, _ = label(mask, np.ones((3, 3)))
    return [(numbered == n, slices) for n, slices in enumerate(find_objects(numbered), 1)]


def without_specks(mask, least=3):
    """``(H, W)`` without the components of fewer pixels."""
    return sum((pixels for pixels, _ in components(mask) if pixels.sum() >= least), np.zeros_like(mask))


def literal_boxes(masks):
    """The boxes of every component in masks ``(K, H, W)`` bool, each once and of a side of 3 at least, in order."""
    height, width = masks.shape[1:]
    boxes = set()
    for mask in masks:
        for _, (rows, columns) in components(mask):
            sides = []
            for extent, end in ((columns, width), (rows, height)):
                missing = max(3 - (extent.stop - extent.start), 0) / 2
                sides.append((max(extent.start - missing, 0), min(extent.stop + missing, end)))
            (x1, x2), (y1, y2) = sides
            boxes.add((x1, y1, x2, y2))
    return sorted(boxes)


def literal_batch(masks_of_images):
    return [(float(i), *box) for i, masks in enumerate(masks_of_images) for box in literal_boxes(masks)]


# ---- components ------------------------------------------------------------------------------------------------------


@st.composite
def label_maps(draw, num_classes=2):
    """A batch ``(B, 1, H, W)`` int16 of noise, coarse or fine, whose components have three pixels at least."""
    batch, height, width = draw(st.integers(1, 3)), draw(st.integers(1, 20)), draw(st.integers(1, 24))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    background, grain = draw(st.floats(0.2, 0.97)), draw(st.integers(1, 3))
    probabilities = [background] + [(1 - background) / num_classes] * num_classes
    labels = rng.choice(num_classes + 1, (batch, -(-height // grain), -(-width // grain)), p=probabilities)
    labels = labels.repeat(grain, 1).repeat(grain, 2)[:, :height, :width]
    kept = [sum(c * without_specks(image == c) for c in range(1, num_classes + 1)) for image in labels]
    return torch.from_numpy(np.stack(kept).astype(np.int16))[:, None]


@given(label_maps(num_classes=3))
def test_boxes_are_those_of_scipys_components_of_every_class(labels):
    objects = objects_in(labels, LABELS)
    images = labels[:, 0].numpy()
    masks = [np.stack([image == c for c in (1, 2, 3)]) for image in images]
    assert [tuple(box) for box in objects.boxes.tolist()] == literal_batch(masks)
    assert objects.boxes.dtype == torch.float32
    assert objects.annotated is None


@given(label_maps(num_classes=3))
def test_boxes_are_those_of_scipys_components_of_every_region_overlapping_ones_too(labels):
    regions = as_regions(labels, (1, 2, 3), (2, 3), (3,), (1, 3))
    masks = [np.stack([without_specks(region) for region in image]) for image in regions.numpy()]
    regions = torch.from_numpy(np.stack(masks))
    assert boxes_in(regions, REGIONS) == literal_batch(masks)


@given(label_maps(num_classes=2), st.integers(0, 2**31))
def test_ignored_pixels_are_no_object_and_not_annotated(labels, seed):
    noise = np.random.default_rng(seed).random((labels.shape[0], *labels.shape[2:])) < 0.2
    labels = labels.numpy()[:, 0] * ~noise
    labels = np.stack([sum(c * without_specks(image == c) for c in (1, 2)) for image in labels])
    masks = [np.stack([image == c for c in (1, 2)]) for image in labels]
    labels = torch.from_numpy(np.where(noise, IGNORE, labels).astype(np.int16))[:, None]
    for target, label_format in (
        (labels, LABELS_IGNORE),
        (as_regions(labels, (1,), (2,), (IGNORE,)), REGIONS_IGNORE),
    ):
        kept = target.clone()
        objects = objects_in(target, label_format)
        assert [tuple(box) for box in objects.boxes.tolist()] == literal_batch(masks)
        assert objects.annotated.dtype == torch.bool
        assert torch.equal(objects.annotated, torch.from_numpy(~noise)[:, None])
        assert torch.equal(target, kept)


@given(st.integers(0, 2**31), st.floats(0.02, 0.6))
def test_classes_and_the_same_classes_as_regions_have_the_same_boxes(seed, foreground):
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, (2, 1, 12, 14), p=[1 - foreground, foreground / 2, foreground / 2])
    labels = torch.from_numpy(labels.astype(np.int16))
    assert boxes_in(labels) == boxes_in(as_regions(labels, (1,), (2,)), REGIONS)


@pytest.mark.parametrize("width", [13, 14])
def test_components_of_a_region_are_scipys_in_images_of_odd_width_too(width):
    """cc3d 4.1.1 looks at binary images in blocks of 2x2, and reads beyond the last column of a row."""
    rng = np.random.default_rng(0)
    for share in rng.uniform(0.1, 0.6, 100):
        region = without_specks(rng.random((11, width)) < share)
        region[:3, 0] = region[-3:, -1] = True  # all columns count
        assert boxes_in(torch.from_numpy(region)[None, None], REGIONS) == literal_batch([region[None]])


def test_components_touch_at_corners_and_adjacent_classes_stay_apart():
    labels = drawing("""
        ..........
        .11122....
        .11122....
        .11122....
        ......111.
        ......111.
        .......111
        2..1...111
        22..1.....
        222..1....
    """)
    expected = [
        (0, 0, 7, 3, 10),  # the triangle
        (0, 1, 1, 4, 4),  # the first of class 1
        (0, 3, 7, 6, 10),  # the diagonal
        (0, 3.5, 1, 6.5, 4),  # two pixels wide, beside the first and cornering the last, both of class 1
        (0, 6, 4, 10, 8),  # two squares that overlap by a step
    ]
    assert boxes_in(labels) == expected


def test_an_object_may_lie_inside_the_box_of_another():
    labels = drawing("""
        1111111
        1.....1
        1.222.1
        1.222.1
        1.222.1
        1.....1
        1111111
    """)
    assert boxes_in(labels) == [(0, 0, 0, 7, 7), (0, 2, 2, 5, 5)]


def test_identical_components_of_several_regions_are_one_object():
    labels = drawing("""
        .........
        .111.....
        .111.222.
        .111.233.
        .....233.
        .........
    """)
    regions = as_regions(labels, (1, 2, 3), (2, 3), (1,), (2,), (3,))
    # Of regions 1 and 3: the square. Of 1, 2 and 4: the other, without a corner or not. Of 5: its two-by-two corner.
    expected = [(0, 1, 1, 4, 4), (0, 5, 2, 8, 5), (0, 5.5, 2.5, 8.5, 5.5)]
    assert boxes_in(regions, REGIONS) == expected


# ---- targets ---------------------------------------------------------------------------------------------------------

FORMATS = {
    "labels": (LABELS, lambda labels: labels),
    "labels_ignore": (LABELS_IGNORE, lambda labels: labels),
    "regions": (REGIONS, lambda labels: as_regions(labels, (1, 2), (2,))),
    "regions_ignore": (REGIONS_IGNORE, lambda labels: as_regions(labels, (1, 2), (2,), (IGNORE,))),
}


@pytest.fixture(params=FORMATS)
def presented(request):
    """A label format, and what makes targets of label maps ``(B, 1, H, W)``."""
    return FORMATS[request.param]


def test_an_empty_image_has_no_box(presented):
    label_format, present = presented
    objects = objects_in(present(torch.zeros(3, 1, 8, 9, dtype=torch.int16)), label_format)
    assert objects.boxes.shape == (0, 5) and objects.boxes.dtype == torch.float32
    if label_format.ignore_label is None:
        assert objects.annotated is None
    else:
        assert objects.annotated.shape == (3, 1, 8, 9) and objects.annotated.all()


def test_an_object_that_fills_the_image_has_the_image_as_its_box(presented):
    label_format, present = presented
    full = torch.full((2, 1, 8, 9), 2, dtype=torch.int16)
    assert boxes_in(present(full), label_format) == [(0, 0, 0, 9, 8), (1, 0, 0, 9, 8)]
    assert boxes_in(present(full[..., :1, :2]), label_format) == [(0, 0, 0, 2, 1), (1, 0, 0, 2, 1)]


def test_boxes_are_in_the_order_of_their_images(presented):
    label_format, present = presented
    labels = torch.zeros(5, 1, 12, 12, dtype=torch.int16)
    labels[4, 0, 1:5, 1:5] = 2
    labels[1, 0, 6:10, 7:12] = 2
    labels[1, 0, 1:4, 2:6] = 2
    labels[3, 0, 0, 0] = 2
    expected = [(1, 2, 1, 6, 4), (1, 7, 6, 12, 10), (3, 0, 0, 2, 2), (4, 1, 1, 5, 5)]
    assert boxes_in(present(labels), label_format) == expected


def test_ignored_pixels_cut_objects_in_two_and_are_not_annotated():
    labels = drawing("""
        111311.
        111311.
        111311.
        .......
        333....
    """)
    expected = [(0, 0, 0, 3, 3), (0, 3.5, 0, 6.5, 3)]
    for target, label_format in (
        (labels, LABELS_IGNORE),
        (as_regions(labels, (1, 2), (2,), (IGNORE,)), REGIONS_IGNORE),
    ):
        objects = objects_in(target, label_format)
        assert [tuple(box) for box in objects.boxes.tolist()] == expected
        assert torch.equal(objects.annotated, labels != IGNORE)


def test_an_image_without_any_annotation_has_no_box():
    labels = torch.full((1, 1, 6, 6), IGNORE, dtype=torch.int16)
    for target, label_format in (
        (labels, LABELS_IGNORE),
        (as_regions(labels, (1,), (IGNORE,)), REGIONS_IGNORE),
    ):
        objects = objects_in(target, label_format)
        assert objects.boxes.shape == (0, 5)
        assert not objects.annotated.any()


def test_ignored_pixels_belong_to_no_region():
    """The losses too take a region for 0 where it is ignored."""
    labels = drawing("""
        11113333
        11113333
        11113333
    """)
    regions = as_regions(labels, (1, IGNORE), (IGNORE,))
    assert boxes_in(regions, REGIONS_IGNORE) == [(0, 0, 0, 4, 3)]


@pytest.mark.parametrize("dtype", [torch.int16, torch.int64, torch.uint8, torch.float32])
@pytest.mark.parametrize("label_format", [LABELS, LABELS_IGNORE], ids=["labels", "labels_ignore"])
def test_labels_of_any_type_give_the_same_boxes(dtype, label_format):
    torch.manual_seed(0)
    labels = torch.randint(0, 4 if label_format.ignore_label else 3, (3, 1, 20, 20)) * (torch.rand(3, 1, 20, 20) < 0.5)
    expected = objects_in(labels.to(torch.int16), label_format)
    objects = objects_in(labels.to(dtype), label_format)
    assert len(objects.boxes) > 5
    assert torch.equal(objects.boxes, expected.boxes)
    if label_format.ignore_label is not None:
        assert torch.equal(objects.annotated, expected.annotated)
        assert objects.annotated.dtype == torch.bool


@pytest.mark.parametrize("dtype", [torch.int16, torch.uint8, torch.float32])
@pytest.mark.parametrize("label_format", [REGIONS, REGIONS_IGNORE], ids=["regions", "regions_ignore"])
def test_regions_of_any_type_give_the_same_boxes(dtype, label_format):
    torch.manual_seed(0)
    labels = torch.randint(0, 4, (3, 1, 20, 20)) * (torch.rand(3, 1, 20, 20) < 0.5)
    regions = as_regions(labels, (1, 2), (2,), (IGNORE,))
    expected = objects_in(regions, label_format)
    objects = objects_in(regions.to(dtype), label_format)
    assert len(objects.boxes) > 5
    assert torch.equal(objects.boxes, expected.boxes)
    if label_format.ignore_label is not None:
        assert torch.equal(objects.annotated, expected.annotated)
        assert objects.annotated.dtype == torch.bool


def test_targets_may_be_views_of_larger_ones():
    torch.manual_seed(0)
    labels = torch.randint(0, 2, (2, 1, 30, 24), dtype=torch.int16)
    view = labels.mT[..., 3:20, ::2]
    assert not view.is_contiguous()
    assert boxes_in(view) == boxes_in(view.contiguous())


@pytest.mark.parametrize("label_format", [LABELS, LABELS_IGNORE])
def test_without_data_there_are_more_objects_than_a_step_looks_at(label_format):
    """So that an estimate of memory is one of the fullest batch."""
    with FakeTensorMode():
        objects = objects_in(torch.empty(3, 1, 20, 30, dtype=torch.int16), label_format)
        assert objects.boxes.shape[1] == 5 and objects.boxes.dtype == torch.float32
        assert len(objects.boxes) > max(3 * DCSNet(1, 2, **NARROW).boxes_per_image, 24)
    assert (objects.annotated is None) == (label_format is LABELS)
