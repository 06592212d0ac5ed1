"""The list of trainers has all of them, or those asked for, at once: nothing large is imported."""

import json
import subprocess
import sys

import pytest

from nnunet_plugins.cli import main
from nnunet_plugins.trainers import TRAINERS, find_trainer
from nnunet_plugins.trainers.facts import read_facts

FACTS = read_facts()


def listed(capsys, *arguments: str) -> str:
    main(["list", *arguments])
    return capsys.readouterr().out


def test_the_list_has_every_trainer_with_its_size(capsys):
    header, *rows = listed(capsys).partition("\n\n")[0].splitlines()
    assert [row.split()[0] for row in rows] == list(TRAINERS)
    start, end = header.index("PARAMETERS"), header.index("WHAT IT VARIES")
    for name, row in zip(TRAINERS, rows, strict=True):
        assert row[start:end].split() == [f"{FACTS[name].parameters / 1e6:.2f}", "M"]
        assert FACTS[name].method in row
        assert row.endswith(TRAINERS[name].varies)
        assert all(f"{dimensions}D" in row for dimensions in FACTS[name].dimensions)


def test_the_list_ends_with_papers_and_suffixes(capsys):
    output = listed(capsys)
    for paper in {facts.paper for facts in FACTS.values()}:
        assert output.count(paper) == 1
    for suffix in ("_<N>epochs", "_<M>iterations", "_pretrained", "_earlyStop<N>"):
        assert suffix in output


def test_the_list_says_what_the_parameters_are_counted_for(capsys):
    output = listed(capsys)
    for name, facts in FACTS.items():
        channels = "with {} channels in and {} out".format(*find_trainer(name).reference_channels)
        assert f"{facts.paper}. Parameters: {channels}\n" in output


@pytest.mark.parametrize(
    ("words", "trainers"),
    [
        (["DCSNetTrainer"], ["DCSNetTrainer"]),
        (["DLKUNetSTrainer_C64_earlyStop5_10epochs"], ["DLKUNetSTrainer_C64"]),
        (["dcffsnet"], [name for name in TRAINERS if name.startswith("DCFFSNet")]),
        (["DCSNetTrainer", "CASNetTrainer", "DCSNetTrainer_2epochs"], ["CASNetTrainer", "DCSNetTrainer"]),
    ],
)
def test_trainers_and_methods_can_be_asked_for(capsys, words, trainers):
    rows = listed(capsys, *words).partition("\n\n")[0].splitlines()[1:]
    assert [row.split()[0] for row in rows] == trainers
    assert [entry["trainer"] for entry in json.loads(listed(capsys, "--json", *words))] == trainers


def test_programs_get_the_table_as_json(capsys):
    entries = {entry.pop("trainer"): entry for entry in json.loads(listed(capsys, "--json"))}
    assert list(entries) == list(TRAINERS)
    for name, entry in entries.items():
        assert entry == {
            "varies": TRAINERS[name].varies,
            **FACTS[name]._asdict(),
            "dimensions": [*FACTS[name].dimensions],
        }


@pytest.mark.parametrize(
    ("word", "answer"),
    [
        ("DCFFSNetTrainr", "There is no trainer DCFFSNetTrainr: did you mean DCFFSNetTrainer?"),
        ("condsegtrainer_2epoch", "There is no trainer condsegtrainer_2epoch: did you mean ConDSegTrainer_2epochs?"),
        ("TransUNet", "There is no trainer or method TransUNet: 'nnunet-plugins list' prints all."),
        ("nnUNetTraine", "There is no trainer or method nnUNetTraine: 'nnunet-plugins list' prints all."),
    ],
)
def test_a_name_that_no_trainer_has_is_answered_in_a_sentence(word, answer):
    with pytest.raises(SystemExit) as stopped:
        main(["list", word])
    assert stopped.value.code == answer


@pytest.mark.parametrize("arguments", [["list"], ["list", "--json"], ["completion", "zsh"], []])
def test_nothing_large_is_imported(arguments):
    code = (
        "import sys; from nnunet_plugins.cli import main; main(sys.argv[1:]); "
        "large = {'torch', 'nnunetv2'} & set(sys.modules); sys.exit(str(large) if large else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
