"""Proves that commands hand over what they were given, and report exactly what is done."""

import pytest
import torch
from support.benchmark_commands import finish, never, refusal

from nnunet_plugins.benchmark import command
from nnunet_plugins.benchmark.jobs import engine, remaining
from nnunet_plugins.benchmark.runs import runs
from nnunet_plugins.benchmark.suite import read_suite
from nnunet_plugins.cli import main


@pytest.mark.parametrize("executor", ["local", "slurm"])
def test_run_hands_over_the_suite_and_says_when_not_everything_succeeded(executor, root, suite_file, monkeypatch):
    path = suite_file(device="cuda")
    given = []
    monkeypatch.setattr(engine, "run_suite", lambda survey, *arguments: given.append(arguments))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: executor == "local")
    monkeypatch.setattr(command, "report_to", never)
    options = ("--gpus", "1") if executor == "local" else ("--executor", "slurm")
    sentence = refusal(root, "run", path, *options)
    assert given == [(path.resolve(), executor, ("1",) if executor == "local" else ())]
    logs = root / "nnUNet_results" / "benchmarks" / "tiny" / "logs"
    assert sentence == (f"Not everything succeeded: see the messages above and the logs in {logs}; then run this again")


@pytest.mark.parametrize("succeeded", [True, False])
def test_what_is_done_is_reported_even_if_something_failed(succeeded, root, suite_file, monkeypatch):
    path = suite_file()
    for run in runs(read_suite(path))[: None if succeeded else 1]:
        finish(run)
    reported = []
    monkeypatch.setattr(engine, "run_suite", lambda *_: succeeded)
    monkeypatch.setattr(command, "report_to", lambda suite, folder: reported.append(folder))
    if succeeded:
        main(["benchmark", "run", str(path)])
    else:
        assert refusal(root, "run", path).startswith("Not everything succeeded")
    assert reported == [root / "nnUNet_results" / "benchmarks" / "tiny" / "report"]


def test_run_without_finished_trainings_fails_and_writes_no_report(root, suite_file, monkeypatch):
    """Another suite may have changed the folds, although Snakemake says that all jobs succeeded."""
    monkeypatch.setattr(engine, "run_suite", lambda *_: True)
    monkeypatch.setattr(command, "report_to", never)
    assert refusal(root, "run", suite_file()).startswith("Not everything succeeded")


def test_dry_run_checks_and_runs_nothing(root, suite_file, monkeypatch):
    asked = []
    monkeypatch.setattr(engine, "run_suite", never)
    monkeypatch.setattr(remaining, "dry_run", asked.append)
    path = suite_file()
    main(["benchmark", "run", str(path), "--dry-run"])
    assert [survey.suite.name for survey in asked] == ["tiny"]
    assert "finds no such trainer" in refusal(root, "run", suite_file(("nnUNetTrainer", "NoTrainer")), "--dry-run")


def test_on_a_terminal_the_wait_begins_with_a_line(root, suite_file, monkeypatch, capsys):
    path = suite_file()
    main(["benchmark", "status", str(path)])
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(command.sys.stderr, "isatty", lambda: True)
    main(["benchmark", "status", str(path)])
    assert capsys.readouterr().err == f"Looking at {path} ...\n"
    main(["benchmark", "status", "-q", str(path)])
    assert capsys.readouterr().err == ""


def test_report_goes_where_it_is_wanted_with_cases_or_without(root, suite_file, monkeypatch):
    asked = []
    monkeypatch.setattr(command, "report_to", lambda suite, folder, with_cases: asked.append((folder, with_cases)))
    path = suite_file()
    main(["benchmark", "report", str(path)])
    main(["benchmark", "report", str(path), "--output", "here", "--no-cases"])
    assert [(str(folder), with_cases) for folder, with_cases in asked] == [
        (str(root / "nnUNet_results" / "benchmarks" / "tiny" / "report"), True),
        ("here", False),
    ]


def test_verified_report_says_so(root, capsys, monkeypatch):
    from nnunet_plugins.benchmark.report import page

    monkeypatch.setattr(page, "verify", lambda _: [])
    main(["benchmark", "verify", str(root)])
    assert (
        capsys.readouterr().out
        == f"{root}: the tables and the page are those that its data and figures give, to the byte.\n"
    )
    monkeypatch.setattr(page, "verify", lambda _: ["results.md", "results.tex"])
    sentence = refusal(root, "verify", root)
    assert sentence.startswith(f"{root}: results.md, results.tex differ from what its data give:")
