"""Figures say what the rows say, read back from what is drawn, and an empty one is never written."""

import errno
import itertools
import os
import re
import shutil
import warnings

import matplotlib.figure
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from analysis import figures, load, roofline
from analysis.figures import look
from analysis.figures.__main__ import main
from analysis.figures.catalogue import FIGURES, Records
from analysis.figures.front import pareto_front
from analysis.figures.look import (
    COLORS,
    COLUMN,
    METHODS,
    PAGE,
    add_notes,
    new_figure,
    page_path,
    paged,
    plain_log_ticks,
    style,
    styles,
)
from analysis.figures.series import families
from analysis.summary import summary
from svg.results import Measurement, RunWriter
from tests.fake_runs import FRAMES, PROVENANCE, write_fake_runs
from tests.fake_steps import write_fake_steps
from tests.test_documents import first_column


def write(
    root,
    run_id,
    method="svg",
    scores=(30.0,),
    protocol="standard",
    regret=None,
    seconds=3.0,
    at=0.25,
    dense_backend="sdpa",
    call_backend=None,
    transformer=None,
    **knobs,
):
    """Write a run of one seed with a PSNR for each prompt; None for one without a number, or a machine without rest."""
    names = {"model": "m", "method": method, "backend": "flex", "dense_backend": dense_backend}
    model = {"name": "m", **({"transformer": transformer} if transformer else {})}
    config = {"seed": 0, "method": {"name": method, "sparsity": at, **knobs}, "model": model}
    with RunWriter(root, run_id, **names, config=config, provenance=PROVENANCE, prompts=[], seeds=[0]) as run:
        for number, score in enumerate(scores):
            place = {"prompt_id": f"p{number}", "seed": 0}
            why = {"status": "unavailable", "reason": "no weights; fetch them"} if score is None else {}
            run.add(Measurement(quantity="psnr_db", unit="dB", value=score, protocol=protocol, **why, **place))
            run.add(Measurement(quantity="density_executed", unit="1", value=at, protocol="tile", **place))
            if call_backend:
                calls = {"protocol": "tile", "step": 0, "layer": 0, "backend": call_backend}
                run.add(Measurement(quantity="call_density", unit="1", value=at, **calls, **place))
            run.add(Measurement(quantity="generation_s", unit="s", value=seconds or 9.0, **place))
            run.add(Measurement(quantity="dense_generation_s", unit="s", value=8.0, **place))
            busy = {"status": "unavailable", "reason": "work apart: the machine was busy with something else"}
            speedup = {"value": 8 / seconds} if seconds else {"value": None, **busy}
            run.add(Measurement(quantity="speedup", unit="1", **speedup, **place))
            for head, share in enumerate((0.5, 1.5) if regret is not None else ()):
                where = {"step": 1, "layer": 2, "head": head, "branch": "cond"}
                run.add(Measurement(quantity="head_regret", unit="1", value=regret * share, **where, **place))


def tables(root):
    return load.measurements(root), load.runs(root)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    write_fake_runs(root)
    return root


@pytest.fixture(scope="module")
def fake(folder):
    return tables(folder)


@pytest.fixture(scope="module")
def knobs(tmp_path_factory):
    """A grid of two shares of steps and two of layers; runs of 4 and 16 rows; a choice from all of them."""
    root = tmp_path_factory.mktemp("knobs")
    for steps, layers, score in ((0.0, 0.0, 20.0), (0.25, 0.0, 24.0), (0.0, 0.5, 22.0)):
        write(root, f"grid-{steps}-{layers}", scores=[score], first_times_fp=steps, first_layers_fp=layers, seconds=4.0)
    for rows, regret, scores in ((4, 0.02, (30, 31, 35)), (16, 0.01, (33, 34, 38))):
        write(root, f"rows-{rows}", scores=scores, regret=regret, num_sampled_rows=rows)
    write(root, "oracle", "oracle_choice", (36.0,), regret=0.0)
    write(root, "coin", "random_choice", (21.0,), regret=0.04)
    write(root, "dear", "rival", (25.0,), seconds=5.0)
    return tables(root)


@pytest.fixture
def drawn(monkeypatch):
    """Figures as they would be written; none is."""
    found = []
    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", lambda self, *a, **k: found.append(self))
    return found


def texts(figure):
    return figure.get_suptitle().replace("\n", " ")


def names(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def curves(axes):
    """Return the points of each series: {name: (x, y)}."""
    return {c.get_label(): c.lines[0].get_data() for c in axes.containers}


def test_quality_has_a_line_for_every_method_with_a_finite_number(fake, tmp_path, drawn):
    figures.quality_over_density(*fake, tmp_path / "quality")
    [axes] = drawn[0].axes
    # Dense is identical to itself: infinite, so no point.
    assert set(curves(axes)) == set(names(drawn[0])) == {"svg", "one_pattern", "random_blocks"}
    x, y = curves(axes)["svg"]
    # Series share the last two densities, so each stands a little apart from these.
    assert x[0] == pytest.approx(0.168) and list(x[1:]) == pytest.approx([0.28, 0.56], abs=0.01)
    assert abs(x[1] - 0.28) > 0.001 and all(20 < value < 40 for value in y)
    assert "Points of several series at one density stand side by side, moved by at most 0.01." in texts(drawn[0])
    assert axes.get_title() == "tiny_wan"
    assert "Not drawn: svg-0.05 (failed)." in texts(drawn[0])
    assert drawn[0].get_figwidth() == COLUMN


def test_points_stand_side_by_side_where_several_series_have_one_and_nowhere_else(tmp_path, drawn):
    for place in range(6):
        write(tmp_path / "runs", f"run-{place}", f"method_{place}", (30.0, 32.0, 31.0))
    write(tmp_path / "runs", "alone", "method_0", (30.0, 32.0, 31.0), at=0.15)
    figures.quality_over_density(*tables(tmp_path / "runs"), tmp_path / "quality", suffixes=[".png"])
    [axes] = drawn[0].axes
    found = {name: list(x) for name, (x, _) in curves(axes).items()}
    assert found["method_0"][0] == 0.15
    ends = [x[-1] for x in found.values()]
    assert (min(ends), max(ends)) == pytest.approx((0.24, 0.26)) and sum(ends) / 6 == pytest.approx(0.25)
    assert len(set(ends)) == 6 and max(ends) < axes.get_xlim()[1] - 0.02


@pytest.mark.parametrize("figure", ["quality_over_density", "speedup_over_density"])
def test_runs_of_one_density_are_no_figure_over_it(knobs, tmp_path, drawn, figure):
    with pytest.raises(figures.MissingRows, match=r"differ in density alone.*quality_over_time.*experiment=sparsity"):
        getattr(figures, figure)(*knobs, tmp_path / "over")
    assert not drawn


def test_a_method_looks_alike_whatever_runs_beside_it():
    assert styles(["svg", "rival", "random_blocks"])[2] == styles(["random_blocks"])[0]
    several = styles(["svg", "svg", "rival", "ally"])
    assert several[0] == styles(["svg"])[0]
    own = styles(METHODS)
    assert all(look not in own for look in several[1:]) and several[1] != several[2] != several[3]


def test_the_atlas_of_a_model_is_of_sparse_videogen_where_others_know_as_much(tmp_path):
    facts = {"config": {"seed": 0}, "provenance": PROVENANCE, "prompts": [], "seeds": [0]}
    for method, heads in {"oracle_choice": 3, "svg": 2}.items():
        names = {"model": "m", "method": method, "backend": "cpu_gather", "dense_backend": "sdpa"}
        with RunWriter(tmp_path, method, **names, **facts) as run:
            for head in range(heads):
                place = {"layer": 0, "head": head, "step": 0, "branch": "cond", "unit": "pattern"}
                run.add(Measurement(quantity="head_choice", value=float(head % 2), **place))
    jobs = FIGURES["head_atlas"](Records(*tables(tmp_path)))
    assert {job.args[1] for job in jobs.values()} == {"svg"}


def test_a_speed_up_is_beside_the_ideal_and_its_dense_backend_but_no_dense_run_is(fake, tmp_path, drawn):
    figures.speedup_over_density(*fake, tmp_path / "speed")
    attention, whole = drawn[0].axes
    assert attention.get_ylabel() == "speed-up over dense sdpa" and whole.get_title() == "tiny_wan: whole generation"
    assert drawn[0].get_figwidth() == PAGE
    for axes in drawn[0].axes:
        assert set(curves(axes)) == {"svg", "one_pattern", "random_blocks"}
        assert list(curves(axes)["svg"][0]) == pytest.approx([0.168, 0.28, 0.56])
        [ideal] = [line for line in axes.lines if line.get_label() == "ideal: 1 / density"]
        assert ideal.get_ydata() == pytest.approx(1 / ideal.get_xdata())


def test_the_speed_up_of_a_step_says_of_how_many_layers_it_is(tmp_path, drawn):
    names_ = {"model": "m", "method": "svg", "backend": "flex", "dense_backend": "sdpa", "prompts": [], "seeds": [0]}
    cut = {"name": "m", "transformer": {"num_layers": 2}}
    # How many of a video's steps are dense is nothing to a step.
    for density, first in ((0.25, 0.1), (0.5, 0.1), (0.7, 0.2)):
        method = {"name": "svg", "sparsity": density, "first_times_fp": first}
        config = {"weights": "random", "method": method, "model": cut}
        with RunWriter(tmp_path / "runs", f"cut-{density}", **names_, config=config, provenance=PROVENANCE) as run:
            for quantity, value in (("speedup", 2.0), ("attention_speedup", 3.0)):
                run.add(Measurement(quantity=quantity, unit="1", value=value, n=3, seed=0))
            run.add(Measurement(quantity="density_executed", unit="1", value=density, protocol="tile", seed=0))
    figures.speedup_over_density(*tables(tmp_path / "runs"), tmp_path / "speed")
    assert drawn[0].axes[1].get_title() == "m: whole step" and "Layers of the steps: m\N{NO-BREAK SPACE}2." in texts(
        drawn[0]
    )
    assert {name: list(x) for name, (x, _) in curves(drawn[0].axes[1]).items()} == {"svg": [0.25, 0.5, 0.7]}


def test_a_long_dense_backend_is_named_within_the_height_of_its_axis(tmp_path, drawn):
    for at in (0.25, 0.5):
        write(tmp_path, f"at-{at}", at=at, dense_backend="triton_block_sparse")
    figures.speedup_over_density(*tables(tmp_path), tmp_path / "speed")
    assert drawn[0].axes[0].get_ylabel() == "speed-up over dense\ntriton_block_sparse"


def test_a_dense_run_on_another_kernel_has_its_name_in_speed_ups(tmp_path, drawn):
    for at in (0.25, 0.5):
        write(tmp_path, f"at-{at}", at=at)
    write(tmp_path, "floor", "dense", at=1.0, call_backend="flex")
    figures.speedup_over_density(*tables(tmp_path), tmp_path / "speed")
    assert names(drawn[0]) == ["ideal: 1 / density", "svg", "dense on flex"]


def test_layers_in_a_label_are_those_of_the_whole_model(tmp_path):
    for number in (1, 20):
        layers = {"num_layers": 3 * number, "diffusers": {"num_layers": number, "num_single_layers": 2 * number}}
        write(tmp_path, f"of-{number}", transformer=layers)
    found = families(summary(*tables(tmp_path)), ("model.transformer.diffusers.num_single_layers",))
    assert [name for name, _ in found] == ["svg num_layers=3", "svg num_layers=60"]


def test_notes_are_broken_neither_in_names_nor_before_numbers(tmp_path, drawn):
    figure = new_figure(COLUMN, 1.0)
    add_notes(figure, [f"Not drawn: {'a' * 40} step-svg-0.25-triton_block_sparse-8fa0547c (no phases)."])
    assert "\nstep-svg-0.25-triton_block_sparse-8fa0547c" in figure.get_suptitle()
    for at in (0.25, 0.5):
        write(tmp_path, f"at-{at}", at=at)
    write(tmp_path, "floor", "dense", scores=[72.94], at=1.0, call_backend="flex")
    figures.quality_over_time(*tables(tmp_path), tmp_path / "front")
    assert "PSNR\N{NO-BREAK SPACE}dB\N{NO-BREAK SPACE}72.94." in texts(drawn[0])


def test_the_front_is_what_no_run_beats_in_both(knobs, tmp_path, drawn):
    figures.quality_over_time(*knobs, tmp_path / "front")
    [axes] = drawn[0].axes
    [front] = [line for line in axes.lines if line.get_label() == "front"]
    # The oracle takes as long as the others of three seconds, and is better.
    assert np.column_stack(front.get_data()).tolist() == [[3.0, 36.0]]
    assert sum(len(line.get_xdata()) for line in axes.lines if line.get_linestyle() == "None") == 8
    assert "Front: 1\N{NO-BREAK SPACE}oracle_choice sparsity=0.25." in texts(drawn[0])
    rows = summary(*knobs).head(7)
    slow = pareto_front(rows.assign(seconds=[1, 2, 3, 4, 5, 6, 7], good=[3, 3, 1, 4, 4, 2, 5]), "seconds", "good")
    assert slow["good"].tolist() == [3, 4, 5] and slow["seconds"].tolist() == [1, 4, 7]
    near = pareto_front(rows.assign(seconds=range(7), lpips_vgg=[3, 2, 4, 2, 1, 5, 6]), "seconds", "lpips_vgg")
    assert near["lpips_vgg"].tolist() == [3, 2, 1]


def test_qualities_that_are_printed_alike_are_one_on_the_front_and_nearly_one_on_the_axis(tmp_path, drawn):
    write(tmp_path, "fast", scores=[31.0164])
    write(tmp_path, "slow", "rival", scores=[31.01645], seconds=5.0)
    figures.quality_over_time(*tables(tmp_path), tmp_path / "front")
    [axes] = drawn[0].axes
    [front] = [line for line in axes.lines if line.get_label() == "front"]
    assert list(front.get_xdata()) == [3.0]
    low, high = axes.get_ylim()
    assert high - low > 0.1 and not axes.yaxis.get_major_formatter().get_useOffset()


@pytest.mark.parametrize("figure", ["quality_over_density", "quality_over_time"])
def test_a_dense_run_is_no_point_beside_its_own_twin(tmp_path, drawn, figure):
    write(tmp_path, "a")
    write(tmp_path, "b", at=0.5)
    write(tmp_path, "dense", "dense", scores=[1.0])
    getattr(figures, figure)(*tables(tmp_path), tmp_path / "figure")
    assert "dense" not in names(drawn[0])


def test_series_have_one_order_whatever_the_runs_ran_in_and_numbers_follow_their_size(tmp_path):
    for name, method, rows in (("a", "rival", None), ("b", "svg", 16), ("c", "svg", 4), ("d", "ally", None)):
        write(tmp_path, name, method, **({"num_sampled_rows": rows} if rows else {}))
    found = [name for name, _ in families(summary(*tables(tmp_path)))]
    assert found == ["svg num_sampled_rows=4", "svg num_sampled_rows=16", "ally", "rival"]


def test_a_colour_that_comes_again_has_a_dashed_line():
    first, second = style(0), style(len(COLORS))
    assert first["color"] == second["color"] and first["marker"] != second["marker"]
    assert (first["linestyle"], second["linestyle"]) == ("-", "--")


def test_ticks_of_a_logarithmic_axis_stand_apart_however_far_it_reaches():
    axes = matplotlib.figure.Figure().subplots()
    for lowest, shown in ((1.0, ["10", "6", "4", "3", "2", "1"]), (1e-4, ["10", "4", "1"])):
        axes.set_ylim(lowest, 10)
        plain_log_ticks(axes, "y", (1, 2, 3, 4, 6, 10))
        assert [label.get_text() for label in axes.get_yticklabels()] == shown


def test_ticks_over_many_powers_of_ten_are_these_alone():
    axes = matplotlib.figure.Figure().subplots()
    axes.set_ylim(1e-6, 0.06)
    plain_log_ticks(axes, "y", (1e-6, 1e-5, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05))
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0.01", "0.001", "0.0001", "1e-05", "1e-06"]


def test_series_that_coincide_are_each_larger_than_the_next_where_none_is_moved(tmp_path, drawn):
    for number in range(4):
        for at in (0.25, 0.5):
            write(tmp_path, f"{number}-{at}", f"method_{number}", at=at)
    figures.speedup_over_density(*tables(tmp_path), tmp_path / "speed")
    sizes = [container.lines[0].get_markersize() for container in drawn[0].axes[0].containers]
    # Half a point on each side is the white edge.
    assert all(lower - upper > 1.0 for lower, upper in itertools.pairwise(sizes)) and max(sizes) <= 10


def test_settings_of_a_busy_machine_have_no_time_and_where_most_are_there_is_no_front(tmp_path, drawn):
    write(tmp_path, "quiet", "rival")
    write(tmp_path, "busy", seconds=None)
    figures.quality_over_time(*tables(tmp_path), tmp_path / "front")
    assert "Not drawn: 1 of 2 settings, of which more than half of the videos ran while" in texts(drawn[0])
    assert names(drawn[0]) == ["rival", "front", "dense twin's time"]
    write(tmp_path, "another", "ally", seconds=None)
    figures.quality_over_time(*tables(tmp_path), tmp_path / "front")
    assert names(drawn[-1]) == ["rival", "dense twin's time"] and "No front: most settings" in texts(drawn[-1])


def test_a_cell_of_a_busy_machine_has_no_speed_up(tmp_path, drawn):
    for steps, layers, seconds in ((0.0, 0.0, 4.0), (0.25, 0.0, None), (0.0, 0.5, 4.0)):
        name = f"grid-{steps}-{layers}"
        write(tmp_path, name, scores=[20.0], first_times_fp=steps, first_layers_fp=layers, seconds=seconds)
    figures.quality_of_dense_part(*tables(tmp_path), tmp_path / "cells")
    assert [text.get_text() for text in drawn[0].axes[0].texts] == ["20.00\n2.00×", "20.00", "20.00\n2.00×"]
    assert "No speed-up: 1 of 3 settings" in texts(drawn[0])
    assert drawn[0].axes[0].get_title() == "m, svg, density 0.25"


def test_sampled_rows_stand_against_regret_and_quality_beside_the_oracle_and_the_coin(knobs, tmp_path, drawn):
    figures.quality_over_sampled_rows(*knobs, tmp_path / "rows")
    regret, quality = drawn[0].axes
    assert np.column_stack(curves(regret)["svg"]).tolist() == [[4, pytest.approx(0.02)], [16, pytest.approx(0.01)]]
    assert list(curves(quality)["svg"][1]) == [32, 35]
    # Hundredths are written as they are, without a factor above the axis.
    FigureCanvasAgg(drawn[0]).draw()
    assert "0.02" in [label.get_text() for label in regret.get_yticklabels()]
    lines = {line.get_linestyle(): (line.get_label(), line.get_ydata()[0]) for line in quality.lines}
    assert lines[":"] == ("oracle_choice sparsity=0.25", 36) and lines["-."] == ("random_choice sparsity=0.25", 21)


@pytest.mark.parametrize("backend", ["triton_block_sparse", "reference"])
def test_precisions_are_two_lines_of_error_quality_and_of_speed_where_it_is_no_model(tmp_path, drawn, backend):
    for precision, error, score, speed in (("bf16", 0.002, 40.0, 3.0), ("fp8", 0.05, 39.0, 4.0)):
        names = {"model": "m", "method": "svg", "dense_backend": "sdpa"}
        names["backend"] = backend + "_fp8" * (precision == "fp8")
        config = {"seed": 0, "method": {"sparsity": 0.25}, "backend": {"precision": precision}, "model": {"name": "m"}}
        with RunWriter(
            tmp_path, precision, **names, config=config, provenance=PROVENANCE, prompts=[], seeds=[0]
        ) as run:
            place = {"prompt_id": "p", "seed": 0}
            run.add(Measurement(quantity="psnr_db", unit="dB", value=score, protocol="standard", **place))
            run.add(Measurement(quantity="density_executed", unit="1", value=0.25, protocol="tile", **place))
            run.add(Measurement(quantity="check_relative_error", unit="1", value=error, **place))
            run.add(Measurement(quantity="attention_speedup", unit="1", value=speed, **place))
    figures.precision_over_density(*tables(tmp_path), tmp_path / "precision")
    found = [{name: y[0] for name, (_, y) in curves(axes).items()} for axes in drawn[0].axes]
    bf16, fp8 = f"svg backend={backend}", f"svg backend={backend}_fp8"
    assert found[:2] == [{bf16: 0.002, fp8: 0.05}, {bf16: 40.0, fp8: 39.0}]
    if backend == "reference":
        assert len(found) == 2 and "which says nothing of speed" in texts(drawn[0])
    else:
        assert found[2] == {bf16: 3.0, fp8: 4.0}


def test_the_dense_part_has_a_cell_for_each_pair_of_shares_that_was_run(knobs, tmp_path, drawn):
    figures.quality_of_dense_part(*knobs, tmp_path / "cells")
    panel = drawn[0].axes[0]
    grid = panel.images[0].get_array()
    assert grid.tolist() == [[20, 24], [22, None]]
    assert {text.get_text() for text in panel.texts} == {"20.00\n2.00×", "24.00\n2.00×", "22.00\n2.00×"}
    assert [label.get_text() for label in panel.get_xticklabels()] == ["0", "0.25"]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["0", "0.5"]


def test_a_step_is_two_bars_of_its_phases_and_one_without_phases_is_named(tmp_path, drawn, monkeypatch):
    write_fake_steps(tmp_path)
    with pytest.raises(figures.MissingRows, match=r"another \(failed\).*flex \(no phases\).*experiments.step_latency"):
        figures.step_parts(*tables(tmp_path), tmp_path / "steps")
    facts = {"prompts": [], "seeds": [0], "provenance": PROVENANCE, "config": {"weights": "random", "seed": 0}}
    names_of_run = {"model": "m", "method": "svg", "backend": "flex", "dense_backend": "sdpa"}

    def step(run_id, density, dense_rest=2.0, **other):
        with RunWriter(tmp_path, run_id, **names_of_run | other, **facts) as run:
            for prefix, seconds in (("dense_", (6.0, 0.0, 0.0, dense_rest)), ("", (2.0, 0.25, 0.5, 1.25))):
                for phase, value in zip(("attention", "profiling", "reordering", "rest"), seconds, strict=True):
                    run.add(Measurement(quantity=f"{prefix}phase_s", unit="s", value=value, protocol=phase, seed=0))
            run.add(Measurement(quantity="dense_step_s", unit="s", value=6 + dense_rest, n=3, seed=0))
            run.add(Measurement(quantity="speedup", unit="1", value=2.0, seed=0))
            run.add(Measurement(quantity="density_executed", unit="1", value=density, protocol="tile", seed=0))

    step("whole", 0.25)
    figures.step_parts(*tables(tmp_path), tmp_path / "steps")
    [axes] = drawn[0].axes
    bars = [(bar.get_x(), bar.get_width()) for bar in axes.patches if bar.get_width()]
    assert bars == [(0, 6), (6, 2), (0, 2), (2, 0.25), (2.25, 0.5), (2.75, 1.25)]
    assert [text.get_text() for text in axes.texts] == [" 8.00 s", " 4.00 s, 2.00×"]
    assert names(drawn[0]) == ["attention", "profiling", "reordering", "the rest"]
    assert "step-hunyuan_video_t2v-another (failed)" in texts(drawn[0])
    step("slower", 0.5, dense_rest=2.25)
    step("other", 0.3, dense_rest=2.125, dense_backend="flash4")
    figures.step_parts(*tables(tmp_path), tmp_path / "steps")
    labels = [label.get_text() for label in drawn[-1].axes[0].get_yticklabels()]
    assert labels == ["m, sdpa", "flex, 0.25", "flex, 0.50", "m, flash4", "flex, 0.30"]
    # The dense bar is the mean of its runs.
    assert drawn[-1].axes[0].texts[0].get_text() == " 8.12 s"
    step("near", 0.304, dense_backend="flash4")
    figures.step_parts(*tables(tmp_path), tmp_path / "steps")
    labels = [label.get_text() for label in drawn[-1].axes[0].get_yticklabels()]
    assert labels == ["m, sdpa", "flex, 0.25", "flex, 0.50", "m, flash4", "flex, 0.300", "flex, 0.304"]
    # Of a page of its own the bars have an axis of their own.
    monkeypatch.setattr(look, "BARS", 0.1)
    step("short", 0.25, dense_backend="cudnn", dense_rest=0.0)
    figures.step_parts(*tables(tmp_path), tmp_path / "steps", suffixes=[".png"])
    assert [figure.axes[0].get_xlim()[1] for figure in drawn[-3:]] == pytest.approx(
        [1.1 * 8.25, 1.1 * 8.125, 1.1 * 6.0]
    )
    assert "Part 3 of 3; the axis of each is its own." in texts(drawn[-1])


def test_phases_beside_a_floor_have_edges_that_are_seen_without_colour():
    assert {roofline._style(name, is_floor=False)["edgecolor"] for name in roofline.PHASES} == {"white"}


def test_bars_that_do_not_fit_a_page_go_on_to_the_next():
    assert paged([3.0, 4.0, 1.0, 9.0, 1.0]) == [slice(0, 2), slice(2, 3), slice(3, 4), slice(4, 5)]
    assert [page_path("parts", page, pages).name for page, pages in ((1, 1), (2, 2))] == ["parts", "parts_2"]


def test_a_strip_is_the_dense_video_a_sparse_one_and_what_lies_between(fake, tmp_path, drawn):
    measurements, runs = fake
    figures.video_strips(measurements, runs, ["svg-0.15", "svg-0.50"], tmp_path / "strips", num_frames=3, gain=2.0)
    panels = np.array(drawn[0].axes).reshape(5, 3)
    assert [line[0].get_ylabel().split("\n")[0] for line in panels] == [
        *("dense", "svg", "difference × 2", "svg", "difference × 2")
    ]
    assert panels[1][0].get_ylabel().split("\n")[1:] != panels[3][0].get_ylabel().split("\n")[1:]
    assert [axes.get_title() for axes in panels[0]] == ["frame 0", f"frame {(FRAMES - 1) // 2}", f"frame {FRAMES - 1}"]
    dense, sparse, between = (line[1].images[0].get_array() for line in panels[:3])
    assert np.array_equal(between, np.minimum(2 * np.abs(sparse - dense), 1)) and 0 < between.mean() < 0.5
    assert "“a red circle moves to the right on a striped blue background”, seed 0." in texts(drawn[0])
    with pytest.raises(figures.MissingRows, match="svg-0.15, svg-0.05 have no preview of one prompt"):
        figures.video_strips(measurements, runs, ["svg-0.15", "svg-0.05"], tmp_path / "strips")


def test_strips_are_of_runs_whose_previews_are_there_and_the_others_are_named(folder, tmp_path, drawn):
    root = tmp_path / "runs"
    shutil.copytree(folder, root)
    jobs = FIGURES["video_strips"](Records(*tables(root)))
    # Both others have this density, and Sparse VideoGen too.
    assert jobs["video_strips_tiny_wan"].args[2] == ["svg-0.25", "one_pattern-0.25", "random_blocks-0.25"]
    for run in ("svg-0.25", "one_pattern-0.25", "random_blocks-0.25"):
        shutil.rmtree(root / run / "videos")
    jobs = FIGURES["video_strips"](Records(*tables(root)))
    jobs["video_strips_tiny_wan"](tmp_path / "strips")
    shown = [axes.get_ylabel().split("\n")[:2] for axes in drawn[0].axes if axes.get_ylabel()]
    assert [lines for lines in shown if len(lines) > 1] == [["svg", "sparsity=0.5"], ["random_blocks", "sparsity=0.5"]]
    assert re.search(r"folder, 3 of 6 sparse runs: \S+ sparsity=0.25, \S+ sparsity=0.25 and 1 more\.", texts(drawn[0]))
    figures.video_strips(*tables(root), ["svg-0.25", "svg-0.50"], tmp_path / "two")
    assert "Without a preview in this folder, 1 of 2 sparse runs: svg sparsity=0.25." in texts(drawn[-1])
    for run in root.iterdir():
        shutil.rmtree(run / "videos", ignore_errors=True)
    jobs = FIGURES["video_strips"](Records(*tables(root)))
    with pytest.raises(figures.MissingRows, match="is not there; strips are drawn from the folder that the run was"):
        jobs["video_strips_tiny_wan"](tmp_path / "none")


def test_the_atlas_has_a_panel_per_quantity_and_means_over_steps_and_branches(tmp_path, drawn):
    names = {"model": "m", "method": "svg", "backend": "cpu_gather", "dense_backend": "sdpa"}
    facts = {"config": {"seed": 0}, "provenance": PROVENANCE, "prompts": [], "seeds": [0]}
    with RunWriter(tmp_path / "runs", "one", **names, **facts) as run:
        for step, branch, value in ((0, "cond", 0.25), (0, "uncond", 0.75), (3, "cond", 1.0), (3, "uncond", 0.0)):
            for head in range(3):
                place = {"layer": 2, "head": head, "step": step, "branch": branch, "unit": "1"}
                run.add(Measurement(quantity="head_entropy", value=value / (head + 1), **place))
                run.add(Measurement(quantity="head_margin", value=0.5, **place))
                run.add(Measurement(quantity="head_text_mass", value=0.0, **place))
        place = {"layer": 0, "head": 1, "step": 0, "branch": "cond", "unit": "pattern"}
        run.add(Measurement(quantity="head_choice", value=1.0, **place))
    rows = load.measurements(tmp_path / "runs")
    figures.head_atlas(rows, "one", tmp_path / "atlas")
    assert texts(drawn[0]) == "m, svg. Grey: not measured."
    panels = {axes.get_title(): axes.images[0].get_array() for axes in drawn[0].axes if axes.images}
    assert list(panels) == ["temporal choices", "margin of the choice", "entropy"]
    entropy, choices = panels["entropy"], panels["temporal choices"]
    assert entropy.shape == choices.shape == (3, 3)
    assert entropy[2].tolist() == pytest.approx([1 / 2, 1 / 4, 1 / 6])
    # What was not measured is masked, not zero.
    assert entropy.mask[:2].all() and choices.mask.sum() == 8
    assert choices[0, 1] == 1
    figures.head_atlas(rows, "one", tmp_path / "steps", across="step")
    entropy = next(axes.images[0].get_array() for axes in drawn[-1].axes if axes.get_title() == "entropy")
    assert entropy.shape == (3, 4)
    assert entropy[2, [0, 3]].tolist() == pytest.approx([(1 + 1 / 2 + 1 / 3) / 6] * 2)
    assert entropy.mask[2, [1, 2]].all()


def test_an_atlas_leaves_out_what_is_mostly_grey_beside_what_is_full(tmp_path, drawn):
    names = {"model": "m", "method": "svg", "backend": "cpu_gather", "dense_backend": "sdpa"}
    facts = {"config": {"seed": 0}, "provenance": PROVENANCE, "prompts": [], "seeds": [0]}
    with RunWriter(tmp_path / "runs", "one", **names, **facts) as run:
        for layer in range(3):
            place = {"layer": layer, "head": 0, "step": 0, "branch": "cond", "unit": "1"}
            run.add(Measurement(quantity="head_margin", value=0.5, **place))
        run.add(Measurement(quantity="head_entropy", value=0.5, **place))
    figures.head_atlas(load.measurements(tmp_path / "runs"), "one", tmp_path / "atlas")
    assert [axes.get_title() for axes in drawn[0].axes if axes.images] == ["margin of the choice"]
    assert "Measured of fewer than half of the heads and layers, so not drawn: entropy." in texts(drawn[0])


def test_an_atlas_of_a_run_without_heads_is_refused(fake, tmp_path):
    with pytest.raises(
        ValueError, match="run_id=random_blocks-0.25: no run of this name .* has a number for head_choice"
    ):
        figures.head_atlas(fake[0], "random_blocks-0.25", tmp_path / "atlas")
    assert list(tmp_path.iterdir()) == []


def test_every_figure_of_the_catalogue_is_drawn_or_says_what_is_missing_and_what_makes_it(fake, drawn, tmp_path):
    said = {}
    for name, jobs in FIGURES.items():
        try:
            for stem, draw in jobs(Records(*fake)).items():
                draw(tmp_path / stem)
        except ValueError as error:
            said[name] = str(error)
    assert set(said) == {
        *("quality_over_sampled_rows", "quality_of_dense_part", "step_parts", "measured_against_floor"),
        "precision_over_density",
    }
    assert all("experiments." in line and "\n" not in line for line in said.values())
    # Three of quality and speed, two atlases, and strips of one model.
    assert len(drawn) == 6 * 2 and all(figure.axes and figure.get_figwidth() in (COLUMN, PAGE) for figure in drawn)


def test_the_table_of_figures_is_the_catalogue():
    assert first_column("figures.md") == set(FIGURES)


def test_the_command_draws_what_it_can_says_the_rest_and_gives_equal_files_for_equal_records(
    folder, fake, tmp_path, capsys
):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        arguments = [str(folder), "--output", str(tmp_path / "a"), "--figure", "quality_over_density", "step_parts"]
        assert main(arguments) == 0
    drawn, missing = capsys.readouterr().out.splitlines()
    png, pdf = (tmp_path / "a" / f"quality_over_density.{suffix}" for suffix in ("png", "pdf"))
    assert drawn == f"{png} {pdf}"
    assert missing.startswith("not drawn: step_parts: no run below this folder has the phases")
    assert (png.read_bytes()[:4], pdf.read_bytes()[:4]) == (b"\x89PNG", b"%PDF")
    again = figures.quality_over_density(*fake, tmp_path / "again")
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in (png, pdf)]


def test_bad_folders_name_what_is_wrong_and_leave_no_plot(tmp_path, capsys, drawn):
    (tmp_path / "empty").mkdir()
    write(tmp_path / "unmeasured", "a", scores=[None])
    write(tmp_path / "other", "a", protocol="upstream")
    write(tmp_path / "mixed", "one", scores=(30.0, None))
    write(tmp_path / "mixed", "denser", at=0.5)
    write(tmp_path / "mixed", "two", protocol="upstream", num_sampled_rows=2)
    write(tmp_path / "mixed", "rates", "rates", scores=())
    with pytest.raises(ValueError), RunWriter(
        tmp_path / "failed", "f", model="m", method="svg", backend="flex", dense_backend="sdpa",
        config={"seed": 0}, provenance=PROVENANCE, prompts=[], seeds=[0],
    ):  # fmt: skip
        raise ValueError("it broke")
    only = ["--figure", "quality_over_density"]
    for folder, said in {
        "empty": "error: runs_dir=.* holds no finished run",
        "missing": "error: runs_dir=.* cannot be read",
        "failed": r"no run below this folder is complete: f \(failed: it broke\)",
        "unmeasured": r"no run .* has such a number \(unavailable: no weights\); .*experiment=sparsity",
        "other": r"no run .* \(there are some in protocol=upstream\)",
    }.items():
        assert main([str(tmp_path / folder), "--output", str(tmp_path / "out"), *only]) == 2, folder
        text = "".join(capsys.readouterr())
        assert text.count("\n") == 1
        assert re.search(said, text), text
    assert not drawn and not (tmp_path / "out").exists()
    assert main([str(tmp_path / "mixed"), "--output", str(tmp_path / "out"), *only]) == 0
    # Rates of the machine are of no video.
    assert "Not drawn: svg sparsity=0.25 num_sampled_rows=2 (no PSNR dB)." in texts(drawn[-1])
    assert "svg sparsity=0.25: 1 of 2 videos." in texts(drawn[-1])


def test_a_full_disk_leaves_no_part_of_a_figure_and_is_no_success(folder, tmp_path, capsys, monkeypatch):
    written = []

    def fdopen(descriptor, *rest, real=os.fdopen, **options):
        written.append(descriptor)
        if len(written) == 3:
            os.close(descriptor)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, *rest, **options)

    monkeypatch.setattr(os, "fdopen", fdopen)
    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", lambda self, file, **_: file.write(b"drawn"))
    output = tmp_path / "out"
    names = ["quality_over_density", "quality_over_time"]
    assert main([str(folder), "--output", str(output), "--figure", *names]) == 2
    assert capsys.readouterr().err == f"error: --output {output} cannot be written: No space left on device\n"
    assert sorted(path.name for path in output.iterdir()) == [f"{names[0]}.{suffix}" for suffix in ("pdf", "png")]


@pytest.mark.parametrize(("option", "value"), [("--figure", "atlas"), ("--quantity", "beauty")])
def test_a_name_that_does_not_exist_is_refused_with_those_that_do(folder, tmp_path, capsys, option, value):
    assert main([str(folder), "--output", str(tmp_path), option, value]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {option} is {value}; it must be one of ") and error.count("\n") == 1
