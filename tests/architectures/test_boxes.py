"""Proves: boxes are perturbed as the paper says, and maps cut out of images and pasted back lie where they should."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nnunet_plugins.architectures.layers.boxes import boxes_of_images, crop_boxes, paste_boxes, perturbed


def boxes_of(*rows):
    return torch.tensor(rows, dtype=torch.float32).view(-1, 5)


def x_ramp(height, width, stride=1):
    """Map ``(1, 1, H, W)`` whose cells hold the x of their centre, in pixels."""
    return ((torch.arange(width) + 0.5) * stride).expand(1, 1, height, width).contiguous()


def xy_ramps(height, width, stride=1):
    """Map ``(1, 2, H, W)`` whose cells hold x and y of their centre, in pixels."""
    return torch.cat((x_ramp(height, width, stride), x_ramp(width, height, stride).mT), 1).contiguous()


def cell_centers(box, size):
    """Compute x and y ``(2, size, size)`` of the centres of a box's cells, in pixels."""
    x1, y1, x2, y2 = box
    steps = (torch.arange(size) + 0.5) / size
    x, y = x1 + steps * (x2 - x1), y1 + steps * (y2 - y1)
    return torch.stack((x.expand(size, size), y[:, None].expand(size, size)))


# ---- boxes of images -------------------------------------------------------------------------------------------------


def test_boxes_keep_the_index_of_their_image_where_others_have_none():
    empty, two, one = torch.zeros(0, 4), torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8]]), torch.tensor([[0.0, 1, 2, 3]])
    expected = [[1, 1, 2, 3, 4], [1, 5, 6, 7, 8], [3, 0, 1, 2, 3]]
    assert boxes_of_images([empty, two, empty, one, empty]).tolist() == expected
    assert boxes_of_images([empty, empty]).shape == (0, 5)


# ---- perturbed (eq. 2-5) ---------------------------------------------------------------------------------------------

DRAWS = 20_000
ERRORS = 4
"""Number of standard errors within which statistics of that many draws have to lie."""


def offsets(width, height, shift, scale):
    """Draw offsets ``(4, DRAWS)`` of x, y, w and h from those of the box that is perturbed."""
    torch.manual_seed(0)
    x, y = 300.0, 500.0
    box = boxes_of([7, x - width / 2, y - height / 2, x + width / 2, y + height / 2])
    images, *corners = perturbed(box.expand(DRAWS, 5), (1000, 600), shift, scale).unbind(1)
    assert (images == 7).all()
    x1, y1, x2, y2 = (c.double() for c in corners)
    return torch.stack(((x1 + x2) / 2 - x, (y1 + y2) / 2 - y, x2 - x1 - width, y2 - y1 - height))


@pytest.mark.parametrize(("width", "height"), [(40.0, 16.0), (12.0, 100.0)])
def test_centers_and_sides_vary_normally_by_5_percent_of_width_and_height(width, height):
    drawn = offsets(width, height, 0.05, 0.05) / torch.tensor([[width], [height], [width], [height]])
    for of_one in drawn:
        assert of_one.mean().item() == pytest.approx(0, abs=ERRORS * 0.05 / math.sqrt(DRAWS))
        assert of_one.std().item() == pytest.approx(0.05, abs=ERRORS * 0.05 / math.sqrt(2 * DRAWS))
        for sigmas in (1, 2):  # as often as a normal distribution is within one sigma, and within two
            share = math.erf(sigmas / math.sqrt(2))
            error = math.sqrt(share * (1 - share) / DRAWS)
            assert (of_one.abs() < 0.05 * sigmas).double().mean().item() == pytest.approx(share, abs=ERRORS * error)


def test_centers_and_sides_are_drawn_independently_and_anew_for_every_box():
    drawn = offsets(40.0, 16.0, 0.05, 0.05)
    correlations = drawn.corrcoef() - torch.eye(4)
    assert correlations.abs().max() < ERRORS / math.sqrt(DRAWS)
    next_box = torch.stack([torch.stack((d[1:], d[:-1])).corrcoef()[0, 1] for d in drawn])
    assert next_box.abs().max() < ERRORS / math.sqrt(DRAWS)


def test_shift_moves_only_centers_and_scale_changes_only_sides():
    x, y, w, h = offsets(40.0, 16.0, 0.2, 0.0)
    assert [x.std().item(), y.std().item()] == pytest.approx([8.0, 3.2], rel=0.03)
    assert max(w.abs().max(), h.abs().max()) < 1e-3
    x, y, w, h = offsets(40.0, 16.0, 0.0, 0.1)
    assert [w.std().item(), h.std().item()] == pytest.approx([4.0, 1.6], rel=0.03)
    assert max(x.abs().max(), y.abs().max()) < 1e-3
    assert offsets(40.0, 16.0, 0.0, 0.0).abs().max() == 0


def test_perturbed_boxes_are_clamped_to_the_image():
    torch.manual_seed(0)
    whole = boxes_of([2, 0, 0, 60, 40]).expand(1000, 5)
    images, x1, y1, x2, y2 = perturbed(whole, (40, 60), 0.05, 0.05).unbind(1)
    assert (images == 2).all()
    for low, high, end in ((x1, x2, 60), (y1, y2, 40)):
        assert low.min() == 0 and high.max() == end
        assert (low < high).all()
        # In most draws one end is beyond the border, and in some both are inside.
        assert ((low == 0) | (high == end)).double().mean() > 0.7
        assert ((low > 0) & (high < end)).any()


def test_perturbing_changes_no_argument_and_accepts_no_boxes():
    boxes = boxes_of([0, 1, 2, 5, 9], [1, 0, 0, 3, 3])
    kept = boxes.clone()
    perturbed(boxes, (10, 10), 0.05, 0.05)
    assert torch.equal(boxes, kept)
    assert perturbed(boxes[:0], (10, 10), 0.05, 0.05).shape == (0, 5)


# ---- crop_boxes (eq. 6) ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 4])
@pytest.mark.parametrize("size", [1, 2, 8, 16])
def test_crop_of_a_ramp_holds_the_coordinates_of_its_cells(stride, size):
    """The boxes are smaller and larger than the cells of the map, with corners between pixels."""
    boxes = [(8.0, 12.0, 24.0, 20.0), (9.25, 8.625, 10.5, 40.875), (2.5, 3.75, 44.5, 41.125)]
    ramps = xy_ramps(48 // stride, 64 // stride, stride)
    crops = crop_boxes(ramps, boxes_of(*((0, *box) for box in boxes)), size, stride)
    assert crops.shape == (3, 2, size, size)
    for crop, box in zip(crops, boxes, strict=True):
        torch.testing.assert_close(crop, cell_centers(box, size), rtol=0, atol=1e-4)


def test_crop_at_the_border_repeats_the_outermost_pixels():
    box = (0.0, 0.0, 6.0, 5.0)  # the whole image: its first and last cells reach beyond the outermost pixels' centres
    crop = crop_boxes(xy_ramps(5, 6), boxes_of((0, *box)), 30)[0]
    expected = cell_centers(box, 30)
    torch.testing.assert_close(crop[0], expected[0].clamp(0.5, 5.5))
    torch.testing.assert_close(crop[1], expected[1].clamp(0.5, 4.5))


def test_a_cell_of_many_pixels_is_their_mean():
    torch.manual_seed(0)
    x = torch.rand(2, 3, 20, 30)
    crop = crop_boxes(x, boxes_of([1, 4, 2, 28, 14]), 4)[0]  # cells of 6 x 3 pixels
    expected = x[1, :, 2:14, 4:28].unflatten(1, (4, 3)).unflatten(3, (4, 6)).mean((2, 4))
    torch.testing.assert_close(crop, expected)


def test_every_box_is_cut_out_of_its_own_image():
    x = torch.arange(6.0).view(3, 2, 1, 1).expand(3, 2, 8, 8).contiguous()
    crops = crop_boxes(x, boxes_of([2, 1, 1, 4, 4], [0, 0, 0, 8, 8], [2, 3.5, 2, 7, 4], [1, 2, 2, 3, 3]), 2)
    assert crops[:, :, 0, 0].tolist() == [[4, 5], [0, 1], [4, 5], [2, 3]]
    assert torch.equal(crops, crops[:, :, :1, :1].expand_as(crops))
    assert crop_boxes(x, boxes_of(), 2).shape == (0, 2, 2, 2)


def test_coordinates_stay_in_float32_where_maps_are_in_half_precision():
    """A coordinate of 100.25 would become 100 or 100.5 in bfloat16."""
    x = (x_ramp(128, 128) - 100) * (x_ramp(128, 128) - 100 < 4) * (x_ramp(128, 128) > 98)
    assert torch.equal(x.bfloat16().float(), x)
    with torch.autocast("cpu", torch.bfloat16):
        crop = crop_boxes(x.bfloat16(), boxes_of([0, 100.25, 20, 102.25, 22]), 2)
    assert crop[0, 0].tolist() == [[0.75, 1.75]] * 2


def test_gradients_reach_what_is_cropped():
    x = torch.randn(2, 3, 12, 12, requires_grad=True)
    crop_boxes(x, boxes_of([1, 4, 4, 8, 6]), 4).sum().backward()
    inside = torch.zeros(2, 3, 12, 12, dtype=torch.bool)
    inside[1, :, 3:7, 3:9] = True  # with the neighbours that interpolation reads
    assert not x.grad[~inside].any()
    assert (x.grad[1, :, 4:6, 4:8] > 0).all()
    assert x.grad.sum().item() == pytest.approx(3 * 16)


# ---- paste_boxes -----------------------------------------------------------------------------------------------------


def bilinear(values, x, y):
    """Interpolate ``(h, w)`` at x and y, clamped at the border; the first pixel has its centre at 0.5."""
    height, width = values.shape
    x, y = min(max(x - 0.5, 0), width - 1), min(max(y - 0.5, 0), height - 1)
    left, top = min(int(x), max(width - 2, 0)), min(int(y), max(height - 2, 0))
    right, bottom = min(left + 1, width - 1), min(top + 1, height - 1)
    u, v = x - left, y - top
    above = (1 - u) * values[top, left] + u * values[top, right]
    below = (1 - u) * values[bottom, left] + u * values[bottom, right]
    return (1 - v) * above + v * below


def literally_pasted(maps, boxes, onto):
    """Paste pixel by pixel and box by box."""
    maps, result = maps.numpy(), onto.clone().numpy()
    for values, (image, x1, y1, x2, y2) in zip(maps, boxes.tolist(), strict=True):
        for row in range(result.shape[2]):
            for column in range(result.shape[3]):
                x, y = column + 0.5, row + 0.5
                if x1 <= x < x2 and y1 <= y < y2:
                    for channel, channels_values in enumerate(values):
                        h, w = channels_values.shape
                        value = bilinear(channels_values, (x - x1) / (x2 - x1) * w, (y - y1) / (y2 - y1) * h)
                        old = result[int(image), channel, row, column]
                        result[int(image), channel, row, column] = max(old, value)
    return torch.from_numpy(result)


HEIGHT, WIDTH = 7, 9


@st.composite
def any_boxes(draw):
    """Draw up to six boxes of three images in any order, also beyond the border, with corners at eighths of a pixel."""
    rows = []
    for _ in range(draw(st.integers(0, 6))):
        x1, y1 = draw(st.integers(-24, 8 * WIDTH + 8)) / 8, draw(st.integers(-24, 8 * HEIGHT + 8)) / 8
        w, h = draw(st.integers(1, 8 * WIDTH + 48)) / 8, draw(st.integers(1, 8 * HEIGHT + 48)) / 8
        rows.append((draw(st.integers(0, 2)), x1, y1, x1 + w, y1 + h))
    return boxes_of(*rows)


@given(any_boxes(), st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**31))
def test_pasting_equals_a_plain_loop_over_pixels_and_boxes(boxes, height, width, seed):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(len(boxes), 2, height, width, generator=generator)
    onto = torch.randn(3, 2, HEIGHT, WIDTH, generator=generator)
    kept = onto.clone()
    pasted = paste_boxes(maps, boxes, onto)
    torch.testing.assert_close(pasted, literally_pasted(maps, boxes, onto), rtol=1e-5, atol=1e-5)
    assert torch.equal(onto, kept)


def test_the_maximum_of_several_overlapping_boxes_counts_whatever_their_order():
    torch.manual_seed(0)
    boxes = boxes_of(
        [1, 0, 0, 6, 5], [0, 2, 1, 8, 6], [1, 3, 2, 9, 7], [1, 1, 1, 5, 6], [0, 0, 0, 9, 7], [1, 4, 0, 5, 7]
    )
    maps, onto = torch.randn(6, 2, 4, 4), torch.full((3, 2, HEIGHT, WIDTH), -5.0)
    pasted = paste_boxes(maps, boxes, onto)
    torch.testing.assert_close(pasted, literally_pasted(maps, boxes, onto))
    for _ in range(5):
        order = torch.randperm(6)
        assert torch.equal(paste_boxes(maps[order], boxes[order], onto), pasted)
    assert torch.equal(pasted[2], onto[2])


def test_pasting_no_box_changes_nothing():
    onto = torch.randn(2, 3, 5, 6)
    assert torch.equal(paste_boxes(torch.zeros(0, 3, 8, 8), boxes_of(), onto.clone()), onto)


def test_a_pixel_belongs_to_a_box_if_its_center_does():
    boxes = boxes_of([0, 1.5, 0.5, 4.5, 1.5], [0, 6.25, 2, 6.45, 7], [0, -3, 4.75, 2, 99], [0, 20, -5, 30, 30])
    pasted = paste_boxes(torch.ones(4, 1, 2, 2), boxes, torch.zeros(1, 1, HEIGHT, WIDTH))
    expected = torch.zeros(HEIGHT, WIDTH)
    expected[0, 1:4] = 1  # the left and upper border belong to the box, the right and lower ones do not
    expected[5:, :2] = 1  # the second box lies between centres, the last one beyond the image
    assert pasted[0, 0].tolist() == expected.tolist()


@pytest.mark.parametrize(
    "box", [(3.0, 4.0, 7.0, 9.0), (2.0, 1.0, 3.0, 13.0), (1.0, 1.0, 19.0, 14.0)], ids=["box", "thin", "all but a rim"]
)
def test_pasting_the_crop_of_a_ramp_gives_the_ramp_back(box):
    """Cells here are no larger than pixels, so that no pixel's centre lies beyond that of the outermost cell."""
    ramps = xy_ramps(15, 20)
    boxes = boxes_of((0, *box))
    pasted = paste_boxes(crop_boxes(ramps, boxes, 18), boxes, torch.full_like(ramps, -100))
    x1, y1, x2, y2 = (int(corner) for corner in box)
    expected = torch.full_like(ramps, -100)
    expected[..., y1:y2, x1:x2] = ramps[..., y1:y2, x1:x2]
    torch.testing.assert_close(pasted, expected, rtol=0, atol=1e-4)


def test_pasting_a_crop_whose_cells_are_the_pixels_gives_any_image_back():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 12, 12)
    boxes = boxes_of([0, 0, 0, 12, 12], [1, 0, 0, 12, 12])
    torch.testing.assert_close(paste_boxes(crop_boxes(x, boxes, 12), boxes, torch.full_like(x, -9)), x)


def test_gradients_reach_the_maps_that_are_the_maximum_and_the_canvas_elsewhere():
    maps = torch.stack([torch.full((2, 3, 3), 1.0), torch.full((2, 3, 3), 2.0), torch.full((2, 3, 3), -9.0)])
    maps.requires_grad_()
    onto = torch.zeros(2, 2, 8, 8, requires_grad=True)
    # The second covers a half of the first; the third is below the canvas.
    boxes = boxes_of([1, 0, 0, 4, 4], [1, 2, 0, 4, 4], [0, 2, 2, 6, 6])
    paste_boxes(maps, boxes, onto).sum().backward()
    assert maps.grad.sum((1, 2, 3)).tolist() == pytest.approx([2 * 8, 2 * 8, 0])
    expected = torch.ones(2, 2, 8, 8)
    expected[1, :, :4, :4] = 0
    assert torch.equal(onto.grad, expected)


def test_gradients_of_the_maps_are_the_weights_of_the_interpolation():
    torch.manual_seed(0)
    boxes = boxes_of([0, 1.25, 0.5, 4, 4.75], [1, -2, 3, 5, 9], [0, 4, 1, 8, 6])  # none overlaps another
    maps = torch.randn(3, 1, 3, 4, requires_grad=True)
    cotangent = torch.randn(2, 1, HEIGHT, WIDTH)
    paste_boxes(maps, boxes, torch.full((2, 1, HEIGHT, WIDTH), -9.0)).backward(cotangent)
    for index in range(maps.numel()):
        one_hot = (torch.arange(maps.numel()) == index).float().view_as(maps)
        weights = literally_pasted(one_hot, boxes, torch.zeros(2, 1, HEIGHT, WIDTH))
        assert maps.grad.flatten()[index].item() == pytest.approx((weights * cotangent).sum().item(), abs=1e-5)


def test_maps_in_half_precision_are_pasted_onto_float32():
    torch.manual_seed(0)
    maps, boxes, onto = torch.randn(2, 2, 4, 4), boxes_of([0, 1, 1, 6, 6], [0, 2, 0, 9, 7]), torch.zeros(1, 2, 7, 9)
    pasted = paste_boxes(maps.half(), boxes, onto)
    assert pasted.dtype == torch.float32
    torch.testing.assert_close(pasted, paste_boxes(maps.half().float(), boxes, onto))
