"""Proves that the suites we ship are valid and name what exists, and that published results are well-formed."""

import re
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest
from support.repository import REPOSITORY

from nnunet_plugins.benchmark.metrics import HIGHER_IS_BETTER
from nnunet_plugins.benchmark.report.markup import PUBLISHED_FILE
from nnunet_plugins.benchmark.report.page import CASES, FIGURES, OWN_FILES, verify
from nnunet_plugins.benchmark.report.published import CONDITIONS
from nnunet_plugins.benchmark.report.record import read_record
from nnunet_plugins.benchmark.suite import Suite, divided, read_suite
from nnunet_plugins.dataset_conversion.dataset import PNG
from nnunet_plugins.dataset_conversion.datasets import CONVERTERS
from nnunet_plugins.planning.names import PLANNERS
from nnunet_plugins.trainers import PRETRAINED, TRAINERS, find_trainer

FOLDER = REPOSITORY / "suites"
EVIDENCE = FOLDER / "shared_data.toml"  # of folders that are no published datasets
SUITES = sorted({*FOLDER.glob("*.toml")} - {EVIDENCE})
PAPERS = ["DCFFSNet", "ConDSeg", "DLKUNet", "MedFusion-TransNet", "DCSNet"]
DATASETS = {dataset.dataset_id: dataset for dataset in CONVERTERS.values() if dataset.dataset_id is not None}
KNOWN_TRAINERS = {*TRAINERS, "nnUNetTrainer"}
TWO_CASES_OF_A_PATIENT_AND_ANOTHERS = {
    515: ("TCGA-18-5592-01Z-00-DX1", "TCGA-18-5592-01Z-00-DX2", "TCGA-38-6178-01Z-00-DX1"),
    521: ("patient001_frame01", "patient001_frame12", "patient011_frame01"),
    523: ("Image_01L", "Image_01R", "Image_11L"),
}
"""Names of cases as the converters write them."""

REMARKS, PUBLISHED = tomllib.loads(
    (files("nnunet_plugins.benchmark.report") / "published.toml").read_text(encoding="utf-8")
).values()
DESCRIPTION = ("paper", "table", "dataset", "method", "trainer", "label")
NEEDED = DESCRIPTION[:4]


@pytest.fixture(params=SUITES, ids=lambda path: path.stem)
def path(request) -> Path:
    return request.param


@pytest.fixture
def suite(path) -> Suite:
    return read_suite(path)


# ---- suites ----------------------------------------------------------------------------------------------------------


def test_every_paper_has_a_suite_for_its_comparison_and_one_for_its_ablation():
    stems = {path.stem for path in SUITES}
    for paper in PAPERS:
        name = paper.lower().replace("-", "_")
        assert {name, f"{name}_ablation"} <= stems


def test_suite_is_valid_and_has_the_name_of_its_file(path, suite):
    assert suite.name == path.stem


def test_suite_names_trainers_and_datasets_that_exist(suite):
    for name, plans in map(divided, suite.trainers):
        assert name == "nnUNetTrainer" or find_trainer(name).__name__ == name
        assert not plans or plans in PLANNERS
    assert {data.id for data in suite.datasets} <= DATASETS.keys()


def test_comparisons_refer_to_nnunet_and_ablations_to_the_papers_method(path, suite):
    if path.stem.endswith("_ablation"):
        assert not TRAINERS[suite.reference.removesuffix(PRETRAINED)].overrides
    else:
        assert suite.reference == "nnUNetTrainer"


def test_comparisons_have_nnunets_residual_encoders_as_references(path, suite):
    residual = {f"nnUNetTrainer@nnUNetResEncUNet{size}Plans" for size in "ML"}
    assert residual & set(suite.trainers) == (set() if path.stem.endswith("_ablation") else residual)


def test_what_is_2d_only_has_no_3d_configuration(suite):
    for data in suite.datasets:
        if DATASETS[data.id].file_ending == PNG:
            assert data.configurations == ("2d",)
        for trainer in {divided(trainer)[0] for trainer in suite.trainers_of(data)} - {"nnUNetTrainer"}:
            if 3 not in find_trainer(trainer).supported_dimensions:
                assert data.configurations == ("2d",)


def test_every_trainer_of_a_suite_has_a_dataset(suite):
    assert {trainer for data in suite.datasets for trainer in suite.trainers_of(data)} == set(suite.trainers)


def test_every_trainer_that_a_table_or_figure_asks_for_is_in_a_suite():
    asked_for = {name for name, variant in TRAINERS.items() if re.search(r"Table|Figure", variant.varies)}
    assert asked_for <= {trainer.removesuffix(PRETRAINED) for path in SUITES for trainer in read_suite(path).trainers}


@pytest.mark.parametrize("stem", ["condseg_ablation", "dcsnet_ablation"])
def test_ablations_start_where_their_papers_figures_start(stem):
    assert all(find_trainer(name).pretrained for name in read_suite(FOLDER / f"{stem}.toml").trainers)


def test_comments_tell_the_conversion_that_fits_the_folds(path, suite):
    """``--paper-split`` writes fold 0 alone; the published test set is apart where there is a validation set too."""
    text = path.read_text(encoding="utf-8")
    for data in suite.datasets:
        dataset = DATASETS[data.id]
        drawn = suite.folds == (0,) and bool(dataset.paper_split)
        command = f"nnunet-plugins convert {dataset.name} SOURCE" + " --paper-split" * drawn
        command += f" --resize {size_of(path, dataset.name)}"
        assert re.search(rf"\[\[datasets\]\] # {command}(:.*)?\nid = {data.id}\b", text)
        assert data.test == (drawn and dataset.paper_validation)


def size_of(path: Path, dataset: str) -> str:
    """Height and width that a suite's paper resizes the dataset to; of ``five_methods``, those of DCFFSNet."""
    if path.stem.endswith("_volumes"):
        return "224 224" if dataset == "acdc" else "256 256"
    paper = path.stem.removesuffix("_ablation")
    return {"dcffsnet": "224 224", "five_methods": "224 224", "dlkunet": "224 224"}.get(
        paper, "512 512" if dataset == "brain_tumor" else "256 256"
    )


def test_a_dataset_has_the_same_size_in_all_suites():
    """Suites share its number, its plans and its trainings."""
    sizes = {}
    for path in SUITES:
        for name, size in re.findall(r"convert (\w+) SOURCE.*? --resize (\d+ \d+)", path.read_text(encoding="utf-8")):
            assert sizes.setdefault(name, size) == size
    assert sizes.keys() == {dataset.name for dataset in DATASETS.values()}


def test_cluster_is_the_patient_where_names_of_cases_tell(suite):
    for data in suite.datasets:
        assert bool(data.cluster_regex) == (data.id in TWO_CASES_OF_A_PATIENT_AND_ANOTHERS)
        if data.cluster_regex:
            one, same, other = map(data.cluster, TWO_CASES_OF_A_PATIENT_AND_ANOTHERS[data.id])
            assert one == same != other


# ---- published results -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("paper", PAPERS)
def test_paper_has_its_main_method_among_its_results(paper):
    rows = [row for row in PUBLISHED if row["paper"] == paper]
    method = f"{paper.replace('-', '')}Trainer"
    assert {row.get("trainer") for row in rows} & {method, f"{method}_pretrained"}


def test_published_rows_name_papers_datasets_labels_and_trainers_that_exist():
    for row in PUBLISHED:
        assert all(isinstance(row[key], str) and row[key] for key in NEEDED), row
        assert row["paper"] in PAPERS, row
        assert re.fullmatch(r"Table \d", row["table"]), row
        assert row["dataset"] in CONVERTERS, row
        assert row.get("trainer", "nnUNetTrainer").removesuffix("_pretrained") in KNOWN_TRAINERS, row
        assert row.get("label", "background") in CONVERTERS[row["dataset"]].labels, row
        assert row.get("label") != "background", row


def test_published_rows_have_metrics_of_ours_in_their_range():
    for row in PUBLISHED:
        metrics = {key: value for key, value in row.items() if key not in DESCRIPTION}
        assert metrics and metrics.keys() <= HIGHER_IS_BETTER.keys(), row
        for metric, value in metrics.items():
            assert isinstance(value, float), row
            if HIGHER_IS_BETTER[metric]:
                assert 0.2 < value < 1, row  # not in percent, and no digit lost
            else:
                assert 0 < value < 100, row
        if "IoU" in metrics:
            assert metrics["IoU"] < metrics["Dice"], row


def test_published_figures_belong_to_the_initialisation_that_they_start_from():
    """ConDSeg and DCSNet start from ImageNet, DCFFSNet's paper is silent, the others' networks have no such weights."""
    for row in PUBLISHED:
        if "trainer" in row:
            assert row["trainer"].endswith("_pretrained") == (row["paper"] in ("ConDSeg", "DCSNet")), row
    (silent,) = (remark for remark in REMARKS if "does not say whether" in remark["text"])
    assert (silent["paper"], silent["ours"]) == ("DCFFSNet", True)


def test_no_published_result_is_there_twice():
    keys = [tuple(row.get(key) for key in (*NEEDED, "label")) for row in PUBLISHED]
    assert len(set(keys)) == len(keys)


def test_the_same_published_result_is_one_trainers():
    """Tables repeat rows."""
    found = {}
    for row in PUBLISHED:
        if "trainer" in row:
            key = (
                *(row.get(k) for k in ("paper", "dataset", "label")),
                *(row.get(metric) for metric in HIGHER_IS_BETTER),
            )
            assert found.setdefault(key, row["trainer"]) == row["trainer"]


def test_published_trainers_are_in_a_suite_with_that_dataset():
    trained = {
        (DATASETS[data.id].name, trainer.removesuffix("_pretrained"))
        for suite in map(read_suite, SUITES)
        for data in suite.datasets
        for trainer in suite.trainers_of(data)
    }
    for row in PUBLISHED:
        assert "trainer" not in row or (row["dataset"], row["trainer"].removesuffix("_pretrained")) in trained, row


def holding(remark: dict) -> list[dict]:
    """Rows of the report for which a remark holds, by the rules at the head of the file."""
    wanted = {key: remark[key] for key in (*NEEDED, "trainer") if key in remark}
    return [
        row
        for row in PUBLISHED
        if "label" not in row
        and all(row.get(key) in (value if isinstance(value, list) else [value]) for key, value in wanted.items())
        and remark.get("metric", "Dice") in row
        and ("trainer" in row or not remark.get("ours"))
    ]


def test_every_remark_is_a_sentence_that_holds_for_a_row():
    for remark in REMARKS:
        assert remark.keys() <= {*DESCRIPTION, *CONDITIONS, "metric", "ours", "text"}, remark
        assert re.fullmatch(r"[A-Z].*\.", remark["text"]) and holding(remark), remark
    for remark in REMARKS:
        for key in ("table", "dataset", "method", "trainer"):
            for value in remark[key] if isinstance(remark.get(key), list) else []:
                assert holding(remark | {key: value}), (remark, value)


def test_every_published_row_says_how_it_was_computed():
    """A row has its image size, a distance its unit, and one of a trainer how it was chosen and how it starts."""
    for row in PUBLISHED:
        if "label" in row:
            continue
        told = " ".join(remark["text"] for remark in REMARKS if row in holding(remark))
        assert "--resize" in told, row
        assert "HD95" in told or "HD95" not in row, row
        if "trainer" in row:
            chosen = {"ConDSeg": "best epoch", "DLKUNet": "best of all checkpoints", "DCSNet": "four images at a time"}
            chosen |= {"DCFFSNet": "five-fold", "MedFusion-TransNet": "five folds"}
            assert chosen[row["paper"]] in told, row
            assert ("starts from ImageNet" in told) == row["trainer"].endswith("_pretrained"), row


def test_what_the_fidelity_measurements_found_is_told():
    facts = {
        "DCSNet": [
            "0.65 to 0.7",
            "four images",
            "test-time augmentation",
            "Table 3 has a Dice of 0.9297 for it, Table 6",
        ],
        "DLKUNet": ["HD95 in voxels", "absent, counts as 1", "on the test set"],
        "ConDSeg": ["best epoch", "in both stages"],
    }
    for paper, parts in facts.items():
        text = " ".join(remark["text"] for remark in REMARKS if remark.get("paper") == paper)
        assert all(part in text for part in parts)


@pytest.mark.parametrize(
    ("name", "suite", "without"),
    [
        ("shared_data", EVIDENCE, {CASES, FIGURES, PUBLISHED_FILE}),
        ("nuclei", EVIDENCE.parent / "evidence" / "1_nuclei.toml", {CASES, FIGURES}),
        ("nuclei_equal_time", EVIDENCE.parent / "evidence" / "2_nuclei_equal_time.toml", {CASES, FIGURES}),
        ("polyps", EVIDENCE.parent / "evidence" / "4_polyps.toml", {CASES, FIGURES}),
        ("nuclei_spread", EVIDENCE.parent / "evidence" / "3_nuclei_spread.toml", {CASES, FIGURES}),
    ],
)
def test_suites_of_the_committed_results_are_theirs(name, suite, without):
    results = REPOSITORY / "docs" / "results" / name
    assert read_record(results).suite == read_suite(suite)
    assert verify(results) == []
    assert {path.name for path in results.iterdir()} == OWN_FILES - without
