"""Tiny random pipelines of the real diffusers classes, built without a download."""

from __future__ import annotations

import torch


def tiny_wan_pipeline(num_layers: int = 2, seed: int = 0, boundary_ratio: float | None = None):
    """Return a random WanPipeline: 2 heads x 12 channels, VAE 8x8x4, latents of 16 channels.

    With a boundary ratio it is of Wan 2.2's kind: a second transformer denoises below that share of the timesteps.
    """
    from diffusers import WanPipeline

    torch.manual_seed(seed)
    parts = tiny_wan_parts(num_layers)
    if boundary_ratio is not None:
        parts |= {"transformer_2": tiny_wan_transformer(num_layers), "boundary_ratio": boundary_ratio}
    pipeline = WanPipeline(**parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tiny_wan_i2v_pipeline(num_layers: int = 2, seed: int = 0, boundary_ratio: float | None = None):
    """Return a random WanImageToVideoPipeline: Wan 2.1's, with an image encoder whose tokens have a cross-attention.

    With a boundary ratio it is Wan 2.2's: two transformers, no image encoder. Its image is the first frame in both.
    """
    from diffusers import WanImageToVideoPipeline
    from transformers import CLIPVisionConfig, CLIPVisionModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    torch.manual_seed(seed)
    if boundary_ratio is not None:
        parts = tiny_wan_parts(num_layers, in_channels=36)
        parts |= {"transformer_2": tiny_wan_transformer(num_layers, in_channels=36), "boundary_ratio": boundary_ratio}
    else:
        parts = tiny_wan_parts(num_layers, in_channels=36, image_dim=4, added_kv_proj_dim=24)
        vision = CLIPVisionConfig(
            hidden_size=4, projection_dim=4, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
        )
        size = {"height": 32, "width": 32}
        parts["image_encoder"] = CLIPVisionModel(vision).eval()
        parts["image_processor"] = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=size)
    pipeline = WanImageToVideoPipeline(**parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tiny_wan_parts(num_layers: int, **settings) -> dict:
    """Return what all of Wan's pipelines consist of; ``settings`` are the transformer's."""
    from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler
    from transformers import UMT5Config, UMT5EncoderModel

    vae = AutoencoderKLWan(base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    transformer = tiny_wan_transformer(num_layers, **settings)
    encoder = UMT5EncoderModel(
        UMT5Config(
            vocab_size=64, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4, relative_attention_num_buckets=8
        )
    )
    return {
        "tokenizer": tiny_tokenizer(),
        "text_encoder": encoder.eval(),
        "transformer": transformer,
        "vae": vae.eval(),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=7.0),
    }


def tiny_wan_transformer(num_layers: int, **settings):
    """Return a random transformer of Wan's kind."""
    from diffusers import WanTransformer3DModel

    defaults = {
        "patch_size": (1, 2, 2),
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": 16,
        "out_channels": 16,
        "text_dim": 32,
        "freq_dim": 32,
        "ffn_dim": 32,
        "num_layers": num_layers,
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
        "rope_max_seq_len": 32,
    }
    return WanTransformer3DModel(**defaults | settings).eval()


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
