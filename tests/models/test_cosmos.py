"""Cosmos 1.0: two forwards a step, timesteps close together, a guardrail that may be absent, no torchvision."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from diffusers import CosmosTextToWorldPipeline
from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers.models.transformers import transformer_cosmos

import svg
from experiments.parts import guardrail_parts
from svg.methods.dense import Dense
from svg.models import adapter_for
from svg.models.cosmos import NoGuardrail, resize_without_torchvision
from tests.tiny_cosmos import tiny_cosmos_pipeline
from tests.tiny_pipelines import generate

# 3 frames of 2 x 3 tokens.
SMALL = {"num_frames": 17}
SPARSE = svg.SparseVideoGen(density=0.7, block_size=2, num_sampled_rows=16)


@pytest.fixture(scope="module", autouse=True)
def _resize():
    """What svg.attach sees to, for the stock pipeline too."""
    resize_without_torchvision()


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A random pipeline, saved and loaded again."""
    folder = tmp_path_factory.mktemp("model") / "cosmos"
    tiny_cosmos_pipeline().save_pretrained(folder)
    loaded = CosmosTextToWorldPipeline.from_pretrained(folder, local_files_only=True, safety_checker=NoGuardrail())
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture(scope="module")
def stock_video(pipeline):
    return generate(pipeline, **SMALL)


def latents_of(pipeline, **settings):
    return generate(pipeline, **SMALL | settings, output_type="latent")


def test_dense_through_our_processor_equals_the_stock_pipeline_bit_for_bit(pipeline, stock_video):
    stock = latents_of(pipeline)
    with svg.attach(pipeline, Dense()) as run:
        assert torch.equal(latents_of(pipeline), stock)
        assert torch.equal(generate(pipeline, **SMALL), stock_video)
    assert len(run.receipt.calls) == 3 * 2 * 2


def test_svg_with_a_window_that_covers_everything_equals_dense(pipeline):
    stock = latents_of(pipeline)
    with svg.attach(pipeline, svg.SparseVideoGen(density=1.0, block_size=2), "reference"):
        assert torch.allclose(latents_of(pipeline), stock, rtol=1e-5, atol=1e-5)


def test_the_pipeline_is_stock_again_after_a_sparse_video(pipeline, stock_video):
    processors = [block.attn1.processor for block in pipeline.transformer.transformer_blocks]
    with svg.attach(pipeline, SPARSE) as run:
        assert not torch.equal(generate(pipeline, **SMALL), stock_video)
    assert 0.5 < run.receipt.density_executed[1] <= 0.7
    assert [block.attn1.processor for block in pipeline.transformer.transformer_blocks] == processors
    assert not pipeline.transformer._forward_pre_hooks
    assert torch.equal(generate(pipeline, **SMALL), stock_video)


def test_step_layer_and_branch_are_right_at_every_call_also_in_a_second_video(pipeline):
    method = svg.SparseVideoGen(density=0.7, block_size=2, first_times_fp=0.34, first_layers_fp=0.5)
    with svg.attach(pipeline, method) as run:
        for guidance, branches in ((4.0, ("cond", "uncond")), (1.0, ("cond",)), (4.0, ("cond", "uncond"))):
            latents_of(pipeline, guidance_scale=guidance)
            seen = [(call.step, call.branch, call.layer) for call in run.receipt.calls]
            assert seen == [(s, b, i) for s in range(3) for b in branches for i in range(2)]
            assert [call.is_dense for call in run.receipt.calls] == [s < 1 or i < 1 for s, _, i in seen]


def test_steps_whose_timesteps_are_one_value_in_bf16_are_told_apart():
    pipeline = tiny_cosmos_pipeline(num_layers=1).to(torch.bfloat16)
    pipeline.scheduler.set_timesteps(250)
    rounded = pipeline.scheduler.timesteps.to(torch.bfloat16)
    assert (rounded[1:] == rounded[:-1]).any()
    with svg.attach(pipeline, Dense()) as run:
        latents_of(pipeline, num_frames=1, num_inference_steps=250, guidance_scale=1.0)
    assert [(call.step, call.branch) for call in run.receipt.calls] == [(step, "cond") for step in range(250)]


@pytest.mark.parametrize(
    "size",
    [{"num_frames": 1, "height": 48, "width": 80}, {"num_frames": 25, "height": 64, "width": 16}, {"num_frames": 57}],
    ids=["one frame", "one column", "every frame it has a mean for"],
)
def test_every_size_equals_the_stock_pipeline_and_runs_sparse(pipeline, size):
    stock = latents_of(pipeline, **size)
    with svg.attach(pipeline, Dense()):
        assert torch.equal(latents_of(pipeline, **size), stock)
    with svg.attach(pipeline, svg.SparseVideoGen(density=0.9, block_size=3, sink="none")) as run:
        sparse = latents_of(pipeline, **size)
    assert sparse.isfinite().all() and not torch.equal(sparse, stock)
    assert run.receipt.density_executed[1] <= 0.9


@pytest.mark.parametrize(
    ("prompt", "length"),
    [("red", 1), ("a red circle " * 9, 16), (["red", "a blue square spins left"], 16)],
    ids=["one text token", "all text tokens", "two prompts of different lengths"],
)
def test_every_prompt_equals_the_stock_pipeline_and_runs_sparse(pipeline, prompt, length):
    settings = {"prompt": prompt, "max_sequence_length": length}
    stock = latents_of(pipeline, **settings)
    with svg.attach(pipeline, Dense()):
        assert torch.equal(latents_of(pipeline, **settings), stock)
    with svg.attach(pipeline, SPARSE):
        sparse = latents_of(pipeline, **settings)
    assert sparse.isfinite().all() and not torch.equal(sparse, stock)


def test_text_keeps_its_own_attention(pipeline):
    processors = [block.attn2.processor for block in pipeline.transformer.transformer_blocks]
    with svg.attach(pipeline, SPARSE):
        assert [block.attn2.processor for block in pipeline.transformer.transformer_blocks] == processors


def test_a_processor_of_another_kind_is_refused_in_one_line(pipeline):
    with svg.attach(pipeline, Dense()), pytest.raises(ValueError, match="under another svg.attach"):
        svg.attach(pipeline, Dense()).__enter__()
    attention = pipeline.transformer.transformer_blocks[1].attn1
    stock = attention.processor
    attention.set_processor(AttnProcessor2_0())
    with pytest.raises(ValueError, match="runs through AttnProcessor2_0; svg.attach replaces diffusers' own processor"):
        svg.attach(pipeline, Dense()).__enter__()
    attention.set_processor(stock)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ((40, 48, 17), "model.height is 40; this model takes multiples of 16, such as"),
        ((32, 50, 17), "model.width is 50; this model takes multiples of 16, such as 48"),
        ((32, 48, 13), r"model.num_frames is 13; this model takes 8k \+ 1 frames, such as"),
        ((32, 48, 65), "model.num_frames makes 9 positions; this model knows at most 8"),
        ((272, 48, 17), "model.height makes 17 positions; this model knows at most 16"),
    ],
)
def test_a_size_that_the_model_does_not_take_is_refused_in_one_line(pipeline, size, words):
    with pytest.raises(ValueError, match=words):
        adapter_for(pipeline).check_size(pipeline, *size)


def test_more_frames_than_the_autoencoder_has_means_for_are_refused(pipeline):
    adapter, vae = (
        adapter_for(pipeline),
        SimpleNamespace(config=SimpleNamespace(latents_mean=[0] * 8, latent_channels=4)),
    )
    few = SimpleNamespace(
        transformer=pipeline.transformer, vae=vae, vae_scale_factor_temporal=8, vae_scale_factor_spatial=8
    )
    adapter.check_size(few, 32, 48, 9)
    with pytest.raises(ValueError, match="model.num_frames makes 3 positions; this model knows at most 2"):
        adapter.check_size(few, 32, 48, 17)


def test_the_stand_in_for_a_missing_resize_gives_the_nearest_pixel_and_leaves_a_present_one_alone(monkeypatch):
    mask = torch.arange(16.0).view(1, 1, 4, 4)
    monkeypatch.delattr(transformer_cosmos, "transforms", raising=False)
    resize_without_torchvision()
    transforms = transformer_cosmos.transforms
    small = transforms.functional.resize(mask, [2, 2], interpolation=transforms.InterpolationMode.NEAREST)
    assert small.tolist() == [[[[0, 2], [8, 10]]]]
    monkeypatch.setattr(transformer_cosmos, "transforms", "torchvision's")
    resize_without_torchvision()
    assert transformer_cosmos.transforms == "torchvision's"


def test_a_guardrail_that_is_asked_for_must_be_there_and_one_that_is_not_is_said(monkeypatch, capsys):
    name = "CosmosTextToWorldPipeline"
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    with pytest.raises(ValueError, match="model.guardrail is true, but the package cosmos_guardrail is not installed"):
        guardrail_parts(name, True)
    assert isinstance(guardrail_parts(name, None)["safety_checker"], NoGuardrail)
    assert "prompts and frames are not checked" in capsys.readouterr().err
    assert isinstance(guardrail_parts(name, False)["safety_checker"], NoGuardrail)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr("importlib.util.find_spec", lambda module: sys)
    # The pipeline then makes its own.
    assert guardrail_parts(name, None) == guardrail_parts(name, True) == {}
    assert isinstance(guardrail_parts(name, False)["safety_checker"], NoGuardrail)


def test_a_pipeline_without_a_guardrail_is_given_none_and_cannot_be_asked_for_one():
    assert guardrail_parts("WanPipeline", None) == {}
    with pytest.raises(ValueError, match="model.guardrail is true, but WanPipeline has none; set it to null"):
        guardrail_parts("WanPipeline", True)
