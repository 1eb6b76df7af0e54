"""FlexAttention as a backend: its tile lists, one program for all plans of a shape, and a real GPU."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch

from svg import backends
from svg.backends import _flex_tiles, flex
from svg.block_mask import BlockMask
from svg.layout import TokenLayout
from svg.palette import Geometry, head_patterns
from svg.plan import AttentionPlan, HeadPattern
from tests.backend_cases import BATCH, CASES, NUM_HEADS, SEQ_LEN, tensors
from tests.backend_judge import accepts, assert_right, attention_plans, compute


@pytest.fixture(autouse=True)
def _inference():
    with torch.no_grad():
        yield


def test_flex_refuses_where_no_compiler_is(monkeypatch):
    query = tensors(torch.float32)[0]
    flex._check_cpu_compiler.cache_clear()
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match="no the C\\+\\+ compiler no-such-compiler; use backend=cpu_gather"):
        backends.get("flex").check(query, CASES["one_band_for_all"]())
    flex._check_cpu_compiler.cache_clear()


@pytest.mark.parametrize("lengths", [None, torch.tensor([SEQ_LEN, 37]), torch.tensor([0, 64])], ids=str)
def test_the_tile_lists_of_flex_hold_what_can_be_met_and_call_full_what_needs_no_mask(lengths):
    plan = CASES["a_choice_per_item_and_head"]()
    tiles = _flex_tiles.palette(plan, SEQ_LEN, (32, 16), torch.device("cpu"))
    lists = _flex_tiles.tile_lists(tiles, plan.assignment, lengths, 16)
    positions = torch.arange(SEQ_LEN)
    for item in range(BATCH):
        for head in range(NUM_HEADS):
            keep = plan.patterns[int(plan.assignment[item, head])].keep(positions[:, None], positions[None, :])
            keep &= positions < (SEQ_LEN if lengths is None else lengths[item])
            partial_counts, partial, full_counts, full = (part[item, head] for part in lists)
            for row in range(3):
                queries = slice(32 * row, 32 * row + 32)
                listed_full = full[row, : full_counts[row]].tolist()
                listed = listed_full + partial[row, : partial_counts[row]].tolist()
                for tile in range(6):
                    kept = keep[queries, 16 * tile : 16 * tile + 16]
                    assert tile in listed or not kept.any()
                    assert tile not in listed_full or kept.all()
                assert len(set(listed)) == len(listed)


@pytest.mark.slow
def test_flex_compiled_on_a_cpu_is_right_and_compiles_once_for_all_plans_of_a_shape():
    torch._dynamo.reset()
    query = tensors(torch.float32)[0]
    backend = backends.get("flex")
    if not accepts(backend, query, CASES["one_band_for_all"]()):
        pytest.skip("no C++ compiler on this machine")
    programs = []
    for case in ("everything_beside_a_single_tile", "a_mask_per_head_with_orders_that_differ_for_queries_and_keys"):
        plan = CASES[case]()
        assert_right(compute(backend, plan, torch.float32, "cpu"), plan, torch.float32)
        programs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    for half_width in (0, 3, 40):
        pattern = replace(CASES["one_band_for_all"]().patterns[0].mask.pattern, half_width=half_width)
        mask = BlockMask.from_pattern(pattern, 32, 16)
        plan = AttentionPlan((HeadPattern("dense"), HeadPattern("band", mask)), torch.tensor([[1, 0, 1]]))
        assert_right(compute(backend, plan, torch.float32, "cpu"), plan, torch.float32)
        programs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert programs == [programs[0]] * 5
    plan = CASES["lengths_that_leave_some_queries_without_keys"]()
    assert_right(compute(backend, plan, torch.bfloat16, "cpu"), plan, torch.bfloat16)


@pytest.mark.parametrize("name", CASES)
def test_flex_on_whole_tiles_is_right_for_every_plan_that_it_takes(name):
    plan, backend = CASES[name](), backends.get("flex", compiled=False, pads=True)
    if not accepts(backend, tensors(torch.float32)[0], plan):
        pytest.skip("flex takes tiles of one size only")
    assert_right(compute(backend, plan, torch.float32, "cpu"), plan, torch.float32)


@pytest.mark.slow
def test_flex_on_whole_tiles_compiles_once_for_prompts_of_different_lengths():
    torch._dynamo.reset()
    backend, judge = backends.get("flex", pads=True), backends.get("reference")
    programs = []
    for num_text_tokens in (4, 9, 18):
        layout = TokenLayout(7, 11, num_text_tokens)
        plan = AttentionPlan(head_patterns(layout, Geometry(0.9, 16, "token")), torch.tensor([[0, 1, 1]]))
        query, key, value = torch.randn(3, 1, 3, layout.seq_len, 16).unbind()
        if not accepts(backend, query, plan):
            pytest.skip("no C++ compiler on this machine")
        assert torch.allclose(backend(query, key, value, plan), judge(query, key, value, plan), atol=1e-5)
        programs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert programs == [programs[0]] * 3


@pytest.mark.gpu
def test_filling_tiles_up_costs_less_than_a_twentieth_on_a_gpu_at_hunyuan_videos_size():
    """33 frames of 3600 tokens and 87 of text, 24 heads of 128."""
    layout = TokenLayout(33, 3600, 87)
    plan = AttentionPlan(head_patterns(layout, Geometry(0.2, 128)), torch.tensor([[0, 1] * 12], device="cuda"))
    shape = (1, 24, layout.seq_len, 128)
    query, key, value = (torch.randn(shape, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    plain, filled = backends.get("flex"), backends.get("flex", pads=True)
    plain_ms, filled_ms = (best_ms(lambda one=one: one(query, key, value, plan)) for one in (plain, filled))
    print(f"\nas it is {plain_ms:.2f} ms, filled up {filled_ms:.2f} ms on {torch.cuda.get_device_name()}")
    assert filled_ms <= 1.05 * plain_ms


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("block_size", [32, 64, 128])
def test_flex_on_a_gpu_equals_the_judge_at_the_embedded_models_size(block_size, dtype):
    query, key, value = (torch.randn(1, 4, 4080, 64, device="cuda", dtype=dtype) for _ in range(3))
    reference, flex_backend = backends.get("reference"), backends.get("flex")
    for rounding in ("tile", "token"):
        plan = attention_plans(block_size, rounding)["mixed"]
        exact = reference(query.double(), key.double(), value.double(), plan)
        eager = torch.cat([eager_rows(query[:, head], key[:, head], value[:, head], plan, head) for head in range(4)])
        error, eager_error = flex_backend(query, key, value, plan) - exact, eager - exact[0]
        assert error.square().mean() <= 4 * eager_error.square().mean()
        assert error.abs().max() <= 2 * eager_error.abs().max()


def eager_rows(query, key, value, plan: AttentionPlan, head: int) -> torch.Tensor:
    """Masked attention of one head ``(1, seq_len, head_dim)`` in the inputs' own precision."""
    positions = torch.arange(query.shape[1], device=query.device)
    keep = plan.patterns[int(plan.assignment[0, head])].mask.keep(positions[:, None], positions[None, :])
    scores = (query @ key.transpose(1, 2) * query.shape[-1] ** -0.5).masked_fill(~keep, -torch.inf)
    return scores.softmax(-1) @ value


@pytest.mark.gpu
def test_flex_on_a_gpu_beats_the_fastest_dense_kernel_at_a_quarter_of_the_pairs():
    """Wan 2.1 1.3B at 480p: 21 frames of 1560 tokens, 12 heads of 128."""
    shape, dtype = (1, 12, 21 * 1560, 128), torch.bfloat16
    dense = backends.time_dense(shape, dtype, "cuda")[0]
    palette = head_patterns(TokenLayout(21, 1560), Geometry(0.25, 128))
    plan = AttentionPlan(palette, torch.tensor([[0, 1] * 6], device="cuda"))
    query, key, value = (torch.randn(shape, device="cuda", dtype=dtype) for _ in range(3))
    sparse_ms = best_ms(lambda: backends.get("flex")(query, key, value, plan))
    print(
        f"\n{dense.backend.name} {dense.latency_ms:.2f} ms, flex {sparse_ms:.2f} ms on {torch.cuda.get_device_name()}"
    )
    assert dense.latency_ms / sparse_ms >= 1.5


def best_ms(call, repeats: int = 5) -> float:
    latencies = []
    for _ in range(repeats + 1):
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        latencies.append((time.perf_counter() - start) * 1000)
    return min(latencies[1:])
