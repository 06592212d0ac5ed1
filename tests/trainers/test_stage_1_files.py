"""Proves: stage 2 of ConDSeg reads weights from the file that the user names, and nothing in it runs."""

import pytest
import torch
from safetensors.torch import save_file
from support.cell_datasets import THICK_VOLUMES, VOLUMES, initialized_trainer, make_trainer
from support.hostile_files import FORMATS, Command
from torch import nn

from nnunet_plugins.errors import UserError
from nnunet_plugins.trainers import condseg


@pytest.fixture
def stage_1(tmp_path, monkeypatch):
    """``stage_1(name)``: a path to which ``$NNUNET_PLUGINS_STAGE1`` is set."""

    def path(name):
        monkeypatch.setenv("NNUNET_PLUGINS_STAGE1", str(tmp_path / name))
        return tmp_path / name

    return path


@pytest.mark.parametrize("prefix", ["", "encoder.", "net0.encoder."])
@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_the_encoder_is_read_from_a_network_or_alone(stage_1, prefix, ending):
    source, encoder = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)
    weights = {prefix + name: value for name, value in source.state_dict().items()}
    path = stage_1(f"stage_1.{ending}")
    if ending == "safetensors":
        save_file(weights, path)
    else:
        torch.save({"network_weights": weights, "init_args": {"device": torch.device("cpu")}}, path)
    condseg.load_stage_1_encoder(encoder)
    assert torch.equal(encoder.weight, source.weight) and torch.equal(encoder.bias, source.bias)


@pytest.mark.parametrize("write", FORMATS)
def test_a_file_that_would_run_a_command_is_refused_in_a_sentence_and_runs_none(stage_1, tmp_path, write):
    write(stage_1("hostile.pth"), {"network_weights": {}, "logging": Command(tmp_path / "witness")})
    with pytest.raises(UserError, match=r"hostile.pth cannot be read as .*: set NNUNET_PLUGINS_STAGE1 to e.g. a check"):
        condseg.load_stage_1_encoder(nn.Conv2d(1, 1, 1))
    assert not (tmp_path / "witness").exists()


@pytest.mark.parametrize("weights", [{3: torch.zeros(1)}, {"encoder.weight": "text", 3: 4}, {"encoder.weight": [1]}])
def test_weights_of_other_kinds_are_refused_in_a_sentence(stage_1, weights):
    torch.save({"network_weights": weights}, stage_1("odd.pth"))
    with pytest.raises(UserError, match=r"odd.pth does not fit: expected a ConDSeg training"):
        condseg.load_stage_1_encoder(nn.Conv2d(1, 1, 1))


@pytest.mark.usefixtures("results", "narrow")
def test_stage_2_of_volumes_begins_with_the_encoder_of_a_stage_1_of_volumes(planned, stage_1):
    stage_1_trainer = initialized_trainer("ConDSegNet0Trainer", VOLUMES)
    weights = stage_1_trainer.network.state_dict()
    torch.save({"network_weights": weights}, stage_1("checkpoint_final.pth"))
    trainer = initialized_trainer("ConDSegTrainer_stage2", VOLUMES)
    for name, value in stage_1_trainer.network.encoder.state_dict().items():
        assert torch.equal(trainer.network.net0.encoder.state_dict()[name], value)


@pytest.mark.usefixtures("results", "narrow")
def test_stage_1_of_images_does_not_fit_volumes_which_is_said_in_a_sentence(planned, stage_1):
    torch.save({"network_weights": {"encoder.conv1.weight": torch.zeros(64, 3, 7, 7)}}, stage_1("images.pth"))
    with pytest.raises(UserError, match=r"images.pth does not fit: .* or of volumes with the same stages in its plans"):
        make_trainer("ConDSegTrainer_stage2", THICK_VOLUMES).initialize()
