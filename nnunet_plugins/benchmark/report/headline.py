"""The few sentences that a report begins with, which say what its numbers show."""

from collections.abc import Sequence

import pandas as pd

from nnunet_plugins.benchmark.metrics import HIGHER_IS_BETTER
from nnunet_plugins.benchmark.report.analysis import Analysis, main_label_rows
from nnunet_plugins.benchmark.report.cells import Mark
from nnunet_plugins.benchmark.report.ranking import average_ranks, rank_table
from nnunet_plugins.benchmark.report.results import by_evaluation

SIGNIFICANT = 0.05
NAMED = 3
"""Most trainers that a sentence names; of more, it says the number."""


def marks(rows: pd.DataFrame) -> dict[str, Mark]:
    """The best trainer of one evaluation, label and metric, and those that are not different from it; by trainer."""
    means = rows[rows["mean"].notna()].set_index("trainer")
    if len(means) < 2:
        return {}
    sign = 1 if HIGHER_IS_BETTER[rows.metric.iloc[0]] else -1
    best = str((sign * means["mean"]).idxmax())
    alike: dict[str, Mark] = dict.fromkeys(means.index[means.p_holm_best >= SIGNIFICANT], "alike")
    return alike | {best: "best"}


def lead(rows: pd.DataFrame) -> str:
    """Best trainer of one evaluation, label and metric, with those that are not different from it, in a few words."""
    marked = marks(rows)
    if not marked:
        return ""
    best = next(trainer for trainer, mark in marked.items() if mark == "best")
    mean = rows.set_index("trainer")["mean"][best]
    alike = [trainer for trainer, mark in marked.items() if mark == "alike"]
    metric = rows.metric.iloc[0]
    return f"best {metric}: {best}, {mean:.4f}; {about_others(alike)}"


def headline(analysis: Analysis) -> str:
    """Sentences that say who leads, by how much that can be relied on, and what is unfinished."""
    dice = main_label_rows(analysis.table[analysis.table.metric == "Dice"])
    evaluations = [rows for _, rows in by_evaluation(dice) if rows["mean"].notna().any()]
    sentences = [who_leads(analysis, evaluations), against_reference(analysis, evaluations), how_far(analysis)]
    return " ".join(filter(None, sentences))


def who_leads(analysis: Analysis, evaluations: Sequence[pd.DataFrame]) -> str:
    marked = [marks(rows) for rows in evaluations]
    if not evaluations:
        return "No trainer has finished all of its trainings yet."
    if not any(marked):
        (only,) = {trainer for rows in evaluations for trainer in rows.trainer[rows["mean"].notna()]}
        return f"{only} alone has finished all of its trainings; there is nothing to compare it with."
    leader = analysis.order[0]
    if len(marked) == 1:
        alike = [trainer for trainer, mark in marked[0].items() if mark == "alike"]
        mean = evaluations[0].set_index("trainer")["mean"][leader]
        p = f"p {'≥' if alike else '<'} {SIGNIFICANT:g}"
        return f"{leader} has the highest mean Dice, {mean:.4f}; {about_others(alike)} ({p})."
    best = sum(found.get(leader) == "best" for found in marked)
    as_good = sum(found.get(leader) == "alike" for found in marked)
    ranks = rank_table(analysis.rankings, analysis.results.record)
    ranked = ""
    if leader in ranks.index and len(ranks.columns) == len(marked):
        ranked = f"an average rank of {average_ranks(ranks)[leader]:.2f} of {len(ranks)} and "
    elsewhere = f", and on {as_good} more it is not different from the best (p ≥ {SIGNIFICANT:g})" if as_good else ""
    return f"{leader} leads, with {ranked}the highest mean Dice on {best} of {len(marked)} evaluations{elsewhere}."


def against_reference(analysis: Analysis, evaluations: Sequence[pd.DataFrame]) -> str:
    """Sentence on the trainers whose Dice is different from the reference's, beyond chance."""
    rows = pd.concat([rows[rows.difference.notna()] for rows in evaluations]) if evaluations else pd.DataFrame()
    if rows.empty:
        return ""
    clear = rows.p_holm < SIGNIFICANT
    better, worse = (int((clear & (sign * rows.difference > 0)).sum()) for sign in (1, -1))
    same = len(rows) - better - worse
    reference = analysis.results.record.suite.reference
    return (
        f"Against {reference}, Dice is better in {better}, worse in {worse} and not different in {same} of {len(rows)} "
        f"comparisons (p < {SIGNIFICANT:g} after Holm's correction)."
    )


def how_far(analysis: Analysis) -> str:
    """Sentence on what is unfinished; nothing if all is done."""
    record, done = analysis.results.record, len(analysis.results.trainings)
    wanted = sum(
        len(record.data(dataset).configurations) * len(record.trainers_of(dataset)) * record.num_trainings
        for dataset in record.datasets
    )
    return f"{done} of {wanted} trainings are done." if done < wanted else ""


def about_others(alike: Sequence[str]) -> str:
    """Words on the trainers that are not the best one: those that are not different from it, if there are any."""
    return f"{enumerated(alike)} not different from it" if alike else "all others are worse"


def enumerated(names: Sequence[str]) -> str:
    """Names of a few, or the number of many, with the verb.

    Example:
        >>> enumerated(["A"]), enumerated(["A", "B", "C"]), enumerated(["A", "B", "C", "D"])
        ('A is', 'A, B and C are', '4 others are')
    """
    if len(names) > NAMED:
        return f"{len(names)} others are"
    return f"{names[0]} is" if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]} are"
