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


def tiny_hunyuan_video_pipeline(num_layers: int = 1, seed: int = 0):
    """Return a random HunyuanVideoPipeline: 2 heads x 16 channels, dual- and single-stream blocks, VAE 8x8x4."""
    from diffusers import HunyuanVideoPipeline
    from transformers import LlamaModel

    torch.manual_seed(seed)
    parts = tiny_hunyuan_video_parts(num_layers) | {
        "text_encoder": LlamaModel(tiny_llama_config()).eval(),
        "tokenizer": tiny_chat_tokenizer(crop_start=95),
    }
    pipeline = HunyuanVideoPipeline(**parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tiny_hunyuan_video_i2v_pipeline(num_layers: int = 1, seed: int = 0, condition: str = "token_replace"):
    """Return a random HunyuanVideoImageToVideoPipeline, of either way to give it the image.

    Args:
        num_layers: Dual-stream blocks, and as many single-stream ones.
        seed: Of the weights.
        condition: ``"token_replace"``: the image is the first latent frame; ``"latent_concat"``: it stands in channels.
    """
    from diffusers import HunyuanVideoImageToVideoPipeline
    from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    torch.manual_seed(seed)
    # The pipeline wants 576 image tokens, 24 a side.
    vision = CLIPVisionConfig(
        hidden_size=4, projection_dim=4, num_hidden_layers=2, num_attention_heads=2, image_size=48, patch_size=2
    )
    tokenizer = tiny_chat_tokenizer(crop_start=103)
    llava = LlavaConfig(
        vision_config=vision,
        text_config=tiny_llama_config(),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=0,
    )
    size = {"height": 48, "width": 48}
    in_channels = {"token_replace": 4, "latent_concat": 9}[condition]
    parts = tiny_hunyuan_video_parts(num_layers, image_condition_type=condition, in_channels=in_channels) | {
        "text_encoder": LlavaForConditionalGeneration(llava).eval(),
        "tokenizer": tokenizer,
        "image_processor": CLIPImageProcessorPil(size={"shortest_edge": 48}, crop_size=size),
    }
    pipeline = HunyuanVideoImageToVideoPipeline(**parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tiny_hunyuan_video_parts(num_layers: int, **settings) -> dict:
    """Return what both of HunyuanVideo's pipelines consist of; ``settings`` are the transformer's."""
    from diffusers import (
        AutoencoderKLHunyuanVideo,
        FlowMatchEulerDiscreteScheduler,
        HunyuanVideoTransformer3DModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel

    defaults = {
        "in_channels": 4,
        "out_channels": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "num_layers": num_layers,
        "num_single_layers": num_layers,
        "num_refiner_layers": 1,
        "text_embed_dim": 16,
        "pooled_projection_dim": 8,
        "rope_axes_dim": (4, 6, 6),
    }
    vae = AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4
    )
    clip = CLIPTextConfig(
        vocab_size=64,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=8,
        pad_token_id=0,
        bos_token_id=3,
        eos_token_id=1,
    )
    return {
        "transformer": HunyuanVideoTransformer3DModel(**defaults | settings).eval(),
        "vae": vae.eval(),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=7.0),
        "text_encoder_2": CLIPTextModel(clip).eval(),
        "tokenizer_2": tiny_tokenizer(),
    }


def tiny_llama_config():
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=37,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=1024,
        pad_token_id=0,
    )


def tiny_chat_tokenizer(crop_start: int):
    """Return a word-level tokenizer that knows the marks of HunyuanVideo's template.

    Its template, up to the prompt, becomes as many tokens as the pipeline cuts off.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    marks = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<image>"]
    words = ["<pad>", "</s>", "<unk>", *marks, "system", "user", "assistant", "line", "describe"]
    words += ["a", "red", "blue", "circle", "square", "moves", "spins", "left", "right"]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    # Beside the description stand: its beginning and end, three marks a role, the role and its line, and an image.
    filler = crop_start - (13 if crop_start == 103 else 10)
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(Regex("Describe the video by.*in the video:"), "describe " * filler),
            normalizers.Replace(Regex("\\n+"), " line "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([AddedToken(mark, normalized=False) for mark in marks])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", words.index("<|begin_of_text|>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=1024
    )


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
