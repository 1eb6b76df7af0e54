"""Write the trained parts as a diffusers pipeline folder in bf16."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline
from transformers import PreTrainedTokenizerFast

from experiments.tiny.diffusion import SHIFT, TextToLatents
from experiments.tiny.resume import SHARD_BYTES


def pipeline(
    vae: AutoencoderKLWan,
    model: TextToLatents,
    tokenizer: PreTrainedTokenizerFast,
    weights: dict[str, torch.Tensor] | None = None,
) -> WanPipeline:
    """Return a float32 WanPipeline of copies rounded to bf16, as they are stored; ``weights`` replace the model's."""
    model = copy.deepcopy(model)
    if weights is not None:
        model.load_state_dict(weights, strict=False)
    parts = {"vae": copy.deepcopy(vae), "transformer": model.transformer, "text_encoder": model.text_encoder}
    parts = {name: part.eval().to(torch.bfloat16).float() for name, part in parts.items()}
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=SHIFT, num_train_timesteps=1000
    )
    return WanPipeline(tokenizer=tokenizer, scheduler=scheduler, **parts)


def save_pipeline(pipe: WanPipeline, folder: Path) -> None:
    """Save a pipeline in bf16 in diffusers' format; files stay below 16 MiB."""
    stored = copy.deepcopy(pipe).to("cpu", torch.bfloat16)
    stored.save_pretrained(folder, safe_serialization=True, max_shard_size=SHARD_BYTES)


def set_latent_statistics(vae: Any, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Write the bank's mean and deviation per channel into the autoencoder's config; return them, float32."""
    flat = latents.transpose(0, 1).flatten(1)
    mean = torch.stack([channel.float().mean() for channel in flat])
    deviation = torch.stack([channel.float().std() for channel in flat])
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=deviation.tolist())
    return mean, deviation
