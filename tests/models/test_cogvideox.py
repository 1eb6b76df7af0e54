"""CogVideoX 1.5: text first, guidance in one batched forward, two latent frames a token; from text or an image."""

from __future__ import annotations

import pytest
import torch
from diffusers import CogVideoXImageToVideoPipeline, CogVideoXPipeline
from diffusers.models.attention_processor import AttnProcessor2_0

import svg
from experiments import rows
from svg.methods.dense import Dense
from svg.models import adapter_for
from tests.tiny_cogvideox import picture, tiny_cogvideox_i2v_pipeline, tiny_cogvideox_pipeline
from tests.tiny_pipelines import generate

# 5 text tokens, then 3 frames of 4 x 6 tokens: 77, which no tile size below divides.
SMALL = {"num_frames": 17, "height": 64, "width": 96, "max_sequence_length": 5}
KINDS = {
    "text to video": (CogVideoXPipeline, tiny_cogvideox_pipeline, {}),
    "image to video": (CogVideoXImageToVideoPipeline, tiny_cogvideox_i2v_pipeline, {"image": picture()}),
}
SPARSE = svg.SparseVideoGen(density=0.7, block_size=8, num_sampled_rows=16)


@pytest.fixture(scope="module", params=KINDS)
def kind(request, tmp_path_factory):
    """A random pipeline, saved and loaded again, and what its calls need."""
    pipeline_class, make, settings = KINDS[request.param]
    folder = tmp_path_factory.mktemp("model") / "cogvideox"
    make().save_pretrained(folder)
    pipeline = pipeline_class.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline, settings | SMALL


@pytest.fixture(scope="module")
def stock_video(kind):
    pipeline, settings = kind
    return generate(pipeline, **settings)


def test_dense_through_our_processor_equals_the_stock_pipeline_bit_for_bit(kind, stock_video):
    pipeline, settings = kind
    with svg.attach(pipeline, Dense()) as run:
        video = generate(pipeline, **settings)
    assert torch.equal(video, stock_video)
    assert len(run.receipt.calls) == 3 * 2


@pytest.mark.parametrize("without", ["rotation", "norm"])
def test_dense_equals_the_stock_pipeline_of_version_one_and_without_norms(without):
    pipeline = tiny_cogvideox_pipeline(
        patch_size_t=None, patch_bias=True, use_rotary_positional_embeddings=without != "rotation"
    )
    if without == "norm":
        for block in pipeline.transformer.transformer_blocks:
            block.attn1.norm_q = block.attn1.norm_k = None
    # Learned and fixed positions of version 1.0 are those of all its text tokens.
    settings = SMALL | {"max_sequence_length": 16, "output_type": "latent"}
    stock = generate(pipeline, **settings)
    with svg.attach(pipeline, Dense()):
        assert torch.equal(generate(pipeline, **settings), stock)
    with svg.attach(pipeline, svg.SparseVideoGen(density=1.0, block_size=4), "reference"):
        assert (generate(pipeline, **settings) - stock).abs().max() < 1e-5


def test_dense_with_fused_projections_equals_the_stock_pipeline_with_them_and_after_them():
    pipeline = tiny_cogvideox_pipeline()
    for change in (pipeline.fuse_qkv_projections, pipeline.unfuse_qkv_projections):
        change()
        stock = generate(pipeline, **SMALL, output_type="latent")
        with svg.attach(pipeline, Dense()):
            assert torch.equal(generate(pipeline, **SMALL, output_type="latent"), stock)


def test_svg_with_a_window_that_covers_everything_equals_dense(kind, stock_video):
    pipeline, settings = kind
    with svg.attach(pipeline, svg.SparseVideoGen(density=1.0, block_size=4), "reference"):
        video = generate(pipeline, **settings)
    assert (video - stock_video).abs().max() < 1e-5


def test_the_pipeline_is_stock_again_after_a_sparse_video(kind, stock_video):
    pipeline, settings = kind
    processors = [block.attn1.processor for block in pipeline.transformer.transformer_blocks]
    with svg.attach(pipeline, SPARSE) as run:
        sparse = generate(pipeline, **settings)
    assert not torch.equal(sparse, stock_video)
    assert 0.5 < run.receipt.density_executed[1] <= 0.7
    assert [block.attn1.processor for block in pipeline.transformer.transformer_blocks] == processors
    assert not pipeline.transformer._forward_pre_hooks
    assert torch.equal(generate(pipeline, **settings), stock_video)


def test_step_layer_and_the_branch_of_each_batch_item_are_right_at_every_call_also_in_a_second_video(kind):
    pipeline, settings = kind
    method = svg.SparseVideoGen(density=0.7, block_size=8, first_times_fp=0.34, first_layers_fp=0.5)
    with svg.attach(pipeline, method) as run:
        for guidance, branches in ((4.0, ("uncond", "cond")), (1.0, ("cond",)), (4.0, ("uncond", "cond"))):
            generate(pipeline, **settings, guidance_scale=guidance)
            seen = [(call.step, call.layer) for call in run.receipt.calls]
            assert seen == [(step, layer) for step in range(3) for layer in range(2)]
            assert [call.is_dense for call in run.receipt.calls] == [step < 1 or layer < 1 for step, layer in seen]
            assert {call.item_branches for call in run.receipt.calls} == {branches}
            assert all(len(call.choice) == len(branches) for call in run.receipt.sparse_calls)
            choices = [row for row in rows.head_rows(run.receipt, {}) if row.quantity == "head_choice"]
            assert {row.branch for row in choices} == set(branches)


def test_the_two_branches_of_one_forward_choose_for_themselves(kind):
    pipeline, settings = kind
    # With the same text in both halves, both choose alike; with different ones their errors differ.
    with svg.attach(pipeline, SPARSE) as run:
        generate(pipeline, **settings | {"negative_prompt": "a red circle moves right"})
        for call in run.receipt.calls:
            assert all(torch.allclose(*torch.tensor(error), rtol=1e-3, atol=1e-7) for error in call.error.values())
        generate(pipeline, **settings)
        assert any(error[0] != error[1] for call in run.receipt.calls for error in call.error.values())


@pytest.mark.parametrize(
    "size",
    [
        {"num_frames": 9, "height": 32, "width": 48, "max_sequence_length": 1},
        {"num_frames": 13, "height": 48, "width": 80, "max_sequence_length": 16},
        {"num_frames": 33, "height": 96, "width": 16, "max_sequence_length": 1},
    ],
    ids=["three latent frames, one text token", "four latent frames, all text tokens", "one column, one text token"],
)
def test_every_size_and_text_length_equals_the_stock_pipeline_and_runs_sparse(kind, size):
    pipeline, settings = kind
    settings = settings | size
    stock = generate(pipeline, **settings, output_type="latent")
    with svg.attach(pipeline, Dense()):
        assert torch.equal(generate(pipeline, **settings, output_type="latent"), stock)
    with svg.attach(pipeline, svg.SparseVideoGen(density=0.97, block_size=3)) as run:
        sparse = generate(pipeline, **settings, output_type="latent")
    assert sparse.isfinite().all() and not torch.equal(sparse, stock)
    assert run.receipt.density_executed[1] <= 0.97


def test_a_batch_of_two_prompts_of_different_lengths_equals_the_stock_pipeline(kind):
    pipeline, settings = kind
    prompts = ["red", "a blue square spins left a red circle moves right"]
    settings = settings | {"prompt": prompts}
    if "image" in settings:
        settings["image"] = [picture(), picture(50, 60)]
    stock = generate(pipeline, **settings)
    with svg.attach(pipeline, Dense()):
        assert torch.equal(generate(pipeline, **settings), stock)
    with svg.attach(pipeline, SPARSE) as run:
        assert generate(pipeline, **settings).isfinite().all()
    assert run.receipt.calls[0].item_branches == ("uncond", "uncond", "cond", "cond")
    branches = {row.branch for row in rows.head_rows(run.receipt, {})}
    assert branches == {"uncond0", "uncond1", "cond2", "cond3"}


def test_a_processor_or_a_mask_of_another_kind_is_refused_in_one_line():
    pipeline = tiny_cogvideox_pipeline()
    with svg.attach(pipeline, Dense()), pytest.raises(ValueError, match="attention_kwargs holds an attention_mask"):
        generate(pipeline, **SMALL, attention_kwargs={"attention_mask": torch.ones(1)})
    with svg.attach(pipeline, Dense()), pytest.raises(ValueError, match="under another svg.attach"):
        svg.attach(pipeline, Dense()).__enter__()
    pipeline.transformer.transformer_blocks[1].attn1.set_processor(AttnProcessor2_0())
    with pytest.raises(
        ValueError, match="runs through AttnProcessor2_0; svg.attach replaces diffusers' own processors"
    ):
        svg.attach(pipeline, Dense()).__enter__()
    # The first layer is as it was.
    assert type(pipeline.transformer.transformer_blocks[0].attn1.processor).__name__ == "CogVideoXAttnProcessor2_0"


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ((60, 96, 17), "model.height is 60; this model takes multiples of 16, such as 64"),
        ((64, 100, 17), "model.width is 100; this model takes multiples of 16, such as 96"),
        ((64, 96, 13), r"model.num_frames is 13; this model takes 8k \+ 1 frames, such as"),
        ((112, 96, 17), "model.height makes 7 positions; this model knows at most 6"),
        ((64, 144, 17), "model.width makes 9 positions; this model knows at most 8"),
    ],
)
def test_a_size_that_the_model_does_not_take_is_refused_in_one_line(size, words):
    pipeline = tiny_cogvideox_pipeline()
    with pytest.raises(ValueError, match=words):
        adapter_for(pipeline).check_size(pipeline, *size)


def test_a_size_that_the_model_takes_gives_the_frames_that_were_asked_for(kind):
    pipeline, settings = kind
    adapter_for(pipeline).check_size(pipeline, 32, 48, 25)
    assert generate(pipeline, **settings | {"height": 32, "width": 48, "num_frames": 25}).shape[1] == 25
