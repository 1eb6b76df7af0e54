"""What people use beside the attachment keeps working with CogVideoX and Cosmos, or says in one line that it cannot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch

import svg
from experiments.parts import set_vae_tiling
from svg.methods.dense import Dense
from svg.models.cosmos import resize_without_torchvision
from tests.tiny_cogvideox import picture, tiny_cogvideox_i2v_pipeline
from tests.tiny_cosmos import tiny_cosmos_pipeline
from tests.tiny_pipelines import generate


class Family(NamedTuple):
    """How to make a pipeline, what its calls need, a method that skips something, and its forwards in three steps."""

    make: Callable[..., Any]
    settings: dict[str, Any]
    method: svg.SparseVideoGen
    forwards: int

    def latents(self, pipeline) -> torch.Tensor:
        return generate(pipeline, **{"output_type": "latent"} | self.settings)

    def sparse(self, pipeline) -> torch.Tensor:
        with svg.attach(pipeline, self.method, "reference") as run:
            latents = self.latents(pipeline)
        assert len(run.receipt.sparse_calls) == self.forwards * len(pipeline.transformer.transformer_blocks)
        return latents

    def dense(self, pipeline) -> torch.Tensor:
        with svg.attach(pipeline, Dense()):
            return self.latents(pipeline)


FAMILIES = {
    "cogvideox": Family(
        tiny_cogvideox_i2v_pipeline,
        {"num_frames": 17, "height": 64, "width": 96, "max_sequence_length": 5, "image": picture()},
        svg.SparseVideoGen(density=0.7, block_size=8),
        3,
    ),
    "cosmos": Family(tiny_cosmos_pipeline, {"num_frames": 17}, svg.SparseVideoGen(density=0.7, block_size=2), 6),
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    resize_without_torchvision()
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def known(family):
    """The stock and the sparse latents of a plain pipeline."""
    pipeline = family.make()
    return family.latents(pipeline), family.sparse(pipeline)


@pytest.fixture
def pipeline(family):
    return family.make()


def test_models_that_are_moved_to_the_device_only_while_they_run_give_the_same_videos(family, pipeline, known):
    pipeline.enable_model_cpu_offload(device="cpu")
    assert torch.equal(family.sparse(pipeline), known[1])
    assert torch.equal(family.dense(pipeline), known[0])


@pytest.mark.parametrize(
    "kind", [{"offload_type": "block_level", "num_blocks_per_group": 1}, {"offload_type": "leaf_level"}]
)
def test_blocks_and_leaves_that_are_moved_one_by_one_give_the_same_videos(family, pipeline, known, kind):
    cpu = torch.device("cpu")
    pipeline.transformer.enable_group_offload(onload_device=cpu, offload_device=cpu, **kind)
    assert torch.equal(family.sparse(pipeline), known[1])
    assert torch.equal(family.dense(pipeline), known[0])


def test_an_autoencoder_in_tiles_and_slices_gives_what_it_gives_the_stock_pipeline(family, pipeline):
    whole = generate(pipeline, **family.settings)
    if hasattr(pipeline.vae, "tiled_decode"):
        # Two tiles high and two wide.
        set_vae_tiling(pipeline, True)
        overlap = {"tile_overlap_factor_height": 0.5, "tile_overlap_factor_width": 0.5}
        pipeline.vae.enable_tiling(tile_sample_min_height=64, tile_sample_min_width=64, **overlap)
        assert not torch.equal(generate(pipeline, **family.settings), whole)
    else:
        with pytest.raises(ValueError, match="model.vae_tiling is true, but AutoencoderKLCosmos cannot"):
            set_vae_tiling(pipeline, True)
    pipeline.vae.enable_slicing()
    stock = generate(pipeline, **family.settings)
    with svg.attach(pipeline, Dense()):
        assert torch.equal(generate(pipeline, **family.settings), stock)
    set_vae_tiling(pipeline, False)
    assert torch.equal(generate(pipeline, **family.settings), whole)


def test_fused_projections_give_the_same_sparse_video_to_a_rounding(family, pipeline, known):
    if hasattr(pipeline, "fuse_qkv_projections"):
        pipeline.fuse_qkv_projections()
    else:
        # Cosmos' own processor takes no fused projections, nor does ours: fused or not, it uses the separate ones.
        for block in pipeline.transformer.transformer_blocks:
            block.attn1.fuse_projections()
    stock = family.latents(pipeline)
    assert torch.equal(family.dense(pipeline), stock)
    assert torch.allclose(family.sparse(pipeline), known[1], atol=1e-4)


def test_lora_adapters_work_and_can_be_switched_off_again(family, pipeline, known):
    from peft import LoraConfig

    settings = LoraConfig(
        r=2, lora_alpha=2, init_lora_weights=False, target_modules=["to_q", "to_k", "to_v", "to_out.0"]
    )
    torch.manual_seed(0)
    pipeline.transformer.add_adapter(settings)
    stock = family.latents(pipeline)
    assert not torch.equal(stock, known[0])
    assert torch.equal(family.dense(pipeline), stock)
    assert not torch.equal(family.sparse(pipeline), known[1])
    pipeline.transformer.disable_adapters()
    assert torch.equal(family.sparse(pipeline), known[1])


def test_weights_stored_in_another_precision_give_what_they_give_the_stock_pipeline(family, pipeline):
    pipeline.transformer.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)
    stock = family.latents(pipeline)
    assert torch.equal(family.dense(pipeline), stock)
    assert not torch.equal(family.sparse(pipeline), stock)


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(family, num_layers: int):
    """Return a pipeline with compiled blocks, and the graphs that were compiled; nothing is made faster."""
    graphs = []

    def keep(graph: torch.fx.GraphModule, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    pipeline = family.make(num_layers)
    # Its classes do not say which blocks repeat, so compile_repeated_blocks refuses them.
    for block in pipeline.transformer.transformer_blocks:
        block.compile(backend=keep)
    return pipeline, graphs


@pytest.mark.slow
def test_compiled_blocks_give_the_same_videos_and_are_compiled_once_for_all_layers_and_steps(family, fresh_compiler):
    plain = family.make(4)
    stock, sparse = family.latents(plain), family.sparse(plain)
    pipeline, graphs = compiled(family, 4)
    assert torch.equal(family.sparse(pipeline), sparse)
    once = len(graphs)
    assert torch.equal(family.sparse(pipeline), sparse)
    assert len(graphs) == once
    assert torch.equal(family.latents(pipeline), stock)
    shallow, graphs = compiled(family, 2)
    family.sparse(shallow)
    assert len(graphs) == once > 0


def test_blocks_that_must_be_one_graph_are_refused_in_one_line(family, pipeline, fresh_compiler):
    for block in pipeline.transformer.transformer_blocks:
        block.compile(fullgraph=True, backend="eager")
    with pytest.raises(torch._dynamo.exc.Unsupported, match="compile with fullgraph=False"):
        family.sparse(pipeline)
