"""Proves that the page works in a browser, alone, without errors, on a phone, and that its tables sort as expected."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from support.benchmark_results import OTHER, REFERENCE, THIRD, results_of, rows_of, suite_of
from support.browser import in_browser, opened

from nnunet_plugins.benchmark.report import page, tables
from nnunet_plugins.benchmark.report.analysis import analyse
from nnunet_plugins.benchmark.survey import Survey

LONG_NAME = "Dataset001_Intracranial_Haemorrhage_of_the_Challenge_2022"
COLUMNS = {
    "trainer": ["DLKUNetSTrainer", "aTrainer", "BTrainer", "cTrainer", "", "nnUNetTrainer"],
    "Dice ↑": ["9.5 [9.1, 9.9]", "10.2 [8.0, 11.0]", "", "100 [1.0, 2.0]", "0.5", "-3.25"],
    "Dice − x": ["+0.25 [+0.1, +0.3]", "-0.10 [-0.2, +0.1]", "−0.20", "", "+0.05", "-0.30"],
    "p": ["0.500", "< 0.001", "", "0.010", "1.000", "0.002"],
    "folds": ["5/5", "3/5 folds", "0/5 folds", "10/10", "4/5 folds", ""],
    "p near": ["0.001", "< 0.001", "0.010", "0.001", "< 0.001", ""],
}
ASCENDING = {
    "trainer": ["aTrainer", "BTrainer", "cTrainer", "DLKUNetSTrainer", "nnUNetTrainer", ""],
    "Dice ↑": ["-3.25", "0.5", "9.5 [9.1, 9.9]", "10.2 [8.0, 11.0]", "100 [1.0, 2.0]", ""],
    "Dice − x": ["-0.30", "−0.20", "-0.10 [-0.2, +0.1]", "+0.05", "+0.25 [+0.1, +0.3]", ""],
    "p": ["< 0.001", "0.002", "0.010", "0.500", "1.000", ""],
    "folds": ["0/5 folds", "3/5 folds", "4/5 folds", "5/5", "10/10", ""],
}
NUMBERS = {
    "Dice ↑": [9.5, 10.2, None, 100, 0.5, -3.25],
    "Dice − x": [0.25, -0.1, -0.2, None, 0.05, -0.3],
    "p": [0.5, 0.0002, None, 0.01, 1, 0.002],
    "folds": [5, 3, 0, 10, 4, None],
    "p near": [0.00104, 0.0009, 0.01, 0.00102, 0.0008, None],
}
"""Numbers behind the texts, by which the page sorts."""
SORTING = tables.Table(
    "Sorting",
    list(COLUMNS),
    [
        [
            tables.Cell(text, NUMBERS[name][row] if name in NUMBERS else None)
            for name, text in zip(COLUMNS, texts, strict=True)
        ]
        for row, texts in enumerate(zip(*COLUMNS.values(), strict=True))
    ],
)

SCRIPT = """
  const title = [...document.querySelectorAll("h2")].find(h => h.textContent === "Sorting");
  const table = title.closest("details").querySelector("table");
  const headers = [...table.tHead.rows[0].cells];
  const column = index => [...table.tBodies[0].rows].map(row => row.cells[index].textContent);
  const marks = () => headers.map(header => header.getAttribute("aria-sort"));
  found.unsorted = headers.map((_, index) => column(index));
  found.clicks = headers.map((header, index) => [0, 1, 2].map(() => {
    header.firstChild.click();
    return {values: column(index), rows: table.tBodies[0].rows.length, mark: marks()};
  }));
  found.other = [...document.querySelectorAll("th[aria-sort]")].every(header => table.contains(header));
  found.faded = [...document.querySelectorAll(".scroll")].filter(e => e.classList.contains("more")).length;
  found.wide = [...document.querySelectorAll(".scroll")].filter(e => e.scrollWidth > e.clientWidth + 1).length;
  found.images = [...document.images].map(image => [image.naturalWidth, image.getBoundingClientRect().right]);
  found.boxes = [...document.images].map(image => image.parentElement.getBoundingClientRect().right);
  found.links = [...document.querySelectorAll("nav a")].map(a => [a.hash, !!document.getElementById(a.hash.slice(1))]);
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """A report with a table to sort, names that need escaping and a name that is long."""
    trainers = (REFERENCE, OTHER, THIRD)
    suite = suite_of(trainers, (LONG_NAME,))
    dice = {name: [0.1 * gain + number / 40 for number in range(20)] for gain, name in enumerate(trainers)}
    rows = [*rows_of(dice, dataset=LONG_NAME, label="a_b & <c>"), *rows_of(dice, dataset=LONG_NAME, label="<script>x")]
    results = results_of(rows, suite, {LONG_NAME: "isic2018"})
    all_tables = tables.all_tables
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(page, "collect", lambda _: results)
        monkeypatch.setattr(page, "all_tables", lambda analysis: [*all_tables(analysis), SORTING])
        folder = tmp_path_factory.mktemp("page") / "report"
        page.write_report(Survey(suite, ()), folder, with_cases=False)
        return folder / "report.html"


@pytest.fixture(scope="module")
def desktop(written, tmp_path_factory):
    return opened(written, tmp_path_factory.mktemp("desktop") / "alone", 1280, SCRIPT)


@pytest.fixture(scope="module")
def phone(written, tmp_path_factory):
    return opened(written, tmp_path_factory.mktemp("phone") / "alone", 400, SCRIPT)


class References(HTMLParser):
    """Collects the addresses that the page would load or lead to, and its tags."""

    def __init__(self):
        super().__init__()
        self.targets = []
        self.tags = set()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.targets += [v or "" for k, v in attributes if k in ("src", "href", "srcset", "action", "data", "poster")]


def test_page_needs_nothing_but_itself(written):
    text = written.read_text(encoding="utf-8")
    found = References()
    found.feed(text)
    assert found.targets and all(target.startswith(("#", "data:image/")) for target in found.targets)
    assert not found.tags & {"link", "iframe", "object", "embed", "base"}
    readable = re.sub(r"data:image/[a-z+]+;base64,[A-Za-z0-9+/=]+", "", text)
    assert "http://" not in readable and "https://" not in readable and "@import" not in readable
    assert "url(" not in readable


@in_browser
def test_browser_has_nothing_to_complain_about(desktop, phone):
    for found, said in (desktop, phone):
        assert found["errors"] == []
        assert "CONSOLE" not in said, said
        assert found["title"] == "synthetic: benchmark"


@in_browser
def test_pictures_are_shown_wherever_the_page_lies(desktop, phone):
    for found, _ in (desktop, phone):
        assert len(found["images"]) >= 5
        assert all(width > 0 for width, _ in found["images"])
        assert all(right <= found["inner"] for right in found["boxes"])
    assert all(right <= desktop[0]["inner"] for _, right in desktop[0]["images"])
    assert any(right > phone[0]["inner"] for _, right in phone[0]["images"])  # in a box that scrolls


@in_browser
def test_every_link_leads_somewhere(desktop):
    links = desktop[0]["links"]
    assert len(links) >= 6 and all(exists for _, exists in links) and len({target for target, _ in links}) == len(links)


@in_browser
@pytest.mark.parametrize("column", ASCENDING)
def test_first_click_sorts_upwards_and_the_second_downwards(desktop, column):
    index = list(COLUMNS).index(column)
    assert desktop[0]["unsorted"][index] == COLUMNS[column]
    first, second, third = (click["values"] for click in desktop[0]["clicks"][index])
    assert first == third == ASCENDING[column]
    assert second == [*ASCENDING[column][-2::-1], ""]  # empty ones last either way


@in_browser
def test_less_than_the_smallest_p_is_smaller_than_it(desktop):
    index = list(COLUMNS).index("p near")
    upwards, downwards, _ = (click["values"] for click in desktop[0]["clicks"][index])
    expected = ["< 0.001", "< 0.001", "0.001", "0.001", "0.010"]
    assert (upwards, downwards) == ([*expected, ""], [*expected[::-1], ""])


@in_browser
def test_sorted_column_is_marked_and_rows_stay_whole(desktop):
    found, rows = desktop[0], set(zip(*COLUMNS.values(), strict=True))
    for index, clicks in enumerate(found["clicks"]):
        for click, direction in zip(clicks, ("ascending", "descending", "ascending"), strict=True):
            assert click["mark"] == [direction if other == index else None for other in range(len(COLUMNS))]
            assert click["rows"] == len(rows)
    assert found["other"]  # tables are sorted one by one


@in_browser
@pytest.mark.parametrize("width", [400, 1280])
def test_page_is_never_wider_than_its_window(desktop, phone, width):
    found = (phone if width == 400 else desktop)[0]
    assert found["inner"] == width
    assert found["width"] <= width
    assert found["faded"] == found["wide"] > 0  # what is wider scrolls by itself, and shows that there is more


def test_many_datasets_do_not_hide_the_other_contents():
    names = [f"Dataset00{number}_Cells" for number in range(1, 7)]
    rows = [row for name in names for row in rows_of({REFERENCE: [0.5] * 6, OTHER: [0.25] * 6}, dataset=name)]
    analysis = analyse(results_of(rows, suite_of((REFERENCE, OTHER), names), dict.fromkeys(names)))
    text = page.render(analysis, []).decode()
    links = re.findall(r'<a href="#([\w-]+)">([^<]*)</a>', text)
    assert [name for _, name in links][:4] == ["Ranks", "Cost without training", "Cost of the trainings", "Record"]
    assert [name for _, name in links][4:] == [f"{name}, 2d, validation" for name in names]
    for target, name in links:
        assert text.partition(f'<details id="{target}"')[2].partition("<h2>")[2].startswith(f"{name}</h2>")


def test_names_are_shown_as_they_are(written):
    text = written.read_text(encoding="utf-8")
    assert "a_b &amp; &lt;c&gt;" in text and "<c>" not in text and "<script>x" not in text
