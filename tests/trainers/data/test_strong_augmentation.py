"""Proves: the strong augmentation's parts are torchvision's, every image gets its own, and a seed repeats them."""

import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from nnunet_plugins.trainers.data import strong_augmentation
from nnunet_plugins.trainers.data.strong_augmentation import (
    BLUR_RADIUS,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    gaussian_blur,
    strongly_augmented,
)


def for_each_image(*values):
    return torch.tensor(values).view(-1, 1, 1, 1)


@pytest.fixture
def photos():
    """Two RGB images in [0.3, 0.7], so that no operation reaches the limits at which torchvision clamps."""
    torch.manual_seed(0)
    return 0.3 + 0.4 * torch.rand(2, 3, 24, 30)


def test_brightness_is_torchvisions(photos):
    ours = adjust_brightness(photos, for_each_image(0.6, 1.4), torch.zeros(2, 3, 1, 1))
    for image, factor, result in zip(photos, (0.6, 1.4), ours, strict=True):
        torch.testing.assert_close(result, tv.adjust_brightness(image, factor))


def test_brightness_is_relative_to_black(photos):
    normalised = (photos - 0.5) / 0.2
    ours = adjust_brightness(normalised, for_each_image(0.6, 1.4), torch.full((2, 3, 1, 1), -0.5 / 0.2))
    expected = adjust_brightness(photos, for_each_image(0.6, 1.4), torch.zeros(2, 3, 1, 1))
    torch.testing.assert_close(ours, (expected - 0.5) / 0.2)


def test_contrast_is_torchvisions_for_one_channel(photos):
    gray = photos[:, :1]
    ours = adjust_contrast(gray, for_each_image(0.6, 1.4))
    for image, factor, result in zip(gray, (0.6, 1.4), ours, strict=True):
        torch.testing.assert_close(result, tv.adjust_contrast(image, factor))


def test_saturation_is_torchvisions(photos):
    ours = adjust_saturation(photos, for_each_image(0.0, 1.4))
    for image, factor, result in zip(photos, (0.0, 1.4), ours, strict=True):
        torch.testing.assert_close(result, tv.adjust_saturation(image, factor), atol=2e-4, rtol=0)  # 0.2989 for 0.299
    assert ours[0].std(0).max() < 1e-6


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_gray_is_the_mean_of_channels_that_are_no_colours(channels):
    images = torch.randn(1, channels, 8, 8)
    gray = adjust_saturation(images, for_each_image(0.0))
    torch.testing.assert_close(gray, images.mean(1, keepdim=True).expand_as(images))


def test_hue_turns_colours_and_leaves_luma_and_gray(photos):
    luma = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    turned = adjust_hue(photos, for_each_image(0.1, -0.1))
    torch.testing.assert_close((luma * turned).sum(1), (luma * photos).sum(1), atol=1e-4, rtol=0)
    gray = photos[:, :1].expand(-1, 3, -1, -1)
    torch.testing.assert_close(adjust_hue(gray, for_each_image(0.1, -0.1)), gray, atol=1e-4, rtol=0)
    torch.testing.assert_close(adjust_hue(turned, for_each_image(-0.1, 0.1)), photos)
    torch.testing.assert_close(adjust_hue(photos, for_each_image(1.0, 0.0)), photos)


def test_hue_turns_in_the_direction_that_torchvision_turns(photos):
    reddish = torch.tensor([0.7, 0.4, 0.4]).view(1, 3, 1, 1).expand(2, 3, 4, 4)
    ours = adjust_hue(reddish, for_each_image(0.1, -0.1))
    for image, turn, result in zip(reddish, (0.1, -0.1), ours, strict=True):
        theirs = tv.adjust_hue(image, turn)
        assert (result[1] - result[2])[0, 0].sign() == (theirs[1] - theirs[2])[0, 0].sign()


def test_blur_is_torchvisions_and_none_is_none(photos):
    ours = gaussian_blur(photos, for_each_image(1.5, 0.0))
    size = 2 * BLUR_RADIUS + 1
    inside = (..., slice(BLUR_RADIUS, -BLUR_RADIUS), slice(BLUR_RADIUS, -BLUR_RADIUS))
    torch.testing.assert_close(ours[0][inside], tv.gaussian_blur(photos[0], [size, size], [1.5, 1.5])[inside])
    assert torch.equal(ours[1], photos[1])


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [(32, 40), (3, 5)])
def test_images_stay_in_place_and_range_and_each_is_changed_in_its_own_way(channels, size):
    torch.manual_seed(0)
    one = torch.randn(1, channels, *size)
    images = one.expand(16, -1, -1, -1)
    before = images.clone()
    augmented = strongly_augmented(images)
    assert torch.equal(images, before)
    assert augmented.shape == images.shape and augmented.isfinite().all()
    assert augmented.min() >= one.min() - 1e-5 and augmented.max() <= one.max() + 1e-5
    kinds = {tuple(image.flatten()[:4].tolist()) for image in augmented}
    assert len(kinds) > 8  # some images stay as they are


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("jitter", [False, True])
@pytest.mark.parametrize("grayscale", [False, True])
@pytest.mark.parametrize("blur", [False, True])
def test_a_view_combines_all_chosen_adjustments(monkeypatch, channels, jitter, grayscale, blur):
    chosen = {
        strong_augmentation.JITTER_PROBABILITY: jitter,
        strong_augmentation.GRAYSCALE_PROBABILITY: grayscale,
        strong_augmentation.BLUR_PROBABILITY: blur,
    }
    ranges = []

    def uniform(images, low, high):
        ranges.append((low, high))
        return torch.full((images.shape[0], 1, 1, 1), low + 0.25 * (high - low))

    monkeypatch.setattr(strong_augmentation, "uniform", uniform)
    monkeypatch.setattr(
        strong_augmentation, "random_choice", lambda images, p: torch.full((images.shape[0], 1, 1, 1), chosen[p])
    )
    torch.manual_seed(0)
    images = torch.randn(1, channels, 16, 20)
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    expected = images
    if jitter:
        expected = adjust_brightness(expected, for_each_image(0.8), low)
        expected = adjust_saturation(adjust_contrast(expected, for_each_image(0.8)), for_each_image(0.8))
        expected = adjust_hue(expected, for_each_image(-0.05)) if channels == 3 else expected
        expected = expected.clamp(low, high)
    if grayscale:
        expected = adjust_saturation(expected, for_each_image(0.0))
    if blur:
        expected = gaussian_blur(expected, for_each_image(0.575))
    torch.testing.assert_close(strongly_augmented(images), expected)
    assert ranges == [(0.6, 1.4)] * 3 + [(-0.1, 0.1)] * (channels == 3) + [(0.1, 2.0)]


def test_constant_images_stay_constant():
    augmented = strongly_augmented(torch.full((4, 3, 16, 16), 2.5))
    torch.testing.assert_close(augmented, torch.full((4, 3, 16, 16), 2.5))


def test_the_same_seed_gives_the_same_views(photos):
    views = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        views.append(strongly_augmented(photos))
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])
