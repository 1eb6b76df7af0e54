"""FP8 attention: how far its model and its kernel are from exact, what is refused, and that NaN stays NaN."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import svg
from experiments.building import build_dense_backend
from svg import backends
from svg.block_mask import BlockMask
from svg.cost.verify import CheckedBackend
from svg.methods.dense import Dense
from svg.methods.one_pattern import OnePattern
from svg.pattern import TokenPattern
from svg.plan import AttentionPlan, HeadPattern
from svg_kernels import fp8_model
from tests.backend_cases import CASES
from tests.backend_cases import SEQ_LEN as SEQ_LEN_OF_CASES
from tests.spoiled import Spoiled
from tests.tiny_pipelines import generate, tiny_wan_pipeline

SEQ_LEN = 147
PRECISIONS = ["fp8", "fp8_int8", "fp8_qk"]


@pytest.fixture(autouse=True)
def _inference():
    with torch.no_grad():
        yield


@pytest.fixture
def call():
    """Query, key and value of two heads, keys far from zero, and a plan: a band with partial tiles, and everything."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 2, SEQ_LEN, 64, generator=generator) for _ in range(3))
    band = TokenPattern(SEQ_LEN, SEQ_LEN, 40, query_stop=SEQ_LEN, key_stop=SEQ_LEN)
    patterns = HeadPattern("band", BlockMask.from_pattern(band, 64, 32)), HeadPattern("dense")
    plan = AttentionPlan(patterns, torch.tensor([[0, 1]]), torch.tensor([SEQ_LEN, 90]))
    return query, key + 5 * torch.randn(1, 2, 1, 64, generator=generator), value, plan


def relative_error(output: torch.Tensor, exact: torch.Tensor) -> float:
    return float((output.double() - exact.double()).norm() / exact.double().norm())


@pytest.mark.parametrize(("precision", "most"), [("fp8", 0.055), ("fp8_int8", 0.038), ("fp8_qk", 0.04)])
def test_the_model_of_fp8_is_off_by_its_rounding_wherever_the_keys_mean_is(call, precision, most):
    query, key, value, plan = call
    exact = backends.get("reference")(query.double(), key.double(), value.double(), plan)
    model = backends.get("reference", precision=precision)
    error = relative_error(model(query, key, value, plan), exact)
    assert most / 2 < error < most
    # What all keys have in common changes no softmax.
    assert relative_error(model(query, key + 30, value, plan), exact) < 1.1 * most


def test_the_model_of_fp8_is_off_no_further_where_few_channels_make_the_scores(call):
    query, key, value, plan = call
    few = torch.ones(64)
    few[[3, 40]] = 5.0
    query, key = 0.3 * few * query, few * key
    exact = backends.get("reference")(query.double(), key.double(), value.double(), plan)
    error = relative_error(backends.get("reference", precision="fp8")(query, key, value, plan), exact)
    # Rounded as they are, by scales as good as any.
    seen = [(x / 8).to(torch.float8_e4m3fn).float() * 8 for x in (query, key - key.mean(2, keepdim=True))]
    unmixed = relative_error(backends.get("reference")(*seen, value, plan), exact)
    assert error < 0.06 < unmixed


def test_numbers_far_greater_than_any_that_were_looked_at_are_not_cut_off():
    query, *tensors = torch.randn(3, 1, 1, 515, 64, generator=torch.Generator().manual_seed(0))
    # Every third token is looked at.
    for x in tensors:
        x[:, :, 100] *= 300
    _, *seen = fp8_model.dequantised(query, *tensors, "e4m3", None)
    for found, x in zip(seen, tensors, strict=True):
        assert relative_error(found[:, :, 100], x[:, :, 100]) < 0.04
    assert relative_error(seen[1][:, :, :100], tensors[1][:, :, :100]) < 0.03


@pytest.mark.slow
def test_keys_that_the_kernel_puts_in_order_are_those_that_were_put_before():
    plan = CASES["a_mask_per_head_with_orders_that_differ_for_queries_and_keys"]()
    query, key, value = torch.randn(3, 2, 3, SEQ_LEN_OF_CASES, 64, generator=torch.Generator().manual_seed(0))
    backend = backends.get("triton_block_sparse", precision="fp8")
    query = plan.arrange_query(query)
    expected = backend(query, *plan.arrange_keys(key, value), plan)
    assert torch.equal(backend.attend_unordered(query, key, value, plan), expected)


class OrdersKeys(backends.get("reference").__class__):
    """A backend that is handed reordered plans with their keys in the original order only."""

    orders_keys = True

    def __call__(self, query, key, value, plan):
        assert not plan.is_reordered
        return super().__call__(query, key, value, plan)

    def attend_unordered(self, query, key, value, plan):
        return super().__call__(query, *plan.arrange_keys(key, value), plan)


def test_a_backend_that_orders_keys_is_handed_them_as_they_stand_and_checked_so():
    pipeline, method = tiny_wan_pipeline(), OnePattern(density=0.8, block_size=2, pattern="temporal")
    with svg.attach(pipeline, method, "reference"):
        expected = generate(pipeline)
    checked = CheckedBackend(OrdersKeys())
    with svg.attach(pipeline, method, checked):
        assert torch.equal(generate(pipeline), expected)
    assert checked.checked > 0


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_kernel_computes_what_its_model_says(call, precision):
    query, key, value, plan = call
    # Probabilities are rounded below the greatest of those before them, not of all.
    model, kernel = (backends.get(name, precision=precision)(*call) for name in ("reference", "triton_block_sparse"))
    exact = backends.get("reference")(query.double(), key.double(), value.double(), plan)
    assert relative_error(kernel, model) < 0.025
    assert relative_error(kernel, exact) < 1.1 * relative_error(model, exact)


@pytest.mark.parametrize("role", range(3))
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_so_and_padding_may_hold_it(call, role, value):
    *tensors, plan = call
    model = backends.get("reference", precision="fp8")
    clean = model(*tensors, plan)
    for x in tensors[1:]:
        x[1, :, 90:] = value
    assert torch.equal(model(*tensors, plan)[:, :, :90], clean[:, :, :90])
    tensors[role][0, 0, 3, 5] = value
    output = model(*tensors, plan)
    assert not output[0, 0, 3].isfinite().all()
    assert output[0, 1].isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("role", range(3))
def test_what_is_not_finite_is_so_after_the_kernel_too(precision, role):
    # Of 258 tokens every second is looked at beforehand, and the last is none of them.
    tensors = list(torch.randn(3, 1, 2, 258, 64, generator=torch.Generator().manual_seed(0)))
    tensors[role][0, 0, -1, 5] = torch.inf
    output = backends.get("triton_block_sparse", precision=precision)(*tensors, AttentionPlan.dense())
    assert not output[0, 0, -1].isfinite().all()
    assert output[0, 1].isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_queries_and_keys_that_are_all_zeros_weigh_all_values_alike(precision):
    zeros = torch.zeros(1, 1, 131, 64)
    value = torch.randn(1, 1, 131, 64, generator=torch.Generator().manual_seed(0))
    output = backends.get("triton_block_sparse", precision=precision)(zeros, zeros, value, AttentionPlan.dense())
    torch.testing.assert_close(output, value.mean(2, keepdim=True).expand_as(value), rtol=0, atol=0.01)


def test_what_fp8_cannot_do_is_refused_with_the_precision_that_can(call, monkeypatch):
    query, _, _, plan = call
    fp8 = backends.get("triton_block_sparse", precision="fp8")
    with pytest.raises(ValueError, match="takes head_dim 64 or 128, got 32; use precision=bf16"):
        fp8.check(query[..., :32], plan)
    ada = query.to("meta")
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    with pytest.raises(
        ValueError, match=r"needs compute capability 9.0 \(Hopper\) or newer, .* 8.9; use precision=bf16"
    ):
        fp8.check(ada, replace(plan, key_lengths=None))
    backends.get("triton_block_sparse").check(ada, replace(plan, key_lengths=None))


def test_a_precision_that_is_not_there_is_refused():
    known = "bf16, fp8, fp8_int8, fp8_qk"
    with pytest.raises(ValueError, match=f"precision of reference is 'fp4'; it must be one of {known}"):
        backends.get("reference", precision="fp4")


@pytest.mark.parametrize("file", ["triton_block_sparse", "reference"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_dense_backend_in_8_bits_is_named_as_records_name_it(file, precision):
    backend = build_dense_backend(f"{file}_{precision}")
    assert (backend.name, backend.precision) == (f"{file}_{precision}", precision)


def test_a_dense_backend_that_knows_no_precision_has_no_such_name():
    with pytest.raises(ValueError, match="dense_backend is 'cudnn_fp8'; it must be one of"):
        build_dense_backend("cudnn_fp8")


def test_the_check_before_timing_allows_what_fp8_rounds_and_no_more(call):
    checked = CheckedBackend(backends.get("reference", precision="fp8"))
    checked(*call)
    assert 2e-3 < checked.error / checked.allowed < 1
    checked = CheckedBackend(Halved())
    with pytest.raises(RuntimeError, match="is wrong on this machine"):
        checked(*call)


class Halved:
    """A backend in FP8 that is wrong."""

    name, precision = "halved", "fp8"

    def __call__(self, query, key, value, plan):
        return backends.get("reference")(query, key, 0.5 * value, plan)


# Two layers and two branches: the first call of the second step, and the last of all.
@pytest.mark.parametrize(
    ("spoiled", "place"), [(5, "step 1, layer 0, branch cond"), (8, "step 1, layer 1, branch uncond")]
)
def test_a_call_that_is_not_finite_is_named_under_strict_and_runs_on_without(spoiled, place):
    pipeline = tiny_wan_pipeline()
    with (
        pytest.raises(ValueError, match=f"{place}: the output of reference_fp8 holds NaN or infinity"),
        svg.attach(pipeline, Dense(), dense_backend=Spoiled(spoiled)),
    ):
        generate(pipeline)
    with svg.attach(pipeline, Dense(), dense_backend=Spoiled(spoiled), strict=False) as run:
        assert not generate(pipeline).isfinite().all()
    assert {call.backend for call in run.receipt.calls} == {"reference_fp8"}
