"""Proves: the strong augmentation is as strong as the authors', in every part and image, and a seed repeats it."""

import pytest
import torch
from skimage import data
from torch.nn import functional as F
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from nnunet_plugins.trainers.data import strong_augmentation
from nnunet_plugins.trainers.data.strong_augmentation import (
    BLUR_RADIUS,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    blur_columns,
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
    ours = adjust_brightness(photos, for_each_image(0.6, 1.4))
    for image, factor, result in zip(photos, (0.6, 1.4), ours, strict=True):
        torch.testing.assert_close(result, tv.adjust_brightness(image, factor))


@pytest.mark.parametrize("channels", [1, 3])
def test_contrast_is_torchvisions(photos, channels):
    images = photos[:, :channels]
    ours = adjust_contrast(images, for_each_image(0.6, 1.4))
    for image, factor, result in zip(images, (0.6, 1.4), ours, strict=True):
        torch.testing.assert_close(result, tv.adjust_contrast(image, factor), atol=2e-4, rtol=0)  # 0.2989 for 0.299


def test_contrast_of_channels_that_are_no_colours_is_their_own():
    images = torch.randn(1, 2, 8, 8) + torch.tensor([5.0, -5.0]).view(1, 2, 1, 1)
    ours = adjust_contrast(images, for_each_image(0.6))
    torch.testing.assert_close(ours.mean((2, 3)), images.mean((2, 3)))
    torch.testing.assert_close(ours.std((2, 3)), 0.6 * images.std((2, 3)))


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


@pytest.mark.parametrize("turn", [-0.1, 0.03, 0.1, 0.5])
def test_hue_is_torchvisions(photos, turn):
    ours = adjust_hue(photos, for_each_image(turn, turn))
    torch.testing.assert_close(ours, tv.adjust_hue(photos, turn), atol=1e-5, rtol=0)
    gray = photos[:, :1].expand(-1, 3, -1, -1)
    assert torch.equal(adjust_hue(gray, for_each_image(turn, turn)), gray)


@pytest.mark.parametrize("sigma", [0.1, 1.5, 3.0])
def test_blur_is_torchvisions_with_one_column_and_seven_rows(photos, sigma):
    ours = blur_columns(photos, for_each_image(sigma, 0.1))
    inside = (..., slice(BLUR_RADIUS, -BLUR_RADIUS), slice(None))  # torchvision reflects at the borders
    torch.testing.assert_close(ours[0][inside], tv.gaussian_blur(photos[0], [1, 7], [sigma, sigma])[inside])
    torch.testing.assert_close(ours[1], photos[1])  # a tenth of a pixel


# ---- strength --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures():
    """Photographs of 64 x 64 whose channels all reach from black to white, as those of an endoscope nearly do."""
    photos = (data.astronaut, data.chelsea, data.coffee, data.retina, data.immunohistochemistry, data.rocket)
    images = [torch.from_numpy(photo()).movedim(-1, 0)[None].float() for photo in photos]
    images = torch.cat([F.interpolate(image, (64, 64), mode="area") for image in images])
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    return (images - low) / (high - low)


def the_authors_augmentation(images):
    augment = v2.Compose(
        [v2.ColorJitter(0.3, 0.3, 0.3, 0.1), v2.RandomGrayscale(0.5), v2.GaussianBlur((1, 7), (0.1, 3.0))]
    )
    return torch.stack([augment(image) for image in images])


def changes(augment, images, draws=250):
    """Mean absolute change of every image in every draw."""
    return torch.stack([(augment(images) - images).abs().mean((1, 2, 3)) for _ in range(draws)])


def test_views_are_changed_as_much_as_the_authors_and_none_stays_as_it_is(pictures):
    torch.manual_seed(0)
    theirs, ours = changes(the_authors_augmentation, pictures), changes(strongly_augmented, pictures)
    print(f"mean change {ours.mean():.4f}, the authors' {theirs.mean():.4f}")
    assert ours.mean().item() == pytest.approx(theirs.mean().item(), rel=0.05)
    assert ours.min() > 1e-3


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_normalised_images_are_changed_as_these_would_be_and_normalised_then(pictures, channels):
    images = pictures[:, :channels]
    mean, std = images.mean((2, 3), keepdim=True), images.std((2, 3), keepdim=True)
    views = []
    for given in (images, (images - mean) / std):
        torch.manual_seed(0)
        views.append(strongly_augmented(given))
    torch.testing.assert_close(mean + std * views[1], views[0], atol=1e-4, rtol=0)


# ---- volumes ---------------------------------------------------------------------------------------------------------


def test_volumes_have_brightness_contrast_and_blur_but_no_colours(monkeypatch):
    ranges = []

    def uniform(images, low, high):
        ranges.append((low, high))
        return torch.full((images.shape[0], 1, 1, 1, 1), high)

    monkeypatch.setattr(strong_augmentation, "uniform", uniform)
    torch.manual_seed(0)
    volumes = torch.rand(2, 3, 5, 12, 10)
    volumes[..., 0, 0, 0], volumes[..., -1, -1, -1] = 0, 1  # black and white
    bright = (1.3 * volumes).clamp(0, 1)
    mean = bright.mean((2, 3, 4), keepdim=True)
    contrast = (mean + 1.3 * (bright - mean)).clamp(0, 1)
    expected = torch.stack([blur_columns(part, for_each_image(3.0, 3.0)) for part in contrast.unbind(2)], 2)
    torch.testing.assert_close(strongly_augmented(volumes), expected)
    assert ranges == [(0.7, 1.3), (0.7, 1.3), (0.1, 3.0)]


def test_every_volume_and_modality_keeps_its_range_and_is_changed_in_its_own_way():
    torch.manual_seed(0)
    one = torch.randn(1, 2, 4, 9, 8) * torch.tensor([1.0, 100.0]).view(1, 2, 1, 1, 1)
    augmented = strongly_augmented(one.expand(8, -1, -1, -1, -1))
    low, high = one.amin((0, 2, 3, 4)), one.amax((0, 2, 3, 4))
    assert (augmented.amin((0, 2, 3, 4)) >= low - 1e-3).all() and (augmented.amax((0, 2, 3, 4)) <= high + 1e-3).all()
    assert len({tuple(volume.flatten()[:4].tolist()) for volume in augmented}) == 8


# ---- views -----------------------------------------------------------------------------------------------------------


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
    assert len(kinds) == 16


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("share", [0.25, 0.75])
def test_a_view_is_made_of_all_adjustments(monkeypatch, channels, share):
    ranges = []

    def uniform(images, low, high):
        ranges.append((low, high))
        return torch.full((images.shape[0], 1, 1, 1), low + share * (high - low))

    monkeypatch.setattr(strong_augmentation, "uniform", uniform)
    torch.manual_seed(0)
    images = torch.rand(1, channels, 16, 20)
    images[..., 0, 0], images[..., -1, -1] = 0, 1  # black and white
    factor = for_each_image(0.7 + share * 0.6)
    expected = adjust_brightness(images, factor).clamp(0, 1)
    expected = adjust_contrast(expected, factor).clamp(0, 1)
    expected = adjust_saturation(expected, factor).clamp(0, 1)
    if channels == 3:
        expected = adjust_hue(expected, for_each_image(0.2 * share - 0.1))
    if share < 0.5:
        expected = adjust_saturation(expected, for_each_image(0.0))
    expected = blur_columns(expected, for_each_image(0.1 + share * 2.9))
    torch.testing.assert_close(strongly_augmented(images), expected)
    assert ranges == [(0.7, 1.3)] * 3 + [(-0.1, 0.1)] * (channels == 3) + [(0, 1), (0.1, 3.0)]


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
