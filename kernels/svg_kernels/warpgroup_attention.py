"""When whole tiles of 128 by 128 are shared by Hopper's warpgroups, and how that program is launched."""

from __future__ import annotations

import torch
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from svg_kernels.fp8_model import LOG2_E
from svg_kernels.launch import Launch
from svg_kernels.tile_lists import TileLists
from svg_kernels.tiles import fits_descriptor
from svg_kernels.warpgroup_program import KEYS, QUERIES, ROWS, attention

# Tiles in flight for each head_dim; of 16 bits at 128 no more fit the shared memory.
STAGES = {64: 4, 128: 3}
STAGES_OF_8_BITS = {64: 4, 128: 4}


def fits(tensors: tuple[torch.Tensor, ...], lists: TileLists, lengths: torch.Tensor | None, capability: int) -> bool:
    """Return whether the program computes a call: on Hopper, for bfloat16 and whole tiles of 128 by 128.

    ``tensors`` are query, key, value and output. Where ``lengths`` cut tiles, what is behind them may be no number.
    float16 has no room for probabilities above 65,504.
    """
    return (
        90 <= capability < 100
        and tensors[0].dtype == torch.bfloat16
        and tensors[0].shape[-1] in STAGES
        and (lists.query_size, lists.key_size) == (QUERIES.value, KEYS.value)
        and not lists.has_partial
        and lengths is None
        and all(fits_descriptor(x) for x in tensors)
    )


def prepare(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    output: torch.Tensor,
    lists: TileLists,
    assignment: torch.Tensor,
    scales: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None] | None = None,
) -> tuple[torch.Tensor | None, Launch]:
    """Return marks of what is to be computed anew, and the launch that writes them, and the output for all else.

    Marks are int32 ``(1 + batch * num_heads * rows of tiles * 2,)``, the first one of all others together; None with
    values in 8 bits, of which nothing is computed anew. The arguments are those of ``block_sparse_attention.prepare``,
    which ``fits`` says to fit. With ``scales``, those of ``fp8_inputs.prepare_queries``, the keys' and the values',
    queries, keys and values are what ``fp8_inputs`` makes of them, in e4m3; without the values' these are wide.
    """
    batch, num_heads, seq_len, head_dim = output.shape
    query_scale, key_scale, value_scale = scales or (None, None, None)
    value_block = [KEYS.value, head_dim] if value_scale is None else [head_dim, KEYS.value]
    blocks = {
        "query": (query, [ROWS.value, head_dim]),
        "key": (key, [KEYS.value, head_dim]),
        "value": (value, value_block),
    }
    outgrown = None
    if value_scale is None:
        num_marks = batch * num_heads * lists.starts.shape[1] * 2
        outgrown = torch.zeros(1 + num_marks, dtype=torch.int32, device=query.device)
    block = QUERIES.value, KEYS.value
    given = lists.arguments(assignment, None, (batch, num_heads, seq_len), block)
    arguments = {
        **{
            name: TensorDescriptor.from_tensor(x, [1, 1, *shape], _layout(x, shape[1]))
            for name, (x, shape) in blocks.items()
        },
        "query_scale": query_scale,
        "key_scale": key_scale,
        "value_scale": value_scale,
        "output": output,
        "outgrown": outgrown,
        **{f"stride_output_{axis}": output.stride(i) for i, axis in enumerate(("item", "head", "token"))},
        "padded_len": query.shape[2],
        # Mixed queries and keys have products head_dim times as great.
        "scale_log2": head_dim ** (-0.5 if scales is None else -1.5) * LOG2_E,
        "HEAD_DIM": head_dim,
        "STAGES": (STAGES if scales is None else STAGES_OF_8_BITS)[head_dim],
        # At 128 in 8 bits it is the faster way, elsewhere the slower one.
        "SUMS_LAST": scales is not None and head_dim == 128,
    }
    arguments |= {name: given[name] for name in attention.arg_names if name not in arguments}
    grid = (batch * num_heads * lists.num_programs(block[0]),)
    return outgrown, Launch(attention, grid, arguments, {"num_warps": 4})


def _layout(x: torch.Tensor, width: int) -> gl.NVMMASharedLayout:
    """Return how a tile of ``x``, so many numbers wide, stands in shared memory."""
    num_bytes = width * x.element_size()
    return gl.NVMMASharedLayout(min(128, num_bytes), element_bitwidth=8 * x.element_size(), rank=4)
