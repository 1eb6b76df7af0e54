"""SDPA as a backend: what it refuses, its kernels by name, and the timing that finds the fastest dense one."""

from __future__ import annotations

import pytest
import torch

from svg import backends
from svg.backends import sdpa
from svg.plan import AttentionPlan
from tests.backend_cases import CASES, tensors

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def test_sdpa_refuses_sparse_plans_kernels_it_does_not_know_and_kernels_that_cannot_run_here():
    query = tensors(torch.float32)[0]
    with pytest.raises(ValueError, match="dense plans only, got patterns band; use backend=cpu_gather or reference"):
        backends.get("sdpa").check(query, CASES["one_band_for_all"]())
    with pytest.raises(ValueError, match="'fastest'; it must be one of auto, flash"):
        backends.get("sdpa", kernel="fastest")
    with pytest.raises(ValueError, match="sdpa_cudnn needs CUDA, got cpu; use backend=sdpa"):
        backends.get("sdpa", kernel="cudnn").check(query, AttentionPlan.dense())


def test_a_named_sdpa_kernel_is_named_in_the_records_and_computes_the_same():
    query, key, value = tensors(torch.float32)
    output = backends.get("sdpa")(query, key, value, AttentionPlan.dense())
    for kernel in ("flash", "math"):
        backend = backends.get("sdpa", kernel=kernel)
        assert backend.name == f"sdpa_{kernel}"
        torch.testing.assert_close(backend(query, key, value, AttentionPlan.dense()), output)


@pytest.mark.parametrize("device", DEVICES)
def test_dense_backends_are_timed_fastest_first_and_a_wrong_one_has_no_latency(device, monkeypatch):
    timings = backends.time_dense((1, 2, 200, 32), torch.bfloat16, device, repeats=2)
    latencies = [timing.latency_ms for timing in timings if timing.latency_ms is not None]
    assert latencies
    assert latencies == sorted(latencies)
    assert all(timing.reason for timing in timings if timing.latency_ms is None)

    monkeypatch.setattr(sdpa.SdpaBackend, "_attend", lambda self, query, key, value: query * torch.nan)
    wrong = [
        timing for timing in backends.time_dense((1, 2, 90, 32), torch.float32, device) if timing.latency_ms is None
    ]
    by_sdpa = [timing for timing in wrong if isinstance(timing.backend, sdpa.SdpaBackend)]
    assert by_sdpa
    assert all("off by nan" in timing.reason for timing in by_sdpa)
