"""A sparse call does not make the host wait for the device: what it needs is there, or is sent and not awaited."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import svg
from svg import backends
from svg.backends import _flex_tiles
from svg.kernel_operations import KernelOperations
from svg.layout import TokenLayout
from svg.methods.dense import Dense
from svg.methods.one_pattern import OnePattern
from svg.methods.random_choice import RandomChoice
from svg.methods.svg import SparseVideoGen
from svg.methods.svg_upstream import SvgUpstream
from svg.models.hunyuan_video import TextLengths
from svg.operations import TorchOperations
from svg.placement import resident, send
from svg.plan import AttentionPlan
from svg.receipt import Receipt
from svg.statistics_sample import StatisticsSample
from svg_kernels.launch import Launch
from tests.methods.helpers import context_of, inputs_of
from tests.tiny_pipelines import generate, tiny_wan_pipeline

LAYOUT = TokenLayout(9, 120, num_text_tokens=24)
SETTINGS = {"density": 0.5, "block_size": 16}
# Per sparse call, what is drawn on the host: sampled rows, or a coin per head.
METHODS = {
    "svg": (SparseVideoGen(num_sampled_rows=8, **SETTINGS), 1),
    "svg_upstream": (SvgUpstream(num_sampled_rows=8, profiled_text="cogvideox", **SETTINGS), 1),
    "svg_upstream, its error": (SvgUpstream(num_sampled_rows=8, text_row_turns_all_temporal=True, **SETTINGS), 1),
    "one_pattern": (OnePattern(pattern="temporal", **SETTINGS), 1),
    "random_choice": (RandomChoice(**SETTINGS), 1),
    "dense": (Dense(), 1),
}
every_method = pytest.mark.parametrize("name", METHODS)
every_backend = pytest.mark.parametrize("backend", ["flex", "triton_block_sparse"])
every_operations = pytest.mark.parametrize(
    "operations", [TorchOperations(), KernelOperations()], ids=["torch", "kernels"]
)
every_length = pytest.mark.parametrize("lengths", [None, torch.tensor([1104, 1088])], ids=["one length", "two lengths"])


class Watch(TorchDispatchMode):
    """Notes what is sent to the device, which is ``meta``, and every operation for which the host would wait.

    Whatever reads a value there, which decides on the host, raises by itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sent, self.waits, self.seen = 0, [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        self.seen.append(func.__name__)
        given = [x for x in torch.utils._pytree.tree_leaves((args, kwargs)) if torch.is_tensor(x)]
        output = func(*args, **kwargs)
        made = [x for x in torch.utils._pytree.tree_leaves(output) if torch.is_tensor(x)]
        is_read = any(x.is_meta for x in given) and not all(x.is_meta for x in made)
        # Of an index or a mask that lies on the host, the operation itself makes a copy.
        is_mixed = len({x.device for x in given}) > 1
        is_sent = not any(x.is_meta for x in given) and any(x.is_meta for x in made) and bool(given)
        self.sent += is_sent
        if is_read or is_mixed or (is_sent and not kwargs.get("non_blocking")):
            self.waits.append(func.__name__)
        return output


def sparse_call(method, tensors, lengths, receipt: Receipt, operations, compute=None) -> torch.Tensor:
    """Run what the attachment runs in one call; without a backend, flex's tile lists stand for it."""
    context, inputs = context_of(LAYOUT), inputs_of(*tensors, key_lengths=lengths)
    inputs.operations = operations
    plan = method.plan(inputs, context)
    query, key, value = operations.arrange(plan, *tensors)
    if compute is None:
        lengths = None if lengths is None else send(lengths, query.device)
        tiles = _flex_tiles.palette(plan, LAYOUT.seq_len, (16, 16), query.device)
        assignment = resident(plan.assignment, query.device)
        _flex_tiles.tile_lists(tiles, assignment, lengths, 16)
        _flex_tiles.mask_mod(tiles, assignment.expand(2, 3), lengths, (16, 16), LAYOUT.seq_len)
    output = query if compute is None else compute(query, key, value, plan)
    receipt.record(context, "any", plan)
    return operations.restore(plan, output)


@pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are only left out where they are interpreted")
@every_length
@every_method
@every_operations
@every_backend
def test_a_second_call_sends_what_it_drew_and_waits_for_nothing(backend, operations, name, lengths, monkeypatch):
    # A device without memory computes nothing: a kernel has its arguments, and is not started.
    monkeypatch.setattr(Launch, "run", lambda self: None)
    method, drawn = METHODS[name]
    tensors = torch.empty(3, 2, 3, LAYOUT.seq_len, 16, device="meta").unbind()
    compute = None if backend == "flex" else backends.get(backend)
    sparse_call(method, tensors, lengths, Receipt(), operations, compute)
    with Watch() as watch:
        sparse_call(method, tensors, lengths, Receipt(), operations, compute)
    assert watch.waits == []
    # Lengths go to whoever masks padding: the profiling, the backend.
    assert watch.sent <= drawn + (0 if lengths is None else 2)


@every_length
@every_method
def test_the_statistics_of_a_call_wait_for_nothing(name, lengths):
    tensors = torch.empty(3, 2, 3, LAYOUT.seq_len, 16, device="meta").unbind()
    inputs, context = inputs_of(*tensors, key_lengths=lengths), context_of(LAYOUT)
    plan = METHODS[name][0].plan(inputs, context)
    with Watch() as watch:
        found = StatisticsSample(num_rows=8).measure(inputs, plan, context)
    assert watch.waits == []
    assert all(value.is_meta for value in found.values.values())


def test_the_watch_sees_what_would_wait():
    host, device = torch.arange(3), torch.empty(3, device="meta")
    with Watch() as watch:
        host.to("meta")
        device[host]
        host.to("meta", non_blocking=True)
    assert watch.waits == ["_to_copy.default", "index.Tensor"] and watch.sent == 2


def test_a_resident_copy_is_made_once_for_each_tensor_and_device():
    x, device = torch.arange(3), torch.device("meta")
    assert resident(x, device) is resident(x, device)
    assert resident(x, x.device) is x
    assert resident(torch.arange(3), device) is not resident(x, device)


def test_lengths_on_a_device_are_refused_as_every_call_would_wait_for_them():
    with pytest.raises(ValueError, match="key_lengths lie on meta; they must lie on the CPU"):
        AttentionPlan.dense(torch.empty(2, dtype=torch.long, device="meta"))


class Reads(TorchDispatchMode):
    """Counts the fractional numbers that the host reads out of tensors: timesteps, not places in a plan."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.__name__.startswith("_local_scalar_dense") and args[0].is_floating_point()
        return func(*args, **(kwargs or {}))


def test_the_timestep_is_read_once_a_step_and_not_once_a_branch():
    pipeline = tiny_wan_pipeline()
    with Reads() as stock:
        generate(pipeline)
    with svg.attach(pipeline, Dense()) as run, Reads() as ours:
        generate(pipeline)
    assert {call.branch for call in run.receipt.calls} == {"cond", "uncond"}
    assert ours.count - stock.count == run.receipt.num_steps == 3


def test_the_length_of_a_prompt_is_read_once_a_generation():
    lengths, masks = TextLengths(), (torch.tensor([[1, 1, 0]]), torch.tensor([[1, 0, 0]]))
    for mask in masks:
        lengths.read(mask)
    for mask, longest in zip(masks, (2, 1), strict=True):
        with Watch() as watch:
            lengths.read(mask)
        assert lengths.longest == longest
        assert "sum.dim_IntList" not in watch.seen


@pytest.mark.gpu
@every_length
@every_method
@every_operations
@every_backend
def test_two_sparse_calls_on_a_gpu_make_the_host_wait_for_nothing(backend, operations, name, lengths):
    method, _ = METHODS[name]
    generator = torch.Generator("cuda").manual_seed(0)
    shape = (3, 2, 3, LAYOUT.seq_len, 64)
    tensors = torch.randn(shape, device="cuda", dtype=torch.bfloat16, generator=generator).unbind()
    compute, receipt = backends.get(backend), Receipt()
    with torch.no_grad():
        expected = sparse_call(method, tensors, lengths, receipt, operations, compute)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            outputs = [sparse_call(method, tensors, lengths, receipt, operations, compute) for _ in range(2)]
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert all(torch.equal(output, expected) for output in outputs)
    assert len(receipt.calls) == 3
