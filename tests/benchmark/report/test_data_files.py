"""Proves that a report's data are read as they were written, and that its tables do not depend on more than them."""

import math

import numpy as np
import pandas as pd
import pytest
from support.benchmark_results import CELLS, REFERENCE, case_row, results_of, suite_of, written_data

from nnunet_plugins.benchmark.report.analysis import analyse, result_table
from nnunet_plugins.benchmark.report.markup import markdown, result_files
from nnunet_plugins.benchmark.report.record import RECORD
from nnunet_plugins.benchmark.report.results import DATA_FILES, read_data
from nnunet_plugins.benchmark.report.tables import all_tables


def test_data_are_read_as_they_were_written(results, tmp_path):
    first = written_data(results, tmp_path / "first")
    read = read_data(first)
    for ours, theirs in zip(read[:4], results[:4], strict=True):
        pd.testing.assert_frame_equal(ours, theirs, check_exact=True, check_dtype=False)
    assert read.record == results.record
    second = written_data(read, tmp_path / "second")
    for name in (*DATA_FILES, RECORD):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


@pytest.mark.parametrize(
    "text", ["007", "1e5", "NA", "nan", "None", "null", "True", "a,b", 'say "x"', " a ", "ü−", "a;b"]
)
def test_names_that_look_like_something_else_stay_texts(text, tmp_path):
    rows = [case_row(REFERENCE, text, 0.5, cluster=text, label=text)]
    results = results_of(rows, suite_of([REFERENCE]), {CELLS: None})
    read = read_data(written_data(results, tmp_path))
    assert read.cases[["case", "cluster", "label"]].to_numpy().tolist() == [[text] * 3]


@pytest.mark.parametrize("value", [0.1 + 0.2, 1 / 3, 5e-324, 1.7976931348623157e308, 0.0, 1.0, 5.0, np.nextafter(1, 0)])
def test_numbers_are_kept_to_the_last_digit(value, tmp_path):
    rows = [case_row(REFERENCE, "case", 0.5, HD95=value), case_row(REFERENCE, "case2", None)]
    read = read_data(written_data(results_of(rows, suite_of([REFERENCE]), {CELLS: None}), tmp_path))
    assert read.cases.HD95[0] == value and math.isnan(read.cases.HD95[1])


def test_many_numbers_are_kept_to_the_last_digit(tmp_path):
    values = np.random.default_rng(0).random(500) * 10.0 ** np.arange(-4, 5).repeat(56)[:500]
    rows = [case_row(REFERENCE, f"case{number:03}", 0.5, HD95=value) for number, value in enumerate(values)]
    read = read_data(written_data(results_of(rows, suite_of([REFERENCE]), {CELLS: None}), tmp_path))
    assert read.cases.HD95.tolist() == values.tolist()


def test_costs_that_were_not_measured_are_read_as_none(results, analysis, tmp_path):
    read = read_data(written_data(results._replace(costs=pd.DataFrame()), tmp_path))
    assert read.costs.empty
    assert "Cost without training" not in markdown(
        analysis._replace(results=read), all_tables(analysis._replace(results=read))
    )


def test_tables_are_the_same_every_time_and_of_what_was_read(results, analysis, tmp_path):
    files = result_files(analysis)
    assert set(files) == {"results.csv", "results.md", "results.tex", "published.csv"}
    assert result_files(analyse(read_data(written_data(results, tmp_path)))) == files
    assert b"\r" not in b"".join(files.values())


def test_order_of_the_cases_does_not_matter(results, table):
    shuffled = results.cases.sample(frac=1, random_state=0, ignore_index=True)
    expected = table[table.metric.isin(["Dice", "HD95"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(result_table(shuffled, results.record, ["Dice", "HD95"]), expected)
