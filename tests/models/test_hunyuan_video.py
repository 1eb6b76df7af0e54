"""HunyuanVideo: joint attention with padded prompts, text-to-video and both ways of image-to-video."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from PIL import Image

import svg
from svg.methods.dense import Dense
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
    "i2v_token_replace": Family(tiny_hunyuan_video_i2v_pipeline, I2V, 0.9),
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
