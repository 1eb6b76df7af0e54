"""Stability of the heads' choices over steps, prompts and seeds, from records."""

from __future__ import annotations

import math

import pytest

from analysis import load
from analysis.head_stability import head_stability, layer_stability, main
from svg.results import Measurement, RunWriter
from tests.fake_runs import PROVENANCE, write_fake_runs


def write(root, run_id, choices, *, seeds=(0,), branch="cond", sparsity=0.25, fails=False):
    """Write a run; choices is {(prompt, seed, layer, head): its choices from step 1 on}."""
    config = {"seed": seeds[0], "seeds": list(seeds), "method": {"name": "svg", "sparsity": sparsity}}
    names = {"model": "m", "method": "svg", "backend": "cpu_gather", "dense_backend": "sdpa"}
    facts = {"config": config, "provenance": PROVENANCE, "prompts": [], "seeds": list(seeds)}
    with RunWriter(root, run_id, **names, **facts) as run:
        for (prompt, seed, layer, head), values in choices.items():
            for step, value in enumerate(values, start=1):
                place = {"prompt_id": prompt, "seed": seed, "step": step, "layer": layer, "head": head}
                run.add(Measurement(quantity="head_choice", unit="pattern", value=value, branch=branch, **place))
        if fails:
            raise RuntimeError("cut off")


def heads_of(root):
    return head_stability(load.measurements(root), load.runs(root)).set_index(["layer", "head"])


def test_a_pair_is_a_step_and_the_next_or_two_prompts_or_two_seeds(tmp_path):
    choices = {
        ("a", 0, 2, 0): [0.0, 0.0, 1.0, 1.0],
        ("b", 0, 2, 0): [0.0, 1.0, 1.0, 1.0],
        ("a", 1, 2, 0): [0.0, 0.0, 0.0, 0.0],
    }
    write(tmp_path, "one", choices, seeds=(0, 1))
    row = heads_of(tmp_path).loc[(2, 0)]
    assert row["videos"] == 3
    assert row["temporal_share"] == pytest.approx(5 / 12)
    # Of three pairs of steps in each video, two, two and three.
    assert row["over_steps"] == pytest.approx(7 / 9)
    # Prompts a and b share seed 0: equal at three of four steps.
    assert row["over_prompts"] == pytest.approx(3 / 4)
    # Seeds 0 and 1 share prompt a: equal at two of four steps.
    assert row["over_seeds"] == pytest.approx(2 / 4)


def test_where_there_is_no_pair_there_is_no_share(tmp_path):
    write(tmp_path, "one", {("a", 0, 0, 0): [1.0]})
    row = heads_of(tmp_path).loc[(0, 0)]
    assert row["temporal_share"] == 1
    assert all(math.isnan(row[name]) for name in ("over_steps", "over_prompts", "over_seeds"))


def test_runs_that_differ_in_their_seeds_are_one_setting_and_other_knobs_are_another(tmp_path):
    write(tmp_path, "first", {("a", 0, 0, 0): [1.0, 0.0]}, seeds=(0,))
    write(tmp_path, "second", {("a", 1, 0, 0): [1.0, 1.0]}, seeds=(1,))
    write(tmp_path, "other", {("a", 0, 0, 0): [0.0, 0.0]}, sparsity=0.5)
    table = head_stability(load.measurements(tmp_path), load.runs(tmp_path)).set_index("setting")
    assert list(table.index) == ["m svg sparsity=0.25", "m svg sparsity=0.5"]
    assert table["over_seeds"].iloc[0] == pytest.approx(1 / 2)
    assert table["videos"].tolist() == [2, 1]


def test_a_run_made_twice_counts_once_and_one_that_failed_not_at_all(tmp_path):
    write(tmp_path, "one", {("a", 0, 0, 0): [1.0, 0.0]})
    write(tmp_path, "two", {("a", 0, 0, 0): [1.0, 0.0]})
    with pytest.raises(RuntimeError):
        write(tmp_path, "failed", {("b", 0, 0, 0): [0.0, 0.0]}, fails=True)
    row = heads_of(tmp_path).loc[(0, 0)]
    assert (row["videos"], row["temporal_share"]) == (1, 0.5)
    assert math.isnan(row["over_prompts"])


def test_a_head_is_compared_with_itself_in_the_same_branch_only(tmp_path):
    write(tmp_path, "one", {("a", 0, 0, 0): [1.0, 1.0], ("a", 0, 0, 1): [0.0, 0.0], ("a", 0, 3, 0): [0.0, 1.0]})
    write(tmp_path, "two", {("a", 1, 0, 0): [0.0, 0.0]}, seeds=(1,), branch="uncond")
    table = head_stability(load.measurements(tmp_path), load.runs(tmp_path))
    found = table.set_index(["layer", "head", "branch"])
    assert found["over_steps"].to_dict() == {
        (0, 0, "cond"): 1,
        (0, 0, "uncond"): 1,
        (0, 1, "cond"): 1,
        (3, 0, "cond"): 0,
    }
    assert found["over_seeds"].isna().all()


def test_a_layer_is_the_mean_of_its_heads_beside_what_chance_would_give(tmp_path):
    write(tmp_path, "one", {("a", 0, 4, 0): [1.0, 1.0, 1.0], ("a", 0, 4, 1): [0.0, 1.0, 0.0]})
    [row] = layer_stability(heads_of(tmp_path).reset_index()).to_dict("records")
    assert (row["layer"], row["heads"], row["videos"]) == (4, 2, 1)
    assert row["temporal_share"] == pytest.approx(2 / 3)
    assert row["over_steps"] == pytest.approx(1 / 2)
    assert row["chance"] == pytest.approx(4 / 9 + 1 / 9)


def test_the_command_prints_a_table_for_each_setting(tmp_path, capsys):
    write_fake_runs(tmp_path)
    assert main([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    # one_pattern never changes its mind.
    lines = printed.split("one_pattern", 1)[1].split("\n\n")[0].splitlines()[2:]
    assert [line.split() for line in lines] == [
        [str(layer), "4", "2", "0.000", "1.000", "1.000", "–", "1.000"] for layer in (1, 2)
    ]


@pytest.mark.parametrize("holds", ["nothing", "no choice"])
def test_a_folder_without_a_choice_is_refused_in_one_line(tmp_path, capsys, holds):
    if holds == "no choice":
        write(tmp_path, "one", {})
    assert main([str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ") and said.err.count("\n") == 1 and str(tmp_path) in said.err


def test_a_folder_of_failed_runs_alone_is_refused_by_name(tmp_path, capsys):
    with pytest.raises(RuntimeError):
        write(tmp_path, "failed", {("a", 0, 0, 0): [0.0]}, fails=True)
    assert main([str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err == "error: no run is complete; failed is failed: cut off\n"
