"""Write the trained parts as a diffusers pipeline folder in bf16, and read them back."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline
from safetensors.torch import load_file, save_file
from torch import nn

from experiments.tiny.diffusion import SHIFT, TextToLatents, build_tokenizer

SHARD_BYTES = 15 * 2**20


def pipeline(vae: AutoencoderKLWan, model: TextToLatents, weights: dict[str, torch.Tensor] | None = None) -> WanPipeline:
    """Return a WanPipeline of copies, rounded to bf16 as they are stored, in float32; ``weights`` replace the model's."""
    model = copy.deepcopy(model)
    if weights is not None:
        model.load_state_dict(weights, strict=False)
    parts = {"vae": copy.deepcopy(vae), "transformer": model.transformer, "text_encoder": model.text_encoder}
    parts = {name: part.eval().to(torch.bfloat16).float() for name, part in parts.items()}
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=SHIFT, num_train_timesteps=1000
    )
    return WanPipeline(tokenizer=build_tokenizer(), scheduler=scheduler, **parts)


def save_pipeline(pipe: WanPipeline, folder: Path) -> None:
    """Save a pipeline in bf16 in diffusers' format; files stay below 16 MiB."""
    stored = copy.deepcopy(pipe).to("cpu", torch.bfloat16)
    stored.save_pretrained(folder, safe_serialization=True, max_shard_size=SHARD_BYTES)


def save_state(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Write tensors as numbered safetensors files below 16 MiB, each atomically, the metadata in every one."""
    path.mkdir(parents=True, exist_ok=True)
    shards: list[dict[str, torch.Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        if size + tensor.nbytes > SHARD_BYTES and shards[-1]:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    for index, shard in enumerate(shards):
        target = path / f"state-{index}.safetensors"
        partial = target.with_suffix(".partial")
        save_file(shard, partial, metadata | {"shards": str(len(shards))})
        os.replace(partial, target)


def load_state(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]] | None:
    """Read what ``save_state`` wrote; None where there is nothing.

    Raises:
        ValueError: If files are missing or belong to different pieces.
    """
    from safetensors import safe_open

    files = sorted(path.glob("state-*.safetensors"))
    if not files:
        return None
    tensors: dict[str, torch.Tensor] = {}
    headers = []
    for file in files:
        with safe_open(file, "pt") as handle:
            headers.append(handle.metadata())
        tensors |= load_file(file)
    if any(header != headers[0] for header in headers) or len(files) != int(headers[0]["shards"]):
        raise ValueError(f"{path} holds a half-written training state; delete it or restore all of its files")
    return tensors, headers[0]


def set_latent_statistics(vae: nn.Module, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Write the bank's mean and deviation per channel into the autoencoder's config; return them, float32."""
    flat = latents.transpose(0, 1).flatten(1)
    mean = torch.stack([channel.float().mean() for channel in flat])
    deviation = torch.stack([channel.float().std() for channel in flat])
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=deviation.tolist())
    return mean, deviation
