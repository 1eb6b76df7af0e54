"""The noise floor: which runs measure it, whose it is, and what lies within it."""

from __future__ import annotations

import math
import re
import shutil

import matplotlib.figure
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from analysis import documents, load
from analysis.figures import quality_over_density
from analysis.noise import NoiseFloors
from analysis.paired import main, paired
from analysis.report import render
from analysis.statistics import Values
from analysis.summary import summary
from analysis.table import print_summary
from svg.results import Measurement, RunWriter
from tests.analysis.test_report import data_of
from tests.fake_runs import PROVENANCE


def write(
    root,
    run_id,
    method,
    scores,
    backend="flex",
    provenance=PROVENANCE,
    calls_by=None,
    dense="sdpa",
    at=0.25,
    quantity="psnr_db",
    **model,
):
    """Write a run of one seed; scores is {prompt: quality}, None for a video that equals its twin."""
    config = {"seed": 0, "method": {"name": method}, "model": {"num_inference_steps": 8, **model}}
    if method != "dense":
        config["method"]["sparsity"] = at
    names = {"model": "m", "method": method, "backend": backend, "dense_backend": dense}
    facts = {"config": config, "provenance": provenance, "prompts": [], "seeds": [0]}
    with RunWriter(root, run_id, **names, **facts) as run:
        for prompt, value in scores.items():
            place = {"prompt_id": prompt, "seed": 0}
            status = "infinite" if value is None else "ok"
            shares = {"unit": "1", "value": 1.0 if method == "dense" else at, **place}
            run.extend(
                [
                    Measurement(quantity=quantity, unit="dB", value=value, protocol="standard", status=status, **place),
                    Measurement(quantity="density_requested", **shares),
                    Measurement(quantity="density_executed", protocol="tile", **shares),
                    Measurement(
                        quantity="call_density", protocol="tile", step=0, layer=0, backend=calls_by or backend, **shares
                    ),
                ]
            )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Dense on flex is 40 dB from its twin on sdpa, where methods are 41, 30, 29.5 and 20 dB from it."""
    root = tmp_path_factory.mktemp("noise")
    write(root, "floor", "dense", {"p0": 40.0, "p1": 40.0})
    write(root, "control", "dense", {"p0": None, "p1": None}, backend="sdpa")
    # As of a run whose backend was picked for it: a copy of the twin.
    write(root, "copy", "dense", {"p0": None, "p1": None}, backend="cpu_gather", calls_by="sdpa")
    for method, value in (("near", 41.0), ("svg", 30.0), ("rival", 29.5), ("far", 20.0)):
        write(root, method, method, {"p0": value, "p1": value + 0.1})
    return root


@pytest.fixture(scope="module")
def tables(folder):
    return load.measurements(folder), load.runs(folder)


def floors_of(root):
    measurements, runs = load.measurements(root), load.runs(root)
    return NoiseFloors(measurements, runs, Values(measurements)), runs.set_index("run_id", drop=False)


def test_the_floor_is_of_dense_runs_that_another_kernel_computed(folder):
    floors, runs = floors_of(folder)
    assert floors.runs == {"floor"}
    floor = floors.of(runs.loc["svg"], "psnr_db", "standard")
    assert (floor.backend, floor.value, floor.estimate.n) == ("flex", 40.0, 2)
    assert floor.distance == pytest.approx(0.01)
    assert floors.of(runs.loc["svg"], "ssim", "standard") is None
    assert floors.of(runs.loc["svg"], "speedup", None) is None


@pytest.mark.parametrize(
    "other",
    [
        {"num_inference_steps": 20},
        {"dense": "math"},
        {"provenance": PROVENANCE | {"gpu": {"name": "G1", "driver": "1"}}},
        {"provenance": PROVENANCE | {"cpu": {"name": "Other CPU"}}},
        {"provenance": PROVENANCE | {"versions": {"torch": "2.14"}}},
    ],
)
def test_a_floor_is_of_the_same_model_settings_dense_backend_and_machine(tmp_path, other):
    write(tmp_path, "floor", "dense", {"p0": 40.0})
    write(tmp_path, "same", "svg", {"p0": 30.0}, provenance=PROVENANCE | {"commit": "f" * 40})
    write(tmp_path, "other", "svg", {"p0": 30.0}, **other)
    floors, runs = floors_of(tmp_path)
    assert floors.of(runs.loc["same"], "psnr_db", "standard").value == 40
    assert floors.of(runs.loc["other"], "psnr_db", "standard") is None


def test_the_furthest_of_several_kernels_is_the_floor_and_identical_videos_are_at_distance_zero(tmp_path):
    write(tmp_path, "one", "dense", {"p0": None, "p1": None}, backend="math")
    write(tmp_path, "svg", "svg", {"p0": 60.0})
    floors, runs = floors_of(tmp_path)
    floor = floors.of(runs.loc["svg"], "psnr_db", "standard")
    assert floor.distance == 0 and math.isinf(floor.value)
    write(tmp_path, "two", "dense", {"p0": 40.0, "p1": None})
    floors, runs = floors_of(tmp_path)
    floor = floors.of(runs.loc["svg"], "psnr_db", "standard")
    assert floor.backend == "flex" and floor.distance == pytest.approx(0.01 / 2) and floor.value == 40


def test_a_setting_no_further_from_dense_than_the_floor_is_within_noise(tables):
    rows = summary(*tables).set_index("method")
    assert (rows.loc["svg", "psnr_db_floor"], rows.loc["svg", "psnr_db_floor_backend"]) == (40, "flex")
    sparse = rows.loc[["near", "svg", "rival", "far"], "psnr_db_noise"]
    assert sparse.tolist() == ["within noise", "", "", ""]
    assert sorted(rows.loc["dense", "psnr_db_noise"]) == ["", "", "noise floor"]


def test_a_difference_smaller_than_the_floor_is_within_noise(tables):
    rows = paired(*tables).set_index(paired(*tables)["other"].str.split().str[0])
    # In root mean squared error .0316 for svg, .0335 for its rival, .0089 and .1 for the others; .01 for the floor.
    assert rows["within_noise"].to_dict() == {"near": False, "rival": True, "far": False}
    assert set(rows["floor"]) == {40.0} and set(rows["floor_backend"]) == {"flex"}


def test_every_table_says_what_the_floor_is_and_what_lies_within_it(folder, tables, capsys):
    said = "Noise floor (dense on another kernel): PSNR dB 40.00 on flex."
    print_summary(summary(*tables), tables[1], width=120)
    text = " ".join(capsys.readouterr().out.split())
    assert said in text and "PSNR dB: within noise" in text and "Within noise: no further from dense than that." in text
    assert main([str(folder)]) == 0
    text = capsys.readouterr().out
    assert said in text and "rival sparsity=0.25: +0.50, within noise" in text
    whole, pairs = (
        documents.fill(f"<!-- {kind}: {folder.name} -->\n<!-- end of {kind} -->\n", folder.parent)
        for kind in ("rows", "paired")
    )
    assert said in whole and "41.05, within noise" in whole and said in pairs and "| +0.50, within noise |" in pairs
    page = render(*tables)
    assert said in page.split("<script")[0] and "PSNR dB: within noise" in page
    [metric] = data_of(page)["quality"]
    estimate = next(run for run in data_of(page)["runs"] if run["method"] == "near")["values"][metric["key"]]
    assert estimate["floor"] == {"text": "PSNR dB 40.00, dense on flex", "value": 40.0}
    assert estimate["noise"] == "within noise"


def test_the_figure_draws_the_floor_or_says_that_there_is_none(folder, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", lambda self, *a, **k: drawn.append(self.axes[0]))
    shutil.copytree(folder, tmp_path / "all")
    for root in tmp_path / "all", tmp_path / "runs":
        write(root, "denser", "svg", {"p0": 31.0}, at=0.5)
    quality_over_density(load.measurements(tmp_path / "all"), load.runs(tmp_path / "all"), tmp_path / "with")
    write(tmp_path / "runs", "svg", "svg", {"p0": 30.0})
    quality_over_density(load.measurements(tmp_path / "runs"), load.runs(tmp_path / "runs"), tmp_path / "without")
    write(tmp_path / "runs", "floor", "dense", {"p0": None})
    quality_over_density(load.measurements(tmp_path / "runs"), load.runs(tmp_path / "runs"), tmp_path / "identical")
    measured, missing, identical = drawn[0], drawn[2], drawn[4]
    [line] = [line for line in measured.lines if line.get_label() == "noise floor (dense on flex)"]
    assert list(line.get_ydata()) == [40, 40]
    # The runs that measured it are the line, not a point.
    assert set(measured.get_legend_handles_labels()[1]) == {"near", "svg", "rival", "far", line.get_label()}
    # There is nothing further from dense than noise above it.
    [band] = [patch for patch in measured.patches if patch.get_y() == 40]
    assert band.get_y() + band.get_height() == measured.get_ylim()[1] > 41
    assert not missing.patches and not identical.patches
    said = [axes.figure.get_suptitle().replace("\n", " ") for axes in (measured, missing, identical)]
    assert "Noise floor" not in said[0]
    assert "Noise floor: not measured (run experiment=dense_backend)" in said[1]
    assert "Noise floor: none, dense on flex is identical" in said[2]


@pytest.mark.parametrize(
    ("quantity", "scores", "floor", "words"),
    [
        ("psnr_db", (28.0, 32.0), 71.0, "↑ noise floor 71.00 dB, above"),
        ("lpips_alex", (0.3, 0.25), 0.002, "↓ noise floor 0.0020, below"),
    ],
)
def test_a_floor_far_from_all_points_is_named_at_the_edge_of_the_axis(
    tmp_path, monkeypatch, quantity, scores, floor, words
):
    drawn = []
    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", lambda self, *a, **k: drawn.append(self))
    root = tmp_path / "runs"
    for at, score in zip((0.25, 0.5), scores, strict=True):
        write(root, f"svg-{at}", "svg", dict.fromkeys(("p0", "p1"), score), at=at, quantity=quantity)
    write(root, "floor", "dense", {"p0": floor, "p1": floor}, quantity=quantity)
    quality_over_density(
        load.measurements(root), load.runs(root), tmp_path / "far", quantity=quantity, suffixes=[".png"]
    )
    [axes] = drawn[0].axes
    low, high = axes.get_ylim()
    # The points have the range to themselves, save the line of text.
    assert low > min(scores) - 0.5 * abs(scores[0] - scores[1])
    assert high < max(scores) + 0.5 * abs(scores[0] - scores[1])
    assert not axes.patches and axes.get_legend_handles_labels()[1] == ["svg"]
    [text] = axes.texts
    assert text.get_text() == words
    FigureCanvasAgg(drawn[0]).draw()
    box = text.get_window_extent().transformed(axes.transData.inverted())
    assert all(score < box.y0 or box.y1 < score for score in scores)
    assert "Noise floor (dense on flex)" in drawn[0].get_suptitle().replace("\n", " ")


def test_the_report_gives_paired_differences_with_their_intervals_and_the_noise_floor(tmp_path):
    for method, scores in {"svg": (30.0, 31.0, 33.0), "other": (28.0, 29.5, 29.5)}.items():
        write(tmp_path, method, method, dict(zip("abc", scores, strict=True)))
    write(tmp_path, "floor", "dense", dict.fromkeys("abc", 40.0))
    measurements, runs = load.measurements(tmp_path), load.runs(tmp_path)
    section = render(measurements, runs).split('<section id="paired"')[1].split("</section>")[0]
    [row] = paired(measurements, runs).itertuples()
    numbers = [f"{value:+.2f}" for value in (row.difference, row.low, row.high)]
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", section)
    numbers[0] += ", within noise"
    assert cells == ["PSNR dB", "0.25", *numbers, f"{row.detectable:.2f}", "40.00", "3"]
    assert "Noise floor (dense on another kernel): PSNR dB 40.00 on flex." in section
