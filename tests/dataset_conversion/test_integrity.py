"""Proves: a conversion ends with nnU-Net's own integrity check, in processes as users run it."""

import shutil

import pytest

from nnunet_plugins.dataset_conversion.integrity import check_integrity
from nnunet_plugins.errors import UserError
from nnunet_plugins.files import read_json, write_json


def test_dataset_that_nnunet_refuses_is_refused_in_one_sentence(converted, tmp_path):
    dataset = tmp_path / converted("isic2018").dataset.name
    shutil.copytree(converted("isic2018").dataset, dataset)
    check_integrity(dataset, 1)

    description = read_json(dataset / "dataset.json")
    write_json(dataset / "dataset.json", description | {"numTraining": description["numTraining"] + 1})
    with pytest.raises(
        UserError, match=r"^nnU-Net refuses the converted dataset \([^\n]+\): see what it has printed above$"
    ):
        check_integrity(dataset, 1)
