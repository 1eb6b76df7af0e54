"""What a configuration will do, worked out from its settings alone: no weights, no scheduler, no N x N tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from experiments import fp8_linear
from experiments.building import build_method
from experiments.schema import GeometryConfig, ModelConfig, PlanConfig, TransformerConfig
from svg.cost.flops import PETA
from svg.cost.forecast import MIB, TransformerSize, plan_bytes, sparse_share
from svg.cost.memory import GIB
from svg.cost.roofline import gpu_by_name
from svg.layout import TokenLayout
from svg.methods.dense import Dense
from svg.timesteps import timesteps


@dataclass(frozen=True)
class Density:
    """Share of the query-key pairs of a sparse call: kept, computed in tiles, and as a share of the tiles."""

    token: float
    tile: float
    block: float


def forecast(config: PlanConfig, names: Any) -> dict[str, Any]:
    """Return what a configuration will do, by name of the quantity.

    Raises:
        ValueError: If a setting is wrong, or the model's settings do not say its sizes.
    """
    gpu = gpu_by_name(config.gpu)
    model = config.model
    geometry, transformer = sizes_of(model, "experiments.plan")
    method = build_method(config.method, model.method_defaults, model.upstream)
    layout = layout_of(model, geometry, config.text_tokens)
    schedule = method.dense_schedule(
        model.num_inference_steps, transformer.num_layers, timesteps_of(model, transformer)
    )
    size = size_of(model, transformer)
    if size.is_fp8:
        fp8_linear.check_model(model)
    branches = 2 if transformer.guidance != "embedded" and model.guidance_scale > 1 else 1
    predictions = model.num_inference_steps * branches
    attention = predictions * size.attention_flops(layout.seq_len)
    other = predictions * size.other_flops(layout.seq_len)
    fp8 = predictions * size.fp8_flops(layout.seq_len)

    density = _density(method, layout)
    sparse = 0.0
    if not isinstance(method, Dense):
        counts = (schedule.dense_steps, schedule.dense_layers)
        sparse = sparse_share(model.num_inference_steps, transformer.num_layers, *counts)
    overall = None if density is None else 1 - sparse * (1 - density.tile)
    window = method.window_tokens(layout) if hasattr(method, "window_tokens") else None
    found = {
        "model": names.model,
        "method": names.method,
        "height": model.height,
        "width": model.width,
        "num_frames": model.num_frames,
        "latent_frames": layout.num_frames,
        "tokens_per_frame": layout.tokens_per_frame,
        "num_text_tokens": layout.num_text_tokens,
        "seq_len": layout.seq_len,
        "window_tokens": window,
        "window_frames": None if window is None else window / layout.tokens_per_frame,
        "density_requested": getattr(method, "density_requested", None),
        "density_token": None if density is None else density.token,
        "density_tile": None if density is None else density.tile,
        "density_block": None if density is None else density.block,
        "density_overall": overall,
        "block_size": getattr(method, "block_size", None),
        "num_steps": model.num_inference_steps,
        "dense_steps": schedule.dense_steps,
        "num_layers": transformer.num_layers,
        "dense_layers": schedule.dense_layers,
        "predictions": predictions,
        "pflops_dense": (attention + other) / PETA,
        "pflops_sparse": None if overall is None else (attention * overall + other) / PETA,
        "attention_share": attention / (attention + other),
        "gpu": gpu.name,
        "peak_tflops": gpu.peak_tflops,
        "fp8_tflops": gpu.fp8_tflops if size.is_fp8 else None,
        "floor_dense_s": gpu.floor_s(attention, other, fp8),
        "floor_s": None if overall is None else gpu.floor_s(attention * overall, other, fp8),
        # Products in FP8 were not measured.
        "reachable_dense_s": None if fp8 else gpu.reachable_s(attention, other),
        "reachable_s": None if fp8 or overall is None else gpu.reachable_s(attention * overall, other),
        "speedup_limit": gpu.floor_s(attention, other, fp8) / gpu.floor_s(0, other, fp8),
        "linear_precision": model.linear_precision,
        "video_weights_gib": size.video_weight_bytes(getattr(torch, model.dtype).itemsize) / GIB,
        "plan_mib": None if density is None else _plan_mib(method, layout, transformer.num_heads),
        "rates": gpu.source if gpu.measured is None else f"{gpu.source}; reachable: {gpu.measured}",
    }
    return found | ({} if density is not None else {"reason": f"{names.method} decides how much it keeps as it runs"})


def sizes_of(model: ModelConfig, command: str) -> tuple[GeometryConfig, TransformerConfig]:
    """Return how a video becomes tokens and the transformer's sizes; ``ValueError`` where the settings lack either."""
    if model.geometry is None or model.transformer is None:
        lacking = "geometry" if model.geometry is None else "transformer"
        raise ValueError(f"model.{lacking} is null; {command} needs the sizes that conf/model/*.yaml give")
    return model.geometry, model.transformer


def layout_of(model: ModelConfig, geometry: GeometryConfig, text_tokens: int | None) -> TokenLayout:
    """Return the layout of one self-attention sequence.

    Args:
        model: Size of the video, and the most text tokens.
        geometry: How a video becomes tokens.
        text_tokens: Of the prompt; None: as many as the model takes.

    Raises:
        ValueError: If the model does not take videos or prompts of this size.
    """
    for name, pixels in (("height", model.height), ("width", model.width)):
        if pixels % geometry.size_multiple:
            nearest = max(1, round(pixels / geometry.size_multiple)) * geometry.size_multiple
            raise ValueError(
                f"model.{name} is {pixels}; this model takes multiples of {geometry.size_multiple}, such as {nearest}"
            )
    stride = geometry.frames_per_latent
    if (model.num_frames - 1) % stride:
        nearest = max(0, round((model.num_frames - 1) / stride)) * stride + 1
        raise ValueError(
            f"model.num_frames is {model.num_frames}; this model takes {stride}k + 1 frames, such as {nearest}"
        )
    latents = (model.num_frames - 1) // stride + 1
    frames = -(-latents // geometry.latents_per_token)
    tokens = (model.height // geometry.pixels_per_token) * (model.width // geometry.pixels_per_token)
    if geometry.text == "none":
        if text_tokens:
            raise ValueError(
                f"text_tokens is {text_tokens}; this model's text stands in no self-attention, set it to null"
            )
        return TokenLayout(frames, tokens)
    most = model.max_sequence_length
    if most is None:
        raise ValueError("model.max_sequence_length is null; experiments.plan needs it where text is in self-attention")
    most = max(0, most - geometry.cut_text_tokens)
    if text_tokens is not None and text_tokens > most:
        raise ValueError(f"text_tokens is {text_tokens}; model.max_sequence_length allows {most} at most")
    place: Literal["first", "last"] = "first" if geometry.text == "first" else "last"
    text = geometry.image_tokens + (most if text_tokens is None else text_tokens)
    return TokenLayout(frames, tokens, text, place)


def grid_of(model: ModelConfig, transformer: TransformerConfig) -> list[float]:
    """Return the scheduler's timesteps, step by step."""
    shift = transformer.flow_shift if model.flow_shift is None else model.flow_shift
    return timesteps(transformer.timesteps, model.num_inference_steps, shift)


def timesteps_of(model: ModelConfig, transformer: TransformerConfig) -> list[float]:
    """Return what the transformer is given, step by step, in the type in which its pipeline hands it on."""
    grid = grid_of(model, transformer)
    if not transformer.rounds_timesteps:
        return grid
    return [float(value) for value in torch.tensor(grid).to(getattr(torch, model.dtype))]


def size_of(model: ModelConfig, transformer: TransformerConfig) -> TransformerSize:
    """Return what the operations of one forward are counted from.

    Raises:
        ValueError: If the model's settings do not say how many tokens its cross-attention looks at.
    """
    cross_tokens = 0
    if transformer.cross_dim is not None:
        if model.max_sequence_length is None:
            raise ValueError("model.max_sequence_length is null; experiments.plan needs it for cross-attention")
        cross_tokens = model.max_sequence_length + transformer.num_image_tokens
    width = transformer.num_heads * transformer.head_dim
    return TransformerSize(
        num_layers=transformer.num_layers,
        width=width,
        ffn_dim=transformer.ffn_dim,
        cross_dim=transformer.cross_dim,
        num_cross_tokens=cross_tokens,
        num_single_layers=transformer.diffusers.get("num_single_layers", 0),
        is_fp8=model.linear_precision == "fp8",
    )


def _density(method: Any, layout: TokenLayout) -> Density | None:
    """Return the mean over the patterns that heads may take; None where the method says nothing of them."""
    if not hasattr(method, "patterns"):
        return None
    patterns = method.patterns(layout)
    kept = [(p.mask.token_density, p.mask.tile_density) if p.mask is not None else (1.0, 1.0) for p in patterns]
    token, tile = (sum(values) / len(patterns) for values in zip(*kept, strict=True))
    block = sum(1.0 if p.mask is None else p.mask.block_density for p in patterns) / len(patterns)
    # Masks of their own are whole tiles, as many as those of the patterns compute.
    return Density(token, tile, block) if _shares_masks(method) else Density(tile, tile, block)


def _plan_mib(method: Any, layout: TokenLayout, num_heads: int) -> float:
    patterns = method.patterns(layout)
    if _shares_masks(method):
        return plan_bytes(patterns) / MIB
    return num_heads * plan_bytes(patterns[:1]) / MIB


def _shares_masks(method: Any) -> bool:
    return getattr(method, "shares_masks", True)
