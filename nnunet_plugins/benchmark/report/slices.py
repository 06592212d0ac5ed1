"""Pictures of cases: an image or a slice of it, its true labels, and those that a trainer predicts."""

import glob
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnunet_plugins.benchmark.readers import label_manager, reader_of
from nnunet_plugins.benchmark.runs import Run, dataset_json, images_folder, is_test_set, references

LABEL_COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#d55e00", "#cc79a7", "#0072b2")
"""Colours that the colour-blind can tell apart (Okabe and Ito)."""


class Label(NamedTuple):
    """A label of a dataset, as pictures show it."""

    value: int
    name: str
    colour: str


class Slice(NamedTuple):
    """A 2D image, or the slice of a volume with most foreground."""

    image: NDArray[Any]
    """Gray ``(H, W)`` or colours ``(H, W, 3)``, from 0 to 1."""
    truth: NDArray[Any]
    """True labels ``(H, W)``."""
    index: Any
    """Place of the slice in the volume."""


def is_here(run: Run, part: str) -> bool:
    """Whether images and true segmentations of a part are on this machine, and not only what was measured on them."""
    if not images_folder(run, part).is_dir() or not (is_test_set(part) or run.splits_file.exists()):
        return False
    truth, first = references(run, part), f"_0000{dataset_json(run)['file_ending']}"
    images = {path.name.removesuffix(first) for path in images_folder(run, part).glob(f"*{first}")}
    return bool(truth) and all(path.exists() for path in truth.values()) and truth.keys() <= images


class CaseReader:
    """Reads the cases of one dataset's part.

    Args:
        run: any run of the dataset, the configuration and, in validation, the fold.
        part: validation or test.
    """

    def __init__(self, run: Run, part: str) -> None:
        self.run, self.part = run, part
        self.description = dataset_json(run)
        self.manager = label_manager(run)
        self.references = references(run, part)
        """Files of the true segmentations: in validation, of the run's fold."""
        self.reader = reader_of(run, next(iter(self.references.values())))

    @property
    def labels(self) -> list[Label]:
        """Labels with their names and colours, without background and ignored voxels."""
        names = {value: name for name, value in self.description["labels"].items() if isinstance(value, int)}
        if self.manager.has_regions:
            regions = [name for name, value in self.description["labels"].items() if value != 0 and name != "ignore"]
            names |= dict(zip(self.description["regions_class_order"], regions, strict=True))
        values = [value for value in self.manager.all_labels if value != 0]
        return [Label(v, names.get(v, str(v)), colour) for v, colour in zip(values, cycle(LABEL_COLOURS))]

    def read(self, case: str) -> Slice:
        """A case's image, or the slice with most foreground."""
        truth = self.reader.read_seg(str(self.references[case]))[0][0]
        foreground = (truth > 0) & (truth != self.manager.ignore_label)
        index = (int(foreground.sum(axis=(1, 2)).argmax()), slice(None), slice(None))
        names = f"{glob.escape(case)}_[0-9][0-9][0-9][0-9]{self.description['file_ending']}"
        array, _ = self.reader.read_images(sorted(map(str, images_folder(self.run, self.part).glob(names))))
        channels = array[(slice(None), *index)].astype(float)
        low, high = np.percentile(channels, [0.5, 99.5], axis=(1, 2), keepdims=True)
        scaled = ((channels - low) / np.maximum(high - low, 1e-9)).clip(0, 1)
        colours = list(self.description["channel_names"].values()) == ["R", "G", "B"]
        return Slice(np.moveaxis(scaled, 0, -1) if colours else scaled[0], truth[index], index)

    def read_prediction(self, run: Run, case: str, shown: Slice) -> NDArray[Any]:
        """Labels ``(H, W)`` that a run predicts; background where the truth is ignored."""
        path = run.folder / self.part / self.references[case].name
        prediction = self.reader.read_seg(str(path))[0][0][shown.index]
        if self.manager.has_ignore_label:
            prediction = np.where(shown.truth == self.manager.ignore_label, 0, prediction)
        return prediction
