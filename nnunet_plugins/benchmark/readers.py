"""What reads a dataset's files and tells its labels: nnU-Net's own."""

from pathlib import Path
from typing import Any

from nnunet_plugins.benchmark.runs import Run, dataset_json


def label_manager(run: Run) -> Any:
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    description = dataset_json(run)
    return LabelManager(description["labels"], description.get("regions_class_order"))


def reader_of(run: Run, example: Path) -> Any:
    """For all files like the example, which may be read to find out: ask once."""
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

    return determine_reader_writer_from_dataset_json(dataset_json(run), str(example), verbose=False)()
