"""SDPA as a backend: what it refuses, its kernels by name, and the timing that finds the fastest dense one."""

from __future__ import annotations

import pytest
import torch

from svg import backends
from svg.backends import _fastest, sdpa
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


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (ImportError("flash.so: undefined symbol: _ZN3c10"), "ImportError: flash.so: undefined symbol: _ZN3c10"),
        (RuntimeError("cuDNN Frontend error:\nno plan"), "RuntimeError: cuDNN Frontend error:"),
        (TypeError("unexpected keyword argument"), "TypeError: unexpected keyword argument"),
        (AssertionError(), "AssertionError: no message"),
    ],
    ids=lambda one: type(one).__name__,
)
def test_a_dense_backend_that_fails_in_a_package_has_a_reason_and_the_others_are_timed(failure, reason, monkeypatch):
    attend, called = sdpa.SdpaBackend._attend, []

    def fail_first(self, query, key, value):
        called.append(self.name)
        if len(called) == 1:
            raise failure
        return attend(self, query, key, value)

    monkeypatch.setattr(sdpa.SdpaBackend, "_attend", fail_first)
    monkeypatch.setitem(_fastest.CANDIDATES, "cpu", (("sdpa", "auto"), ("sdpa", "math")))
    timings = backends.time_dense((1, 2, 90, 32), torch.float32, "cpu", repeats=1)
    assert [(timing.backend.name, timing.reason) for timing in timings] == [("sdpa_math", ""), ("sdpa", reason)]


def test_an_interruption_ends_the_timing(monkeypatch):
    def interrupt(self, query, key, value):
        raise KeyboardInterrupt

    monkeypatch.setattr(sdpa.SdpaBackend, "_attend", interrupt)
    with pytest.raises(KeyboardInterrupt):
        backends.time_dense((1, 2, 90, 32), torch.float32, "cpu")


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
