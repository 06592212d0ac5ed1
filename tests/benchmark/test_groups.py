"""Proves that the benchmark reads the groups that a conversion of ours writes."""

from nnunet_plugins.benchmark.groups import CONVERSION_REPORT, groups_of_cases, recorded_groups
from nnunet_plugins.benchmark.runs import runs
from nnunet_plugins.benchmark.suite import Data, Suite
from nnunet_plugins.dataset_conversion.cases import Row
from nnunet_plugins.dataset_conversion.output import REPORT, write_report


def test_groups_of_a_conversion_are_found_by_the_names_of_its_cases(tmp_path, monkeypatch):
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    (run,) = runs_of(tmp_path / "nnUNet_raw" / "Dataset077_Spots")
    assert recorded_groups(run, "validation") is None and groups_of_cases(run, "validation", ["b"]) == {}
    rows = [Row("a_1", "Tr", "anna"), Row("a_2", "Tr", "anna"), Row("b", "Ts", "berta"), Row("left_out")]
    write_report(tmp_path / "nnUNet_raw" / "Dataset077_Spots" / REPORT, rows)
    assert REPORT == CONVERSION_REPORT
    expected = {"a_1": "anna", "a_2": "anna", "b": "berta", "left_out": "left_out"}
    assert recorded_groups(run, "validation") == expected
    assert groups_of_cases(run, "validation", ["b", "unknown"]) == {"b": "berta"}


def runs_of(dataset):
    dataset.mkdir(parents=True)
    return runs(Suite("spots", ("A",), "A", 1, (Data(77),), folds=(0,)))
