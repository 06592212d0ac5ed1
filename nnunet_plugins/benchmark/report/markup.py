"""The tables of a report as CSV, Markdown and LaTeX."""

import re
from collections.abc import Iterable

import tabulate

from nnunet_plugins.benchmark.report.analysis import Analysis
from nnunet_plugins.benchmark.report.headline import headline
from nnunet_plugins.benchmark.report.notes import DEFINITIONS, Notices, describe_suite, notices, number_of
from nnunet_plugins.benchmark.report.published import published, published_csv
from nnunet_plugins.benchmark.report.tables import Table, all_tables

tabulate.WIDE_CHARS_MODE = False  # the files must not depend on whether the package wcwidth is installed

LATEX_ESCAPES = str.maketrans(tabulate.LATEX_ESCAPE_RULES)
LATEX_SYMBOLS = str.maketrans({"|": "$|$", "−": "$-$", "≥": r"$\geq$", "↑": r"$\uparrow$", "↓": r"$\downarrow$"})
"""Characters that tabulate does not escape, and that TeX's standard fonts lack."""

MARKDOWN_MARKS = {"": "{}", "best": "**{}**", "alike": "*{}*", "opposite": "{}"}
LATEX_MARKS = {"": "%s", "best": r"\textbf{%s}", "alike": r"\textit{%s}", "opposite": "%s"}

PUBLISHED_FILE = "published.csv"
"""File of the published results, in reports of datasets that the papers use."""
TABLE_FILES = ("results.csv", "results.md", "results.tex", PUBLISHED_FILE)


def result_files(analysis: Analysis) -> dict[str, bytes]:
    """The tables of a report, by file name."""
    tables = all_tables(analysis)
    texts = {
        "results.csv": csv(analysis),
        "results.md": markdown(analysis, tables),
        "results.tex": latex(tables),
    }
    theirs = published(analysis.results, analysis.table)
    if theirs.rows:
        texts[PUBLISHED_FILE] = published_csv(theirs)
    return {name: text.encode() for name, text in texts.items()}


def csv(analysis: Analysis) -> str:
    """All numbers of all metrics and labels."""
    wanted = analysis.results.record.num_trainings
    folds = [f"{done}/{wanted}" for done in analysis.table.trainings]
    table = analysis.table.assign(trainings=folds).rename(columns={"trainings": "folds"})
    return table.to_csv(index=False, float_format="%.6g", lineterminator="\n")


def markdown(analysis: Analysis, tables: Iterable[Table]) -> str:
    record, notes = analysis.results.record, notices(analysis)
    head = [
        f"# {record.suite.name}",
        markdown_text(headline(analysis)),
        markdown_text(describe_suite(record)),
        DEFINITIONS,
    ]
    if notes:
        head.append(f"Notices, at the end: {number_of(notes)}.")
    end = ["## Notices", *map(markdown_notices, notes)] if notes else []
    return "\n\n".join([*head, *map(markdown_table, tables), *end]) + "\n"


def in_short(analysis: Analysis) -> str:
    """The headline, and the kinds of notices."""
    listed = "".join(f"\n- {kind.title}" for kind in notices(analysis))
    return headline(analysis) + (f"\n\nRead before you conclude:{listed}" if listed else "")


def markdown_notices(notes: Notices) -> str:
    lines = [f"**{notes.title}**", "", *(f"- {markdown_text(sentence)}" for sentence in notes.shown)]
    return "\n".join(lines)


def markdown_table(table: Table) -> str:
    header = [markdown_cell(text) for text in table.columns]
    rows = [[MARKDOWN_MARKS[cell.mark].format(markdown_cell(cell.text)) for cell in row] for row in table.rows]
    body = tabulate.tabulate(rows, header, "pipe", disable_numparse=True, colalign=table.alignments)
    remarks = [f"{index}. {markdown_text(remark)}" for index, remark in enumerate(table.remarks, start=1)]
    texts = [f"## {markdown_text(table.title)}", body, markdown_text(table.note), "\n".join(remarks)]
    return "\n\n".join(filter(None, texts))


def markdown_cell(text: str) -> str:
    return markdown_text(text).replace("|", r"\|")


def markdown_text(text: str) -> str:
    """Text in which nothing is taken for an HTML tag."""
    return re.sub(r"<(?=[A-Za-z/!?])", r"\\<", text)


def latex(tables: Iterable[Table]) -> str:
    return "\n\n".join(["% needs \\usepackage{booktabs,graphicx}", *map(latex_table, tables)]) + "\n"


def latex_table(table: Table) -> str:
    """A table over both columns of a page, no wider than they are."""
    caption = f"{table.title}. {table.note}".translate(LATEX_ESCAPES)
    header = [column.translate(LATEX_ESCAPES) for column in table.columns]
    rows = [[LATEX_MARKS[cell.mark] % cell.text.translate(LATEX_ESCAPES) for cell in row] for row in table.rows]
    items = [rf"\item {remark.translate(LATEX_ESCAPES)}" for remark in table.remarks]
    lines = [
        r"\begin{table*}",
        r"\centering\footnotesize",
        rf"\caption{{{caption}}}",
        rf"\label{{tab:{re.sub('[^A-Za-z0-9]+', '-', table.title).strip('-').lower()}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{''.join(side[0] for side in table.alignments)}}}",
        r"\toprule",
        latex_row(header),
        r"\midrule",
        *map(latex_row, rows),
        r"\bottomrule",
        r"\end{tabular}}",
        *([r"\begin{enumerate}", *items, r"\end{enumerate}"] if items else []),
        r"\end{table*}",
    ]
    return "\n".join(lines).translate(LATEX_SYMBOLS)


def latex_row(cells: Iterable[str]) -> str:
    return rf" {' & '.join(cells)} \\"
