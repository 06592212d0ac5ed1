"""DCSNet's loss in plain loops over pixels, and the outputs of a network that looks at given boxes."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from nnunet_plugins.losses import DCSNetLoss
from support.label_maps import drawing

SMOOTH = 1e-5


class Segments(NamedTuple):
    """Logits ``(N, K, S, S)`` of N boxes."""

    logits: Tensor
    levels: tuple[Tensor, ...]
    edges: Tensor


class Outputs(NamedTuple):
    """Outputs of a network that looks at these boxes."""

    logits: Tensor
    segments: Segments | None
    boxes: Tensor | None
    weights: Tensor | None
    detection_losses: dict[str, Tensor] | None


def outputs_of(maps, boxes, weights=None, detection=None):
    """Outputs with ``(6, N, K, S, S)`` logits: the main ones, those of four levels, and those of the edges."""
    weights = torch.ones(len(boxes)) if weights is None else torch.tensor(weights, dtype=torch.float32)
    segments = Segments(maps[0], tuple(maps[1:5]), maps[5])
    detection = {"box": maps.new_zeros(())} if detection is None else detection
    return Outputs(maps.new_zeros(1, maps.shape[2], 1, 1), segments, boxes, weights, detection)


def whole(batch, size):
    """Boxes that cover whole images."""
    return torch.tensor([[float(index), 0, 0, size, size] for index in range(batch)])


def one_hots(labels, num_classes):
    """One-hot maps ``(..., K, H, W)`` of a label map ``(..., 1, H, W)``."""
    return (labels.long() == torch.arange(num_classes).view(-1, 1, 1)).float()


def z_maps(*shape, seed=0):
    """Random logits of the given shape."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


Y = drawing("""
    ....
    .11.
    .111
    ..11
""")
Y_ARRAY = Y[0, 0].numpy().astype(float)


def terms_of(label_format, outputs, target, **kwargs):
    """Terms of ``DCSNetLoss`` without the detector's, after a check that all terms add up to the total."""
    loss = DCSNetLoss(label_format, **kwargs)
    total = loss(outputs, target)
    terms = loss.mean_terms()
    assert total.item() == pytest.approx(sum(terms.values()), rel=1e-5, abs=1e-6)
    return {name: terms[name] for name in ("main", "levels", "0.2 * edge", "0.05 * cons")}


def expected_terms(y, z, weights=(1.0, 0.8, 0.6, 0.4)):
    """Terms of the loss for one binary map y ``(S, S)`` and its ``(6, S, S)`` logits."""
    main, *levels, edge = sigmoid(z)
    return {
        "main": seg(y, main),
        "levels": sum(w * seg(y, p) for w, p in zip(weights, levels, strict=True)),
        "0.2 * edge": 0.2 * bce(literal_laplacian_edges(y), edge),
        "0.05 * cons": 0.05 * cons(levels),
    }


def sigmoid(z):
    return 1 / (1 + np.exp(-np.asarray(z, dtype=float)))


def neighbours(m, row, column):
    """Values of the 3x3 pixels around a position, as far as they are in the map."""
    return [
        m[r][c]
        for r in range(max(row - 1, 0), min(row + 2, len(m)))
        for c in range(max(column - 1, 0), min(column + 2, len(m[0])))
    ]


def per_pixel(function, m):
    return np.array([[function(m, row, column) for column in range(len(m[0]))] for row in range(len(m))])


def literal_inner_edges(m):
    return per_pixel(lambda m, r, c: m[r][c] - min(neighbours(m, r, c)), m)


def literal_laplacian_edges(y):
    return per_pixel(lambda y, r, c: float(len(set(neighbours(y, r, c))) > 1), y)


def dice(y, p):
    return 1 - (2 * np.sum(y * p) + SMOOTH) / (np.sum(y) + np.sum(p) + SMOOTH)


def boundary(y, p):
    return dice(literal_inner_edges(y), literal_inner_edges(p))


def focal(y, p):
    of_truth = np.where(y > 0, p, 1 - p)
    return np.mean(-((1 - of_truth) ** 2) * np.log(of_truth))


def seg(y, p):
    """Segmentation loss of section 3.4 with the weights of section 4.2."""
    return 0.5 * dice(y, p) + 0.3 * focal(y, p) + 0.2 * boundary(y, p)


def bce(y, p):
    return np.mean(-(y * np.log(p) + (1 - y) * np.log(1 - p)))


def cons(maps):
    """Eq. 10 with a mean over pixels, for the probabilities of D2 ... D5."""
    return np.mean([np.mean((p - q) ** 2) for p, q in pairwise(maps)])
