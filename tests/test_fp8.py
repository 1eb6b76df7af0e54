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
from svg.pattern import TokenPattern
from svg.plan import AttentionPlan, HeadPattern
from tests.spoiled import Spoiled
from tests.tiny_pipelines import generate, tiny_wan_pipeline

SEQ_LEN = 147
PRECISIONS = ["fp8", "fp8_int8"]


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


@pytest.mark.parametrize(("precision", "most"), [("fp8", 0.055), ("fp8_int8", 0.038)])
def test_the_model_of_fp8_is_off_by_its_rounding_wherever_the_keys_mean_is(call, precision, most):
    query, key, value, plan = call
    exact = backends.get("reference")(query.double(), key.double(), value.double(), plan)
    model = backends.get("reference", precision=precision)
    error = relative_error(model(query, key, value, plan), exact)
    assert most / 2 < error < most
    # What all keys have in common changes no softmax.
    assert relative_error(model(query, key + 30, value, plan), exact) < 1.1 * most


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
    tensors = list(torch.randn(3, 1, 2, 20, 64, generator=torch.Generator().manual_seed(0)))
    tensors[role][0, 0, 3, 5] = torch.inf
    output = backends.get("triton_block_sparse", precision=precision)(*tensors, AttentionPlan.dense())
    assert not output[0, 0, 3].isfinite().all()
    assert output[0, 1].isfinite().all()


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
    with pytest.raises(ValueError, match="precision of reference is 'fp4'; it must be one of bf16, fp8, fp8_int8"):
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
