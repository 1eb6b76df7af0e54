"""Trains a transformer and its text encoders together on encoded clips."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from experiments.tiny import resume
from experiments.tiny.budget import Budget, report
from experiments.tiny.family import Batch, Family, blocks
from experiments.tiny.ranks import RANK_SEEDS, Ranks
from experiments.tiny.resume import Progress

LEARNING_RATE, MUON_RATE, WARMUP_STEPS, CAPTION_DROPOUT, EMA_DECAY = 1.5e-3, 3e-3, 200, 0.1, 0.9993
# Between two saved states: what a killed training loses at most.
SAVE_EVERY_S = 120


def optimizers(model: Any, progress: Progress, device: torch.device) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices of the transformer's blocks, then AdamW for everything else.

    On a CPU, where Muon's bf16 products take half a minute a step, AdamW is all there is.
    """
    matrices = {
        f"transformer.{place}.{name}": parameter
        for place, block in blocks(model.transformer).items()
        for name, parameter in block.named_parameters()
        if parameter.ndim == 2 and device.type != "cpu"
    }
    rest = {name: parameter for name, parameter in model.named_parameters() if name not in matrices}
    adamw = resume.adamw(rest, progress, lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.01)
    if not matrices:
        return [adamw]
    return [torch.optim.Muon(matrices.values(), MUON_RATE, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"), adamw]


def attention_order(shape: tuple[int, int, int, int], device: torch.device) -> list[SDPBackend]:
    """Return torch's attention kernels, the fastest on this device for training first.

    Args:
        shape: Of a query, ``(batch, num_heads, seq_len, head_dim)``.
        device: What training runs on; elsewhere than on a GPU nothing is timed.
    """
    order = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    if device.type != "cuda":
        return order
    # As the blocks hand them over: heads next to head_dim in memory.
    batch, num_heads, seq_len, head_dim = shape
    tensors = [
        torch.randn(batch, seq_len, num_heads, head_dim, device=device, dtype=torch.bfloat16, requires_grad=True)
        for _ in range(3)
    ]
    times = {}
    for kernel in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):
        try:
            with sdpa_kernel(kernel):
                for repetition in range(8):
                    if repetition == 3:
                        torch.cuda.synchronize(device)
                        started = time.perf_counter()
                    query, key, value = (x.transpose(1, 2) for x in tensors)
                    nn.functional.scaled_dot_product_attention(query, key, value).sum().backward()
                torch.cuda.synchronize(device)
                times[kernel] = time.perf_counter() - started
        except RuntimeError as error:
            print(f"{kernel.name} cannot train here: {error}", flush=True)
    fastest = sorted(times, key=times.__getitem__)
    print("attention:", ", ".join(f"{kernel.name} {times[kernel] / 5 * 1e3:.1f} ms" for kernel in fastest), flush=True)
    return [*fastest, *(kernel for kernel in order if kernel not in fastest)]


def train(
    family: Family,
    model: Any,
    latents: torch.Tensor,
    tokens: dict[str, torch.Tensor],
    budget: Budget,
    progress: Progress,
    stages: tuple[tuple[float, int, int], ...],
    save: Callable[[dict[str, torch.Tensor]], None],
    seed: int = 0,
    ranks: Ranks | None = None,
) -> dict[str, torch.Tensor]:
    """Train until this piece of the budget is spent.

    Args:
        family: The model's.
        model: The family's parts, trained in place.
        latents: The bank, normalised to mean 0 and deviation 1, ``(clips, channels, frames, height, width)``.
        tokens: The family's, of the bank's captions and, last, of no caption.
        budget: The whole budget; learning rate and stage follow its spent share.
        progress: Of earlier pieces; updated.
        stages: The family's, or some of them.
        save: Called with the averaged weights every ``SAVE_EVERY_S`` seconds and at the end, the progress up to date.
        seed: Seed of batches, noise and times.
        ranks: The processes that train together, each on a batch of its own.

    Returns:
        The weights by name, averaged over this piece.
    """
    device, ranks = latents.device, ranks or Ranks()
    progress.processes = max(progress.processes, ranks.count)
    model.to(device).train()
    named = dict(model.named_parameters())
    steppers = optimizers(model, progress, device)
    rates = [stepper.defaults["lr"] for stepper in steppers]
    average = {name: parameter.detach().float().clone() for name, parameter in named.items()}
    start = seed + progress.step + ranks.rank * RANK_SEEDS
    generator = torch.Generator(device).manual_seed(start)
    numbers = random.Random(seed + progress.step)
    running, first_step, next_save = None, progress.step, SAVE_EVERY_S
    heads, head_dim = model.transformer.config.num_attention_heads, model.transformer.config.attention_head_dim
    frames, batch = stages[-1][1:]
    seq_len = frames * latents.shape[3] * latents.shape[4] // math.prod(family.patch)
    order = attention_order((batch, heads, seq_len, head_dim), device)

    def pause() -> None:
        progress.spent, progress.squares = budget.spent, resume.squares(model, steppers[-1])
        save(average)

    while budget.tick():
        step, share = progress.step, budget.share
        frames, batch = next((frames, batch) for until, frames, batch in stages if share < until or until == 1.0)
        decay = 1.0 if share < 0.35 else 0.5 + 0.5 * math.cos(math.pi * (share - 0.35) / 0.65)
        pace = min(1.0, (step - first_step + 1) / WARMUP_STEPS) * max(decay, 0.004)
        for stepper, rate in zip(steppers, rates, strict=True):
            for group in stepper.param_groups:
                group["lr"] = rate * pace
        index = torch.randint(len(latents), (batch,), generator=generator, device=device)
        clean = latents[index, :, :frames].float()
        is_dropped = torch.rand(batch, generator=generator, device=device) < CAPTION_DROPOUT
        rows = torch.where(is_dropped, len(latents), index)
        data = Batch(
            clean,
            {name: table[rows] for name, table in tokens.items()},
            {name: table[-1:] for name, table in tokens.items()},
            is_dropped,
            share,
            generator,
            numbers,
        )
        with (
            torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"),
            sdpa_kernel(order, set_priority=True),
        ):
            loss = family.loss(model, data)
        model.zero_grad(set_to_none=True)
        loss.backward()
        ranks.average_gradients(named.values())
        nn.utils.clip_grad_norm_(named.values(), 1.0)
        for stepper in steppers:
            stepper.step()
        weight = 1 - min(EMA_DECAY, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(average.values()), [p.detach() for p in named.values()], weight)
        running = loss.detach() if running is None else running.lerp(loss.detach(), 0.02)
        if step % 200 == 0 and ranks.rank == 0:
            report(budget, "diffusion", step, loss=running.item(), frames=frames, pace=pace)
        progress.step += 1
        if budget.elapsed > next_save:
            next_save += SAVE_EVERY_S
            pause()
    pause()
    return average
