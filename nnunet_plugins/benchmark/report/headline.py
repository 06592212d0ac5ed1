"""The few sentences that a report begins with, which say what its numbers show."""

from collections.abc import Mapping, Sequence

import pandas as pd

from nnunet_plugins.benchmark.metrics import HIGHER_IS_BETTER
from nnunet_plugins.benchmark.report.analysis import Analysis, main_label_rows
from nnunet_plugins.benchmark.report.cells import Mark
from nnunet_plugins.benchmark.report.numbers import contrary
from nnunet_plugins.benchmark.report.ranking import average_ranks, rank_table
from nnunet_plugins.benchmark.report.results import EVALUATION_COLUMNS, by_evaluation
from nnunet_plugins.benchmark.report.statistics import SIGNIFICANT, cannot_tell
from nnunet_plugins.benchmark.report.units import finished_trainers
from nnunet_plugins.wording import enumeration

UNDECIDED = "undecided, as mean and test say the opposite"
NAMED = 3
"""Most trainers that a sentence names; of more, it says the number."""


def best_of(rows: pd.DataFrame) -> str | None:
    """The trainer with the best mean of one evaluation, label and metric; None if fewer than two have a mean."""
    means = rows[rows["mean"].notna()].set_index("trainer")["mean"]
    sign = 1 if HIGHER_IS_BETTER[rows.metric.iloc[0]] else -1
    return str((sign * means).idxmax()) if len(means) > 1 else None


def mean_of(rows: pd.DataFrame) -> float:
    """Mean of the best trainer."""
    return float(rows.set_index("trainer")["mean"][best_of(rows)])


def marks(rows: pd.DataFrame) -> dict[str, Mark]:
    """The best trainer of one evaluation, label and metric, and those that are not worse beyond chance; by trainer.

    "alike" are those that are not different from it, "opposite" those that signed ranks find better. Where there are
    too few units to tell any of them apart, no trainer has a mark.
    """
    best = best_of(rows)
    if best is None:
        return {}
    others = rows[rows["mean"].notna()].set_index("trainer").drop(best)
    p, sign = others.p_holm_best, 1 if HIGHER_IS_BETTER[rows.metric.iloc[0]] else -1
    if p.isna().any():
        return {}
    found: dict[str, Mark] = dict.fromkeys(
        p.index[(p < SIGNIFICANT) & (sign * others.rank_biserial_best > 0)], "opposite"
    )
    return found | dict.fromkeys(p.index[p >= SIGNIFICANT], "alike") | {best: "best"}


def lead(rows: pd.DataFrame) -> str:
    """Best trainer of one evaluation, label and metric, with those that are not different from it, in a few words."""
    best, marked, metric = best_of(rows), marks(rows), rows.metric.iloc[0]
    if best is None:
        return ""
    if not marked:
        return f"{metric}: too few units to tell"
    return f"best {metric}: {best}, {mean_of(rows):.4f}; {about_others(marked)}"


def headline(analysis: Analysis) -> str:
    """Sentences that say who leads, by how much that can be relied on, and what is unfinished."""
    dice = main_label_rows(analysis.table[analysis.table.metric == "Dice"])
    evaluations = [rows for _, rows in by_evaluation(dice) if rows["mean"].notna().any()]
    sentences = [who_leads(analysis, evaluations), against_reference(analysis, evaluations), how_far(analysis)]
    return " ".join(filter(None, sentences))


def who_leads(analysis: Analysis, evaluations: Sequence[pd.DataFrame]) -> str:
    compared = [rows for rows in evaluations if best_of(rows)]
    told = [rows for rows in compared if marks(rows)]
    if not compared and several_are_finished(analysis):
        return "No two trainers have a Dice to compare: there is none where truth and prediction are empty everywhere."
    if not evaluations:
        return "No trainer has finished all of its trainings yet."
    if not compared:
        only = dict.fromkeys(trainer for rows in evaluations for trainer in rows.trainer[rows["mean"].notna()])
        names, have = " and ".join(only), "has" if len(only) == 1 else "have"
        return f"{names} alone {have} finished all trainings of a dataset; there is nothing to compare with."
    if not told:
        return f"Too few units to tell trainers apart: {units_in_words(compared)}, and no test can tell with so few."
    few = len(compared) - len(told)
    untold = f"; on {few} more there are too few units to tell" if few else ""
    if len(told) == 1:
        where = f"On {' '.join(told[0].iloc[0][EVALUATION_COLUMNS])}, " if few else ""
        best = f"{best_of(told[0])} has the highest mean Dice, {mean_of(told[0]):.4f}"
        return f"{where}{best}; {about_others(marks(told[0]), with_p=True)}{untold}."
    return f"{leader_of_several(analysis, told)}{untold}."


def several_are_finished(analysis: Analysis) -> bool:
    """Whether any evaluation has two finished trainers, with or without a mean."""
    record, evaluations = analysis.results.record, by_evaluation(analysis.results.cases)
    return any(len(finished_trainers(cases, record, evaluation.dataset)) > 1 for evaluation, cases in evaluations)


def leader_of_several(analysis: Analysis, told: Sequence[pd.DataFrame]) -> str:
    """Words on the trainer that leads on several evaluations, all with units enough to tell trainers apart."""
    found = [marks(rows) for rows in told]

    def number(trainer: str, mark: Mark) -> int:
        return sum(one.get(trainer) == mark for one in found)

    leader = analysis.order[0]
    ranks = rank_table(analysis.rankings, analysis.results.record)
    ranked = ""
    if leader in ranks.index and len(ranks.columns) == len(told):
        ranked = f"an average rank of {average_ranks(ranks)[leader]:.2f} of {len(ranks)} and "
    as_good = number(leader, "alike")
    elsewhere = f", and on {as_good} more it is not different from the best (p ≥ {SIGNIFICANT:g})" if as_good else ""
    where = f"{number(leader, 'best')} of {len(told)} evaluations"
    numbers = f"with {ranked}the highest mean Dice on {where}{elsewhere}"
    others = [rows["mean"].notna().sum() - len(one) for one, rows in zip(found, told, strict=True)]
    if any(worse and one.get(leader) == "best" for worse, one in zip(others, found, strict=True)):
        return f"{leader} leads, {numbers}"
    return f"{leader} comes first, {numbers}, though nowhere the best beyond chance (p ≥ {SIGNIFICANT:g})"


def units_in_words(evaluations: Sequence[pd.DataFrame]) -> str:
    """Number of units of some evaluations, e.g. ``2 to 4 units on each of 3 evaluations``."""
    numbers = sorted({int(rows.units.max()) for rows in evaluations})
    units = f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else str(numbers[0])
    return f"{units} units" + (f" on each of {len(evaluations)} evaluations" if len(evaluations) > 1 else "")


def against_reference(analysis: Analysis, evaluations: Sequence[pd.DataFrame]) -> str:
    """Sentence on the trainers whose Dice is different from the reference's, beyond chance."""
    compared = [rows[rows.difference.notna()] for rows in evaluations]
    told = [rows[~cannot_tell(rows.pairs.to_numpy())] for rows in compared]
    told = [rows for rows in told if len(rows)]
    if not told:
        return ""
    rows = pd.concat(told)
    opposite = contrary(rows)
    clear = (rows.p_holm < SIGNIFICANT) & ~opposite
    verdicts = {"better": rows[clear & (rows.difference > 0)], "worse": rows[clear & (rows.difference < 0)]}
    verdicts[f"{UNDECIDED},"] = rows[opposite]
    different = {trainer for found in verdicts.values() for trainer in found.trainer}
    verdicts["not different"] = rows[~rows.trainer.isin(different)]
    words = [
        f"{word} with {with_places(found.trainer.value_counts(), analysis.order, len(told))}"
        for word, found in verdicts.items()
        if len(found)
    ]
    reference = analysis.results.record.suite.reference
    return f"Against {reference}, at p < {SIGNIFICANT:g} after Holm's correction, Dice is {enumeration(words)}."


def with_places(numbers: pd.Series, order: Sequence[str], num_evaluations: int) -> str:
    """Names of a few trainers, each with the number of evaluations where there are several, or the number of many."""
    if len(numbers) > NAMED:
        return f"{len(numbers)} trainers" + (f" (each on some of {num_evaluations})" if num_evaluations > 1 else "")
    places = "" if num_evaluations == 1 else " (on {} of " + f"{num_evaluations})"
    return enumeration([trainer + places.format(numbers[trainer]) for trainer in order if trainer in numbers])


def how_far(analysis: Analysis) -> str:
    """Sentence on what is unfinished; nothing if all is done."""
    record, done = analysis.results.record, len(analysis.results.trainings)
    wanted = sum(
        len(record.data(dataset).configurations) * len(record.trainers_of(dataset)) * record.num_trainings
        for dataset in record.datasets
    )
    return f"{done} of {wanted} trainings are done." if done < wanted else ""


def about_others(marked: Mapping[str, Mark], with_p: bool = False) -> str:
    """Words on the trainers that are not the best one: those that are not worse, if there are any."""
    words = {"alike": "not different from it", "opposite": UNDECIDED}
    named = {mark: [trainer for trainer, own in marked.items() if own == mark] for mark in words}
    told = [
        f"{enumerated(names)} {words[mark]}" + f" (p {'≥' if mark == 'alike' else '<'} {SIGNIFICANT:g})" * with_p
        for mark, names in named.items()
        if names
    ]
    return "; ".join(told) or "all others are worse" + f" (p < {SIGNIFICANT:g})" * with_p


def enumerated(names: Sequence[str]) -> str:
    """Names of a few, or the number of many, with the verb.

    Example:
        >>> enumerated(["A"]), enumerated(["A", "B", "C"]), enumerated(["A", "B", "C", "D"])
        ('A is', 'A, B and C are', '4 others are')
    """
    if len(names) > NAMED:
        return f"{len(names)} others are"
    return f"{enumeration(names)} {'is' if len(names) == 1 else 'are'}"
