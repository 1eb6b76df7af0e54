"""Clocks, memory, operations, and the check that a timed backend computed the right thing."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import pytest
import torch

from svg.backends import get
from svg.block_mask import BlockMask
from svg.cost.clock import Clock, PhaseClock
from svg.cost.flops import PETA, attention_flops, forward_flops, video_pflops
from svg.cost.memory import peak_gib, reset_peak
from svg.cost.operators import operator_seconds
from svg.cost.verify import CheckedBackend, attention_error
from svg.layout import TokenLayout
from svg.pattern import band
from svg.plan import AttentionPlan, HeadPattern
from tests.tiny_pipelines import tiny_wan_pipeline

CPU = torch.device("cpu")


def test_spans_are_kept_by_phase_in_order_and_measure_their_block():
    phases = PhaseClock(Clock(CPU))
    for pause in (0.02, 0.05):
        with phases.phase("attention"):
            time.sleep(pause)
        with phases.phase("profiling"):
            pass
    spans = phases.spans()
    assert [len(spans[name]) for name in ("attention", "profiling")] == [2, 2]
    assert 0.02 <= spans["attention"][0] < spans["attention"][1]
    assert max(spans["profiling"]) < 0.01


def test_a_phase_that_raises_is_still_noted():
    phases = PhaseClock(Clock(CPU))
    with pytest.raises(KeyError), phases.phase("attention"):
        raise KeyError("x")
    assert len(phases.spans()["attention"]) == 1


def test_a_span_costs_less_than_a_thousandth_of_a_tiny_attention_call():
    phases = PhaseClock(Clock(CPU))
    start = time.perf_counter()
    for _ in range(1000):
        with phases.phase("attention"):
            pass
    # 1000 calls of the embedded model take about 40 s on one core.
    assert time.perf_counter() - start < 0.04


def test_products_and_attention_outside_of_a_phase_are_told_apart():
    phases, wide, heads = PhaseClock(Clock(CPU), tells_profiler=True), torch.ones(512, 512), torch.ones(1, 2, 256, 64)

    def call(in_phase: bool, outside: bool) -> None:
        with phases.phase("attention"):
            if in_phase:
                torch.nn.functional.scaled_dot_product_attention(heads, heads, heads) @ wide[:64]
        if outside:
            torch.nn.functional.linear(wide, wide, wide[0])
            torch.nn.functional.scaled_dot_product_attention(heads, heads, heads)
            wide.exp()

    assert operator_seconds(lambda: call(True, False), CPU) == {"products": 0, "other_attention": 0}
    start = time.perf_counter()
    found = operator_seconds(lambda: call(True, True), CPU)
    assert min(found.values()) > 0
    assert sum(found.values()) < time.perf_counter() - start


def test_the_peak_rises_with_what_is_held():
    reset_peak(CPU)
    before = peak_gib(CPU)
    block = torch.ones(96, 2**20)
    after = peak_gib(CPU)
    del block
    assert 0.3 < after - before < 0.6


def test_operations_of_published_settings_are_those_of_their_papers_tables():
    # One layer of Wan 2.1 14B at 720p: 21 x 3600 tokens, width 5120.
    assert attention_flops(75600, 5120) / 1e12 == pytest.approx(117.05, abs=0.01)
    # HunyuanVideo at 720p for 50 forwards, by the simplification 24 d^2 s + 4 d s^2 of 60 layers and 120000 tokens.
    forward = 60 * (24 * 3072**2 * 120000 + attention_flops(120000, 3072))
    dense, kept = video_pflops(forward, 120000, 3072, 60, [1.0] * 60 * 50)
    assert dense == kept == pytest.approx(612.4, abs=0.1)
    # 30 % of the steps dense, the others at density .2986: 351.75 in the paper.
    mixed = video_pflops(forward, 120000, 3072, 60, [1.0] * 60 * 15 + [0.2986] * 60 * 35)[1]
    assert mixed == pytest.approx(351.75, abs=0.5)


def test_operations_of_a_forward_are_counted_from_shapes_and_hold_the_attention():
    transformer = tiny_wan_pipeline().transformer
    inputs = {
        "hidden_states": torch.zeros(1, 16, 3, 4, 6),
        "timestep": torch.tensor([3.0]),
        "encoder_hidden_states": torch.zeros(1, 16, 32),
        "return_dict": False,
    }
    width, tokens, text, feed_forward = 24, 18, 16, 32
    total = forward_flops(transformer, inputs)
    # By hand, two operations each: projections of self-attention, of cross-attention, feed-forward, both attentions.
    layer = 2 * (
        4 * tokens * width**2 + 2 * tokens * width**2 + 2 * text * width**2 + 2 * tokens * width * feed_forward
    )
    layer += attention_flops(tokens, width) + 4 * tokens * text * width
    # The rest is embeddings and the output.
    assert 2 * layer < total < 2 * layer + 2.5e5
    assert next(transformer.parameters()).device == CPU


def test_calls_that_are_no_whole_forwards_are_refused():
    with pytest.raises(ValueError, match="7 attention calls are not whole forwards of 3 layers"):
        video_pflops(1.0, 1, 1, 3, [1.0] * 7)


def test_sparse_operations_are_less_by_the_attention_that_was_left_out():
    dense, kept = video_pflops(10 * PETA, 100, 10, 2, [0.5, 1.0])
    assert dense - kept == pytest.approx(0.5 * attention_flops(100, 10) / PETA)


@dataclass(frozen=True)
class Wrong:
    """A backend that forgets the mask, or returns NaN."""

    nan: bool = False
    name: str = "wrong"

    def check(self, query, plan):
        pass

    def __call__(self, query, key, value, plan):
        output = torch.nn.functional.scaled_dot_product_attention(query, key, value)
        return output * float("nan") if self.nan else output


@pytest.fixture
def sparse_call():
    layout = TokenLayout(4, 6)
    mask = BlockMask.from_tile_budget(band(layout, "spatial"), 0.6, 2, 2)
    plan = AttentionPlan((HeadPattern("spatial", mask), HeadPattern("dense")), torch.tensor([[0, 1, 0]]))
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, 24, 8, generator=generator) for _ in range(3))
    return query, key, value, plan


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_right_backend_passes_the_check_in_every_precision(sparse_call, dtype):
    *tensors, plan = sparse_call
    checked = CheckedBackend(get("reference"))
    checked(*(tensor.to(dtype) for tensor in tensors), plan)
    assert (checked.checked, checked.name) == (1, "reference")


def test_padding_keys_count_in_the_check(sparse_call):
    query, key, value, plan = sparse_call
    padded = AttentionPlan(plan.patterns, plan.assignment, torch.tensor([24, 15]))
    output = get("reference")(query, key, value, padded)
    assert attention_error(query, key, value, padded, output)[0] < 1e-5
    assert attention_error(query, key, value, plan, output)[0] > 1e-2


@pytest.mark.parametrize("nan", [False, True])
def test_a_wrong_backend_is_found_at_its_first_call(sparse_call, nan):
    with pytest.raises(RuntimeError, match="backend wrong is wrong on this machine"):
        CheckedBackend(Wrong(nan))(*sparse_call)


def test_a_mask_of_a_name_that_was_checked_is_checked_too(sparse_call):
    query, key, value, plan = sparse_call
    other = AttentionPlan(tuple(replace(pattern) for pattern in plan.patterns), plan.assignment)
    checked = CheckedBackend(get("reference"))
    checked(query, key, value, plan)
    checked.backend = Wrong()
    checked(query, key, value, plan)
    assert checked.checked == 1
    with pytest.raises(RuntimeError, match="is wrong on this machine"):
        checked(query, key, value, other)


def test_a_pattern_that_no_head_took_is_checked_when_one_does(sparse_call):
    query, key, value, plan = sparse_call
    checked = CheckedBackend(get("reference"))
    for index in (0, 1, 0, 1):
        checked(query, key, value, replace(plan, assignment=torch.full_like(plan.assignment, index)))
    assert checked.checked == 2
