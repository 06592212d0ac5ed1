"""Real images as nnU-Net datasets that two cores can train: converted, planned, preprocessed, validated."""

import json
from pathlib import Path

from nnunet_plugins.cli import main
from support import cell_datasets


def convert(source: Path, root: Path, name: str, *options: str, num_cases: int | None = None) -> Path:
    """Convert all pairs, or ``num_cases`` of them at equal intervals, with ``nnunet-plugins convert folder``."""
    images = sorted((source / "images").iterdir())
    if num_cases is not None:
        subset = root / "download"
        for part in ("images", "masks"):
            (subset / part).mkdir(parents=True)
        for image in images[:: len(images) // num_cases][:num_cases]:
            (mask,) = (source / "masks").glob(f"{image.name.split('.')[0]}.*")
            (subset / "images" / image.name).symlink_to(image)
            (subset / "masks" / mask.name).symlink_to(mask)
        source = subset
    dataset_id, dataset_name = name.removeprefix("Dataset").split("_")
    patterns = ["--images", "images/*", "--masks", "masks/*"]
    main(["convert", "folder", str(source), "-d", dataset_id, "--dataset-name", dataset_name, *patterns, *options])
    return root / "nnUNet_raw" / name


def plan_and_preprocess(root: Path, name: str, configuration: str, **smaller) -> None:
    """Plan and preprocess with nnU-Net, with ``smaller`` values for a network that two cores can train."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiments, preprocess

    dataset_id = int(name[7:10])
    cell_datasets.extract_fingerprint(dataset_id)
    plan_experiments([dataset_id])
    preprocess([dataset_id], configurations=(configuration,), num_processes=(2,))
    path = root / "nnUNet_preprocessed" / name / "nnUNetPlans.json"
    plans = json.loads(path.read_text())
    plans["configurations"][configuration] |= smaller
    path.write_text(json.dumps(plans))


def validate(trainer) -> dict:
    """Run nnU-Net's validation and return its summary."""
    trainer.perform_actual_validation()
    return json.loads((Path(trainer.output_folder) / "validation" / "summary.json").read_text())
