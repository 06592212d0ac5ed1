"""Proves: nnU-Net finds the trainers right after any way of installing the package, and nothing else is disturbed."""

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.environments import Environment, call

from nnunet_plugins._startup import DISCOVERY_FOLDER, search_path

PROBE = Path(__file__).with_name("probe.py")
PACKAGE = "nnunet_plugins"
TRAINER = "DCFFSNetTrainer"
VARIANT = "DCFFSNetTrainer_woDS_1epoch_2iterations"
NAMES = {
    TRAINER: f"nnunet_plugins.trainers.dcffsnet.{TRAINER}",
    f"{TRAINER}_5epochs": f"nnunet_plugins.trainers.{TRAINER}_5epochs",
    VARIANT: f"nnunet_plugins.trainers.{VARIANT}",
}
VARIABLE = "os.environ.get('nnUNet_extTrainer')"


@pytest.fixture(scope="module")
def user_folder(tmp_path_factory) -> Path:
    """A folder with a trainer of the user's own."""
    folder = tmp_path_factory.mktemp("users_trainers")
    (folder / "mine.py").write_text(
        "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\n"
        "class TrainerOfMine(nnUNetTrainer):\n    pass\n"
    )
    return folder


@pytest.fixture(scope="module")
def probed(wheel_environment, user_folder) -> dict:
    """Findings of the probe for our names and a user's, in one process, right after the installation of the wheel."""
    names = [*NAMES, "TrainerOfMine"]
    return json.loads(wheel_environment.run(PROBE, "--workers", *names, nnUNet_extTrainer=user_folder).stdout)


def test_nnunet_finds_the_trainers_of_an_installed_wheel(probed, wheel_environment):
    assert probed["found"] == NAMES | {"TrainerOfMine": "mine.TrainerOfMine"}
    assert Path(probed["package"]).parent == wheel_environment.site_packages / PACKAGE


def test_the_users_own_folders_come_first_on_the_search_path(probed, user_folder, wheel_environment):
    ours = wheel_environment.site_packages / PACKAGE / "_discovery"
    assert probed["search path"] == [str(user_folder), str(ours)]


def test_a_trainer_is_one_class_however_it_is_found(probed):
    assert probed["found again as the same class"]
    assert probed["imported as the same class"]
    assert probed["pickled"]


def test_classes_reach_worker_processes_however_they_are_started(probed):
    assert probed["travelled"] == {"fork": True, "spawn": True, "forkserver": True}


def test_interpreter_start_imports_nothing_but_two_small_modules(wheel_environment, tmp_path):
    without = Environment(tmp_path).evaluate("[*sys.modules]")
    added = wheel_environment.evaluate(f"sorted({{*sys.modules}} - {{*{without}}})")
    assert added == "['nnunet_plugins', 'nnunet_plugins._startup']"


def test_the_search_path_stays_as_it_is_if_that_is_wanted(wheel_environment):
    assert wheel_environment.evaluate(VARIABLE) != "None"
    assert wheel_environment.evaluate(VARIABLE, NNUNET_PLUGINS_DISABLE_AUTOLOAD="1") == "None"
    users = wheel_environment.evaluate(VARIABLE, NNUNET_PLUGINS_DISABLE_AUTOLOAD="true", nnUNet_extTrainer="/mine")
    assert users == "/mine"


def test_env_leaves_pythonpath_alone_where_the_package_is_installed(wheel_environment):
    line = wheel_environment.run("-m", PACKAGE, "env", PYTHONPATH="/mine").stdout
    assert line == f"export nnUNet_extTrainer={wheel_environment.site_packages / PACKAGE / '_discovery'}\n"


def test_nnunet_finds_the_trainers_of_an_editable_installation(source, tmp_path):
    environment = Environment(tmp_path / "environment")
    environment.see_packages()  # the build backend
    environment.install("--editable", source)
    probed = json.loads(environment.run(PROBE, *NAMES).stdout)
    assert probed["found"] == NAMES
    assert Path(probed["package"]).parent == source / PACKAGE


def test_an_environment_without_the_package_finds_the_users_trainers_behind_ours(user_folder, tmp_path):
    """``nnUNet_extTrainer`` may be inherited from the environment that has the package."""
    environment = Environment(tmp_path / "environment")
    environment.see_packages()
    inherited = os.pathsep.join([DISCOVERY_FOLDER, str(user_folder)])
    find = "from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find; "
    found = environment.run("-c", f"{find}print(find('TrainerOfMine'))", nnUNet_extTrainer=inherited)
    assert "mine.TrainerOfMine" in found.stdout and "take it out of nnUNet_extTrainer" in found.stderr


def test_the_folder_of_another_installation_is_not_searched():
    ours, other = DISCOVERY_FOLDER, os.path.join(os.sep, "other", "nnunet_plugins", "_discovery")
    given = os.pathsep.join([f"{other}{os.sep}", "/mine", other])
    assert search_path(given) == os.pathsep.join(["/mine", ours])
    assert search_path(search_path(given)) == search_path(given)


def test_uninstalling_leaves_nothing(wheel, tmp_path):
    def files() -> set[Path]:
        return {*environment.site_packages.rglob("*"), *environment.python.parent.iterdir()}

    environment = Environment(tmp_path / "environment")
    before = files()
    environment.install(wheel)
    environment.evaluate("__import__('nnunet_plugins.trainers')")  # leaves compiled files
    environment.pip("uninstall", "--yes", "nnunet-plugins")
    assert files() == before
    assert environment.evaluate(VARIABLE) == "None"


def test_a_start_file_without_its_package_is_silent(wheel, tmp_path):
    environment = Environment(tmp_path / "environment")
    with zipfile.ZipFile(wheel) as archive:
        left_over = [name for name in archive.namelist() if name.startswith("nnunet_plugins_autoload.")]
        archive.extractall(environment.site_packages, left_over)
    assert sorted(left_over) == ["nnunet_plugins_autoload.pth", "nnunet_plugins_autoload.start"]
    assert environment.evaluate("'started'") == "started"


@pytest.fixture(scope="module")
def target(wheel, tmp_path_factory) -> tuple[Environment, Path]:
    """An environment, and a folder into which the package was installed with ``--target``, where no .pth file runs."""
    environment = Environment(tmp_path_factory.mktemp("target_environment"))
    folder = tmp_path_factory.mktemp("installed to") / "target"
    environment.install("--target", folder, wheel)
    environment.see_packages()
    return environment, folder


def test_the_line_that_env_prints_is_enough_for_a_target_installation(target):
    environment, folder = target
    assert environment.evaluate(VARIABLE, PYTHONPATH=folder) == "None"
    script = 'eval "$(PYTHONPATH=$TARGET $PYTHON -m nnunet_plugins env)"; exec $PYTHON "$@"'
    arguments = ("-c", script.replace("$TARGET", '"$TARGET"'), "bash", PROBE, *NAMES)
    result = call("bash", *arguments, folder=environment.root, TARGET=folder, PYTHON=environment.python)
    probed = json.loads(result.stdout)
    assert probed["found"] == NAMES
    assert Path(probed["package"]).parent == folder / PACKAGE


def test_the_train_command_finds_the_trainers_of_a_target_installation(target, tmp_path):
    environment, folder = target
    command = (folder / "bin" / "nnunet-plugins", "train", "Dataset999_Absent", "2d", "0", "-tr", VARIANT)
    variables = {"PYTHONPATH": folder, "NNUNET_PLUGINS_DISABLE_AUTOLOAD": "1", "nnUNet_preprocessed": tmp_path}
    result = call(*command, folder=environment.root, check=False, **variables)
    assert f"Using trainer '{VARIANT}' from: {folder / PACKAGE / '_discovery'}" in result.stdout
    assert "nnUNetPlans.json is not there: plan and preprocess the dataset first" in result.stderr


@pytest.mark.parametrize("command", ["console script", "python -m"])
def test_worker_processes_of_nnunets_commands_start(command, wheel_environment, tmp_path):
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / "Dataset001_Noise" / folder).mkdir(parents=True)
    for case in range(2):
        image = np.random.default_rng(case).integers(0, 255, (32, 32), np.uint8)
        Image.fromarray(image).save(tmp_path / "Dataset001_Noise" / "imagesTr" / f"case{case}_0000.png")
        Image.fromarray(image // 128).save(tmp_path / "Dataset001_Noise" / "labelsTr" / f"case{case}.png")
    description = {
        "channel_names": {"0": "grey"},
        "labels": {"background": 0, "noise": 1},
        "numTraining": 2,
        "file_ending": ".png",
    }
    (tmp_path / "Dataset001_Noise" / "dataset.json").write_text(json.dumps(description))

    program = {"console script": [wheel_environment.python.with_name("nnunet-plugins")], "python -m": ["-m", PACKAGE]}
    wheel_environment.run(
        *program[command], "extract_fingerprint", "-d", "1", "-np", "1",
        nnUNet_raw=tmp_path, nnUNet_preprocessed=tmp_path / "preprocessed",
    )  # fmt: skip
    assert os.listdir(tmp_path / "preprocessed" / "Dataset001_Noise") == ["dataset_fingerprint.json"]
