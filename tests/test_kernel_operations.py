"""Profiling by our kernel against plain torch, on the palettes of methods and on plans of every kind."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from svg.kernel_operations import KernelOperations
from svg.layout import TokenLayout
from svg.operations import TorchOperations
from svg.palette import Geometry, head_patterns, upstream_profiled_patterns
from tests.backend_cases import CASES, SEQ_LEN, tensors

pytestmark = pytest.mark.slow

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
LAYOUT = TokenLayout(7, 11, 6)
PALETTES = {
    "tiles": head_patterns(LAYOUT, Geometry(0.7, 16)),
    "token": head_patterns(LAYOUT, Geometry(0.7, 32, "token")),
    "upstream": upstream_profiled_patterns(LAYOUT, 1.5),
    "three": CASES["a_mask_per_head_with_orders_that_differ_for_queries_and_keys"]().patterns,
    "dense beside clusters": (*CASES["everything"]().patterns, *CASES["clusters_of_unequal_size"]().patterns),
}


@pytest.fixture
def _without_tf32():
    """Plain torch rounds no product to TF32; the kernel never does."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(precision)


@pytest.mark.parametrize("key_lengths", [None, torch.tensor([SEQ_LEN, 37])], ids=str)
@pytest.mark.parametrize("name", PALETTES)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.usefixtures("_without_tf32")
def test_the_kernel_finds_the_errors_that_plain_torch_finds(device, name, key_lengths):
    query, key, value = (x.to(device) for x in tensors(torch.float32))
    if key_lengths is not None:
        key[1, :, 37:] = torch.nan
        value[1, :, 37:] = torch.nan
    rows = torch.tensor([3, 80, 3, 41, 82], device=device)
    given = query[:, :, rows], key, value, PALETTES[name], rows, torch.float32, key_lengths
    found = KernelOperations().profile(*given)
    # Plain torch sums over padding with a probability of nothing.
    clean = query[:, :, rows], key.nan_to_num(), value.nan_to_num(), *given[3:]
    torch.testing.assert_close(found, TorchOperations().profile(*clean), rtol=1e-4, atol=1e-7)


def test_what_the_kernel_does_not_compute_is_left_to_plain_torch():
    rows = torch.tensor([0, 9])
    for dtype, precision in ((torch.float64, torch.float32), (torch.bfloat16, None)):
        query, key, value = tensors(dtype)
        given = query[:, :, rows], key, value, PALETTES["tiles"], rows, precision
        assert torch.equal(KernelOperations().profile(*given), TorchOperations().profile(*given))


@pytest.mark.parametrize(
    "case",
    ["a_mask_per_head_with_orders_that_differ_for_queries_and_keys", "svg_exact_to_the_token", "one_band_for_all"],
)
@pytest.mark.parametrize("is_head_last", [False, True])
@pytest.mark.parametrize("device", DEVICES)
def test_tensors_are_laid_out_and_brought_back_as_plain_torch_does_it(device, is_head_last, case):
    plan = CASES[case]()
    query, key, value = (x.to(device) for x in tensors(torch.bfloat16))
    if is_head_last:
        query, key, value = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (query, key, value))
    arranged = KernelOperations().arrange(plan, query, key, value)
    for found, expected in zip(arranged, plan.arrange(query, key, value), strict=True):
        assert torch.equal(found, expected)
    unfinished = SimpleNamespace(
        seq_len=SEQ_LEN, device=query.device, query=lambda: query, placed_query=lambda places, assignment: None
    )
    assert torch.equal(KernelOperations().arrange_query(plan, unfinished), arranged[0])
    restored = KernelOperations().restore(plan, arranged[0])
    assert torch.equal(restored, query)
    # As the projection behind attention wants it, so that nothing is copied once more.
    assert restored.transpose(1, 2).is_contiguous() or not plan.is_reordered
