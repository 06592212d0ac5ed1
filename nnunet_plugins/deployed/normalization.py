"""Intensity normalisation of a channel, as nnU-Net's schemes compute it."""

from collections.abc import Callable, Mapping

import numpy as np

from nnunet_plugins.errors import UserError

SMALLEST_STD = 1e-8
STATISTICS = ("mean", "std", "percentile_00_5", "percentile_99_5")
"""Numbers of the training data's foreground that schemes may read."""
Scheme = Callable[[np.ndarray, np.ndarray | None, Mapping[str, float]], np.ndarray]


def z_score(image: np.ndarray, mask: np.ndarray | None, _: Mapping[str, float]) -> np.ndarray:
    """Subtract the mean and divide by the standard deviation, of the mask alone if there is one."""
    where = ... if mask is None else mask
    mean, std = image[where].mean(), image[where].std()
    image[where] = (image[where] - mean) / max(std, SMALLEST_STD)
    return image


def ct(image: np.ndarray, _: np.ndarray | None, intensities: Mapping[str, float]) -> np.ndarray:
    """Clip to the percentiles of the training data, subtract their mean and divide by their standard deviation."""
    np.clip(image, intensities["percentile_00_5"], intensities["percentile_99_5"], out=image)
    image -= intensities["mean"]
    image /= max(intensities["std"], SMALLEST_STD)
    return image


def none(image: np.ndarray, *_: object) -> np.ndarray:
    """Leave the image as it is."""
    return image


def rescale_to_01(image: np.ndarray, *_: object) -> np.ndarray:
    """Move the smallest value to 0 and the largest to 1."""
    image -= image.min()
    image /= max(image.max(), SMALLEST_STD)
    return image


def rgb_to_01(image: np.ndarray, *_: object) -> np.ndarray:
    """Divide colours of 8 bits by 255."""
    if image.min() < 0 or image.max() > 255:
        raise UserError(f"It has values from {image.min():g} to {image.max():g}: expected colours of 0 to 255")
    image /= 255.0
    return image


SCHEMES: dict[str, Scheme] = {
    "ZScoreNormalization": z_score,
    "CTNormalization": ct,
    "NoNormalization": none,
    "RescaleTo01Normalization": rescale_to_01,
    "RGBTo01Normalization": rgb_to_01,
}
"""Schemes by their names in nnU-Net's plans. They change a float32 image ``(Z, Y, X)`` in place."""
