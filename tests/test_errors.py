"""Proves: an error of ours that ends a program is one sentence and exit code 1; everybody else's stay as they are."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nnunet_plugins._startup import DISCOVERY_FOLDER

SENTENCE = "the value is bad: take another one."


def run_python(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=300, check=False)


def ending_with(error: str, before: str = "") -> str:
    """A program that prints sentences and ends with an error."""
    return f"""
import sys
{before}
from nnunet_plugins.errors import UserError, print_sentences
class OtherError(UserError, RuntimeError): pass
print_sentences()
print_sentences()
raise {error}
"""


@pytest.mark.parametrize("kind", ["UserError", "OtherError"])
def test_our_error_is_told_in_its_sentence_alone(kind):
    result = run_python(ending_with(f"{kind}({SENTENCE!r}) from KeyError('a')"))
    assert (result.returncode, result.stderr) == (1, SENTENCE + "\n")


def test_the_traceback_can_be_had():
    result = run_python(ending_with(f"UserError({SENTENCE!r})"), NNUNET_PLUGINS_TRACEBACK="1")
    assert result.returncode == 1
    assert result.stderr.startswith("Traceback") and result.stderr.endswith(f"UserError: {SENTENCE}\n")


@pytest.mark.parametrize("error", ["ValueError('x')", "RuntimeError('y')", "KeyboardInterrupt", "SystemExit(3)"])
def test_errors_of_others_are_told_as_before(error):
    plain, ours = run_python(f"raise {error}"), run_python(ending_with(error))
    assert (ours.returncode, ours.stdout) == (plain.returncode, plain.stdout)
    assert ours.stderr.splitlines()[-1:] == plain.stderr.splitlines()[-1:]
    assert ours.stderr.startswith("Traceback") == plain.stderr.startswith("Traceback")


def test_a_hook_that_was_there_before_gets_all_but_our_errors():
    hook = "sys.excepthook = lambda kind, *_: print('theirs', kind.__name__)"
    assert run_python(ending_with("KeyError('a')", hook)).stdout == "theirs KeyError\n"
    result = run_python(ending_with(f"UserError({SENTENCE!r})", hook))
    assert (result.stdout, result.stderr) == ("", SENTENCE + "\n")


def test_the_traceback_is_in_the_log_of_the_training_that_it_ended(tmp_path):
    log = tmp_path / "training_log.txt"
    log.write_text("epoch 0\n")
    training = f"""
from nnunet_plugins.errors import UserError, print_sentences
print_sentences()
class Trainer:
    log_file = "of the class"
    def __init__(self): self.log_file = {str(log)!r}
    def run_training(self): raise UserError({SENTENCE!r})
Trainer().run_training()
"""
    assert run_python(training).stderr == SENTENCE + "\n"
    lines = log.read_text().splitlines()
    assert lines[:2] == ["epoch 0", "Traceback (most recent call last):"]
    assert lines[-1] == f"nnunet_plugins.errors.UserError: {SENTENCE}"


def rank_that_fails(rank: int, sentence: str) -> None:
    from nnunet_plugins.errors import UserError

    raise UserError(sentence) if sentence else KeyError("theirs")


@pytest.mark.parametrize("sentence", [SENTENCE, ""])
def test_the_error_of_a_rank_is_told_in_its_sentence(sentence):
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import torch.multiprocessing
from test_errors import rank_that_fails
from nnunet_plugins.errors import print_sentences
if __name__ == "__main__":
    print_sentences()
    torch.multiprocessing.spawn(rank_that_fails, ({sentence!r},), nprocs=1)
"""
    result = run_python(code)
    assert result.returncode == 1
    if sentence:
        assert result.stderr.splitlines()[-1] == SENTENCE and "Traceback" not in result.stderr
    else:
        assert "Traceback" in result.stderr and "KeyError: 'theirs'" in result.stderr


# ---- nnU-Net's own command -------------------------------------------------------------------------------------------


@pytest.fixture
def train(tmp_path):
    """``train(trainer, configuration)``: nnU-Net's own command on plans of volumes, in a process of its own."""
    architecture = {"network_class_name": "", "arch_kwargs": {}, "_kw_requires_import": []}
    configurations = {
        "2d": {"patch_size": [64, 64], "architecture": architecture},
        "3d_fullres": {"patch_size": [32, 32, 32], "architecture": architecture},
    }
    dataset = tmp_path / "preprocessed" / "Dataset001_Volumes"
    dataset.mkdir(parents=True)
    (dataset / "nnUNetPlans.json").write_text(json.dumps({"configurations": configurations}))
    (dataset / "dataset.json").write_text("{}")
    folders = {"nnUNet_preprocessed": str(dataset.parent), "nnUNet_results": str(tmp_path / "results")}
    quiet = {"PYTHONWARNINGS": "ignore"}  # torch warns of itself

    def run(trainer: str, configuration: str, **variables: str) -> subprocess.CompletedProcess[str]:
        program = Path(sys.executable).with_name("nnUNetv2_train")
        command = [program, "Dataset001_Volumes", configuration, "0", "-tr", trainer, "-device", "cpu"]
        environment = os.environ | folders | quiet | {"nnUNet_extTrainer": DISCOVERY_FOLDER} | variables
        finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert finished.returncode == 1
        assert not (tmp_path / "results").exists()
        return finished

    return run


def test_nnunets_command_tells_a_configuration_that_a_trainer_does_not_support_in_one_sentence(train):
    assert train("DCSNetTrainer_5epochs", "3d_fullres").stderr == (
        "DCSNetTrainer_5epochs works in 2D only, but configuration 3d_fullres is 3D: train 2d instead.\n"
    )


@pytest.mark.slow
def test_nnunets_command_shows_the_traceback_if_it_is_wanted(train):
    error = train("DCSNetTrainer_5epochs", "3d_fullres", NNUNET_PLUGINS_TRACEBACK="1").stderr
    assert error.startswith("Traceback") and "refuse_unsupported_dimensions" in error


def test_nnunets_command_says_what_a_misspelt_trainer_was_meant_to_be(train):
    error = train("DCFFSNetTrainr_5iterations_2epochs", "2d").stderr
    assert error.startswith(
        "There is no trainer DCFFSNetTrainr_5iterations_2epochs: did you mean DCFFSNetTrainer_2epochs_5iterations?"
    )
    assert len(error.splitlines()) == 1


COMMANDS = {
    "nnUNetv2_predict": "-i . -o predicted -d 1 -c 2d -f 0 -tr",
    "nnUNetv2_find_best_configuration": "1 -c 2d -f 0 -tr",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_commands_that_search_for_no_trainer_say_it_too(name, tmp_path):
    folders = {key: str(tmp_path / key) for key in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    for folder in folders.values():
        (Path(folder) / "Dataset001_Volumes").mkdir(parents=True)
    for folder in ("nnUNet_raw", "nnUNet_preprocessed"):
        (tmp_path / folder / "Dataset001_Volumes" / "dataset.json").write_text("{}")
    plans = tmp_path / "nnUNet_preprocessed" / "Dataset001_Volumes" / "nnUNetPlans.json"
    plans.write_text(json.dumps({"configurations": {"2d": {}}}))
    command = [Path(sys.executable).with_name(name), *COMMANDS[name].split()]
    environment = os.environ | folders | {"PYTHONWARNINGS": "ignore", "nnUNet_extTrainer": DISCOVERY_FOLDER}
    for trainer, told in {
        "DLKUNetSTrainr": "There is no trainer DLKUNetSTrainr: did you mean DLKUNetSTrainer? ",
        "DLKUNetSTrainer": "Traceback",
        "SomebodysTrainer": "Traceback",
    }.items():
        run = subprocess.run(
            [*command, trainer], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
        )
        assert run.returncode == 1
        assert run.stderr.startswith(told)


@pytest.mark.slow
def test_nnunets_own_errors_stay_nnunets(train):
    error = train("SomebodysTrainer", "2d").stderr
    assert error.startswith("Traceback") and "RuntimeError: Could not find requested nnunet trainer" in error
