"""The judge of all backends: attention with the whole mask written out, and how far from it a backend may be."""

from __future__ import annotations

import torch

from svg import backends
from svg.layout import TokenLayout
from svg.palette import Geometry, head_patterns
from svg.plan import AttentionPlan
from svg_kernels.spec import allowed_errors, errors
from tests.backend_cases import BATCH, HEAD_DIM, NUM_HEADS, SEQ_LEN, tensors

# Settings under which a quick test can run a backend; one without an entry runs as it comes.
QUICK_ON_CPU = {"flex": {"compiled": False}}


def backend_for(name: str, device: str):
    return backends.get(name, **(QUICK_ON_CPU.get(name, {}) if device == "cpu" else {}))


def judge(query, key, value, plan: AttentionPlan) -> torch.Tensor:
    """Attention with the whole mask written out, in the inputs' precision and in the original order."""
    positions = torch.arange(SEQ_LEN, device=query.device)
    output = torch.zeros_like(query)
    for item in range(BATCH):
        length = SEQ_LEN if plan.key_lengths is None else int(plan.key_lengths[item])
        for head in range(NUM_HEADS):
            pattern = plan.patterns[int(plan.assignment.expand(BATCH, NUM_HEADS)[item, head])]
            keep = pattern.keep(positions[:, None], positions[None, :])
            order = positions if pattern.key_order is None else pattern.key_order
            keep[:, order[length:].to(keep.device)] = False
            scores = (query[item, head] @ key[item, head].T * HEAD_DIM**-0.5).masked_fill(~keep, -torch.inf)
            probabilities = scores.softmax(-1).masked_fill(~keep.any(1, keepdim=True), 0)
            output[item, head] = probabilities @ value[item, head]
    return output


def compute(backend, plan: AttentionPlan, dtype: torch.dtype, device: str) -> torch.Tensor:
    """Arrange, poison the padding, compute, restore."""
    query, key, value = (x.clone() for x in plan.arrange(*tensors(dtype)))
    if plan.key_lengths is not None:
        for item, length in enumerate(plan.key_lengths.tolist()):
            key[item, :, length:] = torch.nan
            value[item, :, length:] = torch.nan
    query, key, value = (x.to(device) for x in (query, key, value))
    backend.check(query, plan)
    return plan.restore(backend(query, key, value, plan)).cpu()


def accepts(backend, query: torch.Tensor, plan: AttentionPlan) -> bool:
    try:
        backend.check(query, plan)
    except ValueError:
        return False
    return True


def assert_right(output: torch.Tensor, plan: AttentionPlan, dtype: torch.dtype, device: str = "cpu"):
    """The error is at most twice that of eager PyTorch in the same precision on the same device, or a few roundings.

    Zeros are where nothing is kept.
    """
    query, key, value = tensors(dtype)
    exact = judge(query.double(), key.double(), value.double(), plan)
    eager = judge(query.to(device), key.to(device), value.to(device), plan).cpu()
    assert output.dtype == dtype
    for error, allowed in zip(errors((output,), (exact,)), allowed_errors((eager,), (exact,)), strict=True):
        assert error <= allowed
    assert torch.equal((exact == 0).all(-1), (output == 0).all(-1))


def attention_plans(block_size: int, rounding: str, queries: int | None = None) -> dict[str, AttentionPlan]:
    """Return the plans of Sparse VideoGen for the embedded model: 17 frames of 240 tokens, 4 heads."""
    palette = head_patterns(TokenLayout(17, 240), Geometry(0.25, block_size, rounding, query_block_size=queries))
    heads = {"spatial": [0, 0, 0, 0], "temporal": [1, 1, 1, 1], "mixed": [0, 1, 1, 0]}
    return {name: AttentionPlan(palette, torch.tensor([chosen])) for name, chosen in heads.items()}
