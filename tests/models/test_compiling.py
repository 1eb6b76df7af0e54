"""Compiled blocks hold attention as one operator: no graph break, no recompilation, the same videos in every family."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import svg
from svg import sites
from svg.methods.one_pattern import OnePattern
from svg.models import adapter_for
from svg.models.cosmos import resize_without_torchvision
from tests.models.test_companions import FAMILIES, Family, assert_near, experts_of


@pytest.fixture(autouse=True)
def _fresh_compiler():
    resize_without_torchvision()
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


class Kept:
    """A compiler that keeps the graphs it is given, and makes nothing faster."""

    def __init__(self) -> None:
        self.graphs: list[torch.fx.GraphModule] = []

    def __call__(self, graph: torch.fx.GraphModule, inputs: Any) -> Any:
        self.graphs.append(graph)
        return graph.forward


def blocks_of(pipeline) -> list[torch.nn.Module]:
    """Return the modules whose classes repeat."""
    more = getattr(adapter_for(pipeline), "repeated_blocks", ())
    names = {name for expert in experts_of(pipeline) for name in (*(expert._repeated_blocks or ()), *more)}
    return [module for expert in experts_of(pipeline) for module in expert.modules() if type(module).__name__ in names]


def compiled(family: Family, pipeline, backend, **settings) -> torch.Tensor:
    """Return the sparse video of compiled blocks."""
    with svg.attach(pipeline, family.method, "reference", compile={"backend": backend}):
        return family.stock(pipeline, **settings)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_compiled_blocks_are_one_graph_for_all_layers_steps_and_prompts_and_give_the_same_videos_bit_for_bit(name):
    family, keep = FAMILIES[name], Kept()
    pipeline, adapter = family.make(3), adapter_for(family.make(1))
    layers = [layer for expert in experts_of(pipeline) for layer in adapter.self_attentions(expert)]
    processors = [layer.processor for layer in layers]
    stock, sparse = family.stock(pipeline), family.sparse(pipeline)
    # Of another length, which HunyuanVideo's attention has, too.
    other = family.sparse(pipeline, prompt="circle")
    assert_near(compiled(family, pipeline, backend=keep), sparse)
    assert torch._dynamo.utils.counters["graph_break"] == {}
    kinds, once = {type(block) for block in blocks_of(pipeline)}, len(keep.graphs)
    # What a first block is handed may lie otherwise in memory than what a block returns.
    assert len(kinds) <= once <= 2 * len(kinds) and once < len(blocks_of(pipeline))
    assert any(node.target is sites.attend._opoverload for graph in keep.graphs for node in graph.graph.nodes)
    with torch._dynamo.config.patch(error_on_recompile=True):
        assert_near(compiled(family, pipeline, backend=keep, prompt="circle"), other)
    assert [layer.processor for layer in layers] == processors
    assert all(block._compiled_call_impl is None for block in blocks_of(pipeline))
    assert_near(family.stock(pipeline), stock)
    assert len(keep.graphs) == once


@pytest.mark.slow
def test_blocks_that_a_person_has_compiled_need_no_graph_break_and_stay_as_they_were():
    family, keep = FAMILIES["cosmos"], Kept()
    pipeline = family.make()
    sparse = family.sparse(pipeline)
    for block in blocks_of(pipeline):
        block.compile(fullgraph=True, backend=keep)
    theirs = [block._compiled_call_impl for block in blocks_of(pipeline)]
    assert_near(family.sparse(pipeline), sparse)
    assert keep.graphs
    with svg.attach(pipeline, family.method, "reference", compile=True):
        assert [block._compiled_call_impl for block in blocks_of(pipeline)] != theirs
    assert [block._compiled_call_impl for block in blocks_of(pipeline)] == theirs


@pytest.mark.slow
def test_adapters_and_whole_models_that_are_offloaded_can_be_compiled():
    from peft import LoraConfig

    family = FAMILIES["cosmos"]
    pipeline = family.make()
    plain = family.sparse(pipeline)
    pipeline.transformer.add_adapter(LoraConfig(r=2, init_lora_weights=False, target_modules=list(family.targets)))
    pipeline.enable_model_cpu_offload(device="cpu")
    sparse = family.sparse(pipeline)
    assert (sparse - plain).abs().max() > 1e-3
    assert_near(compiled(family, pipeline, backend="eager"), sparse)
    assert torch._dynamo.utils.counters["graph_break"] == {}


def grouped(pipeline) -> None:
    cpu = torch.device("cpu")
    pipeline.transformer.enable_group_offload(onload_device=cpu, offload_device=cpu, offload_type="leaf_level")


def one_by_one(pipeline) -> None:
    from accelerate import cpu_offload

    cpu_offload(pipeline.transformer, torch.device("cpu"))


def narrow(pipeline) -> None:
    pipeline.transformer.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)


@pytest.mark.parametrize(
    ("prepare", "named"),
    [(grouped, "group_offloading"), (one_by_one, "AlignDevicesHook"), (narrow, "layerwise_casting")],
)
def test_what_runs_inside_of_a_block_is_refused_by_name_and_nothing_is_left_attached(prepare, named):
    pipeline = FAMILIES["cosmos"].make()
    processors = pipeline.transformer.transformer_blocks[0].attn1.processor
    prepare(pipeline)
    with (
        pytest.raises(ValueError, match=f"compile is true, but {named} runs inside of CosmosTransformerBlock"),
        svg.attach(pipeline, FAMILIES["cosmos"].method, "reference", compile=True),
    ):
        pass
    assert pipeline.transformer.transformer_blocks[0].attn1.processor is processors
    assert all(block._compiled_call_impl is None for block in blocks_of(pipeline))


def test_a_transformer_without_known_blocks_is_refused(monkeypatch):
    pipeline = FAMILIES["cosmos"].make()
    monkeypatch.setattr(type(adapter_for(pipeline)), "repeated_blocks", ())
    with (
        pytest.raises(ValueError, match="CosmosTransformer3DModel has no blocks .* none is named; name them"),
        svg.attach(pipeline, FAMILIES["cosmos"].method, "reference", compile=True),
    ):
        pass


def test_compile_takes_options_and_no_name_of_a_compiler():
    with pytest.raises(ValueError, match="compile is 'inductor'; it must be True, False or a dict of options"):
        svg.attach(FAMILIES["cosmos"].make(), FAMILIES["cosmos"].method, "reference", compile="inductor")


@pytest.mark.gpu
@pytest.mark.parametrize("name", FAMILIES)
def test_a_gpu_runs_our_kernels_behind_the_operator_and_compiles_nothing_again(name):
    family = FAMILIES[name]
    pipeline = family.make(3).to("cuda", torch.float16)
    # One that decides nothing: random heads are nearly equal, and a rounding would decide otherwise.
    method = OnePattern(pattern="temporal", density=family.method.density, block_size=family.method.block_size)

    def latents(compile: bool) -> torch.Tensor:
        with svg.attach(pipeline, method, "reference", compile=compile) as run:
            made = family.stock(pipeline, num_inference_steps=2, output_type="latent").float()
        assert run.receipt.sparse_calls
        return made

    plain, first = latents(compile=False), latents(compile=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        again = latents(compile=True)
    assert torch._dynamo.utils.counters["graph_break"] == {}
    assert torch.equal(again, first)
    assert (first - plain).norm() <= 1e-2 * plain.norm()
