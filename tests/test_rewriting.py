"""Graphs rewritten before they are compiled: fewer large tensors, the same numbers, and nothing else is touched."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from diffusers.models.transformers import transformer_hunyuan_video as hunyuan
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import gelu, linear, scaled_dot_product_attention

from svg import rewriting, sites
from svg.compiling import compile_blocks
from svg.models.hunyuan_video import HunyuanVideoJointAttention, TextLengths

VIDEO, TEXT, CHANNELS = 7, 3, 16


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def _as_on_a_gpu(monkeypatch):
    """Let the rules apply here, and a product with an activation be what it is on a GPU."""
    monkeypatch.setattr(rewriting, "_is_half_on_gpu", lambda value: isinstance(value, torch.Tensor))

    def product_with_gelu(bias, x, weight, use_gelu):
        assert use_gelu
        return gelu(torch.addmm(bias, x, weight), approximate="tanh")

    monkeypatch.setattr(torch, "_addmm_activation", product_with_gelu)


def graph_of(function, *arguments) -> torch.fx.GraphModule:
    """Return the graph that a backend is handed."""
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch.compile(function, backend=keep, fullgraph=True, dynamic=False)(*arguments)
    [graph] = graphs
    return graph


def targets(graph: torch.fx.GraphModule) -> list[object]:
    return [node.target for node in graph.graph.nodes if node.op == "call_function"]


def hunyuan_block(kind: str, device: str = "cpu", dtype: torch.dtype = torch.float64):
    """Return a block of HunyuanVideo with an attention of ours, and what it is given."""
    make = {"dual": hunyuan.HunyuanVideoTransformerBlock, "single": hunyuan.HunyuanVideoSingleTransformerBlock}[kind]
    torch.manual_seed(0)
    block = make(2, CHANNELS // 2, mlp_ratio=2.0).to(device, dtype).requires_grad_(False)

    def attend(inputs):
        return scaled_dot_product_attention(inputs.query(), inputs.key(), inputs.value())

    processor = HunyuanVideoJointAttention(attend, None, TextLengths(longest=TEXT - 1))
    block.attn.set_processor(processor)
    processor.open(block.attn)
    sizes = (1, VIDEO, CHANNELS), (1, TEXT, CHANNELS), (1, CHANNELS)
    video, text, temb = (torch.randn(size, device=device, dtype=dtype) for size in sizes)
    angles = torch.randn(VIDEO, CHANNELS // 4, device=device).repeat_interleave(2, 1)
    return block, (video, text, temb, None, (angles.cos(), angles.sin()))


LEFT = {
    # Of text and video: query, key, value; then the feed-forward network of each.
    "dual": (0, {torch.ops.svg.join_products.default: 3, rewriting._linear_gelu: 2}),
    # What the block begins with alone is joined: its residual.
    "single": (1, {rewriting._linear_of_parts: 1, rewriting._linear_gelu: 1}),
}


@pytest.mark.usefixtures("_as_on_a_gpu")
@pytest.mark.parametrize("kind", [pytest.param("dual", marks=pytest.mark.slow), "single"])
def test_a_block_of_hunyuan_video_joins_no_tensors_anew_and_gives_the_same(kind):
    block, arguments = hunyuan_block(kind)
    expected = block(*arguments)
    made = []

    def backend(graph, inputs):
        rewriting.rewrite(graph)
        made.extend(targets(graph))
        return graph.forward

    outputs = torch.compile(block, backend=backend, fullgraph=True, dynamic=False)(*arguments)
    torch.testing.assert_close(outputs, expected, rtol=1e-10, atol=1e-10)
    joins, others = LEFT[kind]
    assert made.count(torch.cat) == joins and gelu not in made
    assert {target: made.count(target) for target in others} == others
    assert sites.attend._opoverload in made


def test_what_a_graph_computes_twice_is_computed_once_unless_it_is_random_or_returned_twice():
    def rounded(x):
        return (x / x.abs().amax(1, keepdim=True)).to(torch.float8_e4m3fn).float()

    def function(x):
        one, two = rounded(x) @ x.T, rounded(x) @ x.T.exp()
        noise = (
            torch.rand_like(one) - torch.rand_like(one) + 0 * (torch.empty_like(x) - torch.empty_like(x)).nan_to_num()
        )
        return one + two + (x.sum(1) + 1), x.sum(1) + 1.0, x.sum(1) + True, x.cos(), x.cos(), noise

    x = torch.randn(4, 4)
    module = make_fx(function)(x)
    before, expected = [node.name for node in module.graph.nodes], function(x)
    rewriting.ComputeOnce()(module.graph)
    module.graph.lint()
    module.recompile()
    assert all(torch.equal(one, other) for one, other in zip(module(x)[:5], expected[:5], strict=True))
    assert module(x)[5].any()
    counts = Counter(str(node.target) for node in module.graph.nodes)
    assert (counts["aten.amax.default"], counts["aten.div.Tensor"], counts["aten.mm.default"]) == (1, 1, 2)
    assert (counts["aten.sum.dim_IntList"], counts["aten.cos.default"], counts["aten.rand_like.default"]) == (1, 2, 2)
    assert counts["aten.empty_like.default"] == 2 and len(before) > len(module.graph.nodes)


@pytest.mark.slow
def test_pytorchs_compiler_takes_the_pass_and_gives_the_same():
    class Twice(torch.nn.Module):
        def forward(self, x):
            return x.exp().amax(1) + x.exp().sin().sum(1)

    model, block = torch.nn.Module(), Twice()
    model.block, model._repeated_blocks = block, ["Twice"]
    x = torch.randn(2, 4)
    expected = block(x)
    put_back = compile_blocks(model, (), {})
    assert torch.allclose(block(x), expected, atol=1e-6)
    put_back()


def test_without_a_gpu_products_stay_as_they_are():
    block, arguments = hunyuan_block("single")
    graph = graph_of(block, *arguments)
    before = targets(graph)
    rewriting.rewrite(graph)
    # A tensor that is cut and joined again is itself anywhere.
    assert targets(graph).count(torch.cat) == before.count(torch.cat) - 1
    assert all(targets(graph).count(one) == before.count(one) for one in (linear, gelu))


X = torch.randn(1, 6, 8)
WEIGHT, BIAS = torch.randn(8, 8), torch.randn(8)


@pytest.mark.usefixtures("_as_on_a_gpu")
@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.cat([x[:, 2:], x[:, :2]], 1),
        lambda x: torch.cat([x[:, :2], x[:, 3:]], 1),
        lambda x: torch.cat([x[:, :2], x[:, 2:5]], 1),
        lambda x: torch.cat([x[:, :2], (x + 1)[:, 2:]], 1),
        lambda x: torch.cat([x[:, :3], x[:, 3:]], 2),
        lambda x: gelu(linear(x, WEIGHT, BIAS)),
        lambda x: gelu(linear(x, WEIGHT), approximate="tanh"),
        lambda x: (lambda product: gelu(product, approximate="tanh") + product)(linear(x, WEIGHT, BIAS)),
        lambda x: torch.cat([linear(x, WEIGHT, BIAS), linear(x, WEIGHT)], 1),
        lambda x: torch.cat([linear(x, WEIGHT, BIAS), linear(x, WEIGHT, BIAS)], 2),
        lambda x: torch.cat([linear(y, WEIGHT, BIAS) for y in (torch.cat([x, x]), torch.cat([x, x + 1]))], 1),
        lambda x: linear(torch.cat([x[:, :3], x[:, 3:] + 1], 1), WEIGHT, BIAS),
    ],
)
def test_what_only_looks_like_it_is_left(function):
    graph = graph_of(function, X)
    before = targets(graph)
    rewriting.rewrite(graph)
    assert targets(graph) == before


@pytest.mark.gpu
@pytest.mark.parametrize("kind", LEFT)
def test_a_compiled_block_on_a_gpu_errs_no_more_than_twice_as_much_as_the_block_itself(kind):
    block, arguments = hunyuan_block(kind, "cuda", torch.bfloat16)
    exact, wide = hunyuan_block(kind, "cuda", torch.float64)
    exact.load_state_dict(block.state_dict())
    wide = (*(one.double() for one in arguments[:3]), None, arguments[4])
    expected = exact(*wide)

    class Model(torch.nn.Module):
        _repeated_blocks = (type(block).__name__,)

        def __init__(self) -> None:
            super().__init__()
            self.block = block

    with torch.no_grad():
        plain = block(*arguments)
        put_back = compile_blocks(Model(), (), {})
        outputs = block(*arguments)
        put_back()
    for output, one, true in zip(outputs, plain, expected, strict=True):
        assert (output - true).norm() <= 2 * (one - true).norm()
