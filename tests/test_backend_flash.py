"""FlashAttention's kernels as backends: what they refuse, the lists that the sparse one reads, and a real GPU."""

from __future__ import annotations

import re
from importlib import metadata
from itertools import product
from types import SimpleNamespace

import pytest
import torch

from svg import backends
from svg.backends import _dense_kernel, _reach
from svg.backends.flash_block_sparse import index_lists
from svg.plan import AttentionPlan
from tests.backend_cases import BATCH, CASES, NUM_HEADS, SEQ_LEN, tensors
from tests.backend_judge import attention_plans

FLASH = ["flash2", "flash3", "flash4", "flash_block_sparse"]


class OnGpu:
    """A query that says it is on a GPU: what ``check`` looks at, on a machine without one."""

    device, is_cuda, requires_grad, ndim = torch.device("cuda", 0), True, False, 4

    def __init__(self, head_dim: int = 128, dtype: torch.dtype = torch.bfloat16, shape=(1, 4, 4080)) -> None:
        self.shape, self.dtype = torch.Size((*shape, head_dim)), dtype

    def is_floating_point(self) -> bool:
        return True

    def element_size(self) -> int:
        return self.dtype.itemsize


@pytest.fixture
def gpu(monkeypatch):
    """A machine with a Hopper GPU and every package, until the test takes something away."""
    versions = {"flash-attn-4": "4.0.0b36", "fa3-fwd": "0.0.3", "flash-attn": "2.8.3"}

    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(_dense_kernel.importlib.metadata, "version", version)

    def set_capability(*capability: int) -> None:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)

    set_capability(9, 0)
    return versions, set_capability


def plan_for(name: str) -> AttentionPlan:
    return attention_plans(128, "tile")["mixed"] if name == "flash_block_sparse" else AttentionPlan.dense()


@pytest.mark.parametrize("capability", [(6, 1), (7, 5), (8, 0), (8, 9), (9, 0), (12, 0)])
def test_every_backend_that_a_refusal_names_takes_the_call_on_that_gpu(capability, gpu):
    gpu[1](*capability)
    plans = AttentionPlan.dense(), attention_plans(128, "tile")["mixed"]
    dtypes = torch.bfloat16, torch.float16, torch.float32, torch.float64
    for name in backends.names():
        for plan, dtype, head_dim in product(plans, dtypes, (8, 64, 100, 128, 256, 512)):
            query = OnGpu(head_dim, dtype)
            try:
                backends.get(name).check(query, plan)
            except ValueError as refusal:
                named = re.search(r"; use backend=(\w+)(?: or (\w+))?$", str(refusal))
                assert named, refusal
                for able in filter(None, named.groups()):
                    backends.get(able).check(query, plan)


def test_without_triton_what_needs_it_names_the_judge(gpu, monkeypatch):
    monkeypatch.setattr(_reach, "_has_triton", lambda: False)
    for name in ("triton_block_sparse", "flex"):
        with pytest.raises(ValueError, match=f"{name} .*needs the package triton, .*; use backend=reference$"):
            backends.get(name).check(OnGpu(), plan_for("flash_block_sparse"))


def test_a_kernel_that_writes_out_every_score_says_that_they_do_not_fit(gpu, monkeypatch):
    memory = SimpleNamespace(total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: memory)
    backend, plan = backends.get("sdpa", kernel="math"), AttentionPlan.dense()
    backend.check(OnGpu(), plan)
    with pytest.raises(ValueError, match=r"sdpa_math .* 631 GiB .* has 80 GiB; use backend=sdpa$"):
        backend.check(OnGpu(shape=(1, 24, 118_784)), plan)


@pytest.mark.parametrize("name", FLASH)
def test_what_the_machine_lacks_is_named_with_a_backend_that_works(name, gpu):
    versions, set_capability = gpu
    backend, plan = backends.get(name), plan_for(name)
    backend.check(OnGpu(), plan)
    with pytest.raises(ValueError, match=f"{name} takes bfloat16 and float16, got torch.float32; use backend="):
        backend.check(OnGpu(dtype=torch.float32), plan)
    with pytest.raises(ValueError, match=r"multiple of 8, got 100; use backend="):
        backend.check(OnGpu(head_dim=100), plan)
    set_capability(7, 5)
    with pytest.raises(ValueError, match=r"this GPU has 7.5; use backend=(sdpa|reference)$"):
        backend.check(OnGpu(), plan)
    set_capability(9, 0)
    versions.clear()
    with pytest.raises(ValueError, match="which is not installed.*; use backend="):
        backend.check(OnGpu(), plan)


def test_another_version_of_flash_attention_4_is_refused(gpu):
    gpu[0]["flash-attn-4"] = "4.1.0"
    for name in ("flash4", "flash_block_sparse"):
        with pytest.raises(ValueError, match="needs flash-attn-4 4.0.0b36, but 4.1.0 is installed; use backend="):
            backends.get(name).check(OnGpu(), plan_for(name))


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("a_band_with_lengths_cut_inside_tiles", "does not know padding, got key_lengths"),
        ("one_band_for_all", "whole tiles only, got partial ones; use method.rounding=tile, backend="),
        ("tiles_of_one_token", "multiples of 64 queries and 16 keys; change method.block_size or use backend="),
        ("clusters_of_unequal_size", "tiles of equal size"),
    ],
)
@pytest.mark.usefixtures("gpu")
def test_the_sparse_kernel_refuses_plans_that_are_not_whole_tiles_of_its_size(case, message):
    with pytest.raises(ValueError, match=f"{message}.*triton_block_sparse or flex"):
        backends.get("flash_block_sparse").check(OnGpu(16, shape=(BATCH, NUM_HEADS, SEQ_LEN)), CASES[case]())


@pytest.mark.parametrize(
    ("tile", "head_dim", "sizes"),
    [
        ((128, 128), 128, (128, 128)),
        ((192, 128), 64, (192, 128)),
        ((192, 192), 64, (192, 64)),
        ((64, 64), 64, (64, 64)),
        ((256, 256), 64, (256, 128)),
        ((128, 128), 256, (128, 64)),
    ],
)
def test_its_lists_hold_the_tiles_of_the_plan_in_ascending_order(tile, head_dim, sizes):
    plan = attention_plans(tile[1], "tile", tile[0])["mixed"]
    masks = tuple(pattern.mask for pattern in plan.patterns)
    lists = index_lists(masks, 4080, head_dim, torch.device("cpu"))
    assert lists.sizes == sizes
    starts = torch.arange(lists.tiles.shape[1]) * sizes[0]
    for counts, tiles, mask in zip(lists.counts, lists.tiles, masks, strict=True):
        listed = torch.zeros(len(starts), -(-4080 // sizes[1]), dtype=torch.bool)
        for row, count in enumerate(counts.tolist()):
            assert tiles[row, :count].tolist() == sorted(set(tiles[row, :count].tolist()))
            listed[row, tiles[row, :count].long()] = True
        assert torch.equal(listed, mask.keep(starts[:, None], (torch.arange(listed.shape[1]) * sizes[1])[None, :]))
    assert not lists.no_counts.any()


@pytest.mark.gpu
@pytest.mark.parametrize("head_dim", [64, 96, 128, 256])
@pytest.mark.parametrize("tile", [(64, 64), (128, 128), (192, 192), (192, 128)], ids=str)
def test_on_a_gpu_the_sparse_kernel_equals_the_judge_and_its_ragged_tail_is_exact(tile, head_dim):
    query, key, value = (torch.randn(1, 4, 4080, head_dim, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    plan, backend = attention_plans(tile[1], "tile", tile[0])["mixed"], backends.get("flash_block_sparse")
    try:
        backend.check(query, plan)
    except ValueError as refusal:
        pytest.skip(str(refusal))
    reference = backends.get("reference")
    exact = reference(query.double(), key.double(), value.double(), plan)
    error, least = backend(query, key, value, plan) - exact, reference(query, key, value, plan) - exact
    assert error.square().mean() <= 4 * least.square().mean()


def test_a_query_that_wants_gradients_is_refused(gpu):
    query = tensors(torch.bfloat16)[0].requires_grad_()
    for name in FLASH:
        with torch.enable_grad(), pytest.raises(ValueError, match="no gradients"):
            backends.get(name).check(query, AttentionPlan.dense())
