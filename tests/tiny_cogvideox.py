"""Tiny random CogVideoX pipelines of the real diffusers classes, built without a download."""

from __future__ import annotations

import torch

from tests.tiny_pipelines import tiny_tokenizer


def tiny_cogvideox_pipeline(num_layers: int = 2, seed: int = 0, **settings):
    """Return a random CogVideoXPipeline of version 1.5: 2 heads x 16 channels, two latent frames a token."""
    from diffusers import CogVideoXPipeline

    torch.manual_seed(seed)
    pipeline = CogVideoXPipeline(**_parts(num_layers, in_channels=4, **settings))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tiny_cogvideox_i2v_pipeline(num_layers: int = 2, seed: int = 0, **settings):
    """Return a random CogVideoXImageToVideoPipeline of version 1.5, which takes an offset embedding too."""
    from diffusers import CogVideoXImageToVideoPipeline

    torch.manual_seed(seed)
    settings = {"in_channels": 8, "ofs_embed_dim": 8} | settings
    pipeline = CogVideoXImageToVideoPipeline(**_parts(num_layers, **settings))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _parts(num_layers: int, **settings) -> dict:
    from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXTransformer3DModel
    from transformers import T5Config, T5EncoderModel

    blocks = 4
    vae = AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * blocks,
        up_block_types=("CogVideoXUpBlock3D",) * blocks,
        block_out_channels=(8,) * blocks,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=4,
    )
    defaults = {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "out_channels": 4,
        "time_embed_dim": 8,
        "text_embed_dim": 32,
        "num_layers": num_layers,
        "sample_width": 16,
        "sample_height": 12,
        "sample_frames": 17,
        "patch_size": 2,
        "patch_size_t": 2,
        "max_text_seq_length": 16,
        "use_rotary_positional_embeddings": True,
        "patch_bias": False,
    }
    transformer = CogVideoXTransformer3DModel(**defaults | settings)
    encoder = T5EncoderModel(T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4))
    return {
        "tokenizer": tiny_tokenizer(),
        "text_encoder": encoder.eval(),
        "transformer": transformer.eval(),
        "vae": vae.eval(),
        "scheduler": CogVideoXDDIMScheduler(
            timestep_spacing="trailing",
            rescale_betas_zero_snr=True,
            prediction_type="v_prediction",
            snr_shift_scale=1.0,
        ),
    }


def picture(height: int = 40, width: int = 48):
    """Return a small picture of two colours."""
    from PIL import Image

    image = Image.new("RGB", (width, height), (20, 30, 90))
    image.paste((220, 40, 30), (width // 4, height // 4, width // 2, height // 2))
    return image
