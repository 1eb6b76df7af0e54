"""Block-sparse attention in 8 bits for Hopper and newer, forward only: its settings, its launches and its judge."""

from __future__ import annotations

import math

import torch
from triton.tools.tensor_descriptor import TensorDescriptor

from svg_kernels import block_sparse_attention as wide
from svg_kernels import warpgroup_attention
from svg_kernels.fp8_inputs import prepare as prepare_inputs
from svg_kernels.fp8_inputs import prepare_queries
from svg_kernels.fp8_model import BLOCK, LOG2_E, MOST, Quantised, ScoreType, dequantised, mixing, softmax
from svg_kernels.fp8_program import attention
from svg_kernels.launch import Launch, is_interpreted
from svg_kernels.spec import Case, Inputs, Spec
from svg_kernels.tile_lists import TileLists

HEAD_DIMS = (64, 128)


def settings_for(query: torch.Tensor, wide_values: bool = False) -> wide.Settings:
    """Return the settings for queries; keys per step are at most ``BLOCK``."""
    head_dim = query.shape[-1]
    if wide_values and query.element_size() == 4:
        # What workstation GPUs have of shared memory.
        return wide.Settings(64, 64, 4, 2, True)
    # Registers hold three programs at 128 and four at 64: one computes products while others do their softmax.
    if head_dim > 64 or wide_values:
        return wide.Settings(64, 128, 4, 2, True)
    return wide.Settings(64, 128, 4, 3, True, 128)


def fastest(
    query: torch.Tensor,
    inputs: Quantised,
    output: torch.Tensor,
    lists: TileLists,
    assignment: torch.Tensor,
    lengths: torch.Tensor | None,
    capability: int,
) -> list[Launch]:
    """Return the launches that are fastest on a GPU, in order; the other arguments are those of ``prepare``."""
    launches, outgrown, rows = [], None, None
    # At 64 more programs of half as many queries each are the faster way to round values.
    fits = inputs.key.dtype == torch.float8_e4m3fn and (inputs.has_wide_values or query.shape[-1] == 128)
    if fits and warpgroup_attention.fits((query, inputs.value, output), lists, lengths, capability):
        rows, query_scale, rounding = prepare_queries(query)
        tensors, scales = (rows, inputs.key, inputs.value, output), (query_scale, inputs.key_scale, inputs.value_scale)
        outgrown, launch = warpgroup_attention.prepare(*tensors, lists, assignment, scales)
        launches += [rounding, launch]
        if outgrown is None:
            return launches
    settings = settings_for(query, inputs.has_wide_values)
    return [*launches, prepare(query, inputs, output, lists, assignment, lengths, settings, outgrown, rows)]


def prepare(
    query: torch.Tensor,
    inputs: Quantised,
    output: torch.Tensor,
    lists: TileLists,
    assignment: torch.Tensor,
    lengths: torch.Tensor | None,
    settings: wide.Settings,
    outgrown: torch.Tensor | None = None,
    scratch: torch.Tensor | None = None,
) -> Launch:
    """Return the attention's launch.

    Args:
        query: ``(batch, num_heads, seq_len, head_dim)``, the last dimension contiguous, the others strided as they may.
        inputs: Keys and values.
        output: ``(batch, num_heads, seq_len, head_dim)``, the last dimension contiguous; it is written.
        lists: Which tiles each pattern computes.
        assignment: int64 ``(batch|1, num_heads|1)``, the pattern of each head.
        lengths: int64 ``(batch,)``: keys at or past it get no attention; None where all count.
        settings: How the kernel divides its work.
        outgrown: What ``warpgroup_attention.prepare`` marks: only these rows are computed, the others' output is left
            as it is; None for all.
        scratch: Where queries in 8 bits are put, of the shape and dtype of ``inputs.key``; None for a new one.
    """
    batch, num_heads, seq_len, head_dim = output.shape
    padded_len = inputs.key.shape[2]
    score_type: ScoreType = "int8" if inputs.key.dtype == torch.int8 else "e4m3"
    block_queries = math.gcd(settings.block_queries, lists.query_size)
    block_keys = math.gcd(math.gcd(settings.block_keys, lists.key_size), BLOCK)
    tensors = {
        "key": (inputs.key.view(-1, head_dim), [block_keys, head_dim]),
        "value": (inputs.value.view(-1, head_dim), [block_keys, head_dim])
        if inputs.has_wide_values
        else (inputs.value.view(-1, padded_len), [head_dim, block_keys]),
    }
    arguments = {
        **{name: TensorDescriptor.from_tensor(*matrix) for name, matrix in tensors.items()},
        "query": query,
        "key_scale": inputs.key_scale,
        "value_scale": inputs.value_scale,
        "mixing": mixing(head_dim // 2, query.dtype, query.device),
        "scratch": torch.empty_like(inputs.key) if scratch is None else scratch,
        "output": output,
        "outgrown": outgrown,
        **{f"stride_query_{axis}": query.stride(i) for i, axis in enumerate(wide.AXES)},
        **{f"stride_output_{axis}": output.stride(i) for i, axis in enumerate(wide.AXES)},
        **lists.arguments(assignment, lengths, (batch, num_heads, seq_len), (block_queries, block_keys)),
        "padded_len": padded_len,
        # Mixed queries and keys have products head_dim times as great.
        "scale_log2": head_dim**-1.5 * LOG2_E,
        "HEAD_DIM": head_dim,
        "SCALED_KEYS": BLOCK,
        "IS_INT8": score_type == "int8",
        "WIDE_VALUES": inputs.has_wide_values,
        "MOST": MOST[score_type],
        "INTERPRET": is_interpreted(attention),
    }
    grid = (batch * num_heads * lists.num_programs(block_queries),)
    return Launch(attention, grid, arguments, settings.options(block_queries))


def _inputs(case: Case, dtype: torch.dtype, device: torch.device) -> Inputs:
    wide_values = case.get("wide_values", False)
    return {**wide.SPEC.inputs(case, dtype, device), "score_type": case["score_type"], "wide_values": wide_values}


def _prepare(inputs: Inputs, capability: int) -> tuple[tuple[torch.Tensor, ...], list[Launch]]:
    query, lengths = inputs["query"], inputs["lengths"]
    output = torch.full_like(query, torch.nan)
    tensors, is_wide = (inputs["key"], inputs["value"]), inputs["wide_values"]
    found, launches = prepare_inputs(*tensors, inputs["score_type"], lengths, wide_values=is_wide)
    given = query, found, output, inputs["lists"], inputs["assignment"], lengths
    return (output,), [*launches, *fastest(*given, capability)]


def reference(inputs: Inputs, rows: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
    """Return attention at the given query positions (all of them if None); of inputs in float64 without quantising."""
    others = {name: x for name, x in inputs.items() if name not in ("score_type", "wide_values")}
    if inputs["query"].dtype == torch.float64:
        return wide.reference(others, rows)
    tensors = inputs["query"], inputs["key"], inputs["value"]
    is_wide = inputs["wide_values"]
    seen = dequantised(*tensors, inputs["score_type"], inputs["lengths"], wide_values=is_wide)
    others |= dict(zip(("query", "key", "value"), seen, strict=True))
    (output,) = wide.reference(others, rows) if is_wide else wide.reference(others, rows, softmax)
    return (output.to(tensors[0].dtype),)


def _flops(case: Case) -> float:
    return wide.SPEC.flops(case)


def _bytes(case: Case, element_size: int) -> float:
    # Queries in 8 bits are written, keys and values written and read, beside all that is in the inputs' precision.
    value_size = element_size if case.get("wide_values") else 1
    return math.prod(case["shape"]) * (4.0 * element_size + 3 + 2 * value_size)


SPEC = Spec(
    inputs=_inputs,
    prepare=_prepare,
    reference=reference,
    rows_axis=2,
    has_baseline=False,
    least_capability=90,
    is_attention=True,
    cases=(
        {
            "shape": (1, 2, 131, 64),
            "tile": 64,
            "density": 0.5,
            "exact": True,
            "num_text_tokens": 5,
            "score_type": "int8",
        },
        {
            "shape": (2, 2, 150, 128),
            "tile": 128,
            "density": 0.3,
            "exact": False,
            "lengths": [150, 41],
            "score_type": "e4m3",
        },
        *(
            {
                "shape": (1, 2, seq_len, head_dim),
                "tile": 128,
                "density": 0.4,
                "exact": exact,
                "last_head": 0,
                "score_type": "e4m3",
                "wide_values": is_wide,
                "key_scale": key_scale,
            }
            # Scores of the two last outgrow those of the first tile.
            for seq_len, head_dim, exact, key_scale, is_wide in (
                (131, 64, True, 1, True),
                (270, 64, False, 1, True),
                (513, 128, False, 1, True),
                (513, 128, False, 1, False),
                (640, 128, False, 30, False),
                (400, 64, False, 300, True),
            )
        ),
    ),
    paper_cases=(
        *({**case, "score_type": "e4m3"} for case in wide.SPEC.paper_cases),
        *({**case, "score_type": "e4m3", "wide_values": True} for case in wide.SPEC.paper_cases),
        {**wide.SPEC.paper_cases[0], "score_type": "int8"},
        *(
            {**wide.SPEC.paper_cases[case], "density": 1.0, "score_type": "e4m3", "wide_values": is_wide}
            for case in (0, 2)
            for is_wide in (False, True)
        ),
    ),
    flops=_flops,
    bytes=_bytes,
)
