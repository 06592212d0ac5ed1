"""Proves: a damaged file of DRGO's importance of regions is said, and the importance begun anew."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from support.cell_datasets import LABELS, make_trainer

from nnunet_plugins.trainers.drgo import regions_file

pytestmark = pytest.mark.usefixtures("results", "narrow")


def pickled(path):
    content = io.BytesIO()
    np.savez(content, format=2, epoch=1, cases=np.array([{"a": 1}], dtype=object), grids=0)
    path.write_bytes(content.getvalue())


def with_a_changed_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "text": lambda path: path.write_text("no arrays"),
    "an array": lambda path: np.save(path.open("wb"), np.zeros(3)),
    "a pickle": pickled,
    "a changed byte": with_a_changed_byte,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_said_and_the_importance_begun_anew(damage):
    first = make_trainer("DRGOTrainer_2epochs_1iterations", LABELS)
    first.on_train_start()
    checkpoint = Path(first.output_folder, "checkpoint_latest.pth")
    first.importance.boundary[:] = 1.0
    first.save_checkpoint(str(checkpoint))
    DAMAGES[damage](regions_file(checkpoint))

    second = make_trainer("DRGOTrainer_2epochs_1iterations", LABELS, continue_training=True)
    second.load_checkpoint(str(checkpoint))
    second.on_train_start()
    log = Path(second.log_file).read_text()
    assert "checkpoint_latest_regions.npz is damaged" in log
    assert "begins anew" in log
    assert np.isnan(second.importance.boundary).all()
