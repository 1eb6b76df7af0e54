"""The embedded model's transformer and text encoder, trained together by flow matching on encoded clips."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable

import torch
from diffusers import WanTransformer3DModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from experiments.tiny import clips, resume
from experiments.tiny.autoencoder import LATENT_CHANNELS, LATENT_FRAMES
from experiments.tiny.budget import Budget, report
from experiments.tiny.ranks import RANK_SEEDS, Ranks
from experiments.tiny.resume import Progress

TEXT_WIDTH, TEXT_LENGTH, LONG_TEXT_LENGTH = 128, 32, 512
LEARNING_RATE, MUON_RATE, WARMUP_STEPS, CAPTION_DROPOUT, EMA_DECAY = 1.5e-3, 3e-3, 200, 0.1, 0.9993
SHIFT = 3.0
# Between two saved states: what a killed training loses at most.
SAVE_EVERY_S = 120
# Colours and shapes are learnt on short prefixes, cheaply, motion on whole clips: (until share of time, frames, batch).
STAGES: tuple[tuple[float, int, int], ...] = ((0.14, 5, 64), (0.24, 9, 32), (1.0, LATENT_FRAMES, 16))


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return the word-level tokenizer of the caption grammar; every text ends in ``</s>``."""
    words = ["<pad>", "</s>", "<unk>", *clips.vocabulary()]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )


def build_text_encoder(vocab_size: int) -> UMT5EncoderModel:
    """Return an untrained UMT5 encoder: 2 layers, 4 heads x 32, width 128."""
    return UMT5EncoderModel(
        UMT5Config(
            vocab_size=vocab_size,
            d_model=TEXT_WIDTH,
            d_kv=32,
            d_ff=256,
            num_layers=2,
            num_heads=4,
            relative_attention_num_buckets=16,
            relative_attention_max_distance=32,
            dropout_rate=0.0,
            pad_token_id=0,
            eos_token_id=1,
        )
    )


def build_transformer(num_layers: int = 6, num_heads: int = 4, head_dim: int = 64, ffn_dim: int = 1024):
    """Return an untrained WanTransformer3DModel whose residual gates start open and whose output starts at zero."""
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=num_heads,
        attention_head_dim=head_dim,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        text_dim=TEXT_WIDTH,
        freq_dim=256,
        ffn_dim=ffn_dim,
        num_layers=num_layers,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=64,
    )
    with torch.no_grad():
        for block in transformer.blocks:
            block.scale_shift_table[:, (2, 5)] = 1.0
        transformer.proj_out.weight.zero_()
        transformer.proj_out.bias.zero_()
    return transformer


class TextToLatents(nn.Module):
    """Text encoder and transformer as one trainable thing, with an exponential moving average of both."""

    def __init__(self, text_encoder: UMT5EncoderModel, transformer: WanTransformer3DModel) -> None:
        super().__init__()
        self.text_encoder, self.transformer = text_encoder, transformer

    def encode(self, tokens: torch.Tensor, length: int) -> torch.Tensor:
        """Encode token rows as the pipeline does: padding zeroed, to ``length`` positions."""
        mask = tokens != 0
        hidden = self.text_encoder(tokens, attention_mask=mask.long()).last_hidden_state
        return nn.functional.pad(hidden * mask[..., None], (0, 0, 0, length - tokens.shape[1]))


def token_table(tokenizer: PreTrainedTokenizerFast, captions: list[str]) -> torch.Tensor:
    """Return token ids ``(captions + 1, TEXT_LENGTH)``; the last row is the empty caption."""
    encoded = tokenizer([*captions, ""], padding="max_length", max_length=TEXT_LENGTH, truncation=True)
    return torch.tensor(encoded["input_ids"])


def optimizers(model: TextToLatents, progress: Progress, device: torch.device) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices of the transformer's blocks, then AdamW for everything else.

    On a CPU, where Muon's bf16 products take half a minute a step, AdamW is all there is.
    """
    matrices = {
        f"transformer.blocks.{name}": parameter
        for name, parameter in model.transformer.blocks.named_parameters()
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
    model: TextToLatents,
    latents: torch.Tensor,
    tokens: torch.Tensor,
    budget: Budget,
    progress: Progress,
    stages: tuple[tuple[float, int, int], ...],
    save: Callable[[dict[str, torch.Tensor]], None],
    seed: int = 0,
    ranks: Ranks | None = None,
) -> dict[str, torch.Tensor]:
    """Train until this piece of the budget is spent.

    Args:
        model: What is trained, in place.
        latents: The bank, normalised to mean 0 and deviation 1, ``(clips, channels, frames, height, width)``.
        tokens: ``token_table`` of the bank's captions.
        budget: The whole budget; learning rate and stage follow its spent share.
        progress: Of earlier pieces; updated.
        stages: ``STAGES``, or some of them.
        save: Called with the averaged weights every ``SAVE_EVERY_S`` seconds and at the end, the progress up to date.
        seed: Seed of batches, noise and times.
        ranks: The processes that train together, each on a batch of its own.

    Returns:
        The weights by name, averaged over this piece.
    """
    device, ranks = latents.device, ranks or Ranks()
    model.to(device).train()
    named = dict(model.named_parameters())
    steppers = optimizers(model, progress, device)
    rates = [stepper.defaults["lr"] for stepper in steppers]
    average = {name: parameter.detach().float().clone() for name, parameter in named.items()}
    start = seed + progress.step + ranks.rank * RANK_SEEDS
    generator = torch.Generator(device).manual_seed(start)
    lengths = random.Random(seed + progress.step)
    running, first_step, next_save = None, progress.step, SAVE_EVERY_S
    heads, head_dim = model.transformer.config.num_attention_heads, model.transformer.config.attention_head_dim
    frames, batch = stages[-1][1:]
    seq_len = frames * latents.shape[3] * latents.shape[4] // math.prod(model.transformer.config.patch_size)
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
        rows = tokens[torch.where(is_dropped, len(latents), index)]
        # Long padding now and then teaches the transformer to look past it: the pipeline pads to 512 by default.
        length = LONG_TEXT_LENGTH if frames == LATENT_FRAMES and lengths.random() < 0.2 else TEXT_LENGTH
        sigma = torch.randn(batch, generator=generator, device=device).sigmoid()
        sigma = SHIFT * sigma / (1 + (SHIFT - 1) * sigma)
        noise = torch.randn(clean.shape, generator=generator, device=device)
        mix = sigma.view(-1, 1, 1, 1, 1)
        with (
            torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"),
            sdpa_kernel(order, set_priority=True),
        ):
            velocity = model.transformer(
                hidden_states=(1 - mix) * clean + mix * noise,
                timestep=sigma * 1000,
                encoder_hidden_states=model.encode(rows, length),
                return_dict=False,
            )[0]
        loss = (velocity.float() - (noise - clean)).square().mean()
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
