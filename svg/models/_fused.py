"""Queries and keys finished by one kernel on a GPU, where it knows the model's norm; else by the model's own steps."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

LEAST_HEAD_DIM = 16
# Places of the tokens by pattern, int32 (patterns, seq_len); the pattern of each head, int64 (batch|1, num_heads|1).
Placing = tuple[torch.Tensor, torch.Tensor]


def fused(
    projection: torch.Tensor,
    num_heads: int,
    norm: torch.nn.Module | None,
    rotation: tuple[torch.Tensor, torch.Tensor] | None,
    *,
    is_interleaved: bool = True,
    text: tuple[int, int] = (0, 0),
    text_norm: torch.nn.Module | None = None,
    placing: Placing | None = None,
) -> torch.Tensor | None:
    """Return ``(batch, num_heads, seq_len, head_dim)``, normed and rotated; None where the kernel cannot.

    It rounds once, at the end, where the steps round after each.

    Args:
        projection: ``(batch, seq_len, num_heads * head_dim)``.
        num_heads: Heads.
        norm: Of every token, or of those that are no text where ``text_norm`` is given.
        rotation: Cosines and sines ``(..., tokens, head_dim)``, of all tokens or of those that are no text.
        is_interleaved: Whether channels are paired with their neighbours, else with those half a head further on.
        text: First text token, and the position after the last.
        text_norm: Of text; None: as of every token.
        placing: Where each token goes; None: where it stands.
    """
    head_dim = projection.shape[-1] // num_heads
    if not _is_able(projection) or head_dim < LEAST_HEAD_DIM or head_dim & (head_dim - 1):
        return None
    from svg_kernels import norm_rope

    norms = norm, norm if text_norm is None else text_norm
    known = [_known(one, num_heads, head_dim, projection.device) for one in norms]
    own, of_text = known
    if own is None or of_text is None or own.kind != of_text.kind or (own.weight is None) != (of_text.weight is None):
        return None
    if own.kind == "rms_all" and norms[0] is not norms[1]:
        return None
    tables = None
    if rotation is not None:
        cosine, sine = (table.reshape(-1, head_dim).to(projection.device, torch.float32) for table in rotation)
        tables = cosine.contiguous(), sine.contiguous()
    places, assignment = (None, None) if placing is None else placing
    output, launch = norm_rope.prepare(
        projection,
        num_heads,
        own,
        tables,
        is_interleaved=is_interleaved,
        text=text,
        text_norm=None if text_norm is None or text_norm is norm else of_text,
        places=places,
        assignment=assignment,
    )
    launch.run()
    return output


def _is_able(projection: torch.Tensor) -> bool:
    return (
        projection.is_cuda
        and projection.dtype in (torch.bfloat16, torch.float16)
        and projection.stride(-1) == 1
        and not (torch.is_grad_enabled() and projection.requires_grad)
        and importlib.util.find_spec("triton") is not None
        and torch.cuda.get_device_capability(projection.device) >= (8, 0)
    )


def _known(norm: Any, num_heads: int, head_dim: int, device: torch.device) -> Any:
    """Return a module's norm as the kernel takes it; None where it is of another kind or lies elsewhere."""
    from svg_kernels.norm_rope import Norm

    if norm is None:
        return Norm()
    weight, bias, eps = (getattr(norm, name, None) for name in ("weight", "bias", "eps"))
    if weight is None or eps is None:
        return None
    # Offloaded weights come to the device when the module itself is called.
    if weight.device != device or (bias is not None and bias.device != device):
        return None
    name, size = type(norm).__name__, weight.numel()
    if name == "RMSNorm" and bias is None and size in (head_dim, num_heads * head_dim):
        return Norm("rms_head" if size == head_dim else "rms_all", weight, None, eps)
    if name == "LayerNorm" and bias is not None and size == head_dim:
        return Norm("layer_head", weight, bias, eps)
    return None
