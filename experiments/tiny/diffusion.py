"""The embedded model's transformer and text encoder, trained together by flow matching on encoded clips."""

from __future__ import annotations

import math
import random

import torch
from diffusers import WanTransformer3DModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from experiments.tiny import clips, resume
from experiments.tiny.autoencoder import LATENT_CHANNELS, LATENT_FRAMES
from experiments.tiny.budget import Budget, report
from experiments.tiny.resume import Progress

TEXT_WIDTH, TEXT_LENGTH, LONG_TEXT_LENGTH = 128, 32, 512
LEARNING_RATE, WARMUP_STEPS, CAPTION_DROPOUT, EMA_DECAY = 1.5e-3, 200, 0.1, 0.9993
SHIFT = 3.0
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


def train(
    model: TextToLatents,
    latents: torch.Tensor,
    tokens: torch.Tensor,
    budget: Budget,
    progress: Progress,
    stages: tuple[tuple[float, int, int], ...],
    seed: int = 0,
) -> dict[str, torch.Tensor]:
    """Train until this piece of the budget is spent.

    Args:
        model: What is trained, in place.
        latents: The bank, normalised to mean 0 and deviation 1, ``(clips, channels, frames, height, width)``.
        tokens: ``token_table`` of the bank's captions.
        budget: The whole budget; learning rate and stage follow its spent share.
        progress: Of earlier pieces; updated.
        stages: ``STAGES``, or some of them.
        seed: Seed of batches, noise and times.

    Returns:
        The weights by name, averaged over this piece.
    """
    device = latents.device
    model.to(device).train()
    named = dict(model.named_parameters())
    optimizer = resume.adamw(model, progress, lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.01)
    average = {name: parameter.detach().float().clone() for name, parameter in named.items()}
    generator = torch.Generator(device).manual_seed(seed + progress.step)
    lengths = random.Random(seed + progress.step)
    running, first_step = None, progress.step
    while not budget.is_spent:
        step, share = progress.step, budget.share
        frames, batch = next((frames, batch) for until, frames, batch in stages if share < until or until == 1.0)
        decay = 1.0 if share < 0.35 else 0.5 + 0.5 * math.cos(math.pi * (share - 0.35) / 0.65)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (step - first_step + 1) / WARMUP_STEPS) * max(decay, 0.004)
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
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            velocity = model.transformer(
                hidden_states=(1 - mix) * clean + mix * noise,
                timestep=sigma * 1000,
                encoder_hidden_states=model.encode(rows, length),
                return_dict=False,
            )[0]
        loss = (velocity.float() - (noise - clean)).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(named.values(), 1.0)
        optimizer.step()
        weight = 1 - min(EMA_DECAY, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(average.values()), [p.detach() for p in named.values()], weight)
        running = loss.detach() if running is None else running.lerp(loss.detach(), 0.02)
        if step % 200 == 0:
            report(budget, "diffusion", step, loss=running.item(), frames=frames, lr=optimizer.param_groups[0]["lr"])
        progress.step += 1
    progress.spent, progress.squares = budget.spent, resume.squares(model, optimizer)
    return average
