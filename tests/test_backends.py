"""The contract of all backends: each equals the judge on every plan, or refuses and names a backend that can."""

from __future__ import annotations

import importlib
import re
from dataclasses import replace

import pytest
import torch

from svg import backends
from svg.backends import cpu_gather
from svg.block_mask import BlockMask, tile_offsets
from svg.plan import AttentionPlan, HeadPattern
from tests.backend_cases import CASES, SEQ_LEN, tensors
from tests.backend_judge import accepts, assert_right, backend_for, compute, judge

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
DTYPES = [torch.float32, torch.bfloat16]
# Without a GPU it runs in an interpreter: seconds for every plan.
SLOW_ON_CPU = {"triton_block_sparse"}


@pytest.fixture(autouse=True)
def _inference():
    with torch.no_grad():
        yield


@pytest.fixture
def _poisoned_memory():
    """New tensors are filled with NaN, so that what a backend forgets to write shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW_ON_CPU else name for name in backends.names()]
)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.usefixtures("_poisoned_memory")
def test_a_backend_equals_the_judge_or_names_a_backend_that_can(device, case, name, dtype):
    plan, backend, query = CASES[case](), backend_for(name, device), tensors(dtype)[0].to(device)
    try:
        output = compute(backend, plan, dtype, device)
    except ValueError as error:
        refusal = str(error)
    else:
        assert_right(output, plan, dtype, device)
        return
    named = re.search(r"use (?:[\w.]+=\w+, )*backend=(\w+)(?: or (\w+))?", refusal)
    assert named, f"the refusal names no backend: {refusal}"
    assert any(accepts(backend_for(able, device), query, plan) for able in named.groups() if able)
    assert "\n" not in refusal


@pytest.mark.parametrize("name", backends.names())
@pytest.mark.parametrize("device", DEVICES)
def test_a_backend_computes_something_here_or_says_where_it_would(device, name):
    backend, queries = backend_for(name, device), [tensors(dtype)[0].to(device) for dtype in DTYPES]
    if not any(accepts(backend, query, make()) for query in queries for make in CASES.values()):
        for query in queries:
            with pytest.raises(ValueError, match=r"CUDA|CPU|compute capability|takes bfloat16|installed"):
                backend.check(query, CASES["one_band_for_all"]())


def test_the_reference_refuses_no_plan_and_so_does_cpu_gather_on_a_cpu():
    for make in CASES.values():
        for name in ("reference", "cpu_gather"):
            assert accepts(backends.get(name), tensors()[0], make())


@pytest.mark.parametrize("name", ["reference", "cpu_gather", "sdpa", "flex"])
def test_strided_inputs_as_models_hand_them_over_give_the_same(name):
    plan = CASES["everything" if name == "sdpa" else "one_band_for_all"]()
    query, key, value = tensors(torch.float32)
    strided = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (query, key, value)]
    backend = backend_for(name, "cpu")
    torch.testing.assert_close(backend(*strided, plan), backend(query, key, value, plan))


@pytest.mark.parametrize("name", ["reference", "cpu_gather", "flex"])
def test_float64_is_computed_in_float64(name):
    plan = CASES["a_choice_per_item_and_head"]()
    output = compute(backend_for(name, "cpu"), plan, torch.float64, "cpu")
    torch.testing.assert_close(output, judge(*tensors(), plan), rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", ["reference", "cpu_gather"])
def test_memory_limits_do_not_change_the_output(name, monkeypatch):
    plan = CASES["svg_exact_to_the_token"]()
    backend = backends.get(name)
    whole = compute(backend, plan, torch.float32, "cpu")
    module = importlib.import_module(f"svg.backends.{name}")
    monkeypatch.setattr(module, "MOST_SCORES", 7 * SEQ_LEN)
    if name == "reference":
        monkeypatch.setattr(module, "MOST_QUERIES", 7)
    plan = CASES["svg_exact_to_the_token"]()
    cpu_gather._rows_of.clear()
    torch.testing.assert_close(compute(backend, plan, torch.float32, "cpu"), whole)


def bad_inputs():
    query, key, value = tensors(torch.float32)
    dense, band = AttentionPlan.dense(), CASES["one_band_for_all"]()
    other = HeadPattern("long", BlockMask.from_tiles(torch.ones(1, 1), tile_offsets(96, 96), tile_offsets(96, 96)))
    return {
        "a plan for another length": (query, key, value, replace(band, patterns=(other,)), "seq_len is 83"),
        "a plan for another batch": (query, key, value, replace(dense, assignment=torch.zeros(5, 1).long()), "batch 2"),
        "a plan for more heads": (query, key, value, replace(dense, assignment=torch.zeros(1, 4).long()), "3 heads"),
        "a pattern that is not there": (query, key, value, replace(dense, assignment=torch.ones(1, 1).long()), "has 1"),
        "lengths of another batch": (query, key, value, AttentionPlan.dense(torch.tensor([9])), "must be \\(2,\\)"),
        "lengths past the end": (query, key, value, AttentionPlan.dense(torch.tensor([9, 84])), "between 0 and"),
        "keys of another length": (query, key[:, :, :9], value, dense, "key of shape \\(2, 3, 9, 16\\)"),
        "values of another dtype": (query, key, value.double(), dense, "value of .*float64"),
        "values on another device": (query, key, value.to("meta"), dense, "value of .*meta"),
        "a query without heads": (query[:, 0], key[:, 0], value[:, 0], dense, "num_heads"),
        "whole numbers": (query.long(), key.long(), value.long(), dense, "floating point"),
    }


@pytest.mark.parametrize("name", backends.names())
@pytest.mark.parametrize("what", bad_inputs())
def test_bad_inputs_are_refused_in_one_line_that_says_what_is_wrong(name, what):
    query, key, value, plan, message = bad_inputs()[what]
    with pytest.raises(ValueError, match=message) as refusal:
        backend_for(name, "cpu")(query, key, value, plan)
    assert "\n" not in str(refusal.value)
    assert str(refusal.value).startswith(name)


@pytest.mark.parametrize("name", ["cpu_gather", "flex", "triton_block_sparse"])
def test_gradients_are_refused_by_what_computes_none(name):
    query = tensors(torch.float32)[0].requires_grad_()
    with torch.enable_grad(), pytest.raises(ValueError, match="no gradients"):
        backends.get(name).check(query, CASES["one_band_for_all"]())


def test_an_unknown_backend_is_refused_with_the_names_that_exist():
    with pytest.raises(ValueError, match=r"'flash9'; it must be one of .*reference.*sdpa"):
        backends.get("flash9")
