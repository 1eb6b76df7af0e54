"""Attention-pattern statistics in the record: of sparse runs, of dense ones on request, and outside of every time."""

from __future__ import annotations

import time

import pytest
import torch

from analysis import load
from experiments import runner
from experiments.generation import Generation
from experiments.statistics_rows import statistics_rows
from svg import statistics_sample
from svg.pattern_statistics import HeadStatistics
from svg.receipt import Receipt, SampledCall
from tests.experiments.conftest import planned

pytestmark = pytest.mark.slow

MASSES = {"same_frame_mass", "same_position_mass", "first_frame_mass", "text_mass", "entropy"}
OF_SPARSE = {"kept_mass", "output_error", "relative_l2_error", "regret", "agreement"}
PLACE = ["step", "layer", "branch", "head"]


def made(*overrides, **settings):
    """Return the measurements of one run."""
    path = runner.run(planned(*overrides, **settings))
    return load.measurements(path.parent).query("run_id == @path.name")


def of_heads(rows, names=MASSES | OF_SPARSE):
    return rows[rows["quantity"].isin({f"head_{name}" for name in names})]


def test_a_sparse_run_says_where_its_heads_look_and_what_was_covered(sparse):
    rows = made(*sparse)
    heads = of_heads(rows)
    assert set(heads["quantity"]) == {f"head_{name}" for name in MASSES | OF_SPARSE}
    # Of 2 layers and 3 steps one each, in 2 branches of 2 heads; all 18 rows.
    assert set(heads.groupby("quantity").size()) == {4}
    assert set(zip(heads["step"], heads["layer"], strict=True)) == {(1, 1)}
    assert set(heads["branch"]) == {"cond", "uncond"}
    assert set(heads["n"]) == {18}
    shares = heads[~heads["quantity"].str.endswith("_error")]["value"]
    assert shares.between(0, 1).all()
    covered = rows[rows["quantity"].str.startswith("statistics_")].set_index("quantity")
    assert covered["value"][["statistics_layers", "statistics_steps", "statistics_rows"]].tolist() == [1, 1, 18]
    assert covered["n"][["statistics_layers", "statistics_steps", "statistics_rows"]].tolist() == [2, 3, 2]
    assert covered["value"]["statistics_s"] > 0


def test_the_settings_decide_what_is_covered(sparse):
    rows = made(*sparse, "statistics.layers_apart=1", "statistics.steps_apart=1", "statistics.num_rows=7")
    heads = of_heads(rows, {"entropy"})
    assert len(heads) == 2 * 3 * 2 * 2
    assert set(heads["n"]) == {7}


def test_an_error_on_all_rows_is_the_profiled_error_on_all_rows(sparse):
    rows = made(*sparse, "method.num_sampled_rows=18", "statistics.layers_apart=1", "statistics.steps_apart=1")
    errors = rows[rows["quantity"] == "head_error"].groupby(PLACE)["value"].min()
    taken = rows[rows["quantity"] == "head_output_error"].set_index(PLACE)["value"]
    assert len(taken) == len(errors)
    assert taken.to_dict() == pytest.approx(errors.to_dict(), rel=1e-4)
    # All rows were profiled: the method is the oracle.
    assert (rows[rows["quantity"] == "head_agreement"]["value"] == 1).all()
    assert (rows[rows["quantity"] == "head_regret"]["value"] == 0).all()


def test_without_statistics_there_are_no_rows_and_another_run(sparse):
    off = planned(*sparse, "statistics=off")
    assert off.run_id != planned(*sparse).run_id
    rows = made(*sparse, "statistics=off")
    assert of_heads(rows).empty
    assert not rows["quantity"].str.startswith("statistics_").any()


def test_a_dense_run_has_them_on_request_only(small):
    assert of_heads(made(*small, method="dense")).empty
    rows = of_heads(made(*small, "statistics=all", method="dense"))
    assert set(rows["quantity"]) == {f"head_{name}" for name in MASSES}
    assert set(rows.groupby("quantity").size()) == {4}


def test_asking_for_them_of_dense_runs_leaves_sparse_runs_what_they_are(sparse):
    assert planned(*sparse, "statistics=all").hash == planned(*sparse).hash
    dense = [word for word in sparse if not word.startswith("method.")]
    assert planned(*dense, "statistics=all", method="dense").hash != planned(*dense, method="dense").hash


@pytest.mark.timing
def test_no_time_includes_them(sparse, monkeypatch):
    slow, measure = 2.0, statistics_sample.head_statistics

    def slowly(*arguments):
        time.sleep(slow)
        return measure(*arguments)

    monkeypatch.setattr(statistics_sample, "head_statistics", slowly)
    rows = made(*sparse).set_index("quantity")["value"]
    # Once in either branch of a step.
    assert rows["statistics_s"] >= 2 * slow
    assert rows["generation_s"] < 2 * slow
    assert rows["denoise_s"] < 2 * slow
    assert rows["step_s"].min() >= 0


def generation_of(receipt: Receipt) -> Generation:
    """Return a generation of which only the receipt counts."""
    return Generation(None, 0.0, 0.0, (), 0.0, {}, 0.0, receipt)


def test_a_forward_of_several_branches_has_rows_of_each():
    statistics = HeadStatistics(5, 4, {"entropy": torch.tensor([[0.25, 0.5], [0.75, 1.0]])})
    receipt = Receipt(num_steps=3, num_layers=2)
    receipt.sampled.append(SampledCall(1, 0, "joint", statistics, ("uncond", "cond")))
    rows = [row for row in statistics_rows(generation_of(receipt), {"seed": 3}) if row.quantity == "head_entropy"]
    found = [(row.branch, row.head, row.value, row.n, row.seed) for row in rows]
    assert found == [
        ("uncond", 0, 0.25, 5, 3),
        ("uncond", 1, 0.5, 5, 3),
        ("cond", 0, 0.75, 5, 3),
        ("cond", 1, 1.0, 5, 3),
    ]


@pytest.mark.parametrize(
    ("name", "num_video_rows", "reason"),
    [("same_frame_mass", 0, "no sampled row is video"), ("entropy", 3, "the attention of a sampled row is not finite")],
)
def test_what_is_no_number_is_a_row_with_its_reason(name, num_video_rows, reason):
    statistics = HeadStatistics(3, num_video_rows, {name: torch.full((1, 1), torch.nan)})
    receipt = Receipt(num_steps=1, num_layers=1)
    receipt.sampled.append(SampledCall(0, 0, "cond", statistics))
    row = next(statistics_rows(generation_of(receipt), {}))
    assert (row.quantity, row.value, row.status, row.reason) == (f"head_{name}", None, "unavailable", reason)


def test_a_generation_whose_sampled_calls_were_all_skipped_covers_nothing():
    rows = {
        row.quantity: (row.value, row.n)
        for row in statistics_rows(generation_of(Receipt(num_steps=9, num_layers=7)), {})
    }
    assert rows == {
        "statistics_layers": (0, 7),
        "statistics_steps": (0, 9),
        "statistics_rows": (0, 0),
        "statistics_s": (0, 0),
    }
