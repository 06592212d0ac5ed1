"""nnU-Net's own readers of a dataset's files, labels and validation metrics."""

from pathlib import Path
from typing import Any

from nnunet_plugins.benchmark.runs import SUMMARY, Run, dataset_json
from nnunet_plugins.files import read_json


def label_manager(run: Run) -> Any:
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    description = dataset_json(run)
    return LabelManager(description["labels"], description.get("regions_class_order"))


def reader_of(run: Run, example: Path) -> Any:
    """Reader of all files like the example, which may be read to find out: ask once."""
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

    return determine_reader_writer_from_dataset_json(dataset_json(run), str(example), verbose=False)()


def nnunet_metrics(run: Run) -> dict[str, dict[str, Any]]:
    """Metrics of each validated case and label in nnU-Net's ``summary.json``; empty before nnU-Net has written it."""
    path, ending = run.folder / SUMMARY, dataset_json(run)["file_ending"]
    if not path.exists():
        return {}
    cases = read_json(path, remedy=f"remove {path.parent} and run the benchmark again")["metric_per_case"]
    return {Path(case["prediction_file"]).name.removesuffix(ending): case["metrics"] for case in cases}
