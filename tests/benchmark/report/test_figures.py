"""Proves that figures are drawn reproducibly, of finished trainers alone, with one look each and room for names."""

import itertools

import matplotlib
import matplotlib.colors
import matplotlib.figure
import matplotlib.style
import numpy as np
import pandas as pd
import pytest
from support.benchmark_results import (
    CELLS,
    GRID,
    OTHER,
    REFERENCE,
    SKIN,
    THIRD,
    TRAINERS,
    plain_record,
    results_of,
    rows_of,
    suite_of,
)

from nnunet_plugins.benchmark.report import figures, looks, overlays
from nnunet_plugins.benchmark.report.analysis import Analysis, analyse, result_table
from nnunet_plugins.benchmark.report.ranking import Ranking
from nnunet_plugins.benchmark.report.slices import LABEL_COLOURS, Label
from nnunet_plugins.benchmark.report.units import finished_trainers


def test_figures_are_drawn_twice_the_same_as_svg_and_png(results, analysis, tmp_path):
    frames = {name: frame[frame.dataset == SKIN] for name in ("cases", "curves") for frame in [getattr(results, name)]}
    rankings = {evaluation: ranking for evaluation, ranking in analysis.rankings.items() if evaluation.dataset == SKIN}
    table = analysis.table[analysis.table.dataset == SKIN]
    analysis = Analysis(results._replace(**frames), table, rankings)
    contents = []
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        drawn = figures.draw_all(analysis, folder)
        contents.append({path.name: path.read_bytes() for path in folder.iterdir()})
    names = [name for name, _ in drawn]
    where = f"{SKIN}_2d_validation"
    assert names == ["significance", "accuracy_and_cost", "training_curves", f"units_{where}", f"ranks_{where}"]
    assert set(contents[0]) == {f"{name}.{ending}" for name in names for ending in ("svg", "png", "pdf")}
    assert b"/Type3" not in contents[0]["significance.pdf"]  # fonts that publishers refuse
    assert contents[0] == contents[1]
    assert all(content.startswith(b"\x89PNG") for name, content in contents[0].items() if name.endswith("png"))
    assert all(caption for _, caption in drawn)


def test_figures_do_not_depend_on_settings_of_matplotlib(analysis, tmp_path):
    contents = []
    for size in (6, 30):  # nnU-Net enlarges all letters when it draws its progress
        folder = tmp_path / str(size)
        folder.mkdir()
        with matplotlib.rc_context({"xtick.labelsize": size, "axes.labelsize": size, "axes.grid": size > 6}):
            figures.draw_all(analysis, folder)
        contents.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert contents[0] == contents[1]


@pytest.mark.parametrize("num_datasets", [1, 2])
def test_long_names_leave_room_for_the_map_of_differences(num_datasets):
    datasets = [f"Dataset00{number}_Intracranial_Haemorrhage_of_the_Challenge_2022" for number in range(num_datasets)]
    trainers = ["ConDSegTrainer_withoutSADecoder", "DCFFSNetTrainer_pretrained", "DLKUNetSTrainer_C64"]
    dice = pd.DataFrame(
        {"dataset": name, "configuration": "3d_fullres", "part": "validation", "trainer": trainer}
        | {"difference": 0.1, "p_holm": 0.0001}
        for name in datasets
        for trainer in trainers[1:]
    )
    with matplotlib.style.context({**figures.STYLE, "figure.dpi": 100}, after_reset=True):
        figure = figures.significance_figure(dice, plain_record(trainers), trainers)
        figure.draw_without_rendering()
    axis = figure.axes[0]
    inches = axis.get_window_extent().width / figure.dpi, axis.get_window_extent().height / figure.dpi
    assert inches[0] / 2 > 0.6
    assert inches[1] / num_datasets > 0.35
    columns = [label.get_window_extent() for label in axis.get_xticklabels()]
    assert all(left.x1 <= right.x0 for left, right in itertools.pairwise(columns))
    for box in (*columns, *(label.get_window_extent() for label in (*axis.get_yticklabels(), axis.title))):
        assert box.x0 >= 0 and box.x1 <= figure.bbox.width
        assert box.y0 >= 0 and box.y1 <= figure.bbox.height


def test_a_trainer_has_one_colour_in_all_figures(results):
    """An unfinished trainer, which is left out, must not move the colours of the others."""
    kept = results.cases[~((results.cases.trainer == REFERENCE) & (results.cases.fold > 2))]
    results = results._replace(cases=kept)
    expected = matplotlib.colors.to_rgba(figures.look(OTHER, results.record).colour)
    cases = kept[kept.dataset == CELLS]
    (axis,) = figures.units_figure(cases, finished_trainers(cases, results.record, CELLS), results.record).axes
    assert [label.get_text() for label in axis.get_yticklabels()] == [OTHER, THIRD]
    assert tuple(axis.collections[0].get_facecolor()[0][:3]) == expected[:3]
    table = result_table(kept, results.record, ["Dice"])
    dice = table[table["mean"].notna() & (table.dataset == CELLS) & (table.label == "mean")]
    accuracy = figures.accuracy_against_cost(dice, results)
    (axis,) = figures.cost_figure(accuracy, results.record, TRAINERS).axes
    assert axis.get_legend_handles_labels()[1] == [OTHER, THIRD]
    assert matplotlib.colors.to_rgba(axis.containers[0][0].get_color()) == expected


@pytest.mark.parametrize("lowest, begin", [(0.83, 0.8), (0.0, 0.0), (1.0, 0.9)])
def test_units_fill_their_figure(lowest, begin):
    results = results_of(
        rows_of({REFERENCE: [1.0, lowest], OTHER: [1.0, 0.95]}), suite_of([REFERENCE, OTHER]), {CELLS: None}
    )
    (axis,) = figures.units_figure(results.cases, [REFERENCE, OTHER], results.record).axes
    assert axis.get_xlim() == pytest.approx((begin - 0.02, 1.02))


def test_without_a_comparison_there_is_no_map_of_differences(tmp_path):
    results = results_of(rows_of({REFERENCE: [0.5, 0.25]}), suite_of([REFERENCE]), {CELLS: None})
    results = results._replace(curves=pd.DataFrame())
    drawn = figures.draw_all(analyse(results), tmp_path)
    assert [name for name, _ in drawn] == ["accuracy_and_cost", f"units_{CELLS}_2d_validation"]


def test_legend_of_a_single_panel_is_not_cut_off():
    trainers = [f"MedFusionTransNetTrainer_ablation{number}" for number in range(6)]
    with matplotlib.style.context(figures.STYLE, after_reset=True):
        figure, (axis,) = looks.panels(1, 3.2)
        for trainer in trainers:
            axis.plot([0, 1], label=trainer)
        looks.add_legend(figure, trainers)
        figure.draw_without_rendering()
        box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.width


def test_dataset_whose_cases_are_all_empty_has_no_figure_of_its_units(tmp_path):
    results = results_of(rows_of({REFERENCE: [None] * 3}), suite_of([REFERENCE]), {CELLS: None})
    assert "units" not in str(figures.draw_all(analyse(results._replace(curves=pd.DataFrame())), tmp_path))


def test_unfinished_trainer_is_in_no_figure_of_results(results, table):
    cases = results.cases[results.cases.dataset == SKIN]
    assert finished_trainers(cases, results.record, SKIN) == [REFERENCE, OTHER]
    dice = table[(table.metric == "Dice") & table["mean"].notna()]
    shown = figures.accuracy_against_cost(dice, results)
    assert (SKIN, THIRD) not in set(zip(shown.dataset, shown.trainer, strict=True)) and len(shown)


def test_best_median_and_worst_case_are_those_of_the_mean_over_trainers_and_labels():
    dice = {REFERENCE: [0.2, 0.5, 0.1, 0.9], OTHER: [0.2, 0.6, 0.0, 0.1]}
    cases = results_of(rows_of(dice), suite_of((REFERENCE, OTHER)), {CELLS: None}).cases
    assert overlays.best_median_worst(cases) == {"best": "case01", "median": "case03", "worst": "case02"}
    assert overlays.best_median_worst(cases.iloc[:0]) == {}


def test_ranks_are_read_from_left_to_right_in_the_order_of_the_tables():
    ranking = Ranking([REFERENCE, OTHER], np.array([2.0, 1.0]), np.array([[0.125, 0.875], [0.875, 0.125]]), 1.0, 9)
    axis = figures.ranks_figure(ranking, [OTHER, THIRD, REFERENCE]).axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == [OTHER, REFERENCE]
    shown = {text.get_position(): text.get_text() for text in axis.texts}
    assert shown == {(0, 0): "88", (1, 0): "12", (0, 1): "12", (1, 1): "88"}
    assert axis.images[0].get_array().tolist() == [[87.5, 12.5], [12.5, 87.5]]


def test_very_many_trainers_are_the_best_ones_and_the_reference_and_captions_say_so():
    trainers = (REFERENCE, *(f"Trainer{number:02}" for number in range(1, 40)))
    dice = {name: GRID / 2 + number / 100 for number, name in enumerate(trainers)}
    results = results_of(rows_of(dice), suite_of(trainers), {CELLS: None})
    rows = [
        {"dataset": CELLS, "configuration": "2d", "part": "validation", "label": "cell", "metric": "Dice"}
        | {"trainer": name, "mean": values.mean()}
        for name, values in dice.items()
    ]
    analysis = Analysis(results, pd.DataFrame(rows), {})
    shown = looks.shown_trainers(analysis)
    assert shown == [*trainers[:-12:-1], REFERENCE] and len(shown) == looks.MOST_SHOWN
    assert looks.left_out(analysis) == "; 12 of 40 trainers: the best, and the reference"


def test_ranks_of_trainers_that_no_figure_shows_are_not_drawn(tmp_path):
    names = (REFERENCE, *(f"Trainer{number:02}" for number in range(15)))
    suite = suite_of(names, (SKIN, CELLS))
    rows = rows_of({name: GRID + place / 64 for place, name in enumerate(names)}, dataset=SKIN)
    rows += rows_of(dict.fromkeys(names[1:3], GRID))
    analysis = analyse(results_of(rows, suite, dict.fromkeys((SKIN, CELLS))))
    assert not {*names[1:3]} & {*looks.shown_trainers(analysis)}
    drawn = [name for name, _ in figures.draw_all(analysis, tmp_path)]
    assert f"ranks_{SKIN}_2d_validation" in drawn and f"ranks_{CELLS}_2d_validation" not in drawn


@pytest.mark.parametrize(("low", "high"), [(40, 66), (0.03, 0.05), (1, 1), (3.1, 4000)])
def test_logarithmic_axes_have_round_ticks_on_both_sides_of_the_data(low, high):
    ticks = looks.log_ticks(low, high)
    assert ticks[0] < low and ticks[-1] > high and len(ticks) >= 3
    assert all(f"{tick:e}"[0] in "125" for tick in ticks)
    assert ticks[1] >= low and ticks[-2] <= high


@pytest.mark.parametrize("regions", [False, True])
def test_overlays_name_the_labels_and_show_the_truth_beside_them(regions):
    labels = [Label(1, "kidney", LABEL_COLOURS[0]), Label(2, "stone", LABEL_COLOURS[1])]
    truth = np.zeros((8, 8), int)
    truth[2:6, 2:6] = 1 + regions
    picture = overlays.areas(truth, labels)
    colour = matplotlib.colors.to_rgba(labels[int(regions)].colour)[:3]
    assert picture[3, 3, :3].tolist() == list(colour) and 0 < picture[3, 3, 3] < 1 and not picture[0, 0].any()
    figure = matplotlib.figure.Figure()
    axis = figure.subplots()
    overlays.draw_outlines(axis, truth, labels)
    assert len(axis.collections) == 1
    overlays.add_legend(figure, labels)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["kidney", "stone", "outline of the truth"]
