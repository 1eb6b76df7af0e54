"""Norm, rotation and layout by one kernel: every family's video is what the model's own steps make, to the rounding."""

from __future__ import annotations

import pytest
import torch

import svg
from svg.kernel_operations import KernelOperations
from svg.methods.dense import Dense
from svg.methods.one_pattern import OnePattern
from svg.models import _fused
from svg_kernels import norm_rope
from tests.tiny_cogvideox import tiny_cogvideox_pipeline
from tests.tiny_cosmos import tiny_cosmos_pipeline
from tests.tiny_pipelines import generate, tiny_hunyuan_video_pipeline, tiny_wan_pipeline, tiny_wan_transformer


def wan():
    pipeline = tiny_wan_pipeline()
    pipeline.transformer = tiny_wan_transformer(2, attention_head_dim=16)
    return pipeline


FAMILIES = {
    "wan": wan,
    "hunyuan_video": tiny_hunyuan_video_pipeline,
    "cogvideox": tiny_cogvideox_pipeline,
    "cosmos": tiny_cosmos_pipeline,
}


@pytest.fixture
def counted(monkeypatch):
    """Let the kernel run wherever it can, and count how often it does."""
    prepared, prepare = [], norm_rope.prepare

    def count(*arguments, **settings):
        prepared.append(settings)
        return prepare(*arguments, **settings)

    def switch(is_on: bool) -> None:
        monkeypatch.setattr(_fused, "_is_able", lambda projection: is_on)

    monkeypatch.setattr(norm_rope, "prepare", count)
    return prepared, switch


# In float16, which rounds eight times as finely, a wrong rotation moves every video ten times as far as rounding does.
@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "most"), [(torch.bfloat16, 4e-2), (torch.float16, 5e-3)], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_video_in_half_precision_through_the_kernel_on_a_gpu_is_the_video_without_it(
    family, dtype, most, monkeypatch
):
    videos, pipeline = {}, FAMILIES[family]().to("cuda", dtype)
    pipeline.set_progress_bar_config(disable=True)
    with monkeypatch.context() as stock:
        stock.setattr(_fused, "_is_able", lambda projection: False)
        with svg.attach(pipeline, Dense()):
            videos[False] = generate(pipeline, num_inference_steps=2, output_type="latent").float()
    prepared, prepare = [], norm_rope.prepare
    monkeypatch.setattr(norm_rope, "prepare", lambda *given, **more: prepared.append(given) or prepare(*given, **more))
    with svg.attach(pipeline, Dense()) as run:
        videos[True] = generate(pipeline, num_inference_steps=2, output_type="latent").float()
    assert len(prepared) == 2 * len(run.receipt.calls)
    assert (videos[True] - videos[False]).norm() <= most * videos[False].norm()


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="rehearses in the interpreter")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_video_through_the_kernel_is_the_video_without_it(family, counted):
    prepared, switch = counted
    videos = []
    for is_on in (False, True):
        pipeline = FAMILIES[family]()
        pipeline.set_progress_bar_config(disable=True)
        switch(is_on)
        with svg.attach(pipeline, Dense()) as run:
            videos.append(generate(pipeline, num_inference_steps=2, output_type="latent"))
    # Queries and keys of every call.
    assert len(prepared) == 2 * len(run.receipt.calls)
    torch.testing.assert_close(videos[1], videos[0], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="rehearses in the interpreter")
@pytest.mark.parametrize("family", FAMILIES)
def test_queries_of_a_reordered_plan_are_finished_and_put_in_order_by_one_kernel(family, counted):
    prepared, switch = counted
    videos, method = [], OnePattern(pattern="temporal", density=0.97, block_size=8)
    for is_on in (False, True):
        pipeline = FAMILIES[family]()
        pipeline.set_progress_bar_config(disable=True)
        switch(is_on)
        with svg.attach(pipeline, method, "reference", operations=KernelOperations()) as run:
            videos.append(generate(pipeline, num_inference_steps=2, output_type="latent"))
    assert len(run.receipt.sparse_calls) == len(run.receipt.calls)
    placed = [more for more in prepared if more.get("places") is not None]
    assert (len(placed), len(prepared)) == (len(run.receipt.calls), 2 * len(run.receipt.calls))
    torch.testing.assert_close(videos[1], videos[0], rtol=1e-3, atol=1e-4)


def projection_and_tables(head_dim: int = 32) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    angles = torch.randn(7, head_dim // 2).repeat_interleave(2, 1)
    return torch.randn(1, 7, 2 * head_dim), (angles.cos(), angles.sin())


def test_norms_that_the_kernel_does_not_know_and_odd_heads_are_left_to_the_model(counted):
    _, switch = counted
    switch(True)
    projection, rotation = projection_and_tables()
    assert _fused.fused(projection, 2, torch.nn.RMSNorm(32, eps=1e-6), rotation) is not None
    for norm in (
        torch.nn.GroupNorm(2, 32),
        torch.nn.RMSNorm(32),
        torch.nn.LayerNorm(64),
        torch.nn.LayerNorm(32, bias=False),
    ):
        assert _fused.fused(projection, 2, norm, rotation) is None
    odd, rotation = projection_and_tables(24)
    assert _fused.fused(odd, 2, torch.nn.RMSNorm(24, eps=1e-6), rotation) is None


def test_a_norm_whose_weights_are_offloaded_is_left_to_the_model(counted):
    _, switch = counted
    switch(True)
    projection, rotation = projection_and_tables()
    here, there = torch.nn.RMSNorm(32, eps=1e-6), torch.nn.RMSNorm(32, eps=1e-6).to("meta")
    assert _fused.fused(projection, 2, there, rotation) is None
    assert _fused.fused(projection, 2, here, rotation, text=(0, 2), text_norm=there) is None
    half_there = torch.nn.LayerNorm(32)
    half_there.bias = torch.nn.Parameter(half_there.bias.to("meta"))
    assert _fused.fused(projection, 2, half_there, rotation) is None


def test_without_a_gpu_nothing_is_fused():
    projection, rotation = projection_and_tables()
    assert _fused.fused(projection, 2, torch.nn.RMSNorm(32, eps=1e-6), rotation) is None
