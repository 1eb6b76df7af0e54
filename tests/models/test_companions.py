"""What people use beside the attachment keeps working: offload, tiles and slices, LoRA, fused projections, compile."""

from __future__ import annotations

import pytest
import torch
from diffusers.hooks import apply_group_offloading

import svg
from svg.methods.dense import Dense
from tests.tiny_pipelines import generate, tiny_wan_pipeline

METHOD = svg.SparseVideoGen(density=0.7, block_size=2)


def sparse_video(pipeline) -> torch.Tensor:
    with svg.attach(pipeline, METHOD, "reference") as run:
        video = generate(pipeline)
    assert len(run.receipt.sparse_calls) == 3 * 2 * len(pipeline.transformer.blocks)
    return video


@pytest.fixture
def pipeline():
    """Two experts; the second begins at the second of three steps."""
    return tiny_wan_pipeline(boundary_ratio=0.9)


@pytest.fixture(scope="module")
def videos():
    """The stock and the sparse video of ``pipeline``."""
    pipeline = tiny_wan_pipeline(boundary_ratio=0.9)
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
    for expert in (pipeline.transformer, pipeline.transformer_2):
        apply_group_offloading(expert, onload_device=cpu, offload_device=cpu, **kind)
    assert torch.equal(sparse_video(pipeline), videos[1])
    assert torch.equal(generate(pipeline), videos[0])


def test_an_autoencoder_in_tiles_and_slices_decodes_the_same_latents(pipeline):
    pipeline.vae.enable_tiling(
        tile_sample_min_height=16, tile_sample_min_width=16, tile_sample_stride_height=8, tile_sample_stride_width=8
    )
    pipeline.vae.enable_slicing()
    stock = generate(pipeline)
    with svg.attach(pipeline, Dense()):
        assert torch.equal(generate(pipeline), stock)


def test_fused_projections_give_the_same_sparse_video_to_a_rounding(pipeline, videos):
    for expert in (pipeline.transformer, pipeline.transformer_2):
        expert.fuse_qkv_projections()
    assert (sparse_video(pipeline) - videos[1]).abs().max() < 1e-5


def test_lora_adapters_work_and_can_be_switched_off_again(pipeline, videos):
    from peft import LoraConfig

    settings = LoraConfig(
        r=2, lora_alpha=2, init_lora_weights=False, target_modules=["to_q", "to_k", "to_v", "to_out.0"]
    )
    torch.manual_seed(0)
    for expert in (pipeline.transformer, pipeline.transformer_2):
        expert.add_adapter(settings)
    stock = generate(pipeline)
    assert not torch.equal(stock, videos[0])
    with svg.attach(pipeline, Dense()):
        assert torch.equal(generate(pipeline), stock)
    assert not torch.equal(sparse_video(pipeline), videos[1])
    for expert in (pipeline.transformer, pipeline.transformer_2):
        expert.disable_adapters()
    assert torch.equal(sparse_video(pipeline), videos[1])


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(num_layers: int):
    """Return a pipeline with compiled blocks, and the graphs that were compiled; nothing is made faster."""
    graphs = []

    def keep(graph: torch.fx.GraphModule, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    pipeline = tiny_wan_pipeline(num_layers)
    pipeline.transformer.compile_repeated_blocks(backend=keep)
    return pipeline, graphs


def test_compiled_blocks_give_the_same_videos_and_are_compiled_once_for_all_layers_and_steps(fresh_compiler):
    plain = tiny_wan_pipeline(4)
    stock, sparse = generate(plain), sparse_video(plain)
    pipeline, graphs = compiled(4)
    assert torch.equal(sparse_video(pipeline), sparse)
    once = len(graphs)
    assert torch.equal(sparse_video(pipeline), sparse)
    assert len(graphs) == once
    assert torch.equal(generate(pipeline), stock)
    shallow, graphs = compiled(2)
    sparse_video(shallow)
    assert len(graphs) == once > 0


def test_blocks_that_must_be_one_graph_are_told_which_setting_to_change(fresh_compiler):
    pipeline = tiny_wan_pipeline()
    pipeline.transformer.compile_repeated_blocks(fullgraph=True, backend="eager")
    with (
        pytest.raises(torch._dynamo.exc.Unsupported, match="compile with fullgraph=False"),
        svg.attach(pipeline, METHOD, "reference"),
    ):
        generate(pipeline)
