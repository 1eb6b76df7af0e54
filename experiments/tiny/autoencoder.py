"""The embedded model's video autoencoder: Wan's architecture at 4 x 4 x 2, trained on the little world."""

from __future__ import annotations

import math
import time

import torch
from diffusers import AutoencoderKLWan
from torch import nn

from experiments.tiny import clips
from experiments.tiny.budget import Budget, report

LATENT_CHANNELS, SPATIAL, TEMPORAL = 16, 4, 2
LATENT_FRAMES = (clips.NUM_FRAMES - 1) // TEMPORAL + 1
WINDOW, BATCH, LEARNING_RATE = 9, 8, 6e-4


def build(seed: int = 0, base_dim: int = 24) -> AutoencoderKLWan:
    """Return an untrained autoencoder whose convolutions keep the scale of what passes through them.

    With diffusers' own initialisation it stays grey for minutes: fan-in initialisation, small residual branches and a
    log-variance that starts at -6 are worth 10 dB at equal time.
    """
    torch.manual_seed(seed)
    vae = AutoencoderKLWan(
        base_dim=base_dim,
        z_dim=LATENT_CHANNELS,
        dim_mult=[1, 2, 4],
        num_res_blocks=2,
        temperal_downsample=[False, True],
        latents_mean=[0.0] * LATENT_CHANNELS,
        latents_std=[1.0] * LATENT_CHANNELS,
        scale_factor_temporal=TEMPORAL,
        scale_factor_spatial=SPATIAL,
    )
    for module in vae.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)
    with torch.no_grad():
        for name, module in vae.named_modules():
            if name.endswith((".conv2", ".proj")):
                module.weight.mul_(0.2)
        vae.decoder.conv_out.weight.mul_(0.2)
        vae.quant_conv.weight[LATENT_CHANNELS:].mul_(0.1)
        vae.quant_conv.bias[LATENT_CHANNELS:].fill_(-6.0)
    return vae


def reconstruct(vae: AutoencoderKLWan, video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Encode, sample and decode with gradients, without the clamp that ``decode`` ends in.

    Args:
        vae: The autoencoder.
        video: ``(batch, 3, frames, height, width)`` in [-1, 1], 4n + 1 frames.

    Returns:
        The reconstruction, and the posterior's mean and log-variance.
    """
    mean, log_variance = vae._encode(video).float().chunk(2, dim=1)
    log_variance = log_variance.clamp(-20, 10)
    latents = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
    vae.clear_cache()
    hidden, frames = vae.post_quant_conv(latents), []
    for index in range(hidden.shape[2]):
        vae._conv_idx = [0]
        chunk = hidden[:, :, index : index + 1]
        frames.append(vae.decoder(chunk, feat_cache=vae._feat_map, feat_idx=vae._conv_idx, first_chunk=index == 0))
    vae.clear_cache()
    return torch.cat(frames, 2).float(), mean, log_variance


def train(vae: AutoencoderKLWan, seconds: float, device: torch.device, seed: int = 0, pool_size: int = 1536) -> None:
    """Train for ``seconds`` on windows of clips drawn beforehand, in bf16 on a GPU."""
    vae.to(device).train()
    pool = draw_pool(pool_size, seed, device)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.999), weight_decay=1e-4)
    budget, generator = Budget(seconds), torch.Generator(device).manual_seed(seed)
    step = 0
    while not budget.is_spent:
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / 50) * max(0.02, 0.5 + 0.5 * math.cos(math.pi * budget.share))
        video = windows(pool, generator)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            output, mean, log_variance = reconstruct(vae, video)
        error = output - video
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        loss = error.abs().mean() + 4 * error.square().mean() + 1e-5 * divergence
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0:
            mse = (error.clamp(-2, 2) / 2).square().mean().item()
            report(budget, "autoencoder", step, loss=loss.item(), psnr_db=-10 * math.log10(mse))
        step += 1
    vae.eval()


def draw_pool(count: int, seed: int, device: torch.device) -> torch.Tensor:
    """Return ``count`` clips as uint8 ``(count, 3, frames, height, width)`` on the device."""
    scenes = clips.scenes(seed, count)
    parts = [clips.draw(scenes[at : at + 16], seed + at, device) for at in range(0, count, 16)]
    return torch.cat([(part * 255).round().to(torch.uint8) for part in parts])


def windows(pool: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return a batch of windows of ``WINDOW`` frames in [-1, 1]."""
    index = torch.randint(len(pool), (BATCH,), generator=generator, device=pool.device)
    start = int(torch.randint(pool.shape[2] - WINDOW + 1, (1,), generator=generator, device=pool.device))
    return pool[index, :, start : start + WINDOW].float() / 127.5 - 1


@torch.no_grad()
def encode(vae: AutoencoderKLWan, pool: torch.Tensor, batch: int = 16) -> torch.Tensor:
    """Return posterior means of uint8 clips, bf16 ``(clips, channels, LATENT_FRAMES, height / 4, width / 4)``."""
    with torch.autocast(pool.device.type, torch.bfloat16, enabled=pool.device.type == "cuda"):
        parts = [
            vae._encode(pool[at : at + batch].float() / 127.5 - 1)[:, :LATENT_CHANNELS].to(torch.bfloat16)
            for at in range(0, len(pool), batch)
        ]
    return torch.cat(parts)


@torch.no_grad()
def measure_psnr(vae: AutoencoderKLWan, count: int, seed: int, device: torch.device) -> list[float]:
    """Return the reconstruction PSNR in dB of ``count`` clips drawn with ``seed``, one by one, in float32."""
    scores = []
    for index, scene in enumerate(clips.scenes(seed, count)):
        video = clips.draw([scene], seed + index, device)
        latents = vae.encode(video * 2 - 1).latent_dist.mode()
        output = vae.decode(latents).sample / 2 + 0.5
        scores.append(-10 * math.log10((output - video).square().mean().item()))
    return scores


def build_bank(vae: AutoencoderKLWan, count: int, seed: int, device: torch.device) -> tuple[torch.Tensor, list[str]]:
    """Draw and encode ``count`` clips; return their latents and captions."""
    started, latents, captions = time.perf_counter(), [], []
    for at in range(0, count, 512):
        part = min(512, count - at)
        latents.append(encode(vae, draw_pool(part, seed + at, device)))
        captions += [scene.caption for scene in clips.scenes(seed + at, part)]
    print(f"bank: {count} clips encoded in {time.perf_counter() - started:.0f} s", flush=True)
    return torch.cat(latents), captions
