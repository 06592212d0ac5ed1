"""Colours, markers, sizes and scales that all figures of a report share."""

import re
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from nnunet_plugins.benchmark.report.analysis import Analysis
from nnunet_plugins.benchmark.report.record import Record

COLOURS = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#d55e00",
    "#8c6bb1",
    "#7f7f7f",
)  # distinguishable by the colour-blind
MARKERS, LINES = "osD^v", ("-", "--", ":", "-.")
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "nnunet-plugins",
    "svg.fonttype": "path",
    "pdf.fonttype": 42,  # publishers refuse Type 3 fonts
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
MOST_SHOWN = 12
"""Most trainers in a figure that has something of each."""


class Look(NamedTuple):
    """Colour, marker and line of a trainer in all figures."""

    colour: str
    marker: str
    line: str


def look(trainer: str, record: Record) -> Look:
    """Look of a trainer, which depends on its place in the suite alone."""
    turn, index = divmod(record.suite.trainers.index(trainer), len(COLOURS))
    return Look(COLOURS[index], MARKERS[turn % len(MARKERS)], LINES[turn % len(LINES)])


def shown_trainers(analysis: Analysis) -> list[str]:
    """Trainers of the figures, in the report's order: of very many, the best ones and the reference."""
    order, reference = analysis.order, analysis.results.record.suite.reference
    if len(order) <= MOST_SHOWN or reference in order[:MOST_SHOWN]:
        return order[:MOST_SHOWN]
    return [*order[: MOST_SHOWN - 1], reference]


def left_out(analysis: Analysis) -> str:
    """End of a caption, which says what :func:`shown_trainers` leaves out; nothing, if it leaves out nothing."""
    shown, number = len(shown_trainers(analysis)), len(analysis.order)
    return "" if shown == number else f"; {shown} of {number} trainers: the best, and the reference"


def panels(count: int, height: float) -> tuple[Figure, list[Axes]]:
    """Figure with so many panels, two or three in a row, each of the height in inches."""
    columns = min(count, 2 if count <= 4 else 3)
    rows = -(-count // columns)
    figure = Figure(figsize=(4.3 * columns, height * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[count:]:
        axis.set_axis_off()
    return figure, axes[:count]


def add_legend(figure: Figure, names: Sequence[str]) -> None:
    """Add one legend for all panels, below them: trainers in the order of their names, then what else has a label."""
    shown: dict[str, Any] = {}
    for axis in figure.axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            shown.setdefault(label, handle)
    labels = [name for name in names if name in shown] + [label for label in shown if label not in names]
    columns = min(4, max(1, int(figure.get_figwidth() / (0.6 + 0.065 * max(map(len, labels))))))
    handles = [shown[label] for label in labels]
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=8)


def set_log_scale(axis: Axes, values: Sequence[float]) -> None:
    """Give a panel a logarithmic horizontal axis with ticks at 1, 2 and 5 times powers of ten around the values."""
    ticks = log_ticks(min(values), max(values))
    axis.set(xscale="log", xlim=(ticks[0], ticks[-1]))
    axis.xaxis.set_major_locator(FixedLocator(ticks))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_locator(NullLocator())


def log_ticks(low: float, high: float) -> list[float]:
    """Numbers 1, 2 and 5 times powers of ten, from the last below ``low`` to the first above ``high``.

    Example:
        >>> log_ticks(3.1, 60)
        [2.0, 5.0, 10.0, 20.0, 50.0, 100.0]
    """
    first, last = int(np.floor(np.log10(low))) - 1, int(np.ceil(np.log10(high))) + 1
    grid = [float(f"{digit}e{power}") for power in range(first, last + 1) for digit in (1, 2, 5)]
    below, above = max(tick for tick in grid if tick < low), min(tick for tick in grid if tick > high)
    return [tick for tick in grid if below <= tick <= above]


def broken(name: str, letters: int) -> str:
    r"""Name in lines of up to so many letters, broken before ``Trainer`` and where words end.

    Example:
        >>> broken("MedFusionTransNetTrainer_woMSF", 14)
        'MedFusionTrans\nNet\nTrainer_woMSF'
    """
    lines = [""]
    for word in words_of(name):
        for piece in textwrap.wrap(word, letters, drop_whitespace=False):
            if lines[-1] and (piece.startswith("Trainer") or len(f"{lines[-1]}{piece}".rstrip()) > letters):
                lines.append("")
            lines[-1] += piece
    return "\n".join(line.strip() for line in lines)


def words_of(name: str) -> list[str]:
    """Parts of a name after which a line may end: before ``Trainer`` and other words, and after underscores."""
    return [word for word in re.split(r"(?<=[_ ])|(?<=[a-z])(?=[A-Z])|(?=Trainer)", name) if word]
