"""Proves: an estimate is computed once for the same question, and again for another one."""

import pytest
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from support import cell_datasets

from nnunet_plugins.trainers.memory import cache
from nnunet_plugins.trainers.memory.cache import cached_estimate
from nnunet_plugins.trainers.memory.estimate import Estimate


@pytest.fixture
def asked(planned, tmp_path, monkeypatch) -> list[dict]:
    """Questions that reach the estimator, with an empty cache."""
    questions: list[dict] = []

    def estimate(*_, **options) -> Estimate:
        questions.append(options)
        return Estimate(len(questions), 7, False)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "estimate_training", estimate)
    return questions


def ask(**options) -> Estimate:
    plans, description = (
        load(cell_datasets.LABELS) for load in (cell_datasets.load_plans, cell_datasets.load_dataset_json)
    )
    return cached_estimate(nnUNetTrainer, plans, "2d", description, **options)


def test_same_question_is_answered_once(asked):
    assert ask() == ask() == Estimate(1, 7, False)
    assert len(asked) == 1


def test_other_batch_and_recomputation_are_other_questions(asked):
    assert [ask().peak, ask(batch_size=3).peak, ask(recompute=True).peak, ask(batch_size=3).peak] == [1, 2, 3, 2]


def test_other_source_is_another_question(asked, monkeypatch):
    ask()
    monkeypatch.setattr(cache, "sources_digest", lambda trainer_class: "changed")
    assert ask().peak == 2


def test_damaged_answer_is_replaced(asked):
    ask()
    (file,) = cache.cache_folder().glob("*.json")
    for damage in ("{", "{}", "3"):
        file.write_text(damage)
        first = ask()
        assert ask() == first
    assert len(asked) == 4


def test_cache_that_cannot_be_written_is_done_without(asked, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert [ask().peak, ask().peak] == [1, 2]
