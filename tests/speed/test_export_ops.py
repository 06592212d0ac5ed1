"""Proves: speed/export_ops.py exports networks and prints how many patches a second torch and onnxruntime compute."""

import re

import pytest

TINY = ["--patch", "32", "48", "--batch", "2", "--steps", "1"]
SPREAD = r"\d\S* \(\S+-\S+\)"


@pytest.mark.slow
def test_exported_networks_are_compared_with_torch(narrow, capsys):
    import export_ops

    export_ops.main(["TimmUNetTrainer", *TINY, "--threads", "1", "--cpu-time"])
    rows = capsys.readouterr().out.splitlines()
    for name in ("nnUNetTrainer", "TimmUNetTrainer"):
        row = next(row for row in rows if row.startswith(f"| {name} |"))
        assert re.fullmatch(rf"\| {name} (\| {SPREAD} ){{3}}\|", row)
