"""A step that is timed gets what the stock pipeline gives its transformer, and is the transformer of its settings."""

from __future__ import annotations

import pytest
import torch

from experiments.forecasting import layout_of, size_of
from experiments.generation import Generator
from experiments.one_step import build_transformer, latent_size
from experiments.random_steps import Request, family_of
from svg import backends
from svg.cost.flops import forward_flops
from svg.methods.dense import Dense
from svg.models import adapter_named, known_pipelines
from svg.models.cosmos import resize_without_torchvision
from svg.prompts import Prompt
from tests.experiments.conftest import composed
from tests.tiny_cogvideox import picture, tiny_cogvideox_i2v_pipeline, tiny_cogvideox_pipeline
from tests.tiny_cosmos import tiny_cosmos_pipeline
from tests.tiny_pipelines import (
    tiny_hunyuan_video_i2v_pipeline,
    tiny_hunyuan_video_pipeline,
    tiny_wan_i2v_pipeline,
    tiny_wan_pipeline,
)

pytestmark = pytest.mark.slow

SIZE = ["model.height=64", "model.width=96", "model.num_frames=17", "model.dtype=float32", "model.vae_dtype=null"]
SHORT = ["model.max_sequence_length=16"]
PIPELINES = {
    "wan_t2v_14b": (tiny_wan_pipeline, SHORT),
    "wan_i2v_14b_720p": (
        tiny_wan_i2v_pipeline,
        ["model.size_from_image=false", "model.transformer.num_image_tokens=17"],
    ),
    "hunyuan_video_t2v": (tiny_hunyuan_video_pipeline, SHORT),
    "hunyuan_video_i2v": (tiny_hunyuan_video_i2v_pipeline, [*SHORT, "model.size_from_image=false"]),
    "cogvideox1_5_t2v": (tiny_cogvideox_pipeline, SHORT),
    "cogvideox1_5_i2v": (tiny_cogvideox_i2v_pipeline, SHORT),
    "cosmos_t2w_7b": (tiny_cosmos_pipeline, SHORT),
}
# Decided by the size of the video and by settings, not by the prompt or the weights.
EXACT = ("guidance", "ofs", "padding_mask", "fps", "image_rotary_emb", "attention_kwargs", "return_dict")
# Billions of parameters of each checkpoint's transformer.
BILLIONS = {
    "wan_t2v_1_3b": 1.42,
    "wan_t2v_14b": 14.3,
    "wan2_2_t2v_a14b": 14.3,
    "wan_i2v_14b_480p": 16.4,
    "wan_i2v_14b_720p": 16.4,
    "hunyuan_video_t2v": 12.8,
    "hunyuan_video_i2v": 12.8,
    "cogvideox1_5_t2v": 5.6,
    "cogvideox1_5_i2v": 5.6,
    "cosmos_t2w_7b": 7.2,
    "cosmos_t2w_14b": 14.2,
}


def described(value):
    """Return what must agree of a keyword argument: the tensors' shapes and types; anything else itself."""
    if isinstance(value, torch.Tensor):
        return tuple(value.shape), value.dtype
    return [described(item) for item in value] if isinstance(value, tuple) else value


@pytest.mark.parametrize("name", PIPELINES)
def test_a_step_gets_what_the_stock_pipeline_gives(name, tmp_path):
    make, overrides = PIPELINES[name]
    pipeline, model = make(), composed(f"model={name}", *SIZE, *overrides).model
    given = []

    def before_forward(module, args, kwargs):
        assert not args
        given.append(kwargs)

    picture(64, 96).save(tmp_path / "picture.png")
    image = str(tmp_path / "picture.png") if "i2v" in name else None
    hook = pipeline.transformer.register_forward_pre_hook(before_forward, with_kwargs=True)
    sdpa = backends.get("sdpa")
    prompt, generate = Prompt("p", "a red circle moves right", image), Generator(pipeline, model, torch.device("cpu"))
    generate(prompt, 0, Dense(), sdpa, sdpa, num_inference_steps=1, decodes=False)
    hook.remove()
    layout = adapter_named(model.pipeline).layout(pipeline.transformer, given[0])
    latents = given[0]["hidden_states"].shape
    frames = latents[1] if name.startswith("cog") else latents[2]
    expected = layout_of(model, model.geometry, None)
    assert (layout.num_frames, layout.tokens_per_frame) == (expected.num_frames, expected.tokens_per_frame)
    random = torch.Generator().manual_seed(0)
    request = Request(pipeline.transformer, model, model.transformer, layout, (frames, *latents[-2:]), 999.0, random)
    ours = family_of(model.pipeline).forwards(request)
    assert len(ours) == len(given)
    for mine, theirs in zip(ours, given, strict=True):
        # The scheduler of a tiny pipeline may not be the checkpoint's.
        unlike = {"timestep"}
        assert set(mine) == set(theirs)
        assert {key: described(mine[key]) for key in set(mine) - unlike} == {
            key: described(theirs[key]) for key in set(theirs) - unlike
        }
        assert mine["timestep"].shape == theirs["timestep"].shape
        for key in set(EXACT) & set(mine):
            torch.testing.assert_close(mine[key], theirs[key], rtol=0, atol=0)
        if "encoder_attention_mask" in mine:
            assert torch.equal(mine["encoder_attention_mask"], theirs["encoder_attention_mask"])


def test_every_pipeline_that_an_adapter_knows_has_a_step():
    for pipeline in known_pipelines():
        assert pipeline in family_of(pipeline).PIPELINES


def test_a_pipeline_without_a_step_is_refused_by_name():
    with pytest.raises(ValueError, match=r"^model.pipeline is 'LTXPipeline'; a step is known of CogVideoX"):
        family_of("LTXPipeline")


@pytest.mark.parametrize("name", BILLIONS)
def test_a_full_size_transformer_has_the_checkpoints_layers_heads_and_parameters(name):
    model = composed(f"model={name}").model
    sizes, adapter = model.transformer, adapter_named(model.pipeline)
    transformer = build_transformer(family_of(model.pipeline), sizes, torch.bfloat16, torch.device("meta"))
    attentions = adapter.self_attentions(transformer)
    assert len(attentions) == sizes.num_layers
    assert {attention.heads for attention in attentions} == {sizes.num_heads}
    billions = sum(parameter.numel() for parameter in transformer.parameters()) / 1e9
    assert billions == pytest.approx(BILLIONS[name], rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", BILLIONS)
def test_a_full_size_step_fits_its_transformer_and_costs_what_the_forecast_says(name):
    model = composed(f"model={name}").model
    sizes = model.transformer
    transformer = build_transformer(family_of(model.pipeline), sizes, torch.bfloat16, torch.device("meta"))
    layout = layout_of(model, model.geometry, None)
    latents = latent_size(model, layout, transformer)
    resize_without_torchvision()
    forwards = family_of(model.pipeline).forwards(
        Request(transformer, model, sizes, layout, latents, 999.0, torch.Generator().manual_seed(0))
    )
    counted = sum(forward_flops(transformer, inputs) for inputs in forwards)
    predictions = 1 if sizes.guidance == "embedded" else 2
    size = size_of(model, sizes)
    expected = predictions * (size.attention_flops(layout.seq_len) + size.other_flops(layout.seq_len))
    assert counted == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(
    ("make", "pipeline"),
    [
        (tiny_wan_pipeline, "WanPipeline"),
        (tiny_hunyuan_video_pipeline, "HunyuanVideoPipeline"),
        (tiny_cosmos_pipeline, "CosmosTextToWorldPipeline"),
    ],
)
def test_weights_have_the_types_of_a_loaded_checkpoint_and_one_seed_makes_the_same(make, pipeline, tmp_path):
    stock = make().transformer
    stock.save_pretrained(tmp_path)
    loaded = type(stock).from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    sizes = composed("model=wan_t2v_1_3b").model.transformer
    heads = {"num_attention_heads", "attention_head_dim"}
    sizes.diffusers = {key: value for key, value in stock.config.items() if key not in heads and key[0] != "_"}
    sizes.num_heads, sizes.head_dim = stock.config.num_attention_heads, stock.config.attention_head_dim
    before = torch.random.get_rng_state()
    one, other = (
        build_transformer(family_of(pipeline), sizes, torch.bfloat16, torch.device("cpu"), seed=3) for _ in range(2)
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.get_default_dtype() == torch.float32
    types = {key: value.dtype for key, value in loaded.named_parameters()}
    assert {key: value.dtype for key, value in one.named_parameters()} == types
    assert torch.bfloat16 in types.values()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_a_setting_that_the_class_lacks_is_refused_by_name():
    sizes = composed("model=wan_t2v_1_3b", "+model.transformer.diffusers.image_dims=3").model.transformer
    with pytest.raises(ValueError, match="did you mean model.transformer.diffusers.image_dim?"):
        build_transformer(family_of("WanPipeline"), sizes, torch.float32, torch.device("meta"))
