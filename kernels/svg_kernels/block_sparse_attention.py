"""Block-sparse attention, forward only, for any plan: its settings for each GPU, its launch and its judge."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import triton
from triton.tools.tensor_descriptor import TensorDescriptor

from svg_kernels import warpgroup_attention
from svg_kernels.block_sparse_program import attention
from svg_kernels.launch import Launch, is_interpreted
from svg_kernels.spec import Case, Inputs, Spec
from svg_kernels.tile_lists import FULL, PARTIAL, PatternIntegers, TileLists
from svg_kernels.tiles import fits_descriptor

LOG2_E = math.log2(math.e)

# Blackwell's GPUs of workstations, from 12.0 on, have the shared memory of Ada's.
LEAST_SMALL_BLACKWELL = 120


@dataclass(frozen=True)
class Settings:
    """How the kernel divides its work.

    Args:
        block_queries: Queries per program; what the plan's tiles do not divide by is lowered to what they do.
        block_keys: Keys per step, likewise.
        num_warps: Warps per program.
        num_stages: Depth of the software pipeline.
        uses_descriptors: Whether tiles are moved by Hopper's tensor memory engine (compute capability 9.0 and up).
        most_registers: Registers per thread at most; None leaves it to the compiler.
    """

    block_queries: int
    block_keys: int
    num_warps: int
    num_stages: int
    uses_descriptors: bool = False
    most_registers: int | None = None

    def options(self, block_queries: int) -> dict[str, int]:
        """Return how a kernel of so many queries per program is launched."""
        # A warp takes 16 rows; more would share them.
        num_warps = min(self.num_warps, max(4, block_queries // 16))
        options = {"num_warps": num_warps, "num_stages": self.num_stages}
        if self.most_registers is not None and num_warps == self.num_warps:
            options["maxnreg"] = self.most_registers
        return options


def settings_for(query: torch.Tensor, lists: TileLists, lengths: torch.Tensor | None, capability: int) -> Settings:
    """Return the settings for a GPU: ``capability`` is 80 for Ampere, 89 for Ada, 90 for Hopper.

    All but those of data-centre GPUs from Hopper on fit 99 KiB of shared memory.
    """
    head_dim = query.shape[-1]
    if query.element_size() == 4:
        return Settings(64, 32, 4, 2) if head_dim <= 128 else Settings(16, 32, 4, 2)
    if 90 <= capability < LEAST_SMALL_BLACKWELL:
        # Two programs or three share a multiprocessor: one computes products while another does its softmax.
        if head_dim <= 64:
            return Settings(64, 128, 4, 2, True)
        if head_dim > 128:
            return Settings(64, 64, 4, 2, True)
        # Eight warps are faster, but where tiles other than the last may be cut, masks do not fit their registers.
        has_masks = lists.has_partial or lengths is not None
        return Settings(128, 64, 4, 2, True) if has_masks else Settings(128, 64, 8, 2, True, 128)
    if head_dim <= 64:
        return Settings(128, 64, 4, 3)
    return Settings(128, 32, 4, 3) if head_dim <= 128 else Settings(64, 32, 4, 2)


def fastest(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    output: torch.Tensor,
    lists: TileLists,
    assignment: torch.Tensor,
    lengths: torch.Tensor | None,
    capability: int,
) -> list[Launch]:
    """Return the launches that are fastest on a GPU, in order; the other arguments are those of ``prepare``."""
    launches, outgrown = [], None
    if warpgroup_attention.fits((query, key, value, output), lists, lengths, capability):
        outgrown, launch = warpgroup_attention.prepare(query, key, value, output, lists, assignment)
        launches.append(launch)
    settings = settings_for(query, lists, lengths, capability)
    return [*launches, prepare(query, key, value, output, lists, assignment, lengths, settings, outgrown)]


def prepare(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    output: torch.Tensor,
    lists: TileLists,
    assignment: torch.Tensor,
    lengths: torch.Tensor | None,
    settings: Settings,
    outgrown: torch.Tensor | None = None,
) -> Launch:
    """Return the kernel's launch.

    Args:
        query: ``(batch, num_heads, seq_len, head_dim)``; the last dimension contiguous, the others strided as they may.
        key: The same shape, dtype and device.
        value: The same.
        output: The same; it is written.
        lists: Which tiles each pattern computes.
        assignment: int64 ``(batch|1, num_heads|1)``, the pattern of each head.
        lengths: int64 ``(batch,)``: keys at or past it get no attention; None where all count.
        settings: How the kernel divides its work.
        outgrown: What ``warpgroup_attention.prepare`` marks: only these rows are computed, the others' output is left
            as it is; None for all.
    """
    batch, num_heads, seq_len, head_dim = query.shape
    block_queries = math.gcd(settings.block_queries, lists.query_size)
    block_keys = math.gcd(settings.block_keys, lists.key_size)
    block_dim = max(16, triton.next_power_of_2(head_dim))
    tensors = {"query": query, "key": key, "value": value, "output": output}
    uses_descriptors = settings.uses_descriptors and all(fits_descriptor(x) for x in tensors.values())
    strides = {f"stride_{name}_{axis}": x.stride(i) for name, x in tensors.items() for i, axis in enumerate(AXES)}
    if uses_descriptors:
        rows = {"query": block_queries, "key": block_keys, "value": block_keys, "output": block_queries}
        tensors = {name: TensorDescriptor.from_tensor(x, [1, 1, rows[name], block_dim]) for name, x in tensors.items()}
    arguments = {
        **tensors,
        **strides,
        "outgrown": outgrown,
        **lists.arguments(assignment, lengths, (batch, num_heads, seq_len), (block_queries, block_keys)),
        "scale_log2": head_dim**-0.5 * LOG2_E,
        "HEAD_DIM": head_dim,
        "BLOCK_DIM": block_dim,
        "USES_DESCRIPTORS": uses_descriptors,
        "INTERPRET": is_interpreted(attention),
    }
    grid = (batch * num_heads * lists.num_programs(block_queries),)
    return Launch(attention, grid, arguments, settings.options(block_queries))


AXES = ("item", "head", "token")


def _inputs(case: Case, dtype: torch.dtype, device: torch.device) -> Inputs:
    """Return a case's inputs: a band exact to the token or in whole tiles, a sink, text last; the last head dense."""
    _, num_heads, seq_len, head_dim = case["shape"]
    size, density, text = case["tile"], case["density"], case.get("num_text_tokens", 0)
    generator = torch.Generator(device).manual_seed(seq_len + head_dim)
    query, key, value = (torch.randn(case["shape"], generator=generator, device=device, dtype=dtype) for _ in range(3))
    key *= case.get("key_scale", 1)
    width = int(seq_len * (1 - (1 - density) ** 0.5))
    band = PatternIntegers(
        width, query_stop=seq_len, key_stop=seq_len, sink_stop=size, text_start=seq_len - text, text_stop=seq_len
    )
    tiles = torch.arange(-(-seq_len // size))
    is_text = size * tiles + size > seq_len - text
    kept = ((tiles[:, None] - tiles).abs() * size <= width) | (tiles == 0) | is_text | is_text[:, None]
    kind = PARTIAL if case["exact"] else FULL
    states = torch.stack([kept * kind, torch.full_like(kept, FULL, dtype=torch.long)]).to(torch.int8)
    lengths = case.get("lengths")
    return {
        "query": query,
        "key": key,
        "value": value,
        "lists": TileLists.from_states(states, [band, PatternIntegers()], size, size, device=device),
        "assignment": torch.tensor([[0] * (num_heads - 1) + [case.get("last_head", 1)]], device=device),
        "lengths": None if lengths is None else torch.tensor(lengths, device=device),
    }


def _prepare(inputs: Inputs, capability: int) -> tuple[tuple[torch.Tensor, ...], list[Launch]]:
    query = inputs["query"]
    output = torch.full_like(query, torch.nan)
    return (output,), fastest(**inputs, output=output, capability=capability)


def _softmax(scores: torch.Tensor) -> torch.Tensor:
    return scores.softmax(-1)


def reference(
    inputs: Inputs,
    rows: torch.Tensor | None = None,
    softmax: Callable[[torch.Tensor], torch.Tensor] = _softmax,
) -> tuple[torch.Tensor, ...]:
    """Return masked attention at the given query positions (all of them if None), a head at a time.

    ``softmax`` is over the last dimension, of scores that are -inf where a pair is not kept.
    """
    query, key, value, lists = (inputs[name] for name in ("query", "key", "value", "lists"))
    batch, num_heads, seq_len, head_dim = query.shape
    rows = torch.arange(seq_len, device=query.device) if rows is None else rows
    keeps = [lists.keep(pattern, seq_len, rows) for pattern in range(lists.starts.shape[0])]
    output = torch.empty_like(query[:, :, rows])
    for item in range(batch):
        limit = seq_len if inputs["lengths"] is None else int(inputs["lengths"][item])
        for head, pattern in enumerate(inputs["assignment"].expand(batch, num_heads)[item].tolist()):
            keep = keeps[pattern][:, :limit]
            scores = query[item, head, rows] @ key[item, head, :limit].T * head_dim**-0.5
            probability = softmax(scores.masked_fill(~keep, -torch.inf)).masked_fill(~keep.any(1, keepdim=True), 0)
            output[item, head] = probability @ value[item, head, :limit]
    return (output,)


def _flops(case: Case) -> float:
    inputs = _inputs({**case, "shape": (1, case["shape"][1], case["shape"][2], 1)}, torch.float32, torch.device("cpu"))
    lists, (batch, _, _, head_dim) = inputs["lists"], case["shape"]
    tiles = (lists.full_counts + lists.partial_counts).sum(1)[inputs["assignment"][0]].sum()
    return 4.0 * float(tiles) * lists.query_size * lists.key_size * head_dim * batch


def _bytes(case: Case, element_size: int) -> float:
    return 4.0 * math.prod(case["shape"]) * element_size


SPEC = Spec(
    inputs=_inputs,
    prepare=_prepare,
    reference=reference,
    rows_axis=2,
    has_baseline=False,
    is_attention=True,
    cases=(
        {"shape": (1, 2, 131, 64), "tile": 32, "density": 0.5, "exact": True, "num_text_tokens": 5},
        {"shape": (2, 2, 150, 128), "tile": 128, "density": 0.3, "exact": False, "lengths": [150, 41]},
        {"shape": (1, 1, 70, 48), "tile": 16, "density": 0.4, "exact": True, "last_head": 0},
        {"shape": (1, 2, 64, 256), "tile": 32, "density": 0.6, "exact": False},
        {"shape": (1, 2, 270, 64), "tile": 128, "density": 0.6, "exact": False},
        {"shape": (1, 1, 513, 128), "tile": 128, "density": 0.4, "exact": False, "last_head": 0},
        # Scores outgrow those of the first tile.
        {"shape": (1, 2, 400, 64), "tile": 128, "density": 0.4, "exact": False, "last_head": 0, "key_scale": 300},
    ),
    compiled_cases=tuple(
        {"shape": (1, 1, 3 * tile - 1, head_dim), "tile": tile, "density": 0.5, "exact": exact, "last_head": 0}
        for head_dim in (64, 128, 256)
        for tile, exact in ((32, True), (128, True), (128, False))
    ),
    paper_cases=(
        {
            "shape": (1, 24, 119_056, 128),
            "tile": 128,
            "density": 0.25,
            "exact": False,
            "num_text_tokens": 256,
            "last_head": 0,
        },
        {"shape": (1, 40, 75_600, 128), "tile": 128, "density": 0.3, "exact": False, "last_head": 0},
        {
            "shape": (1, 48, 45_106, 64),
            "tile": 128,
            "density": 0.25,
            "exact": False,
            "num_text_tokens": 226,
            "last_head": 0,
        },
    ),
    flops=_flops,
    bytes=_bytes,
)
