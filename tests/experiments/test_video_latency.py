"""A video's time: composed of its steps, of a whole loop, and what this machine's measured rates allow at least."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image

from analysis import documents, load, report, roofline
from analysis.roofline import PARTS, roofline_table
from experiments import bench_kernels, measured_rates, step_planning, step_runner, timed_products
from experiments.forced_choice import ForcedChoice
from experiments.identity import Names
from experiments.one_step import build_step
from experiments.schema import VideoConfig
from experiments.whole_video import run_video
from svg import backends
from svg.cost.forecast import TransformerSize
from svg.cost.roofline import Rates
from svg.results import RecordError, list_runs, read_run
from tests.experiments.conftest import composed

ROOT = Path(__file__).parents[2]
SMOKE = ["experiment=bench_smoke", "seconds=0"]
COGVIDEOX = [
    "model=cogvideox1_5_i2v",
    "model.dtype=float32",
    "model.height=64",
    "model.width=96",
    "model.num_frames=17",
    "model.transformer.num_layers=1",
    "model.transformer.num_heads=3",
    "model.transformer.ffn_dim=768",
    "model.num_inference_steps=3",
    "model.max_sequence_length=7",
    "method={density: 0.9, sparsity: null, block_size: 8, first_times_fp: 0.4, first_layers_fp: 0}",
    "device=cpu",
    "threads=1",
]


def smoke_commands(target: str) -> list[tuple[str, list[str]]]:
    """Return the commands of a benchmark's smoke size, each the name of its module and its arguments."""
    make = ["make", "-n", "-o", ".venv/.ready", target, "SMOKE=1"]
    printed = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    lines = [line.partition(" -m experiments.")[2] for line in printed.splitlines() if " -m experiments." in line]
    return [(name, arguments) for name, *arguments in map(shlex.split, lines)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("video") / "runs"


@pytest.fixture
def measured(call, folder, monkeypatch):
    """The rows of the smoke size of ``make bench-videos``, of rates and of the video; made once."""
    if not folder.exists():
        monkeypatch.setattr(timed_products, "REPEATS", 3)
        commands = smoke_commands("bench-videos")
        assert [name for name, _ in commands] == ["rates", "video_latency"]
        for name, arguments in commands:
            status, _, err = call(*arguments, f"runs_dir={folder}", command=name)
            assert (status, err) == (0, "")
    rows = load.measurements(folder)
    is_rate = rows["method"] == "rates"
    rows = rows.set_index([rows["quantity"], rows["protocol"].fillna("")])
    return rows[is_rate.to_numpy()], rows[~is_rate.to_numpy()]


def test_every_benchmark_has_a_smoke_size_of_commands_that_are_tried_here_or_beside():
    [(name, arguments)] = smoke_commands("bench-kernels")
    parsed = bench_kernels._parser().parse_args(arguments)
    assert (name, parsed.size, parsed.dtype) == ("bench_kernels", "small", "float32")
    # Steps are timed on the way to a video.
    renamed = [(name.replace("video", "step"), arguments) for name, arguments in smoke_commands("bench-videos")]
    assert smoke_commands("bench-steps") == renamed
    assert [name for name, _ in renamed] == ["rates", "step_latency"]


def test_rates_are_those_of_the_models_own_products_and_of_a_copy(measured, folder):
    rates, _ = measured
    record = next(record for record in map(read_run, list_runs(folder)) if record.method == "rates")
    tokens = 5 * 24
    assert record.config["products"] == {
        "projection": [tokens, 48, 48],
        "feed_forward_in": [tokens, 48, 64],
        "feed_forward_out": [tokens, 64, 48],
        "cross_projection": [7, 256, 48],
    }
    for name, (rows, inner, columns) in record.config["products"].items():
        seconds = rates.loc[("latency_ms", name), "value"].item() / 1000
        reached = rates.loc[("product_tflops", name), "value"].item()
        assert reached == pytest.approx(2 * rows * inner * columns / seconds / 1e12)
    assert rates.loc[("copy_gb_s", ""), "value"].item() > 0
    assert rates.loc[("sm_clock_mhz", ""), "status"] == "unavailable"


def test_a_video_is_composed_of_the_medians_of_its_steps_and_run_whole(measured):
    values = measured[1]["value"]
    sparse, dense = values["step_s", ""].item(), values["dense_step_s", ""].item()
    composed_s = values["video_s", "composed"].item()
    assert composed_s == pytest.approx(1 * dense + 3 * sparse)
    assert values["dense_video_s", "composed"].item() == pytest.approx(4 * dense)
    each = measured[1].loc[[("video_step_s", "")]]
    assert each["step"].tolist() == [0, 1, 2, 3]
    assert values["video_s", "whole"].item() == pytest.approx(each["value"].sum())
    assert values["composed_share", ""].item() == pytest.approx(composed_s / values["video_s", "whole"].item())


def test_the_floor_is_of_the_measured_rates_and_lower_for_less_attention(measured):
    values = measured[1]["value"]
    for prefix in ("", "dense_"):
        parts = [values[f"{prefix}measured_floor_s", part].item() for part in ("attention", "products", "moving")]
        assert sum(parts) == pytest.approx(values[f"{prefix}measured_floor_s", ""].item())
        share = values[f"{prefix}measured_floor_share", ""].item()
        assert share == pytest.approx(sum(parts) / values[f"{prefix}step_s", ""].item())
    assert values["measured_floor_s", "attention"].item() <= values["dense_measured_floor_s", "attention"].item()
    least = values["dense_measured_floor_s", ""].item() + 3 * values["measured_floor_s", ""].item()
    assert values["video_floor_s", ""].item() == pytest.approx(least)


def test_the_table_sets_each_kind_of_step_and_video_beside_its_floor(measured, folder):
    rows, runs = load.measurements(folder), load.runs(folder)
    table = roofline_table(rows, runs)
    assert table["kind"].tolist() == ["dense", "sparse"] and table["backend"].tolist() == ["sdpa", "cpu_gather"]
    for row in table.to_dict("records"):
        assert sum(row[f"floor_{part}"] for part in PARTS) == pytest.approx(row["floor_s"])
        assert row["share"] == pytest.approx(row["floor_s"] / row["step_s"])
    values = measured[1]["value"]
    assert table.loc[1, "video_s"] == values["video_s", "whole"].item()
    assert table.loc[0, "video_s"] == values["dense_video_s", "composed"].item()
    filled = documents.fill(f"<!-- floor: {folder.name} -->\n<!-- end of floor -->\n", folder.parent)
    assert f"| {table.loc[1, 'video_s']:.3g} | {table.loc[1, 'video_floor_s']:.3g} |" in filled
    assert documents.fill(filled, folder.parent) == filled
    # A step in FP8 whose floor may have it at the rate of bf16 is none of them.
    in_fp8 = runs.assign(backend="triton_block_sparse_fp8")
    assert roofline_table(rows, in_fp8)["kind"].tolist() == ["dense"]
    counted = rows.iloc[[0]].assign(quantity="fp8_attention_pflop", protocol=None, step=None, value=1.0)
    steps = runs["run_id"][runs["config.weights"].notna()]
    counted["run_id"] = steps.iloc[0]
    assert roofline_table(pd.concat([rows, counted]), in_fp8)["kind"].tolist() == ["dense", "sparse"]


def test_dense_steps_of_like_runs_are_one_bar_whichever_of_them_tell_products_apart(measured, folder):
    table = roofline_table(load.measurements(folder), load.runs(folder)).assign(letter="A")
    other = table.assign(
        run_id="other", phase_products=0.25 * table["phase_rest"], phase_rest=0.75 * table["phase_rest"]
    )
    found = roofline._once(pd.concat([table, other], ignore_index=True))
    assert found["kind"].tolist() == ["dense", "sparse", "sparse"]
    dense = found.iloc[0]
    assert dense["phase_products"] == pytest.approx(0.25 * table.loc[0, "phase_rest"])
    assert dense["phase_products"] + dense["phase_rest"] == pytest.approx(table.loc[0, "phase_rest"])


@pytest.mark.slow
def test_rates_are_no_row_of_a_report(measured, folder, tmp_path, capsys):
    report.write_report(folder, tmp_path / "report.html")
    printed = capsys.readouterr().out
    assert "svg" in printed and "rates" not in printed and "transformer.ffn_dim" not in printed
    only = tmp_path / "only"
    [rates] = folder.glob("rates-*")
    shutil.copytree(rates, only / rates.name)
    with pytest.raises(RecordError, match="only rates of its machine"):
        report.write_report(only)


@pytest.mark.slow
def test_the_figure_is_drawn_of_steps_with_a_floor_and_refused_without(measured, folder, tmp_path, capsys):
    assert roofline.main([str(folder), str(tmp_path / "floor")]) == 0
    with Image.open(tmp_path / "floor.png") as shown:
        assert len(shown.convert("RGB").getcolors(2**24)) > 5
    rows, runs = load.measurements(folder), load.runs(folder)
    with pytest.raises(ValueError, match="run experiments.rates and then experiments.step_latency"):
        roofline.measured_against_floor(rows[~rows["quantity"].str.endswith("floor_s")], runs, tmp_path / "none")
    assert roofline.main([str(tmp_path), str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.glob("none*"))


def test_without_rates_a_step_names_the_command_that_measures_them(tmp_path):
    config = composed(*SMOKE, f"runs_dir={tmp_path}", config_name="video_latency", settings=VideoConfig)
    plan = step_planning.check(config, Names("tiny_wan", "svg"))
    missing = measured_rates.read(measured_rates.check(config, plan.names))
    assert f"python -m experiments.rates model=tiny_wan with the same settings does, into {tmp_path}" in missing


def test_a_floor_counts_products_at_their_own_rates_and_attention_at_the_best():
    size = TransformerSize(num_layers=2, width=10, ffn_dim=40, cross_dim=5, num_cross_tokens=7)
    one, two = (sum(product.flops for product in size.products(100, batch)) for batch in (1, 2))
    assert (one + size.cross_attention_flops(100), two) == (size.other_flops(100), 2 * one)
    # 14 passes over (tokens, width) a block, 7 more with cross-attention.
    assert size.moved_bytes(100, 2) == 2 * (14 + 7) * 100 * 10 * 2
    single = TransformerSize(num_layers=3, width=10, ffn_dim=40, num_single_layers=2)
    assert single.moved_bytes(100, 2) == (14 + 9 + 9) * 100 * 10 * 2
    names = ("projection", "feed_forward_in", "feed_forward_out", "cross_projection")
    rates = Rates(dict(zip(names, (1.0, 2.0, 4.0, 1.0), strict=True)), copy_gb_s=1.0)
    floor = rates.floor(8e12, 0.0, size.products(100), 3e9)
    assert (floor.attention_s, floor.moving_s) == (2.0, 3.0)
    expected = sum(product.flops / rates.products[product.name] for product in size.products(100)) / 1e12
    assert floor.products_s == pytest.approx(expected)
    # Little to compute: then its bytes count.
    assert rates.attention_s(1.0, 5e9) == 5.0
    # In FP8 at the rate of the best product in FP8.
    faster = replace(rates, products={**rates.products, "projection_fp8": 8.0})
    assert (rates.has_fp8, faster.has_fp8) == (False, True)
    assert faster.attention_s(12e12, 0.0, 8e12) == 4 / 4 + 8 / 8
    assert faster.floor(12e12, 0.0, [], 0.0, 8e12).attention_s == 2.0


@pytest.mark.slow
def test_a_whole_video_of_a_batched_image_model_runs_its_dense_steps_dense_and_the_others_forced():
    config = composed(*COGVIDEOX, config_name="video_latency", settings=VideoConfig)
    plan = step_planning.check(config, Names("cogvideox1_5_i2v", "svg"))
    assert plan.num_steps == (1, 2) and plan.title.startswith("video-")
    step = build_step(config.model, plan.layout, plan.device, 0)
    image = step.forwards[0]["hidden_states"][:, :, 16:].clone()
    before = step.forwards[0]["hidden_states"][:, :, :16].clone()
    method = ForcedChoice(plan.method, step_runner._choices(plan), keeps_dense_steps=True)
    backend = backends.get("reference")
    whole = run_video(step, method, backend, backends.get("sdpa"))
    assert len(whole.step_s) == 3
    assert [call.is_dense for call in whole.receipt.calls] == [True, False, False]
    assert whole.receipt.calls[1].choice == whole.receipt.calls[2].choice
    after = step.forwards[0]["hidden_states"]
    assert torch.equal(after[:, :, 16:], image)
    # Both items of the batch hold the same latents, which every step has moved.
    assert torch.equal(after[0, :, :16], after[1, :, :16])
    assert not torch.equal(after[:1, :, :16], before[:1])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.geometry=null", "model.geometry is null; experiments.rates needs"),
        ("text_tokens=-1", "text_tokens is -1; it must be at least 0"),
        ("device=cuda:x", "device is 'cuda:x'"),
    ],
)
def test_rates_of_a_wrong_setting_are_one_line_and_write_nothing(call, tmp_path, override, words):
    status, out, err = call(*SMOKE[:1], override, f"runs_dir={tmp_path / 'runs'}", command="rates")
    assert (status, out) == (2, "")
    assert words in err and err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_video_without_sparse_steps_is_refused():
    with pytest.raises(ValueError, match=r"steps is \['dense'\]; a video has sparse steps"):
        composed("steps=[dense]", config_name="video_latency", settings=VideoConfig)
