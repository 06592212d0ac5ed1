"""Small images, volumes and label maps for the miniatures."""

import numpy as np
from skimage.draw import ellipse

SIZE, VOLUME_SIZE = (24, 32), (6, 16, 18)
OBLIQUE = (0.96, -0.28, 0.0, 0.28, 0.96, 0.0, 0.0, 0.0, 1.0)
STRAIGHT = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def blob(rng: np.random.Generator, size: tuple[int, int] = SIZE, radii: tuple[int, int] = (6, 8)) -> np.ndarray:
    """Mask ``(H, W)`` with an ellipse at a random place."""
    mask = np.zeros(size, bool)
    center = [rng.integers(radius, length - radius) for length, radius in zip(size, radii, strict=True)]
    mask[ellipse(*center, *radii, size)] = True
    return mask


def photo(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    """Image ``(H, W, 3)`` of skin, mucosa or tissue that is darker inside the mask."""
    image = np.where(mask[..., None], [110, 60, 70], [200, 140, 120]) + rng.normal(0, 10, (*mask.shape, 3))
    return image.clip(0, 255).astype(np.uint8)


def box_labels(rng: np.random.Generator, num_labels: int) -> np.ndarray:
    """Label map ``(D, H, W)`` with a box, two voxels wide and high, for each label."""
    labels = np.zeros(VOLUME_SIZE, np.uint8)
    cells = rng.permutation(VOLUME_SIZE[1] // 2 * (VOLUME_SIZE[2] // 2))[:num_labels]
    for label, cell in enumerate(cells, 1):
        row, column = np.unravel_index(cell, (VOLUME_SIZE[1] // 2, VOLUME_SIZE[2] // 2))
        first = rng.integers(0, 3)
        labels[first : first + 3, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = label
    return labels


def scan(rng: np.random.Generator, labels: np.ndarray, low: int, high: int) -> np.ndarray:
    """Volume ``(D, H, W)`` of 16 bits that is brighter where there is a label."""
    image = rng.integers(low, high, labels.shape) + 20 * labels.astype(np.int16)
    return image.astype(np.int16)
