"""What makes a step faster, factor by factor, and what a video of such steps costs."""

import pytest

from analysis import load
from analysis.notebook import newest, records
from analysis.step_factors import FACTORS, step_factors, video_costs
from svg.results import Measurement, RecordError, RunWriter
from tests.fake_runs import PROVENANCE

PHASES = {
    "dense_phase_s": {"attention": 6.0, "profiling": 0.0, "reordering": 0.0, "rest": 4.0},
    "phase_s": {"attention": 2.0, "profiling": 0.75, "reordering": 0.25, "rest": 4.0},
}
WHOLE = {"dense_step_s": 10.0, "step_s": 7.0, "attention_pflop": 1.0, "dense_attention_pflop": 4.0}


@pytest.fixture
def step(tmp_path):
    """Return the tables of one step: 10 s dense and 7 s sparse, a quarter of the tiles."""

    def of(threshold_rule="step_index"):
        method = {"first_times_fp": 0.25, "threshold_rule": threshold_rule}
        config = {"weights": "random", "model": {"num_inference_steps": 8}, "method": method}
        names = {"model": "m", "method": "svg", "backend": "flex", "dense_backend": "sdpa"}
        with RunWriter(tmp_path, "step", **names, config=config, provenance=PROVENANCE, prompts=[], seeds=[0]) as run:
            for quantity, phases in PHASES.items():
                run.extend([Measurement(quantity=quantity, value=s, unit="s", protocol=p) for p, s in phases.items()])
            run.extend([Measurement(quantity=name, value=value, unit="s") for name, value in WHOLE.items()])
            run.extend([Measurement(quantity="peak_memory_gib", value=3.0, unit="GiB")])
        return load.measurements(tmp_path), load.runs(tmp_path)

    return of


def test_a_speedup_is_the_product_of_tiles_kernel_deciding_and_the_rest(step):
    [row] = step_factors(*step()).to_dict("records")
    # A quarter of 6 s of attention at the dense rate; then 2 s; then 1 s of deciding.
    assert [row[name] for name in FACTORS] == pytest.approx([10 / 5.5, 5.5 / 6, 6 / 7, 1])
    assert (row["speedup"], row["tile_share"], row["attention_share"]) == pytest.approx((10 / 7, 0.25, 0.6))


def test_a_dense_step_alone_has_no_factors_and_compiled_blocks_are_named(step):
    measurements, runs = step()
    assert step_factors(measurements, runs.assign(**{"config.compile": True}))["backend"].tolist() == ["flex, compiled"]
    alone = measurements[measurements["quantity"].str.startswith("dense_")]
    assert step_factors(alone, runs).empty and video_costs(alone, runs).empty


def test_a_video_costs_its_dense_steps_and_its_sparse_ones(step):
    [row] = video_costs(*step()).to_dict("records")
    assert (row["steps"], row["dense_steps"], row["dense_s"], row["sparse_s"]) == (8, 2, 80, 2 * 10 + 6 * 7)
    assert (row["speedup"], row["videos_per_day"]) == pytest.approx((80 / 62, 86400 / 62))


def test_a_video_has_no_cost_where_its_dense_steps_are_not_a_count(step):
    [row] = video_costs(*step("timestep_value")).to_dict("records")
    assert row["dense_s"] == 80 and row["sparse_s"] != row["sparse_s"]


def test_the_newest_run_is_found_by_method_and_kept_fraction():
    runs = records("results/demo")[1]
    assert newest(runs, "svg", 0.15).startswith("tiny_wan-svg-0.15-")
    with pytest.raises(RecordError, match="no complete run of method=svg with method.sparsity=0.2 is among these"):
        newest(runs, "svg", 0.2)
