"""Trains a video autoencoder on the little world, and encodes clips with it."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import nn

from experiments.tiny import clips, resume
from experiments.tiny.budget import Budget, report
from experiments.tiny.family import Family
from experiments.tiny.ranks import RANK_SEEDS, Ranks
from experiments.tiny.resume import Progress

LEARNING_RATE = 6e-4
# Clips of the bank that are drawn and encoded at a time.
BANK_PART = 512


def reconstruct(family: Family, vae: Any, video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Encode, sample and decode with gradients.

    Args:
        family: The autoencoder's.
        vae: The autoencoder.
        video: ``(batch, 3, frames, height, width)`` in [-1, 1], as many frames as the autoencoder takes.

    Returns:
        The reconstruction, and the posterior's mean and log-variance.
    """
    mean, log_variance = family.posterior(vae, video)
    log_variance = log_variance.clamp(-20, 10)
    latents = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
    return family.decode(vae, latents), mean, log_variance


def train(
    family: Family,
    vae: Any,
    budget: Budget,
    pool: torch.Tensor,
    progress: Progress,
    seed: int = 0,
    ranks: Ranks | None = None,
) -> None:
    """Train until this piece of the budget is spent, on windows of the pool's clips, in bf16 on a GPU.

    Args:
        family: The autoencoder's.
        vae: What is trained, in place, on the pool's device.
        budget: The whole budget; learning rate and window follow its spent share.
        pool: ``draw_pool``'s clips.
        progress: Of earlier pieces; updated.
        seed: Seed of windows and noise.
        ranks: The processes that train together, each on a batch of its own.
    """
    device, ranks = pool.device, ranks or Ranks()
    progress.processes = max(progress.processes, ranks.count)
    vae.train()
    named = dict(vae.named_parameters())
    optimizer = resume.adamw(named, progress, lr=LEARNING_RATE, betas=(0.9, 0.999), weight_decay=1e-4)
    start = seed + progress.step + ranks.rank * RANK_SEEDS
    generator = torch.Generator(device).manual_seed(start)
    torch.manual_seed(start)
    while budget.tick():
        for group in optimizer.param_groups:
            cosine = 0.5 + 0.5 * math.cos(math.pi * budget.share)
            group["lr"] = LEARNING_RATE * min(1.0, (progress.step + 1) / 50) * max(0.01, cosine)
        frames = next(frames for until, frames in family.windows if budget.share < until or until == 1.0)
        batch = max(1, family.window_batch * family.windows[0][1] // frames)
        video = windows(pool, batch, frames, generator)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            output, mean, log_variance = reconstruct(family, vae, video)
        error = output - video
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        loss = error.abs().mean() + 10 * error.square().mean() + 1e-5 * divergence
        if family.centres_latents:
            loss = loss + 0.1 * mean.mean((0, 2, 3, 4)).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        ranks.average_gradients(named.values())
        nn.utils.clip_grad_norm_(named.values(), 1.0)
        optimizer.step()
        if progress.step % 200 == 0 and ranks.rank == 0:
            mse = (error.detach().clamp(-2, 2) / 2).square().mean().item()
            report(budget, "autoencoder", progress.step, loss=loss.item(), psnr_db=-10 * math.log10(mse), frames=frames)
        progress.step += 1
    progress.spent, progress.squares = budget.spent, resume.squares(vae, optimizer)
    vae.eval()


def draw_pool(count: int, seed: int, device: torch.device, num_frames: int) -> torch.Tensor:
    """Return ``count`` clips as uint8 ``(count, 3, num_frames, height, width)`` on the device."""
    scenes = clips.scenes(seed, count)
    parts = [clips.draw(scenes[at : at + 16], seed + at, device, num_frames) for at in range(0, count, 16)]
    return torch.cat([(part * 255).round().to(torch.uint8) for part in parts])


def windows(pool: torch.Tensor, batch: int, frames: int, generator: torch.Generator) -> torch.Tensor:
    """Return a batch of windows of so many frames, in [-1, 1]."""
    index = torch.randint(len(pool), (batch,), generator=generator, device=pool.device)
    start = int(torch.randint(pool.shape[2] - frames + 1, (1,), generator=generator, device=pool.device))
    return pool[index, :, start : start + frames].float() / 127.5 - 1


@torch.no_grad()
def encode(family: Family, vae: Any, pool: torch.Tensor, batch: int = 16) -> torch.Tensor:
    """Return a family's latents of uint8 clips, bf16 ``(clips, channels, frames, height, width)``."""
    with torch.autocast(pool.device.type, torch.bfloat16, enabled=pool.device.type == "cuda"):
        parts = [
            family.encode(vae, pool[at : at + batch].float() / 127.5 - 1).to(torch.bfloat16)
            for at in range(0, len(pool), batch)
        ]
    return torch.cat(parts)


@torch.no_grad()
def measure_psnr(family: Family, vae: Any, count: int, seed: int, device: torch.device) -> list[float]:
    """Return the reconstruction PSNR in dB of ``count`` clips drawn with ``seed``, one by one, in float32."""
    scores = []
    for index, scene in enumerate(clips.scenes(seed, count)):
        video = clips.draw([scene], seed + index, device, family.num_frames)
        latents = vae.encode(video * 2 - 1).latent_dist.mode()
        output = vae.decode(latents).sample / 2 + 0.5
        scores.append(-10 * math.log10((output - video).square().mean().item()))
    return scores


def build_bank(
    family: Family, vae: Any, count: int, seed: int, device: torch.device, ranks: Ranks | None = None
) -> tuple[torch.Tensor, list[str]]:
    """Draw and encode ``count`` clips, each process its share of the parts; return all latents and captions."""
    ranks = ranks or Ranks()
    started, latents = time.perf_counter(), []
    part = min(BANK_PART, math.ceil(count / ranks.count))
    # Whole rounds, so that all have as many parts; what is over is cut off.
    starts = range(0, math.ceil(count / (part * ranks.count)) * part * ranks.count, part)
    for at in starts[ranks.rank :: ranks.count]:
        latents.append(encode(family, vae, draw_pool(part, seed + at, device, family.num_frames)))
    captions = [scene.caption for at in starts for scene in clips.scenes(seed + at, part)]
    # (ranks, parts, clips, ...) to the order of the captions: the parts went round the ranks.
    whole = ranks.gather(torch.stack(latents)).transpose(0, 1).flatten(0, 2)
    if ranks.rank == 0:
        print(f"bank: {count} clips encoded in {time.perf_counter() - started:.0f} s", flush=True)
    return whole[:count], captions[:count]
