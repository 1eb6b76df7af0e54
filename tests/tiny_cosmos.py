"""A tiny random Cosmos pipeline of the real diffusers classes, built without a download."""

from __future__ import annotations

import torch

from tests.tiny_pipelines import tiny_tokenizer


def tiny_cosmos_pipeline(num_layers: int = 2, seed: int = 0):
    """Return a random CosmosTextToWorldPipeline without a guardrail: 2 heads x 16 channels, VAE 8x8x8."""
    from diffusers import (
        AutoencoderKLCosmos,
        CosmosTextToWorldPipeline,
        CosmosTransformer3DModel,
        EDMEulerScheduler,
    )
    from transformers import T5Config, T5EncoderModel

    from svg.models.cosmos import NoGuardrail

    torch.manual_seed(seed)
    vae = AutoencoderKLCosmos(
        latent_channels=4,
        encoder_block_out_channels=(8, 8, 8, 8),
        decode_block_out_channels=(8, 8, 8, 8),
        attention_resolutions=(8,),
        resolution=64,
        num_layers=1,
        patch_size=4,
        spatial_compression_ratio=8,
        temporal_compression_ratio=8,
        latents_mean=[0.1] * 4 * 8,
        latents_std=[0.5] * 4 * 8,
    )
    transformer = CosmosTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=num_layers,
        mlp_ratio=2,
        text_embed_dim=32,
        adaln_lora_dim=4,
        max_size=(8, 32, 32),
        patch_size=(1, 2, 2),
        rope_scale=(2.0, 1.0, 1.0),
        concat_padding_mask=True,
        extra_pos_embed_type="learnable",
    )
    encoder = T5EncoderModel(T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4))
    pipeline = CosmosTextToWorldPipeline(
        text_encoder=encoder.eval(),
        tokenizer=tiny_tokenizer(),
        transformer=transformer.eval(),
        vae=vae.eval(),
        scheduler=EDMEulerScheduler(final_sigmas_type="sigma_min"),
        safety_checker=NoGuardrail(),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
