"""The CPU backend: what it remembers, its threads, and that skipping tiles saves time."""

from __future__ import annotations

import gc
import time
import weakref
from dataclasses import replace

import pytest
import torch

from svg import backends
from svg.backends import cpu_gather
from svg.backends._threads import run_jobs
from svg.layout import TokenLayout
from svg.palette import Geometry, head_patterns
from svg.plan import AttentionPlan
from tests.backend_cases import BATCH, CASES, tensors
from tests.backend_judge import attention_plans


def test_cpu_gather_refuses_tensors_that_are_not_on_the_cpu():
    query = tensors(torch.float32)[0].to("meta")
    with pytest.raises(ValueError, match="cpu_gather computes on the CPU only, got meta; use backend=reference"):
        backends.get("cpu_gather").check(query, CASES["one_band_for_all"]())


def test_rows_are_computed_once_for_a_mask_and_forgotten_with_it():
    plan = CASES["one_band_for_all"]()
    mask = plan.patterns[0].mask
    query, key, value = tensors(torch.float32)
    backend = backends.get("cpu_gather")
    backend(query, key, value, plan)
    [rows] = cpu_gather._rows_of[mask].values()
    backend(query, key, value, plan)
    assert next(iter(cpu_gather._rows_of[mask].values())) is rows
    for length in range(1, 40):
        backend(query, key, value, replace(plan, key_lengths=torch.full((BATCH,), length)))
    assert len(cpu_gather._rows_of[mask]) <= cpu_gather.MOST_LENGTHS
    remembered = weakref.ref(mask)
    del mask, plan
    gc.collect()
    assert remembered() is None


@pytest.fixture
def set_threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("case", ["everything_beside_a_single_tile", "svg_exact_to_the_token", "everything"])
@pytest.mark.parametrize("num_threads", [2, 7])
def test_cpu_gather_gives_the_same_bits_on_any_number_of_threads(case, num_threads, set_threads):
    plan, tensors_in = CASES[case](), tensors(torch.float32)
    set_threads(1)
    alone = backends.get("cpu_gather")(*tensors_in, plan)
    set_threads(num_threads)
    with torch.inference_mode():
        together = backends.get("cpu_gather")(*tensors_in, plan)
    assert torch.equal(alone, together)
    assert torch.get_num_threads() == num_threads


def test_each_job_has_one_torch_thread_and_a_failing_job_is_heard(set_threads):
    set_threads(2)
    seen = []
    run_jobs([lambda: seen.append(torch.get_num_threads())] * 8)
    assert seen == [1] * 8
    with pytest.raises(ZeroDivisionError):
        run_jobs([lambda: None, lambda: 1 / 0, lambda: None])


def test_the_tile_budget_computes_no_pair_that_the_plan_does_not_keep():
    # Rows joined for speed aside, what is computed is what the density says.
    layout = TokenLayout(7, 48)
    for pattern in head_patterns(layout, Geometry(0.5, 64)):
        computed = sum(row.num_queries * row.num_keys for row in cpu_gather._rows(pattern.mask, layout.seq_len))
        assert computed <= 17 / 16 * pattern.mask.computed_pairs()


@pytest.mark.slow
@pytest.mark.timing
@pytest.mark.parametrize("block_size", [32, 64])
def test_cpu_gather_takes_at_most_a_share_of_sdpas_time_at_a_quarter_of_the_pairs_on_one_thread(block_size):
    """Measured on an idle core: 2.9 to 3.2 times faster. A busy neighbour takes cache from both; the claim is 2.6."""
    plans, threads = attention_plans(block_size, "tile"), torch.get_num_threads()
    query, key, value = (torch.randn(1, 4, 4080, 64) for _ in range(3))
    sdpa, sparse = backends.get("sdpa"), backends.get("cpu_gather")
    torch.set_num_threads(1)
    try:
        best = dict.fromkeys(["dense", *plans], float("inf"))
        for _ in range(12):
            for name in best:
                plan, backend = (AttentionPlan.dense(), sdpa) if name == "dense" else (plans[name], sparse)
                start = time.perf_counter()
                backend(query, key, value, plan)
                best[name] = min(best[name], time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    for name in plans:
        assert best["dense"] / best[name] >= 2.6, f"{name}: {best[name] * 1e3:.0f} of {best['dense'] * 1e3:.0f} ms"


@pytest.mark.slow
@pytest.mark.parametrize("rounding", ["tile", "token"])
def test_cpu_gather_equals_the_judge_on_the_plans_of_the_embedded_models_size(rounding):
    query, key, value = (torch.randn(1, 4, 4080, 64, generator=torch.Generator().manual_seed(i)) for i in range(3))
    for block_size in (32, 64):
        plan = attention_plans(block_size, rounding)["mixed"]
        exact = backends.get("reference")(query.double(), key.double(), value.double(), plan)
        eager_error = (backends.get("reference")(query, key, value, plan) - exact).abs()
        error = (backends.get("cpu_gather")(query, key, value, plan) - exact).abs()
        assert error.max() <= 2 * eager_error.max()
        assert error.square().mean() <= 4 * eager_error.square().mean()
