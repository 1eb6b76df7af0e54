"""What people use beside the attachment keeps working in every family, or says in one line that it cannot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch

import svg
from experiments.parts import set_vae_tiling
from svg.methods.dense import Dense
from svg.models import adapter_for
from svg.models.cosmos import resize_without_torchvision
from tests.tiny_cogvideox import picture, tiny_cogvideox_i2v_pipeline
from tests.tiny_cosmos import tiny_cosmos_pipeline
from tests.tiny_pipelines import generate, tiny_hunyuan_video_pipeline, tiny_wan_pipeline

SMALL_TILES = {
    "tile_sample_min_height": 16,
    "tile_sample_min_width": 16,
    "tile_sample_stride_height": 8,
    "tile_sample_stride_width": 8,
}
# Two tiles high and two wide.
LARGE_TILES = {
    "tile_sample_min_height": 64,
    "tile_sample_min_width": 64,
    "tile_overlap_factor_height": 0.5,
    "tile_overlap_factor_width": 0.5,
}
TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
TEXT_TARGETS = ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "proj_mlp")


class Family(NamedTuple):
    """One family's pipeline and what is particular to it.

    ``forwards`` are those of three steps. Dense through the attachment equals the stock pipeline to ``tolerance``, and
    with fused projections a sparse video equals that without them to ``fused_tolerance``. Where nothing is decoded
    latents are compared.
    """

    make: Callable[..., Any]
    method: svg.SparseVideoGen
    forwards: int
    settings: dict[str, Any]
    tiles: dict[str, Any] | None
    targets: tuple[str, ...] = TARGETS
    tolerance: float = 0.0
    fused_tolerance: float = 1e-5

    def stock(self, pipeline, **settings) -> torch.Tensor:
        return generate(pipeline, **self.settings | settings)

    def sparse(self, pipeline, **settings) -> torch.Tensor:
        with svg.attach(pipeline, self.method, "reference") as run:
            video = self.stock(pipeline, **settings)
        adapter = adapter_for(pipeline)
        layers = adapter.self_attentions(adapter.transformers(pipeline)[0])
        assert len(run.receipt.sparse_calls) == self.forwards * len(layers)
        return video

    def assert_dense_is(self, stock: torch.Tensor, pipeline, **settings) -> None:
        with svg.attach(pipeline, Dense()):
            assert_near(self.stock(pipeline, **settings), stock, self.tolerance)


FAMILIES = {
    # Two experts; the second begins at the second of three steps.
    "wan2_2": Family(
        lambda num_layers=2: tiny_wan_pipeline(num_layers, boundary_ratio=0.9),
        svg.SparseVideoGen(density=0.7, block_size=2),
        6,
        {},
        SMALL_TILES,
    ),
    # Its padding is sliced off, so sums are taken in another order.
    "hunyuan_video": Family(
        tiny_hunyuan_video_pipeline,
        svg.SparseVideoGen(density=0.8, block_size=2),
        3,
        {},
        SMALL_TILES,
        targets=TARGETS + TEXT_TARGETS,
        tolerance=1e-5,
        fused_tolerance=0.0,
    ),
    "cogvideox": Family(
        tiny_cogvideox_i2v_pipeline,
        svg.SparseVideoGen(density=0.7, block_size=8),
        3,
        {
            "num_frames": 17,
            "height": 64,
            "width": 96,
            "max_sequence_length": 5,
            "image": picture(),
            "output_type": "latent",
        },
        LARGE_TILES,
        fused_tolerance=1e-4,
    ),
    "cosmos": Family(
        tiny_cosmos_pipeline,
        svg.SparseVideoGen(density=0.7, block_size=2),
        6,
        {"num_frames": 17, "output_type": "latent"},
        None,
        fused_tolerance=1e-4,
    ),
}


def assert_near(video: torch.Tensor, other: torch.Tensor, tolerance: float = 0.0) -> None:
    assert (video - other).abs().max() <= tolerance


def experts_of(pipeline) -> list[Any]:
    return adapter_for(pipeline).transformers(pipeline)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    resize_without_torchvision()
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def known(family):
    """The stock and the sparse video of a plain pipeline."""
    pipeline = family.make()
    return family.stock(pipeline), family.sparse(pipeline)


@pytest.fixture
def pipeline(family):
    return family.make()


def test_models_that_are_moved_to_the_device_only_while_they_run_give_the_same_videos(family, pipeline, known):
    pipeline.enable_model_cpu_offload(device="cpu")
    assert_near(family.sparse(pipeline), known[1])
    assert_near(family.stock(pipeline), known[0])
    family.assert_dense_is(known[0], pipeline)


@pytest.mark.parametrize(
    "kind", [{"offload_type": "block_level", "num_blocks_per_group": 1}, {"offload_type": "leaf_level"}]
)
def test_blocks_and_leaves_that_are_moved_one_by_one_give_the_same_videos(family, pipeline, known, kind):
    cpu = torch.device("cpu")
    for expert in experts_of(pipeline):
        expert.enable_group_offload(onload_device=cpu, offload_device=cpu, **kind)
    assert_near(family.sparse(pipeline), known[1])
    assert_near(family.stock(pipeline), known[0])
    family.assert_dense_is(known[0], pipeline)


@pytest.mark.slow
def test_an_autoencoder_in_tiles_and_slices_gives_what_it_gives_the_stock_pipeline(family, pipeline):
    decoded = {"output_type": "pt"}
    whole = family.stock(pipeline, **decoded)
    if family.tiles is None:
        with pytest.raises(ValueError, match="model.vae_tiling is true, but AutoencoderKLCosmos cannot"):
            set_vae_tiling(pipeline, True)
    else:
        set_vae_tiling(pipeline, True)
        pipeline.vae.enable_tiling(**family.tiles)
        assert not torch.equal(family.stock(pipeline, **decoded), whole)
    pipeline.vae.enable_slicing()
    family.assert_dense_is(family.stock(pipeline, **decoded), pipeline, **decoded)
    set_vae_tiling(pipeline, False)
    assert_near(family.stock(pipeline, **decoded), whole)


def test_fused_projections_give_the_same_sparse_video_to_a_rounding(family, pipeline, known):
    if hasattr(pipeline, "fuse_qkv_projections"):
        pipeline.fuse_qkv_projections()
    for expert in experts_of(pipeline):
        if hasattr(expert, "fuse_qkv_projections"):
            # HunyuanVideo's does nothing: diffusers has no fused processor for it.
            expert.fuse_qkv_projections()
        else:
            # Cosmos' own processor takes no fused projections, nor does ours: fused or not, it uses the separate ones.
            for layer in adapter_for(pipeline).self_attentions(expert):
                layer.fuse_projections()
    family.assert_dense_is(family.stock(pipeline), pipeline)
    assert_near(family.sparse(pipeline), known[1], family.fused_tolerance)


def test_lora_adapters_work_and_can_be_switched_off_again(family, pipeline, known):
    from peft import LoraConfig

    settings = LoraConfig(r=2, lora_alpha=2, init_lora_weights=False, target_modules=list(family.targets))
    torch.manual_seed(0)
    for expert in experts_of(pipeline):
        expert.add_adapter(settings)
    stock = family.stock(pipeline)
    assert (stock - known[0]).abs().max() > 1e-3
    family.assert_dense_is(stock, pipeline)
    assert (family.sparse(pipeline) - known[1]).abs().max() > 1e-3
    for expert in experts_of(pipeline):
        expert.disable_adapters()
    assert_near(family.sparse(pipeline), known[1])


def test_weights_stored_in_another_precision_give_what_they_give_the_stock_pipeline(family, pipeline):
    for expert in experts_of(pipeline):
        expert.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)
    stock = family.stock(pipeline)
    family.assert_dense_is(stock, pipeline)
    assert not torch.equal(family.sparse(pipeline), stock)
