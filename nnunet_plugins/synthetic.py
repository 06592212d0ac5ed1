"""Synthetic microscopy images of noisy, touching nuclei, for the demo and for tests."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage.io import imsave

from nnunet_plugins.files import write_json

STAINS = ("fluorescence", "haematoxylin")


def synthetic_nuclei(
    rng: np.random.Generator, size: int = 128, *, stain: str | None = None, density: float = 1.0
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw a microscopy image of noisy nuclei, many of which touch.

    Args:
        rng: source of all randomness.
        size: edge of the image in pixels.
        stain: ``"fluorescence"`` (bright on black), ``"haematoxylin"`` (dark on pink) or, by default, either.
        density: number of nuclei for each 20 x 20 pixels.

    Returns:
        Image ``(size, size, 3)`` and mask ``(size, size)`` with 1 in nuclei.
    """
    instances = place_nuclei(rng, size, max(3, round(density * (size / 20) ** 2)))
    stain = stain or STAINS[rng.integers(2)]
    render = render_fluorescence if stain == "fluorescence" else render_haematoxylin
    return render(rng, instances), (instances > 0).astype(np.uint8)


def place_nuclei(rng: np.random.Generator, size: int, number: int) -> NDArray[np.int64]:
    """Draw a label map ``(size, size)`` of ``number`` irregular ellipses, many of which touch; 0 is background."""
    axes = rng.uniform(4.5, 9.0, (number, 1)) * rng.uniform(0.8, 1.25, (number, 2))
    centres = rng.uniform(0, size, (number, 2))
    for i in range(1, number):
        if rng.random() < 0.5:  # beside an earlier nucleus, so that the outlines meet
            neighbour, angle = rng.integers(i), rng.uniform(0, 2 * np.pi)
            distance = 0.9 * (axes[i].mean() + axes[neighbour].mean())
            centres[i] = centres[neighbour] + distance * np.array([np.sin(angle), np.cos(angle)])

    rows, columns = np.mgrid[:size, :size][:, None] - centres.T[:, :, None, None]  # (N, H, W) each
    turn = rng.uniform(0, np.pi, (number, 1, 1))
    along = (np.cos(turn) * rows + np.sin(turn) * columns) / axes[:, :1, None]
    across = (np.cos(turn) * columns - np.sin(turn) * rows) / axes[:, 1:, None]
    bearing = np.arctan2(across, along)
    outline = np.ones_like(bearing)
    for lobes in (2, 3, 5):
        amplitude = rng.normal(0, 0.1 / lobes**0.5, (number, 1, 1))
        outline += amplitude * np.cos(lobes * bearing + rng.uniform(0, 2 * np.pi, (number, 1, 1)))
    distance = np.hypot(along, across) / outline  # 1 on the outline
    return np.where(distance.min(0) < 1, distance.argmin(0) + 1, 0)


def render_fluorescence(rng: np.random.Generator, instances: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Render bright nuclei of one colour on a dark field, with uneven light, out-of-focus haze and noise."""
    shape = instances.shape
    nuclei = brightness(rng, instances, 0.35, 1.0) * (1 + 0.35 * texture(rng, shape, 1.5))
    haze = gaussian_filter(nuclei, shape[0] / 12)
    light = (gaussian_filter(nuclei, 0.9) + 0.35 * haze + 0.06) * illumination(rng, shape)
    photons = rng.poisson(90 * light.clip(0)) / 90 + rng.normal(0, 0.02, shape)
    colour = np.array([[0.25, 0.45, 1.0], [0.3, 1.0, 0.45], [1.0, 1.0, 1.0]])[rng.integers(3)]
    return to_uint8(photons[..., None] * colour)


def render_haematoxylin(rng: np.random.Generator, instances: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Render violet nuclei on pink, fibrous tissue, with two absorbing dyes (Beer-Lambert), uneven light and noise."""
    shape = instances.shape
    haematoxylin = gaussian_filter(brightness(rng, instances, 0.5, 1.1) * (1 + 0.3 * texture(rng, shape, 1.2)), 0.8)
    haematoxylin += 0.12 + 0.08 * texture(rng, shape, 4)
    fibres = texture(rng, shape, tuple(rng.permutation([1.5, 8.0])))
    eosin = 0.3 + 0.12 * fibres + 0.1 * texture(rng, shape, 10)
    absorbed = haematoxylin[..., None] * [1.30, 1.40, 0.58] + eosin[..., None] * [0.14, 1.10, 0.45]
    light = 0.97 * np.exp(-absorbed) * illumination(rng, shape)[..., None]
    return to_uint8(rng.poisson(250 * light) / 250 + rng.normal(0, 0.015, absorbed.shape))


def brightness(rng: np.random.Generator, instances: NDArray[np.int64], low: float, high: float) -> NDArray[np.float64]:
    """Draw a random value for each nucleus; the background has 0."""
    return np.append(0.0, rng.uniform(low, high, instances.max()))[instances]


def texture(rng: np.random.Generator, shape: tuple[int, ...], scale: float | tuple[float, ...]) -> NDArray[np.float64]:
    """Smooth noise of mean 0 and standard deviation 1."""
    noise = gaussian_filter(rng.normal(size=shape), scale, mode="wrap")
    return (noise - noise.mean()) / noise.std()


def illumination(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Light that falls off from a random spot in the image."""
    spot = rng.uniform(0.1, 0.9, (2, 1, 1))
    return 1 - 0.35 * ((np.mgrid[: shape[0], : shape[1]] / shape[0] - spot) ** 2).sum(0)


def to_uint8(image: NDArray[np.float64]) -> NDArray[np.uint8]:
    return (255 * image).clip(0, 255).round().astype(np.uint8)


def write_dataset(folder: Path, *, num_train: int, num_test: int, size: int = 128, seed: int = 0) -> None:
    """Write synthetic nuclei as an nnU-Net dataset, RGB PNG: ``imagesTr``, ``labelsTr``, ``imagesTs``, ``labelsTs``.

    Images have ``size`` x ``size`` pixels.
    Every image has a random generator of its own, so image ``i`` is the same for any number of images.
    """
    for name in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for i in range(num_train + num_test):
        part = "Tr" if i < num_train else "Ts"
        image, mask = synthetic_nuclei(np.random.default_rng((seed, i)), size, stain=STAINS[i % 2])
        imsave(folder / f"images{part}" / f"nuclei_{i:03}_0000.png", image, check_contrast=False)
        imsave(folder / f"labels{part}" / f"nuclei_{i:03}.png", mask, check_contrast=False)
    description = {
        "name": folder.name,
        "description": "Synthetic microscopy, drawn by nnunet_plugins.synthetic: no real data.",
        "channel_names": {"0": "R", "1": "G", "2": "B"},
        "labels": {"background": 0, "nucleus": 1},
        "numTraining": num_train,
        "file_ending": ".png",
    }
    write_json(folder / "dataset.json", description, indent=2)
