"""Wan's other pipelines: image-to-video with and without an image encoder, and two experts that share their steps."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from diffusers import WanImageToVideoPipeline, WanPipeline
from PIL import Image

import svg
from svg.methods.dense import Dense
from svg.models.wan_i2v import WanImageToVideoAdapter
from tests.tiny_pipelines import generate, tiny_wan_i2v_pipeline, tiny_wan_pipeline

# An image in which no two places are alike.
IMAGE = Image.frombytes("RGB", (48, 32), bytes((7 * index * index + index) % 256 for index in range(48 * 32 * 3)))
# The scheduler's timesteps are 1000, 877 and 47: the second expert begins at the second step.
BOUNDARY = 0.9
KINDS = {
    "wan_i2v": (WanImageToVideoPipeline, lambda: tiny_wan_i2v_pipeline()),
    "wan2_2_i2v": (WanImageToVideoPipeline, lambda: tiny_wan_i2v_pipeline(boundary_ratio=BOUNDARY)),
    "wan2_2_t2v": (WanPipeline, lambda: tiny_wan_pipeline(boundary_ratio=BOUNDARY)),
}


def settings_of(pipeline) -> dict:
    """Return what a kind of pipeline wants besides what all want."""
    settings = {}
    if isinstance(pipeline, WanImageToVideoPipeline):
        settings["image"] = IMAGE
    if pipeline.config.get("image_encoder") not in (None, (None, None)):
        settings["max_sequence_length"] = 512
    if pipeline.config.boundary_ratio is not None:
        settings["guidance_scale_2"] = 3.0
    return settings


def video_of(pipeline, **settings) -> torch.Tensor:
    return generate(pipeline, **settings_of(pipeline) | settings)


@pytest.fixture(scope="module", params=KINDS)
def pipeline(request, tmp_path_factory):
    """A random pipeline, saved and loaded again."""
    folder = tmp_path_factory.mktemp("model") / request.param
    kind, build = KINDS[request.param]
    build().save_pretrained(folder)
    loaded = kind.from_pretrained(folder, local_files_only=True)
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture(scope="module")
def stock_video(pipeline):
    return video_of(pipeline)


def test_dense_through_our_processor_equals_the_stock_pipeline_bit_for_bit(pipeline, stock_video):
    with svg.attach(pipeline, Dense()):
        video = video_of(pipeline)
    assert torch.equal(video, stock_video)


def test_svg_with_a_window_that_covers_everything_equals_dense(pipeline, stock_video):
    with svg.attach(pipeline, svg.SparseVideoGen(density=1.0, block_size=2), "reference"):
        video = video_of(pipeline)
    assert (video - stock_video).abs().max() < 1e-5


def test_the_pipeline_is_stock_again_after_the_block(pipeline, stock_video):
    with svg.attach(pipeline, svg.SparseVideoGen(density=0.7, block_size=2), "reference") as run:
        sparse = video_of(pipeline)
    assert 0.6 < run.receipt.density_executed[0] <= 0.7
    assert not torch.equal(sparse, stock_video)
    assert torch.equal(video_of(pipeline), stock_video)


def experts_of(pipeline) -> list[torch.nn.Module]:
    return [expert for expert in (pipeline.transformer, getattr(pipeline, "transformer_2", None)) if expert is not None]


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_step_layer_and_branch_are_right_at_every_call_also_in_a_second_video(pipeline, guidance):
    branches = ("cond", "uncond") if guidance > 1 else ("cond",)
    method = svg.SparseVideoGen(density=0.7, block_size=2, first_times_fp=0.34, first_layers_fp=0.5)
    with svg.attach(pipeline, method, "reference") as run:
        for _ in range(2):
            video_of(pipeline, guidance_scale=guidance)
            seen = [(call.step, call.branch, call.layer) for call in run.receipt.calls]
            assert seen == [(s, b, i) for s in range(3) for b in branches for i in range(2)]
            assert [call.is_dense for call in run.receipt.calls] == [s < 1 or i < 1 for s, _, i in seen]
    assert (run.receipt.num_steps, run.receipt.dense_steps, run.receipt.dense_layers) == (3, 1, 1)


@dataclass
class Counting:
    """Full attention that counts, in the state of each call's place, how often it was there."""

    seen: list = field(default_factory=list)

    def dense_schedule(self, num_steps, num_layers, timesteps):
        return Dense().dense_schedule(0, 0, timesteps)

    def plan(self, inputs, context):
        context.state["visits"] = context.state.get("visits", 0) + 1
        self.seen.append((context.step, context.branch, context.layer, context.state["visits"]))
        return Dense().plan(inputs, context)


def test_two_experts_share_the_steps_and_keep_their_own_state(pipeline):
    forwards, hooks = [], []
    for index, expert in enumerate(experts_of(pipeline)):
        hooks.append(expert.register_forward_pre_hook(lambda *_, index=index: forwards.append(index)))
    method = Counting()
    with svg.attach(pipeline, method):
        video_of(pipeline)
    for hook in hooks:
        hook.remove()
    has_two = len(experts_of(pipeline)) == 2
    assert forwards == ([0, 0, 1, 1, 1, 1] if has_two else [0] * 6)
    # The second expert has been nowhere when it begins, at the second of three steps.
    visits = {0: 1, 1: 1, 2: 2} if has_two else {0: 1, 1: 2, 2: 3}
    assert method.seen == [(s, b, i, visits[s]) for s in range(3) for b in ("cond", "uncond") for i in range(2)]


@pytest.mark.parametrize(
    ("size", "density"),
    # One frame is its own first frame, which is always kept.
    [((32, 48, 1), 1.0), ((48, 80, 5), 0.9), ((32, 48, 13), 0.7)],
    ids=["one frame", "odd tokens a frame", "even latent frames"],
)
def test_any_size_that_the_stock_pipeline_takes_runs_dense_and_sparse(pipeline, size, density):
    shape = dict(zip(("height", "width", "num_frames"), size, strict=True))
    stock = video_of(pipeline, **shape)
    with svg.attach(pipeline, Dense()):
        assert torch.equal(video_of(pipeline, **shape), stock)
    # Tiles of 7: no length above is a multiple.
    with svg.attach(pipeline, svg.SparseVideoGen(density=density, block_size=7), "cpu_gather") as run:
        video = video_of(pipeline, **shape)
    assert video.shape == stock.shape and torch.isfinite(video).all()
    assert len(run.receipt.calls) == 12 and run.receipt.density_executed[0] <= density
    assert torch.allclose(video, stock, atol=1e-5) == (density == 1.0)


@pytest.mark.parametrize(
    "prompt", ["red", "red circle " * 400, ["red", "a blue square spins left"]], ids=["one word", "too many", "two"]
)
def test_prompts_of_any_length_and_batches_of_them_equal_the_stock_pipeline(pipeline, prompt):
    settings = {"prompt": prompt, "negative_prompt": [""] * 2 if isinstance(prompt, list) else ""}
    stock = video_of(pipeline, **settings)
    with svg.attach(pipeline, Dense()):
        assert torch.equal(video_of(pipeline, **settings), stock)
    with svg.attach(pipeline, svg.SparseVideoGen(density=1.0, block_size=4), "reference"):
        assert (video_of(pipeline, **settings) - stock).abs().max() < 1e-5


def test_an_image_encoder_wants_the_text_length_that_diffusers_counts_with():
    pipeline = tiny_wan_i2v_pipeline()
    with (
        pytest.raises(ValueError, match=r"model\.max_sequence_length is 16; .* 512 only"),
        svg.attach(pipeline, Dense()),
    ):
        video_of(pipeline, max_sequence_length=16)


@pytest.mark.parametrize(
    ("area", "image", "size"),
    [
        (720 * 1280, (720, 1280), (720, 1280)),
        (720 * 1280, (1280, 720), (1280, 720)),
        (720 * 1280, (1000, 1000), (960, 960)),
        (480 * 832, (600, 800), (544, 720)),
        (480 * 832, (1, 5000), (16, 44672)),
    ],
)
def test_the_images_shape_divides_the_area_and_rounds_down_to_the_patching(area, image, size):
    assert WanImageToVideoAdapter().size_for_image(tiny_wan_i2v_pipeline(), area, *image) == size
