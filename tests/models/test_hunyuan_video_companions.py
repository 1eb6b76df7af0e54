"""What people use beside the attachment keeps working on HunyuanVideo: offload, tiles, LoRA, fusing, compile."""

from __future__ import annotations

import pytest
import torch
from diffusers.hooks import apply_group_offloading

import svg
from svg.methods.dense import Dense
from tests.tiny_pipelines import generate, tiny_hunyuan_video_pipeline

METHOD = svg.SparseVideoGen(density=0.8, block_size=2)
# Their texts are 2, 6 and 9 tokens.
PROMPTS = ("circle", "a red circle moves right", "a blue square spins left and moves right")


def sparse_video(pipeline, **settings) -> torch.Tensor:
    with svg.attach(pipeline, METHOD, "reference") as run:
        video = generate(pipeline, **settings)
    assert len(run.receipt.sparse_calls) == 3 * len(
        [*pipeline.transformer.transformer_blocks, *pipeline.transformer.single_transformer_blocks]
    )
    return video


@pytest.fixture
def pipeline():
    return tiny_hunyuan_video_pipeline()


@pytest.fixture(scope="module")
def videos():
    """The stock and the sparse video of ``pipeline``."""
    pipeline = tiny_hunyuan_video_pipeline()
    return generate(pipeline), sparse_video(pipeline)


def test_models_that_are_moved_to_the_device_only_while_they_run_give_the_same_videos(pipeline, videos):
    pipeline.enable_model_cpu_offload(device="cpu")
    assert torch.equal(sparse_video(pipeline), videos[1])
    assert torch.equal(generate(pipeline), videos[0])


@pytest.mark.parametrize(
    "kind", [{"offload_type": "block_level", "num_blocks_per_group": 1}, {"offload_type": "leaf_level"}]
)
def test_blocks_and_leaves_that_are_moved_one_by_one_give_the_same_videos(pipeline, videos, kind):
    cpu = torch.device("cpu")
    apply_group_offloading(pipeline.transformer, onload_device=cpu, offload_device=cpu, **kind)
    assert torch.equal(sparse_video(pipeline), videos[1])
    assert torch.equal(generate(pipeline), videos[0])


def test_an_autoencoder_in_tiles_and_slices_decodes_what_it_would_without_the_attachment(pipeline, videos):
    pipeline.vae.enable_tiling(
        tile_sample_min_height=16, tile_sample_min_width=16, tile_sample_stride_height=8, tile_sample_stride_width=8
    )
    pipeline.vae.enable_slicing()
    stock = generate(pipeline)
    assert not torch.equal(stock, videos[0])
    with svg.attach(pipeline, Dense()):
        assert (generate(pipeline) - stock).abs().max() < 1e-5


def test_fused_projections_of_which_diffusers_has_none_here_change_nothing(pipeline, videos):
    pipeline.transformer.fuse_qkv_projections()
    assert torch.equal(sparse_video(pipeline), videos[1])


def test_lora_adapters_of_text_and_video_work_and_can_be_switched_off_again(pipeline, videos):
    from peft import LoraConfig

    targets = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "proj_mlp"]
    torch.manual_seed(0)
    pipeline.transformer.add_adapter(LoraConfig(r=2, lora_alpha=2, init_lora_weights=False, target_modules=targets))
    stock = generate(pipeline)
    assert (stock - videos[0]).abs().max() > 1e-3
    with svg.attach(pipeline, Dense()):
        assert (generate(pipeline) - stock).abs().max() < 1e-5
    assert (sparse_video(pipeline) - videos[1]).abs().max() > 1e-3
    pipeline.transformer.disable_adapters()
    assert torch.equal(sparse_video(pipeline), videos[1])


@pytest.fixture
def graphs():
    """Collects the graphs that are compiled with ``keep``; nothing is made faster."""
    torch._dynamo.reset()
    yield []
    torch._dynamo.reset()


def compiled(num_layers: int, graphs: list):
    def keep(graph: torch.fx.GraphModule, inputs):
        graphs.append(graph)
        return graph.forward

    pipeline = tiny_hunyuan_video_pipeline(num_layers)
    pipeline.transformer.compile_repeated_blocks(backend=keep)
    return pipeline


def test_compiled_blocks_give_the_same_videos_and_are_compiled_once_for_all_layers_and_steps(graphs):
    plain = tiny_hunyuan_video_pipeline(3)
    stock, sparse = generate(plain), sparse_video(plain)
    pipeline = compiled(3, graphs)
    assert torch.equal(sparse_video(pipeline), sparse)
    once = len(graphs)
    assert torch.equal(sparse_video(pipeline), sparse)
    assert len(graphs) == once
    assert torch.equal(generate(pipeline), stock)
    torch._dynamo.reset()
    graphs.clear()
    sparse_video(compiled(2, graphs))
    assert len(graphs) == once > 0


def test_compiled_blocks_are_compiled_twice_at_most_for_prompts_of_any_length(graphs):
    pipeline = compiled(1, graphs)
    counts = []
    for prompt in (*PROMPTS, "a a a a a a a a a"):
        sparse_video(pipeline, prompt=prompt)
        counts.append(len(graphs))
    assert counts[1] == counts[-1] <= 2 * counts[0]
