"""Proves: a replaced dataset is planned anew, and a dry run tells all that would stop the conversion."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nnunet_plugins.cli import main


def convert(tmp_path: Path, size: int, *options: str) -> None:
    mask = np.zeros((size, size), np.uint8)
    mask[:2] = 255
    for index in range(6):
        for kind in ("images", "masks"):
            (tmp_path / "download" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(tmp_path / "download" / kind / f"{index}.png")
    patterns = ("--images", "images/*.png", "--masks", "masks/*.png")
    folder = str(tmp_path / "download")
    main(["convert", "folder", folder, "-d", "600", "--dataset-name", "Squares", "-np", "1", *patterns, *options])


def test_a_replaced_dataset_is_to_be_planned_from_scratch(tmp_path, nnunet_folders, capsys):
    convert(tmp_path, 8)
    assert "nnUNetv2_plan_and_preprocess -d 600 -c 2d\n" in capsys.readouterr().out
    preprocessed = tmp_path / "nnUNet_preprocessed" / "Dataset600_Squares"
    (preprocessed / "dataset_fingerprint.json").write_text("{}")
    convert(tmp_path, 9, "--overwrite")
    assert "nnUNetv2_plan_and_preprocess -d 600 -c 2d --clean\n" in capsys.readouterr().out

    (tmp_path / "groups.csv").write_text("case,group\n" + "".join(f"{index},same\n" for index in range(6)))
    convert(tmp_path, 9, "--overwrite", "--groups", str(tmp_path / "groups.csv"))
    assert not (preprocessed / "splits_final.json").exists()  # one group has no folds, and those of before are wrong


def test_a_dry_run_tells_what_would_stop_the_conversion(tmp_path, nnunet_folders, capsys):
    folds = tmp_path / "nnUNet_preprocessed" / "Dataset600_Squares" / "splits_final.json"
    folds.parent.mkdir()
    folds.write_text(json.dumps([{"train": ["a"], "val": ["b"]}]))
    with pytest.raises(SystemExit, match="has other folds"):
        convert(tmp_path, 8, "--dry-run")
    convert(tmp_path, 8, "--dry-run", "--overwrite")
    assert "Dry run: nothing was written." in capsys.readouterr().out
    assert not any((tmp_path / "nnUNet_raw").iterdir())


def test_masks_without_any_foreground_are_no_dataset(tmp_path, nnunet_folders):
    with pytest.raises(SystemExit, match=r"^No mask of folder has any foreground: check --threshold"):
        convert(tmp_path, 8, "--threshold", "255")
    assert not any((tmp_path / "nnUNet_raw").iterdir())
