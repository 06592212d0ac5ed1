"""Proves: weights are read from what nnU-Net and timm write, and a file that would run a command runs none."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.hostile_files import FORMATS, Command, as_zip
from torch import Tensor

from nnunet_plugins.checkpoint_files import only_numbers_of_numpy, read_checkpoint
from nnunet_plugins.errors import UserError


def nnunet_checkpoint() -> dict:
    """Content of nnU-Net's checkpoints, in the types that it has there."""
    return {
        "network_weights": {"weight": torch.ones(2)},
        "optimizer_state": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"betas": (0.9, 0.99)}]},
        "grad_scaler_state": None,
        "logging": {"mean_fg_dice": [np.float32(0.5), np.nan], "lrs": [0.1], "dice": [[np.float64(0.25)]]},
        "_best_ema": np.float32(0.5),
        "current_epoch": np.int64(7),
        "init_args": {"plans": {"a": [1, "b", None]}, "fold": 0, "device": torch.device("cpu")},
        "inference_allowed_mirroring_axes": (0, 1),
    }


def test_a_checkpoint_of_nnunet_is_read_as_it_was_written(tmp_path):
    torch.save(nnunet_checkpoint(), tmp_path / "checkpoint_final.pth")
    found = read_checkpoint(tmp_path / "checkpoint_final.pth")
    assert torch.equal(found.pop("network_weights")["weight"], torch.ones(2))
    expected = nnunet_checkpoint()
    del expected["network_weights"]
    assert str(found) == str(expected)
    assert type(found["_best_ema"]) is np.float32


def test_numbers_of_numpy_1_are_read(tmp_path):
    path = tmp_path / "old.pth"
    torch.save({"number": np.float32(0.5)}, path, _use_new_zipfile_serialization=False)
    old = path.read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    path.write_bytes(old)
    assert b"numpy.core.multiarray" in old
    assert read_checkpoint(path) == {"number": 0.5}


def test_safetensors_are_read(tmp_path):
    save_file({"weight": torch.arange(3)}, tmp_path / "encoder.safetensors")
    assert read_checkpoint(tmp_path / "encoder.safetensors")["weight"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("write", FORMATS)
@pytest.mark.parametrize("place", ["alone", "beside weights"])
def test_a_file_that_would_run_a_command_is_refused_and_runs_none(tmp_path, write, place):
    path, witness = tmp_path / "hostile.pth", tmp_path / "witness"
    command = Command(witness)
    write(path, command if place == "alone" else nnunet_checkpoint() | {"logging": command})
    with pytest.raises(UserError, match=r"hostile\.pth cannot be read as weights alone \(it ") as refused:
        read_checkpoint(path)
    assert not witness.exists()
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 400


def test_the_file_of_these_tests_does_run_its_command_where_nothing_prevents_it(tmp_path):
    as_zip(tmp_path / "hostile.pth", Command(tmp_path / "witness"))
    torch.load(tmp_path / "hostile.pth", weights_only=False)
    assert (tmp_path / "witness").exists()


def test_what_others_have_allowed_in_this_process_is_refused_all_the_same_and_allowed_again(tmp_path):
    import os

    path = tmp_path / "hostile.pth"
    as_zip(path, Command(tmp_path / "witness"))
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals([os.mkdir])
    try:
        with pytest.raises(UserError, match=r"it holds \w+\.mkdir"):
            read_checkpoint(path)
        assert os.mkdir in torch.serialization.get_safe_globals()
        assert not (tmp_path / "witness").exists()
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def test_an_object_in_the_place_of_a_number_is_refused(tmp_path):
    class Number:
        def __reduce__(self):
            return np.float64(0).__reduce__()[0], (np.dtype(object), [1])

    torch.save({"_best_ema": Number()}, tmp_path / "object.pth")
    with pytest.raises(UserError, match="cannot be read as weights alone"):
        read_checkpoint(tmp_path / "object.pth")


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04", 100 * b"\0"])
@pytest.mark.parametrize("name", ["damaged.pth", "damaged.safetensors"])
def test_a_damaged_file_is_named(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} cannot be read as weights alone"):
        read_checkpoint(tmp_path / name)


def test_a_file_of_one_tensor_is_no_checkpoint(tmp_path):
    torch.save(torch.ones(1), tmp_path / "tensor.pth")
    with pytest.raises(UserError, match="it holds a Tensor, no dict"):
        read_checkpoint(tmp_path / "tensor.pth")
    with only_numbers_of_numpy():
        assert isinstance(torch.load(tmp_path / "tensor.pth", weights_only=True), Tensor)
