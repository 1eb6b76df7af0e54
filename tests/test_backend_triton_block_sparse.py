"""Our Triton kernel as a backend: the grid that it reads a plan on, what it refuses, and its rate on a GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from svg import backends
from svg.backends import _tile_states
from svg.backends._tile_states import tile_lists
from svg.block_mask import FULL, BlockMask
from svg.plan import AttentionPlan, HeadPattern
from svg_kernels.tile_lists import PatternIntegers, TileLists
from tests.backend_cases import CASES, SEQ_LEN, tensors
from tests.backend_judge import assert_right, attention_plans, backend_for, compute


@pytest.fixture(autouse=True)
def _inference():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("case", CASES)
def test_the_lists_of_a_plan_keep_what_its_masks_keep(case):
    plan = CASES[case]()
    lists = tile_lists(plan, SEQ_LEN, torch.device("cpu"))
    rows = torch.arange(SEQ_LEN)
    for index, pattern in enumerate(plan.patterns):
        expected = torch.ones(SEQ_LEN, SEQ_LEN, dtype=torch.bool) if pattern.mask is None else pattern.mask.dense()
        assert torch.equal(lists.keep(index, SEQ_LEN, rows), expected)
        assert sorted(lists.row_order[index].tolist()) == list(range(lists.starts.shape[1]))


def test_whole_tiles_of_a_usual_size_are_listed_as_they_stand():
    plan = attention_plans(128, "tile")["mixed"]
    lists = tile_lists(plan, 4080, torch.device("cpu"))
    assert (lists.query_size, lists.key_size, lists.has_partial, lists.lookup) == (128, 128, False, None)
    for index, pattern in enumerate(plan.patterns):
        counts, tiles = pattern.mask.full
        assert torch.equal(lists.full_counts[index], counts)
        for row, start in enumerate(lists.starts[index].tolist()):
            assert torch.equal(lists.tiles[start : start + counts[row]], tiles[row, : counts[row]])


def test_lists_are_made_once_for_a_palette_and_shared_by_the_heads_that_take_a_pattern():
    palette = attention_plans(64, "tile")["mixed"].patterns
    plans = [AttentionPlan(palette, torch.tensor([[0, 1, 0, 1]])), AttentionPlan(palette, torch.tensor([[1, 1, 0, 0]]))]
    first, second = (tile_lists(plan, 4080, torch.device("cpu")) for plan in plans)
    assert first is second
    assert first.starts.shape[0] == 2


def test_rows_that_keep_everything_are_started_first():
    band = CASES["one_band_for_all"]().patterns[0].mask.pattern
    text = BlockMask.from_pattern(replace(band, text_start=70, text_stop=78), 16, 16)
    lists = tile_lists(
        AttentionPlan((HeadPattern("text", text),), torch.zeros(1, 1).long()), SEQ_LEN, torch.device("cpu")
    )
    assert lists.num_heavy == 1
    assert lists.row_order.tolist() == [[4, 0, 1, 2, 3, 5]]


def test_no_row_is_started_first_where_many_are_heavy():
    count = torch.full((48,), 10)
    count[20:23] = 13
    states = (torch.arange(20) < count[:, None])[None].to(torch.int8) * FULL
    lists = [TileLists.from_states(each, [PatternIntegers()], 64, 64) for each in (states, states[:, 3:])]
    assert (lists[0].num_heavy, lists[1].num_heavy) == (3, 0)
    assert lists[0].row_order[0, :4].tolist() == [20, 21, 22, 0]
    assert lists[1].row_order[0].tolist() == list(range(45))


@pytest.mark.parametrize(
    "case", ["a_choice_per_item_and_head", "lengths_that_leave_some_queries_without_keys", "clusters_of_unequal_size"]
)
def test_a_few_plans_are_right(case):
    plan = CASES[case]()
    output = compute(backends.get("triton_block_sparse"), plan, torch.float32, "cpu")
    assert_right(output, plan, torch.float32)


class EveryPair:
    """What partial tiles keep where it is no ``TokenPattern``."""

    def keep(self, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (query >= 0) & (key >= 0)


def test_what_has_no_kernel_is_refused_with_a_backend_that_has_one(monkeypatch):
    backend, plan = backends.get("triton_block_sparse"), AttentionPlan.dense()
    with pytest.raises(ValueError, match="no kernel for torch.float64; use backend=cpu_gather or reference"):
        backend.check(tensors()[0], plan)
    with pytest.raises(ValueError, match="head_dim <= 256, got 320; use backend=cpu_gather or reference"):
        backend.check(torch.randn(1, 1, 3, 320), plan)
    mask = CASES["one_band_for_all"]().patterns[0].mask
    odd = AttentionPlan((HeadPattern("odd", replace(mask, pattern=EveryPair())),), torch.zeros(1, 1).long())
    with pytest.raises(ValueError, match="partial tiles of a band only, .*; use backend="):
        backend.check(tensors(torch.float32)[0], odd)
    monkeypatch.setattr("svg.backends.triton_block_sparse._is_interpreted", lambda: False)
    with pytest.raises(ValueError, match="needs CUDA, or TRITON_INTERPRET=1 in the environment, got cpu"):
        backend.check(torch.randn(1, 1, 3, 64), plan)


@pytest.mark.parametrize("name", ["triton_block_sparse", "flex"])
def test_whole_tiles_of_any_pattern_are_computed(name):
    whole = CASES["a_choice_per_item"]().patterns[0].mask
    masks = whole, replace(whole, pattern=EveryPair())
    expected, plan = (AttentionPlan((HeadPattern("tiles", mask),), torch.zeros(1, 1).long()) for mask in masks)
    output = compute(backend_for(name, "cpu"), plan, torch.float32, "cpu")
    assert_right(output, expected, torch.float32)


@pytest.mark.gpu
@pytest.mark.parametrize("head_dim", [32, 64, 96, 128, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("block_size", [32, 64, 128, 192])
def test_on_a_gpu_it_equals_the_judge_at_the_embedded_models_size(block_size, dtype, head_dim):
    query, key, value = (torch.randn(1, 4, 4080, head_dim, device="cuda", dtype=dtype) for _ in range(3))
    reference, backend = backends.get("reference"), backends.get("triton_block_sparse")
    for rounding in ("tile", "token"):
        plan = attention_plans(block_size, rounding)["mixed"]
        exact = reference(query.double(), key.double(), value.double(), plan)
        # Scores and probabilities in float32, the output rounded: what any kernel at least rounds.
        rounded = reference(query, key, value, plan)
        error, allowed = backend(query, key, value, plan) - exact, rounded - exact
        assert error.square().mean() <= 4 * allowed.square().mean()


def test_a_plan_without_masks_is_one_full_tile_list():
    lists = _tile_states._lists((None,), 300, torch.device("cpu"))
    assert lists.full_counts.tolist() == [[3, 3, 3]]
    assert not lists.has_partial
