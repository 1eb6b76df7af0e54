"""Compiling blocks for a while: room for many shapes, errors that name the setting, and everything put back."""

from __future__ import annotations

import pytest
import torch

from svg import compiling
from svg.compiling import MOST_GRAPHS, compile_blocks
from svg.rewriting import ComputeOnce


class Block(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sin() + x


class Printing(Block):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        print("a step")
        return x.sin()


class Transformer(torch.nn.Module):
    def __init__(self, *blocks: torch.nn.Module, names: list[str] | None = None) -> None:
        super().__init__()
        self.blocks, self._repeated_blocks = torch.nn.ModuleList(blocks), names


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_blocks_named_by_their_class_or_by_the_adapter_are_compiled_and_put_back():
    transformer = Transformer(Block(), Printing(), torch.nn.SiLU(), names=["Block"])
    put_back = compile_blocks(transformer, ("Printing",), {"backend": "eager"})
    assert [block._compiled_call_impl is not None for block in transformer.blocks] == [True, True, False]
    put_back()
    assert all(block._compiled_call_impl is None for block in transformer.blocks)


def test_there_is_room_for_more_shapes_than_pytorch_gives_and_only_there():
    transformer, graphs = Transformer(Block(), names=["Block"]), []
    limit = torch._dynamo.config.recompile_limit
    assert limit < 12 < MOST_GRAPHS

    def keep(graph, inputs):
        graphs.append(graph)
        return graph.forward

    put_back = compile_blocks(transformer, (), {"backend": keep})
    for length in range(2, 14):
        transformer.blocks[0](torch.ones(length))
    put_back()
    assert len(graphs) == 12
    assert torch._dynamo.config.recompile_limit == limit


def test_what_cannot_be_compiled_is_told_in_one_line_with_the_setting():
    def broken(graph, inputs):
        raise RuntimeError("no compiler here\nand much more")

    def told(block: torch.nn.Module, **options) -> str:
        put_back = compile_blocks(Transformer(block), ("Block", "Printing"), options)
        with pytest.raises(ValueError) as error:
            block(torch.ones(3))
        put_back()
        return str(error.value)

    about = "compile is true, but PyTorch cannot compile"
    said = told(Block(), backend=broken)
    assert said.startswith(f"{about} Block here: ") and said.endswith(
        "no compiler here and much more; use compile=False"
    )
    said = told(Printing(), backend="eager")
    assert said.startswith(f"{about} Printing here: ") and "print" in said and "\n" not in said


def test_pytorchs_own_compiler_gets_rewritten_graphs_and_its_settings_and_others_the_graphs_as_they_are(monkeypatch):
    rewritten, given = [], []
    monkeypatch.setattr(compiling, "rewrite", rewritten.append)

    def inductor(graph, inputs, config_patches):
        given.append(config_patches)
        return graph.forward

    monkeypatch.setattr(torch._dynamo, "lookup_backend", lambda name: inductor)
    for options in ({}, {"backend": "inductor", "options": {"max_autotune": True}}, {"mode": "max-autotune"}):
        torch._dynamo.reset()
        transformer = Transformer(Block(), names=["Block"])
        put_back = compile_blocks(transformer, (), options)
        assert torch.equal(transformer.blocks[0](torch.ones(3)), Block()(torch.ones(3)))
        put_back()
    assert len(rewritten) == 3
    assert all(isinstance(settings.pop("post_grad_custom_pre_pass"), ComputeOnce) for settings in given)
    assert given[:2] == [compiling.TUNING, {**compiling.TUNING, "max_autotune": True}] and given[2]["max_autotune"]
    put_back = compile_blocks(Transformer(block := Block(), names=["Block"]), (), {"backend": lambda graph, _: graph})
    block(torch.ones(3))
    put_back()
    assert len(rewritten) == 3
