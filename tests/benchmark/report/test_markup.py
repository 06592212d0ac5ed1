"""Proves that Markdown, LaTeX and the page show every name as it is."""

import re
from html.parser import HTMLParser

import pytest
from support.benchmark_results import CELLS, SKIN, SURVEY, markdown_rows

from nnunet_plugins.benchmark.report import page
from nnunet_plugins.benchmark.report.headline import headline
from nnunet_plugins.benchmark.report.markup import in_short, latex_table
from nnunet_plugins.benchmark.report.notes import notices
from nnunet_plugins.benchmark.report.tables import Cell, Table, all_tables


def test_markdown_has_no_column_and_no_tag_too_many(texts):
    markdown_rows(texts["results.md"], "Dice of each label")  # all rows have the header's columns
    assert r"100 % \| #1" in texts["results.md"]
    assert not re.search(r"(?<!\\)<[A-Za-z/!?]", texts["results.md"])  # GitHub would take it for HTML and show nothing


def tex_tables(text):
    for match in re.finditer(r"\\begin\{tabular\}\{([lr]+)\}\n(.*?)\\end\{tabular\}", text, re.DOTALL):
        lines = [line for line in match[2].splitlines() if line not in (r"\toprule", r"\midrule", r"\bottomrule")]
        yield len(match[1]), lines


def test_latex_is_balanced(texts):
    text = texts["results.tex"]
    found = list(tex_tables(text))
    assert len(found) == text.count(r"\begin{table*}") == text.count(r"\end{table*}") == text.count(r"\caption{") == 7
    for columns, lines in found:
        assert len(lines) > 1
        for line in lines:
            assert line.endswith(r" \\") and len(re.findall(r"(?<!\\)&", line)) == columns - 1, line
    assert len(re.findall(r"(?<!\\)\{", text)) == len(re.findall(r"(?<!\\)\}", text))
    for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
        assert text.count(rule) == len(found)


HOSTILE = ["a_b & <c>", "100 %", "#1", "$x", "~", "^2", "{a}", "\\alpha", "a|b", ">", "< 5", "−1", "Dice ↑", "<c"]


@pytest.mark.parametrize("text", HOSTILE)
def test_latex_shows_names_as_they_are(text):
    made = latex_table(Table(text, [text], [[Cell(text)]]))
    caption, header, cell = re.search(
        r"caption\{(.*)\. \}.*\\toprule\n (.*?) +\\\\.*\\midrule\n (.*?) +\\\\", made, re.DOTALL
    ).groups()
    for shown in (caption, header, cell):
        assert as_printed(shown) == text, made


def as_printed(made: str) -> str:
    """The text that TeX would print, by its rules for the characters that mean something else."""
    named = {"textbackslash": "\\", "textasciitilde": "~", "textasciicircum": "^", "textless": "<", "textgreater": ">"}
    named |= {"textbar": "|", "textbraceleft": "{", "textbraceright": "}"}
    shown = re.sub(
        r"\\(text[a-z]+)(\{\}| ?)", lambda match: re.escape(named[match[1]]) and f"\0{named[match[1]]}", made
    )
    shown = re.sub(r"\\ensuremath\{([<>])\}", "\0\\1", shown)
    shown = re.sub(r"\$(-|\||\\uparrow|\\downarrow|\\sim)\$", lambda m: "\0" + TEX_MATH.get(m[1], m[1]), shown)
    shown = re.sub(r"\\([_%&#${}])", lambda match: "\0" + match[1], shown)
    shown = re.sub(r"\\\^\{\}", "\0^", shown)
    assert not re.search(r"(?<!\0)[\\_%&#$^~{}<>|]", shown), made  # < and > are other letters in TeX's own fonts
    return shown.replace("\0", "")


TEX_MATH = {"-": "−", "\\uparrow": "↑", "\\downarrow": "↓", "\\sim": "~"}


class Cells(HTMLParser):
    """The tables of a page, as a browser reads them."""

    def __init__(self):
        super().__init__()
        self.tables, self.cell = [], None

    def handle_starttag(self, tag, attributes):
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        self.cell = tag if tag in ("td", "th", "button") else self.cell

    def handle_endtag(self, tag):
        self.cell = None if tag in ("td", "th") else self.cell

    def handle_data(self, data):
        if self.cell:
            self.tables[-1][-1][-1] += data


def test_page_has_all_tables_cell_by_cell(analysis, quick, tmp_path):
    page.write_report(SURVEY, tmp_path / "report")
    text = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    found = Cells()
    found.feed(text)
    made = all_tables(analysis)
    assert found.tables == [[shown.columns, *shown.texts] for shown in made]
    assert "a_b & <c>" in {cell for shown in found.tables for row in shown for cell in row}
    assert [shown.title for shown in made] == [
        f"{CELLS}, 2d, validation", f"{SKIN}, 2d, validation", "Ranks", "Dice of each label", "Cost without training",
        "Cost of the trainings", "Published",
    ]  # fmt: skip


def test_in_short_a_report_is_its_headline_and_the_kinds_of_its_notices(analysis):
    first, *kinds = in_short(analysis).splitlines()
    assert first == headline(analysis)
    assert kinds[:2] == ["", "Read before you conclude:"]
    assert kinds[2:] == [f"- {kind.title}" for kind in notices(analysis)] and "- Unfinished trainings" in kinds
