"""The embedded model's video autoencoder: Wan's architecture at 4 x 4 x 2, trained on the little world."""

from __future__ import annotations

import math
import time
import types

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, WanRMS_norm
from torch import nn

from experiments.tiny import clips, resume
from experiments.tiny.budget import Budget, report
from experiments.tiny.ranks import RANK_SEEDS, Ranks
from experiments.tiny.resume import Progress

LATENT_CHANNELS, SPATIAL, TEMPORAL = 16, 4, 2
LATENT_FRAMES = (clips.NUM_FRAMES - 1) // TEMPORAL + 1
LEARNING_RATE = 6e-4
# Short windows are cheap; long ones teach what the causal convolutions carry along: (until share of time, frames).
WINDOWS = ((0.4, 9), (1.0, 33))
# Clips of the bank that are drawn and encoded at a time.
BANK_PART = 512


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
            if module.bias is not None:
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
        video: ``(batch, 3, frames, height, width)`` in [-1, 1], 2n + 1 frames.

    Returns:
        The reconstruction, and the posterior's mean and log-variance.
    """
    mean, log_variance = _posterior(vae, video)
    log_variance = log_variance.clamp(-20, 10)
    latents = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
    hidden = vae.post_quant_conv(latents)
    cache = [None] * count_causal_convolutions(vae.decoder)
    first = vae.decoder(hidden[:, :, :1], feat_cache=cache, feat_idx=[0], first_chunk=True)
    rest = vae.decoder(hidden[:, :, 1:], feat_cache=cache, feat_idx=[0])
    return torch.cat([first, rest], 2).float(), mean, log_variance


def _posterior(vae: AutoencoderKLWan, video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and log-variance, float32; all frames after the first in one pass, not four by four.

    The network is causal, so its output does not depend on where the passes are cut.
    """
    cache = [None] * count_causal_convolutions(vae.encoder)
    first = vae.encoder(video[:, :, :1], feat_cache=cache, feat_idx=[0])
    rest = vae.encoder(video[:, :, 1:], feat_cache=cache, feat_idx=[0])
    mean, log_variance = vae.quant_conv(torch.cat([first, rest], 2)).float().chunk(2, dim=1)
    return mean, log_variance


def count_causal_convolutions(network: nn.Module) -> int:
    return sum(isinstance(module, WanCausalConv3d) for module in network.modules())


def train(
    vae: AutoencoderKLWan,
    budget: Budget,
    pool: torch.Tensor,
    progress: Progress,
    batch: int = 4,
    seed: int = 0,
    ranks: Ranks | None = None,
) -> None:
    """Train until this piece of the budget is spent, on windows of the pool's clips, in bf16 on a GPU.

    Args:
        vae: What is trained, in place, on the pool's device.
        budget: The whole budget; learning rate and window follow its spent share.
        pool: ``draw_pool``'s clips.
        progress: Of earlier pieces; updated.
        batch: Windows of ``WINDOWS[0]`` frames per step; fewer of longer ones.
        seed: Seed of windows and noise.
        ranks: The processes that train together, each on a batch of its own.
    """
    device, ranks = pool.device, ranks or Ranks()
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
        frames = next(frames for until, frames in WINDOWS if budget.share < until or until == 1.0)
        video = windows(pool, max(1, batch * WINDOWS[0][1] // frames), frames, generator)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            output, mean, log_variance = reconstruct(vae, video)
        error = output - video
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        loss = error.abs().mean() + 10 * error.square().mean() + 1e-5 * divergence
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


def make_fast(vae: AutoencoderKLWan) -> None:
    """Prepare for training on a GPU: convolution weights and activations channels last, each norm one fused kernel."""
    for module in vae.modules():
        for parameter in module.parameters(recurse=False):
            if parameter.dim() in (4, 5) and isinstance(module, nn.Conv2d | nn.Conv3d):
                layout = torch.channels_last if parameter.dim() == 4 else torch.channels_last_3d
                parameter.data = parameter.data.to(memory_format=layout)
        if isinstance(module, WanRMS_norm):
            module.forward = types.MethodType(_fused_norm, module)


def _fused_norm(norm: WanRMS_norm, x: torch.Tensor) -> torch.Tensor:
    with torch.autocast(x.device.type, enabled=False):
        weight = norm.gamma.flatten().to(x.dtype)
        return nn.functional.rms_norm(x.movedim(1, -1), weight.shape, weight, eps=1e-12).movedim(-1, 1)


def draw_pool(count: int, seed: int, device: torch.device) -> torch.Tensor:
    """Return ``count`` clips as uint8 ``(count, 3, frames, height, width)`` on the device."""
    scenes = clips.scenes(seed, count)
    parts = [clips.draw(scenes[at : at + 16], seed + at, device) for at in range(0, count, 16)]
    return torch.cat([(part * 255).round().to(torch.uint8) for part in parts])


def windows(pool: torch.Tensor, batch: int, frames: int, generator: torch.Generator) -> torch.Tensor:
    """Return a batch of windows of so many frames, in [-1, 1]."""
    index = torch.randint(len(pool), (batch,), generator=generator, device=pool.device)
    start = int(torch.randint(pool.shape[2] - frames + 1, (1,), generator=generator, device=pool.device))
    return pool[index, :, start : start + frames].float() / 127.5 - 1


@torch.no_grad()
def encode(vae: AutoencoderKLWan, pool: torch.Tensor, batch: int = 16) -> torch.Tensor:
    """Return posterior means of uint8 clips, bf16 ``(clips, channels, LATENT_FRAMES, height / 4, width / 4)``."""
    with torch.autocast(pool.device.type, torch.bfloat16, enabled=pool.device.type == "cuda"):
        parts = [
            _posterior(vae, pool[at : at + batch].float() / 127.5 - 1)[0].to(torch.bfloat16)
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


def build_bank(
    vae: AutoencoderKLWan, count: int, seed: int, device: torch.device, ranks: Ranks | None = None
) -> tuple[torch.Tensor, list[str]]:
    """Draw and encode ``count`` clips, each process its share of the parts; return all latents and captions."""
    ranks = ranks or Ranks()
    started, latents = time.perf_counter(), []
    part = min(BANK_PART, math.ceil(count / ranks.count))
    # Whole rounds, so that all have as many parts; what is over is cut off.
    starts = range(0, math.ceil(count / (part * ranks.count)) * part * ranks.count, part)
    for at in starts[ranks.rank :: ranks.count]:
        latents.append(encode(vae, draw_pool(part, seed + at, device)))
    captions = [scene.caption for at in starts for scene in clips.scenes(seed + at, part)]
    # (ranks, parts, clips, ...) to the order of the captions: the parts went round the ranks.
    whole = ranks.gather(torch.stack(latents)).transpose(0, 1).flatten(0, 2)
    if ranks.rank == 0:
        print(f"bank: {count} clips encoded in {time.perf_counter() - started:.0f} s", flush=True)
    return whole[:count], captions[:count]
