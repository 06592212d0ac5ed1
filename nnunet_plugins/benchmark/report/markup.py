"""The tables of a report as CSV, Markdown and LaTeX."""

import re
from collections.abc import Iterable

import tabulate

from nnunet_plugins.benchmark.report.analysis import Analysis
from nnunet_plugins.benchmark.report.notes import DEFINITIONS, describe_suite, notices
from nnunet_plugins.benchmark.report.published import PUBLISHED_TITLE, published_csv
from nnunet_plugins.benchmark.report.tables import Table, all_tables

tabulate.WIDE_CHARS_MODE = False  # the files must not depend on whether the package wcwidth is installed

LATEX_ESCAPES = str.maketrans(tabulate.LATEX_ESCAPE_RULES)
LATEX_SYMBOLS = str.maketrans({"|": "$|$", "−": "$-$", "↑": r"$\uparrow$", "↓": r"$\downarrow$"})
"""Characters that tabulate does not escape, and that TeX's standard fonts lack."""

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
    for table in tables:
        if table.title == PUBLISHED_TITLE:
            texts[PUBLISHED_FILE] = published_csv(table)
    return {name: text.encode() for name, text in texts.items()}


def csv(analysis: Analysis) -> str:
    """All numbers of all metrics and labels."""
    wanted = analysis.results.record.num_trainings
    folds = [f"{done}/{wanted}" for done in analysis.table.trainings]
    table = analysis.table.assign(trainings=folds).rename(columns={"trainings": "folds"})
    return table.to_csv(index=False, float_format="%.6g", lineterminator="\n")


def markdown(analysis: Analysis, tables: Iterable[Table]) -> str:
    record = analysis.results.record
    head = [f"# {record.suite.name}", "", markdown_text(describe_suite(record)), "", DEFINITIONS, ""]
    head += [f"- {markdown_text(note)}" for note in notices(analysis)]
    return "\n\n".join(["\n".join(head), *map(markdown_table, tables)]) + "\n"


def markdown_table(table: Table) -> str:
    header, *rows = ([markdown_cell(text) for text in row] for row in (table.columns, *table.texts))
    body = tabulate.tabulate(rows, header, "github", disable_numparse=True)
    remarks = [f"{index}. {markdown_text(remark)}" for index, remark in enumerate(table.remarks, start=1)]
    texts = [f"## {markdown_text(table.title)}", body, markdown_text(table.note), "\n".join(remarks)]
    return "\n\n".join(filter(None, texts))


def markdown_cell(text: str) -> str:
    return markdown_text(text).replace("|", r"\|")


def markdown_text(text: str) -> str:
    """Text in which nothing is taken for an HTML tag."""
    return re.sub(r"<(?=[A-Za-z/!?])", r"\\<", text)


def latex(tables: Iterable[Table]) -> str:
    return "\n\n".join(["% needs \\usepackage{booktabs}", *map(latex_table, tables)]) + "\n"


def latex_table(table: Table) -> str:
    caption = f"{table.title}. {table.note}".translate(LATEX_ESCAPES)
    body = tabulate.tabulate(table.texts, table.columns, "latex_booktabs", disable_numparse=True)
    items = [rf"\item {remark.translate(LATEX_ESCAPES)}" for remark in table.remarks]
    remarks = [r"\begin{enumerate}", *items, r"\end{enumerate}"] if items else []
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{caption}}}", body, *remarks, r"\end{table}"]
    return "\n".join(lines).translate(LATEX_SYMBOLS)
