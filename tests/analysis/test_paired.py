"""Paired differences between methods."""

import json
import math

import pandas as pd
import pytest

from analysis import load
from analysis.paired import main, paired
from svg.results import Measurement, RunWriter
from tests.fake_runs import PROVENANCE


def write(
    root,
    run_id,
    method,
    scores,
    density=0.25,
    seeds=(0,),
    dense_steps=1,
    dense="sdpa",
    more=None,
    texts=None,
    name="m",
    **model,
):
    """Write a run; scores is {prompt: PSNR per seed}, None for a video that equals its twin."""
    config = {"seed": seeds[0], "seeds": list(seeds), "model": {"name": "m", "num_inference_steps": 8, **model}}
    config |= {"method": {"name": method, "sparsity": density}, **(more or {})}
    names = {"model": name, "method": method, "backend": "cpu_gather", "dense_backend": dense}
    facts = {"config": config, "provenance": PROVENANCE, "seeds": list(seeds)}
    facts["prompts"] = [{"prompt_id": prompt, "text": text} for prompt, text in (texts or {}).items()]
    with RunWriter(root, run_id, **names, **facts) as run:
        for prompt, values in scores.items():
            for seed, value in zip(seeds, values, strict=True):
                place = {"prompt_id": prompt, "seed": seed}
                status = "ok" if value is not None else "infinite"
                run.extend(
                    [
                        Measurement(
                            quantity="psnr_db", value=value, unit="dB", protocol="standard", status=status, **place
                        ),
                        Measurement(quantity="density_requested", value=density, unit="1", **place),
                        Measurement(quantity="dense_steps", value=dense_steps, unit="steps", **place),
                        Measurement(quantity="dense_layers", value=1, unit="layers", **place),
                    ]
                )


def table_of(root, **options):
    return paired(load.measurements(root), load.runs(root), **options)


def test_the_difference_is_over_prompts_with_students_interval(tmp_path):
    write(tmp_path, "a", "svg", {"p0": [30.0], "p1": [28.0], "p2": [35.0]})
    write(tmp_path, "b", "random_blocks", {"p0": [27.0], "p1": [27.0], "p2": [30.0]})
    [row] = table_of(tmp_path).itertuples()
    # Differences 3, 1, 5: mean 3, deviation 2, t(0.975, 2) = 4.302653.
    half = 4.302653 * 2 / math.sqrt(3)
    assert (row.prompts, row.difference, row.unpaired) == (3, 3.0, 0)
    assert (row.low, row.high) == pytest.approx((3 - half, 3 + half), rel=1e-6)


def test_seeds_of_a_prompt_count_once(tmp_path):
    write(tmp_path, "a", "svg", {"p0": [30.0, 32.0], "p1": [28.0, 28.0]}, seeds=(0, 1))
    write(tmp_path, "b", "random_choice", {"p0": [27.0, 27.0], "p1": [27.0, 27.0]}, seeds=(0, 1))
    [row] = table_of(tmp_path).itertuples()
    assert row.prompts == 2 and row.difference == pytest.approx((4.0 + 1.0) / 2)
    assert math.isnan(row.low) and math.isnan(row.high)


def test_prompts_without_a_number_on_both_sides_are_left_out_and_counted(tmp_path):
    write(tmp_path, "a", "svg", {"p0": [30.0], "p1": [None], "p2": [28.0]})
    write(tmp_path, "b", "random_blocks", {"p0": [29.0], "p1": [20.0]})
    [row] = table_of(tmp_path).itertuples()
    assert (row.prompts, row.difference, row.unpaired) == (1, 1.0, 2)


def test_one_id_of_two_texts_makes_no_pair(tmp_path):
    write(tmp_path, "a", "svg", {"p0": [30.0], "p1": [28.0]}, texts={"p0": "a cat", "p1": "a dog"})
    write(tmp_path, "b", "random_blocks", {"p0": [20.0], "p1": [27.0]}, texts={"p0": "a hat", "p1": "a dog"})
    [row] = table_of(tmp_path).itertuples()
    assert (row.prompts, row.difference, row.unpaired) == (1, 1.0, 2)


@pytest.mark.parametrize(
    "other",
    [
        {"density": 0.5},
        {"dense_steps": 2},
        {"num_inference_steps": 20},
        {"linear_precision": "fp8"},
        {"seeds": (1,)},
        {"dense": "math"},
        {"more": {"compile": True}},
        {"more": {"device": "cuda"}},
    ],
)
def test_runs_under_other_conditions_are_not_compared(tmp_path, other):
    write(tmp_path, "a", "svg", {"p0": [30.0]})
    write(tmp_path, "b", "random_blocks", {"p0": [29.0]}, **other)
    assert table_of(tmp_path).empty


def test_a_record_from_before_blocks_could_be_compiled_is_one_whose_blocks_were_not(tmp_path):
    write(tmp_path, "a", "svg", {"p0": [30.0]})
    write(tmp_path, "b", "random_blocks", {"p0": [29.0]}, more={"compile": False})
    assert len(table_of(tmp_path)) == 1


def test_the_values_of_a_setting_are_compared_where_nothing_else_differs(tmp_path):
    for precision, score in (("bf16", 30.0), ("fp8", 29.5), ("fp8_int8", 29.8)):
        for size in (64, 128):
            more = {"backend": {"precision": precision}, "block": size}
            write(tmp_path, f"{precision}-{size}", "svg", {"p0": [score + size], "p1": [score - size]}, more=more)
    write(tmp_path, "other", "random_blocks", {"p0": [20.0]}, more={"backend": {"precision": "fp8"}, "block": 64})
    table = table_of(tmp_path, reference="backend.precision=bf16")
    assert table["difference"].round(6).tolist() == [0.2, 0.5, 0.2, 0.5]
    assert all(
        "fp8" in other and "bf16" in ours for ours, other in zip(table["reference"], table["other"], strict=True)
    )
    assert table_of(tmp_path, reference="backend.precision=fp4").empty


def test_the_command_prints_a_line_per_method(tmp_path, capsys):
    write(tmp_path, "a", "svg", {f"p{index}": [30.0 + index] for index in range(4)})
    write(tmp_path, "b", "random_blocks", {f"p{index}": [29.0] for index in range(4)})
    assert main([str(tmp_path)]) == 0
    assert "m at 0.25: random_blocks" in capsys.readouterr().out


def test_each_of_several_settings_of_the_reference_is_named_in_the_order_of_their_size(tmp_path, capsys):
    for rows, score in ((4, 30.0), (64, 32.0), (16, 31.0)):
        more = {"method": {"num_sampled_rows": rows}}
        write(tmp_path, f"r{rows}", "svg", {"p0": [score], "p1": [score]}, more=more)
    write(tmp_path, "o", "oracle_choice", {"p0": [31.0], "p1": [31.0]})
    assert table_of(tmp_path)["difference"].tolist() == [-1, 0, 1]
    assert main([str(tmp_path)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if " minus oracle_choice" in line]
    assert [line.partition("num_sampled_rows=")[2].split()[0] for line in lines] == ["4", "16", "64"]


def test_seeds_that_are_runs_of_their_own_are_pooled_and_paired_by_seed(tmp_path):
    # The second seed of p1 is missing on one side: its pair is, too.
    for seed, ours, theirs in ((0, [30.0, 28.0], [27.0, 27.0]), (1, [34.0, 50.0], [29.0, None])):
        prompts = [f"p{index}" for index in range(2)]
        write(tmp_path, f"a{seed}", "svg", {p: [v] for p, v in zip(prompts, ours, strict=True)}, seeds=(seed,))
        write(tmp_path, f"b{seed}", "other", {p: [v] for p, v in zip(prompts, theirs, strict=True)}, seeds=(seed,))
    [row] = table_of(tmp_path).itertuples()
    assert (row.prompts, row.videos, row.unpaired) == (2, 3, 0)
    assert row.difference == ((3.0 + 5.0) / 2 + 1.0) / 2


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_the_table_is_written_with_what_was_detectable(tmp_path, suffix):
    write(tmp_path, "a", "svg", {"p0": [30.0], "p1": [28.0], "p2": [35.0]})
    write(tmp_path, "b", "random_blocks", {"p0": [27.0], "p1": [27.0], "p2": [30.0]})
    file = tmp_path / "out" / f"table{suffix}"
    assert main([str(tmp_path), "--output", str(file)]) == 0
    [row] = pd.read_csv(file).to_dict("records") if suffix == ".csv" else json.loads(file.read_text())
    # 3.26 deviations of 3 prompts, here 2, show with a power of .8.
    assert row["detectable"] == pytest.approx(2 * 3.26, abs=0.02)
    assert row["difference"] == 3 and row["low"] < 0 < row["high"] and row["other"] == "random_blocks sparsity=0.25"


@pytest.mark.parametrize(
    ("name", "words"),
    [("table.txt", "table.txt; its name must end in .csv or .json"), ("a/table.csv", "a/table.csv cannot be written")],
)
def test_a_file_that_cannot_be_written_is_one_line(tmp_path, capsys, name, words):
    write(tmp_path / "runs", "a", "svg", {"p0": [30.0]})
    write(tmp_path / "runs", "b", "random_blocks", {"p0": [27.0]})
    (tmp_path / "a").write_text("")
    assert main([str(tmp_path / "runs"), "--output", str(tmp_path / name)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: --output ") and captured.err.count("\n") == 1
    assert words in captured.err and not (tmp_path / "table.txt").exists()


def test_nothing_to_compare_is_one_line(tmp_path, capsys):
    write(tmp_path, "a", "svg", {"p0": [30.0]})
    assert main([str(tmp_path)]) == 2
    assert "--reference svg" in capsys.readouterr().err
    assert main([str(tmp_path / "absent")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
