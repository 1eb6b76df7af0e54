"""What one knob is worth, all else equal."""

import pytest

from analysis import load
from analysis.knobs import knob_effects
from svg.results import Measurement, RunWriter
from tests.fake_runs import PROVENANCE


def write(root, scores, **knobs):
    """Write a run of method svg with these knobs; scores is {prompt: PSNR}."""
    run_id = "-".join(f"{name}{value}" for name, value in knobs.items())
    names = {"model": "m", "method": "svg", "backend": "cpu_gather", "dense_backend": "sdpa"}
    facts = {"config": {"method": knobs}, "provenance": PROVENANCE, "prompts": [], "seeds": [0]}
    with RunWriter(root, run_id, **names, **facts) as run:
        for prompt, value in scores.items():
            place = {"quantity": "psnr_db", "unit": "dB", "protocol": "standard", "prompt_id": prompt, "seed": 0}
            run.extend([Measurement(value=value, status="ok" if value else "infinite", **place)])


def effects(root):
    return knob_effects(load.measurements(root), load.runs(root))


def test_a_knob_goes_from_its_least_value_to_its_greatest_and_the_one_that_matters_most_stands_first(tmp_path):
    write(tmp_path, {"a": 20.0, "b": 24.0, "c": 22.0}, sparsity=0.2, num_sampled_rows=64)
    write(tmp_path, {"a": 25.0, "b": 25.0, "c": 25.0}, sparsity=0.3, num_sampled_rows=64)
    write(tmp_path, {"a": 30.0, "b": 32.0, "c": 31.0}, sparsity=0.5, num_sampled_rows=64)
    write(tmp_path, {"a": 19.0, "b": 23.0, "c": 21.0}, sparsity=0.2, num_sampled_rows=8)
    kept, rows = effects(tmp_path).to_dict("records")
    assert (kept["knob"], kept["first"], kept["last"], kept["others"]) == ("sparsity", 0.2, 0.5, "num_sampled_rows=64")
    # Differences 10, 8, 9, prompt by prompt.
    assert (kept["prompts"], kept["difference"]) == (3, pytest.approx(9.0))
    assert 5 < kept["low"] < 9 < kept["high"] < 13
    assert (rows["knob"], rows["first"], rows["last"], rows["others"]) == ("num_sampled_rows", 8, 64, "sparsity=0.2")
    assert rows["difference"] == pytest.approx(1.0)


def test_settings_that_differ_in_two_knobs_say_nothing_of_either(tmp_path):
    write(tmp_path, {"a": 20.0}, sparsity=0.2, num_sampled_rows=8)
    write(tmp_path, {"a": 30.0}, sparsity=0.5, num_sampled_rows=64)
    assert effects(tmp_path).empty


def test_a_prompt_without_a_number_at_one_end_is_left_out(tmp_path):
    write(tmp_path, {"a": 20.0, "b": 24.0}, sparsity=0.2)
    write(tmp_path, {"a": 30.0, "b": None}, sparsity=0.5)
    [row] = effects(tmp_path).to_dict("records")
    assert (row["prompts"], row["difference"]) == (1, 10.0)
