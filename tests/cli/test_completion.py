"""Shells complete commands, options, names and files from the script that ``completion`` prints."""

import os
import shutil
import subprocess

import pytest

from nnunet_plugins.cli import main

CASES = [
    (["li"], {"list"}),
    (["predi"], {"predict", "predict_from_modelfolder"}),
    (["list", "DCFFSNetTrainer_m"], {"DCFFSNetTrainer_meanVote"}),
    (["plan", "-tr", "DCSNetTrainer_base1"], {"DCSNetTrainer_base128"}),
    (["convert", "kvasir_s"], {"kvasir_seg", "kvasir_sessile", "kvasir_small"}),
    (["benchmark", "st"], {"status"}),
    (["benchmark", "run", "my_su"], {"my_suite.toml"}),
    (["evaluate", "my_pre"], {"my_predictions"}),
    (["train", "501", "2d", "0", "-tr", "DCFFSNetTrainer_m"], {"DCFFSNetTrainer_meanVote"}),
    (["train", "501", "2d", "0", "-tr", "DCFFSNetTrainer", "--disable_c"], {"--disable_checkpointing"}),
    (["predict", "-d", "501", "-tr", "nnUNetT"], {"nnUNetTrainer"}),
    (["predict", "-i", "my_pre"], {"my_predictions"}),
    (["find_best_configuration", "501", "-tr", "nnUNetT"], {"nnUNetTrainer"}),
    (["convert", "fol"], {"folder"}),
    (["evaluate", "--tol"], {"--tolerance"}),
    (["completion", "f"], {"fish"}),
]
BASH = """
source "$1"
shift
COMP_WORDS=(nnunet-plugins "$@")
COMP_CWORD=$#
$(complete -p nnunet-plugins | sed 's/.* -F \\([^ ]*\\).*/\\1/')
printf '%s\\n' "${COMPREPLY[@]}"
"""
FISH = """
source $argv[1]
complete --do-complete "nnunet-plugins $argv[2..]"
"""
ZSH = """
autoload -U compinit; compinit -u -D
eval "$(<$1)"
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell "PS1=; autoload -U compinit; compinit -u -D; eval \\"\\$(<$1)\\"; print rea''dy"
zpty -r -m shell _ '*ready*'
zpty -w -n shell "nnunet-plugins $2"$'\\t'
zpty -r -m shell typed "*$3*" && print -r -- $3
"""


@pytest.fixture
def script(tmp_path, monkeypatch, capsys):
    """Writes the script of a shell, in a folder with files to complete."""
    (tmp_path / "my_suite.toml").touch()
    (tmp_path / "my_predictions").mkdir()
    monkeypatch.chdir(tmp_path)

    def write(shell: str) -> str:
        main(["completion", shell])
        (tmp_path / "script").write_text(capsys.readouterr().out)
        return str(tmp_path / "script")

    return write


def completions(shell: str, code: str, *arguments: str, **variables: str) -> set[str]:
    command = [shell, "-c", code, *([] if shell == "fish" else [shell]), *arguments]
    result = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=60, check=True)
    return {line.partition("\t")[0].rstrip("/") for line in result.stdout.splitlines()}


@pytest.mark.parametrize(("words", "expected"), CASES, ids=[" ".join(words) for words, _ in CASES])
def test_bash_completes(script, words, expected):
    assert completions("bash", BASH, script("bash"), *words) == expected


@pytest.mark.skipif(not shutil.which("fish"), reason="apt-get install fish")
@pytest.mark.parametrize(("words", "expected"), CASES, ids=[" ".join(words) for words, _ in CASES])
def test_fish_completes(script, words, expected, tmp_path):
    assert completions("fish", FISH, script("fish"), *words, HOME=str(tmp_path)) == expected


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("zsh"), reason="apt-get install zsh")
@pytest.mark.parametrize(("words", "expected"), [case for case in CASES if len(case[1]) == 1], ids=str)
def test_zsh_completes(script, words, expected):
    assert completions("zsh", ZSH, script("zsh"), " ".join(words), *expected) == expected
