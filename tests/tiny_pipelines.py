"""Tiny random pipelines of the real diffusers classes, built without a download."""

from __future__ import annotations

import torch


def tiny_wan_pipeline(num_layers: int = 2, seed: int = 0):
    """Return a random WanPipeline: 2 heads x 12 channels, VAE 8x8x4, latents of 16 channels."""
    from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
    from transformers import UMT5Config, UMT5EncoderModel

    torch.manual_seed(seed)
    vae = AutoencoderKLWan(base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        text_dim=32,
        freq_dim=32,
        ffn_dim=32,
        num_layers=num_layers,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    )
    encoder = UMT5EncoderModel(
        UMT5Config(
            vocab_size=64, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4, relative_attention_num_buckets=8
        )
    )
    pipeline = WanPipeline(
        tokenizer=tiny_tokenizer(),
        text_encoder=encoder.eval(),
        transformer=transformer.eval(),
        vae=vae.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tiny_tokenizer():
    """Return a word-level tokenizer of a few words, in the class that pipelines accept."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "</s>", "<unk>", "a", "red", "blue", "circle", "square", "moves", "spins", "left", "right"]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=64
    )


def generate(pipeline, seed: int = 0, **settings) -> torch.Tensor:
    """Return a short video ``(1, frames, channels, height, width)`` from an explicit generator."""
    settings = {
        "prompt": "a red circle moves right",
        "negative_prompt": "",
        "height": 32,
        "width": 48,
        "num_frames": 9,
        "num_inference_steps": 3,
        "guidance_scale": 4.0,
        "max_sequence_length": 16,
        "output_type": "pt",
    } | settings
    return pipeline(generator=torch.Generator().manual_seed(seed), **settings).frames
