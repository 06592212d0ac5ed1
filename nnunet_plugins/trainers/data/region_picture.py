"""Picture of a training case with the importance of its regions."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset

from nnunet_plugins.files import atomic_write
from nnunet_plugins.trainers.data.region_importance import RegionImportance
from nnunet_plugins.trainers.data.region_sampling import cell_centers


def draw_importance(dataset: nnUNetBaseDataset, importance: RegionImportance, path: Path) -> None:
    """Draw the first case and the importance of its regions; of a volume, the slice with the most important one."""
    identifier, case = next(iter(importance.cases.items()))
    regions = 100 * importance.mixture(case.regions).reshape(case.grid)
    layer = int(np.unravel_index(regions.argmax(), regions.shape)[0])
    z = int(cell_centers(case.shape[:1], case.grid[:1])[0][layer])
    data, segmentation, *_ = dataset.load_case(identifier)
    image, labels = np.asarray(data[0, z]), np.asarray(segmentation[0, z])
    height, width = labels.shape
    figure = Figure(figsize=(11, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.imshow(image, cmap="gray", interpolation="nearest")
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    heat = right.imshow(regions[layer], cmap="inferno", vmin=0, extent=extent, interpolation="nearest")
    for axes in (left, right):
        if labels.min() <= 0 < labels.max():
            axes.contour(labels > 0, levels=[0.5], colors="cyan", linewidths=1)
        axes.set_axis_off()
    figure.colorbar(heat).ax.tick_params(labelsize=10)  # nnU-Net's logger makes all letters large
    right.set_title("importance: % of the case's patches", fontsize=12)
    left.set_title(identifier if case.shape[0] == 1 else f"{identifier}, slice {z}", fontsize=12)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)
