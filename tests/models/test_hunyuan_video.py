"""HunyuanVideo: joint attention with padded prompts, text-to-video and both ways of image-to-video."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from diffusers import HunyuanVideoTransformer3DModel
from PIL import Image

import svg
from svg.layout import TokenLayout
from svg.methods.dense import Dense
from svg.models.hunyuan_video import HunyuanVideoAdapter, finished
from tests.experiments.conftest import composed
from tests.tiny_pipelines import generate, tiny_hunyuan_video_i2v_pipeline, tiny_hunyuan_video_pipeline

# An image in which no two places are alike.
IMAGE = Image.frombytes("RGB", (48, 32), bytes((7 * index * index + index) % 256 for index in range(48 * 32 * 3)))
# Beside 144 or more tokens of text and image, a video must have some for a mask to skip any.
I2V = {"image": IMAGE, "height": 64, "width": 96, "num_frames": 17}


class Family(NamedTuple):
    """A pipeline, what its kind wants besides what all want, and a density that skips something of its sequence."""

    pipeline: Any
    settings: dict[str, Any]
    density: float

    @property
    def sparse(self):
        return svg.SparseVideoGen(density=self.density, block_size=2)

    def video(self, **settings) -> torch.Tensor:
        return generate(self.pipeline, **self.settings | settings)


KINDS = {
    "t2v": Family(tiny_hunyuan_video_pipeline, {}, 0.8),
    "i2v_token_replace": Family(tiny_hunyuan_video_i2v_pipeline, I2V, 0.96),
    "i2v_latent_concat": Family(partial(tiny_hunyuan_video_i2v_pipeline, condition="latent_concat"), I2V, 0.96),
}
# Words of the prompt and the token after it: no padding is left.
FULL = {"prompt": "a red circle moves right", "max_sequence_length": 6}


@pytest.fixture(scope="module", params=KINDS)
def family(request, tmp_path_factory):
    """Each kind of pipeline, random, saved and loaded again."""
    folder = tmp_path_factory.mktemp("model") / request.param
    built = KINDS[request.param].pipeline()
    built.save_pretrained(folder)
    loaded = type(built).from_pretrained(folder, local_files_only=True)
    loaded.set_progress_bar_config(disable=True)
    return KINDS[request.param]._replace(pipeline=loaded)


@pytest.fixture(scope="module")
def stock_video(family):
    return family.video()


def test_dense_equals_the_stock_pipeline_on_video_to_1e_5_for_sliced_off_padding_sums_in_another_order(
    family, stock_video
):
    with svg.attach(family.pipeline, Dense()):
        video = family.video()
    assert (video - stock_video).abs().max() < 1e-5


def test_dense_equals_the_stock_pipeline_bit_for_bit_where_no_prompt_is_padded():
    pipeline = tiny_hunyuan_video_pipeline()
    stock = generate(pipeline, **FULL)
    with svg.attach(pipeline, Dense()):
        assert torch.equal(generate(pipeline, **FULL), stock)


def test_svg_with_a_window_that_covers_everything_equals_dense(family, stock_video):
    with svg.attach(family.pipeline, svg.SparseVideoGen(density=1.0, block_size=2), "reference"):
        video = family.video()
    assert (video - stock_video).abs().max() < 1e-5


def test_the_pipeline_is_stock_again_after_the_block(family, stock_video):
    with svg.attach(family.pipeline, family.sparse, "reference") as run:
        sparse = family.video()
    assert family.density - 0.1 < run.receipt.density_executed[0] <= family.density
    assert not torch.equal(sparse, stock_video)
    assert not family.pipeline.transformer._forward_pre_hooks
    assert torch.equal(family.video(), stock_video)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_step_layer_and_branch_are_right_at_every_call_also_in_a_second_video(family, guidance):
    branches = ("cond", "uncond") if guidance > 1 else ("cond",)
    method = replace(family.sparse, first_times_fp=0.34, first_layers_fp=0.5)
    with svg.attach(family.pipeline, method, "reference") as run:
        for _ in range(2):
            # diffusers embeds the negative prompt of latent_concat with more image tokens than it asks for.
            family.video(true_cfg_scale=guidance)
            seen = [(call.step, call.branch, call.layer) for call in run.receipt.calls]
            assert seen == [(s, b, i) for s in range(3) for b in branches for i in range(2)]
            assert [call.is_dense for call in run.receipt.calls] == [s < 1 or i < 1 for s, _, i in seen]
    assert (run.receipt.num_steps, run.receipt.dense_steps, run.receipt.dense_layers) == (3, 1, 1)


@dataclass
class Looking:
    """Full attention that notes each call's layout and key lengths."""

    seen: list = field(default_factory=list)

    def dense_schedule(self, num_steps, num_layers, timesteps):
        return Dense().dense_schedule(0, 0, timesteps)

    def plan(self, inputs, context):
        lengths = None if inputs.key_lengths is None else inputs.key_lengths.tolist()
        self.seen.append((context.layout, lengths))
        return Dense().plan(inputs, context)


# Words, and tokens with the one that ends them.
ONE, LONG = "circle", "a red circle moves right and left and right and left and spins"
PROMPTS = {"one word": (ONE, 2, None), "the longest": (LONG, 14, None), "both": ([ONE, LONG], 14, [18 + 2, 18 + 14])}


@pytest.mark.parametrize("name", PROMPTS)
def test_padding_is_sliced_off_and_shorter_prompts_of_a_batch_get_a_length(name):
    prompt, num_text_tokens, lengths = PROMPTS[name]
    pipeline, method = tiny_hunyuan_video_pipeline(), Looking()
    stock = generate(pipeline, prompt=prompt)
    with svg.attach(pipeline, method):
        video = generate(pipeline, prompt=prompt)
    assert (video - stock).abs().max() < 1e-5
    assert method.seen == [(TokenLayout(3, 6, num_text_tokens), lengths)] * 6


def test_a_prompt_that_is_too_long_is_cut_as_the_stock_pipeline_cuts_it():
    pipeline, method = tiny_hunyuan_video_pipeline(), Looking()
    settings = {"prompt": LONG, "max_sequence_length": 5}
    stock = generate(pipeline, **settings)
    with svg.attach(pipeline, method):
        assert torch.equal(generate(pipeline, **settings), stock)
    assert method.seen[0] == (TokenLayout(3, 6, 5), None)


@pytest.mark.parametrize("backend", ["reference", "cpu_gather"])
def test_each_of_two_prompts_gets_the_sparse_video_that_it_gets_alone(backend):
    pipeline, method = tiny_hunyuan_video_pipeline(), svg.SparseVideoGen(density=1.0, block_size=4)
    latents = torch.randn(2, 4, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    with svg.attach(pipeline, method, backend):
        both = generate(pipeline, prompt=[ONE, LONG], latents=latents)
        alone = [generate(pipeline, prompt=p, latents=latents[i : i + 1]) for i, p in enumerate((ONE, LONG))]
    assert (both - torch.cat(alone)).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("height", "width", "num_frames", "layout", "density"),
    [(16, 16, 1, (1, 1), 1.0), (16, 48, 5, (2, 3), 0.9), (80, 48, 13, (4, 15), 0.7), (32, 48, 21, (6, 6), 0.7)],
)
def test_any_size_that_the_stock_pipeline_takes_runs_sparse(height, width, num_frames, layout, density):
    pipeline = tiny_hunyuan_video_pipeline()
    settings = {"prompt": ONE, "height": height, "width": width, "num_frames": num_frames}
    HunyuanVideoAdapter().check_size(pipeline, height, width, num_frames)
    looking = Looking()
    stock = generate(pipeline, **settings)
    with svg.attach(pipeline, looking):
        assert (generate(pipeline, **settings) - stock).abs().max() < 1e-5
    assert {(seen.num_frames, seen.tokens_per_frame) for seen, _ in looking.seen} == {layout}
    with svg.attach(pipeline, svg.SparseVideoGen(density=density, block_size=7 if density < 0.8 else 1)) as run:
        video = generate(pipeline, **settings)
    assert video.shape == stock.shape
    assert all(call.is_dense is False for call in run.receipt.calls)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ((40, 48, 9), "model.height is 40; this model takes multiples of 16, such as 3"),
        ((32, 50, 9), "model.width is 50; this model takes multiples of 16, such as 48"),
        ((32, 48, 8), r"model.num_frames is 8; this model takes 4k \+ 1 frames, such as 9"),
    ],
)
def test_a_size_that_the_model_does_not_take_is_refused_by_name(family, size, words):
    with pytest.raises(ValueError, match=words):
        HunyuanVideoAdapter().check_size(family.pipeline, *size)


def test_a_video_of_which_nothing_would_be_left_is_refused():
    pipeline = tiny_hunyuan_video_i2v_pipeline(condition="latent_concat")
    with pytest.raises(ValueError, match="model.num_frames is 1; this model takes at least 5"):
        HunyuanVideoAdapter().check_size(pipeline, 32, 48, 1)


@pytest.mark.parametrize(
    ("image", "size"), [((720, 1280), (720, 1280)), ((1000, 1000), (960, 960)), ((90, 60), (1168, 784))]
)
def test_a_video_takes_the_shape_of_its_image(image, size):
    pipeline = tiny_hunyuan_video_i2v_pipeline()
    assert HunyuanVideoAdapter().size_for_image(pipeline, 720 * 1280, *image) == size


@pytest.mark.parametrize("is_dual", [True, False])
def test_rows_asked_for_by_position_are_rows_of_the_whole(is_dual):
    torch.manual_seed(0)
    heads, num_video = torch.randn(2, 9, 3, 8), 6
    norms = [torch.nn.RMSNorm(8) for _ in range(2)]
    for norm in norms:
        torch.nn.init.normal_(norm.weight)
    rotary, norms = torch.randn(2, num_video, 4).repeat_interleave(2, -1), norms if is_dual else norms[:1] * 2
    whole = finished(heads, *norms, tuple(rotary), num_video, None)
    rows = torch.tensor([8, 0, 5, 6, 2, 2])
    assert torch.equal(finished(heads[:, rows], *norms, tuple(rotary), num_video, rows), whole[:, rows])


@pytest.mark.parametrize("name", ["hunyuan_video_t2v", "hunyuan_video_i2v"])
def test_the_settings_file_tells_the_real_models_sizes(name):
    model = composed(f"model={name}").model
    with torch.device("meta"):
        # The checkpoint's own sizes are the class's defaults.
        transformer = HunyuanVideoTransformer3DModel()
    attentions, sizes = HunyuanVideoAdapter().self_attentions(transformer), model.transformer
    assert len(attentions) == sizes.num_layers == 60
    assert {(attention.heads, attention.inner_dim) for attention in attentions} == {(24, 24 * sizes.head_dim)}
    assert transformer.transformer_blocks[0].ff.net[0].proj.out_features == sizes.ffn_dim
    latents = torch.empty(1, 16, (model.num_frames - 1) // 4 + 1, model.height // 8, model.width // 8, device="meta")
    inputs = {"hidden_states": latents, "encoder_attention_mask": torch.ones(1, 100)}
    assert HunyuanVideoAdapter().layout(transformer, inputs) == TokenLayout(33, 3600, 100)


def test_true_guidance_equals_the_stock_pipeline_with_prompts_of_two_lengths_in_a_step():
    pipeline = tiny_hunyuan_video_pipeline()
    settings = {"true_cfg_scale": 3.0, "negative_prompt": "blue", "prompt": LONG}
    stock = generate(pipeline, **settings)
    with svg.attach(pipeline, Dense()):
        assert (generate(pipeline, **settings) - stock).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_method_is_told_the_timesteps_that_the_transformer_is_given_rounded_from_the_second_step_on(family, dtype):
    given, told = [], []

    @dataclass
    class Asking(Looking):
        def dense_schedule(self, num_steps, num_layers, timesteps):
            told.extend(timesteps)
            return super().dense_schedule(num_steps, num_layers, timesteps)

    transformer = family.pipeline.transformer.to(dtype)
    hook = transformer.register_forward_pre_hook(
        lambda module, args, kwargs: given.append(kwargs["timestep"][0].item()), with_kwargs=True
    )
    try:
        with svg.attach(family.pipeline, Asking()):
            family.video(num_inference_steps=6)
    finally:
        hook.remove()
        transformer.float()
    assert told == given
    is_rounded = dtype == torch.bfloat16 and transformer.config.image_condition_type != "token_replace"
    assert all(value == round(value) for value in given) == is_rounded
