"""Rewrite a block's graph before it is compiled, so that large tensors are not copied or written out in between.

A compiler fuses what is computed element by element, but no matrix product with what stands before or after it. The
rules here do, for half precision on a GPU. Numbers are rounded where the model's own steps round them, or less often;
only a sum of two products is rounded in both of its parts.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
from torch.fx import Graph, GraphModule, Node
from torch.nn.functional import gelu, linear
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


def rewrite(module: GraphModule) -> None:
    """Apply ``RULES``, one after the other, to a graph as torch.compile hands it to a backend, in place."""
    graph = module.graph
    for rule in RULES:
        for node in list(graph.nodes):
            instead = rule(graph, node)
            if instead is not None:
                instead.meta.setdefault("example_value", _value(node))
                node.replace_all_uses_with(instead)
        graph.eliminate_dead_code()
    module.recompile()


def whole_for_parts(graph: Graph, node: Any) -> Node | None:
    """Take a tensor itself where it is cut in two along a dimension and the parts are joined again."""
    parts, axis = _joined(node)
    if len(parts) != 2 or any(part.target is not operator.getitem for part in parts):
        return None
    whole = parts[0].args[0]
    if (
        not isinstance(whole, Node)
        or parts[1].args[0] is not whole
        or getattr(_value(whole), "shape", None) != _value(node).shape
    ):
        return None
    length = _value(node).shape[axis]
    first, second = (_cut(part.args[1], axis, length) for part in parts)
    if first is None or second is None or (first[0], first[1], second[1]) != (0, second[0], length):
        return None
    return whole


def products_of_parts(graph: Graph, node: Any) -> Node | None:
    """Multiply channels that are joined for one product in two products, and add: they are never joined.

    Where the first channels are themselves joined of tokens, each run of tokens is multiplied alone.
    """
    if not _is_product(node) or len(node.args[0].users) > 1:
        return None
    parts, axis = _joined(node.args[0])
    if len(parts) != 2 or axis != _value(node).dim() - 1:
        return None
    tokens, along = _joined(parts[0])
    if not tokens or along != axis - 1 or len(parts[0].users) > 1:
        tokens = [parts[0]]
    with graph.inserting_before(node):
        return graph.call_function(_linear_of_parts, (tokens, parts[1], *node.args[1:]))


def product_with_gelu(graph: Graph, node: Any) -> Node | None:
    """Let a product apply the GELU that follows it, approximated by tanh, before its output is written."""
    if node.target is not gelu or node.kwargs.get("approximate") != "tanh":
        return None
    product = node.args[0]
    if not _is_product(product) or len(product.users) > 1:
        return None
    with graph.inserting_before(node):
        return graph.call_function(_linear_gelu, product.args)


def products_into_one(graph: Graph, node: Any) -> Node | None:
    """Let the products of two runs of tokens, video's and text's, write to where they would be joined."""
    parts, axis = _joined(node)
    if len(parts) != 2 or axis != 1 or not all(_is_product(part) and len(part.users) == 1 for part in parts):
        return None
    if _value(node).dim() != 3 or _value(node).shape[0] != 1:
        return None
    with graph.inserting_before(node):
        return graph.call_function(torch.ops.svg.join_products.default, (*parts[0].args, *parts[1].args))


RULES: tuple[Callable[[Graph, Any], Node | None], ...] = (
    whole_for_parts,
    products_of_parts,
    product_with_gelu,
    products_into_one,
)


class ComputeOnce(CustomGraphPass):  # type: ignore[misc]
    """Compute once what a compiler's graph computes twice: of layers in FP8 that share an input, each rounds it.

    PyTorch's own ``fx_graph_cse`` makes another graph, and a pass must change the one that it is given. It is a class
    because PyTorch's cache of compiled graphs asks a pass for what tells it from others.
    """

    def __call__(self, graph: Graph) -> None:
        found: dict[Any, Node] = {}
        for node in list(graph.nodes):
            # Two outputs stay two tensors.
            if not _is_pure(node) or any(user.op == "output" for user in node.users):
                continue
            first = found.setdefault((node.target, _frozen(node.args), _frozen(node.kwargs)), node)
            if first is not node:
                node.replace_all_uses_with(first)
                graph.erase_node(node)

    def uuid(self) -> Any:
        return get_hash_for_files((__file__,))


def _linear_of_parts(
    tokens: list[torch.Tensor], more: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    channels = tokens[0].shape[-1]
    first = [linear(part, weight[:, :channels], bias) for part in tokens]
    return torch.cat(first, -2) + linear(more, weight[:, channels:])


def _linear_gelu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    # On a GPU this GELU is the one approximated by tanh, and the matrix library's own.
    output = torch._addmm_activation(bias, x.flatten(0, -2), weight.t(), use_gelu=True)
    return output.unflatten(0, x.shape[:-1])


def _join(
    first: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    second: torch.Tensor,
    second_weight: torch.Tensor,
    second_bias: torch.Tensor,
) -> torch.Tensor:
    """Return two linear maps of tokens ``(1, tokens, channels)``, one after the other."""
    length = first.shape[1]
    output = _joined_shape(first, weight, bias, second, second_weight, second_bias)
    torch.addmm(bias, first[0], weight.t(), out=output[0, :length])
    torch.addmm(second_bias, second[0], second_weight.t(), out=output[0, length:])
    return output


def _joined_shape(
    first: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    second: torch.Tensor,
    second_weight: torch.Tensor,
    second_bias: torch.Tensor,
) -> torch.Tensor:
    return first.new_empty(1, first.shape[1] + second.shape[1], weight.shape[0])


# As text, because annotations are not evaluated here.
_SCHEMA = (
    "(Tensor first, Tensor weight, Tensor bias, Tensor second, Tensor second_weight, Tensor second_bias) -> Tensor"
)
torch.library.custom_op("svg::join_products", _join, mutates_args=(), schema=_SCHEMA).register_fake(_joined_shape)


def _is_pure(node: Node) -> bool:
    """Return whether a node is PyTorch's own operator, and gives the same for the same inputs and does nothing else."""
    if node.target is operator.getitem:
        return True
    operation: Any = node.target
    if not isinstance(operation, torch._ops.OpOverload) or operation.namespace not in ("aten", "prims"):
        return False
    random = {torch.Tag.nondeterministic_seeded, torch.Tag.nondeterministic_bitwise}
    # Each tensor that is made to be filled is one of its own.
    is_unfilled = "empty" in operation._schema.name
    return not operation._schema.is_mutable and not random & set(operation.tags) and not is_unfilled


def _frozen(value: Any) -> Any:
    """Return what equals the same of another node alone: 1, 1.0 and True are three."""
    if isinstance(value, (tuple, list)):
        return tuple(map(_frozen, value))
    if isinstance(value, dict):
        return tuple((name, _frozen(value[name])) for name in sorted(value))
    return type(value), value


def _value(node: Any) -> Any:
    return node.meta.get("example_value")


def _is_half_on_gpu(value: Any) -> bool:
    # A wrapper, such as quantised weights are, has products of its own.
    is_plain = isinstance(value, torch.Tensor) and not is_traceable_wrapper_subclass(value)
    return is_plain and value.is_cuda and value.dtype in (torch.bfloat16, torch.float16)


def _is_product(node: Any) -> bool:
    """Return whether a node is a linear map with a bias, of plain tensors that the rules are for."""
    if not isinstance(node, Node) or node.target is not linear or len(node.args) != 3:
        return False
    return all(isinstance(one, Node) and _is_half_on_gpu(_value(one)) for one in node.args)


def _joined(node: Any) -> tuple[list[Node], int]:
    """Return what a node joins, and along which dimension; nothing where it joins nothing."""
    if not isinstance(node, Node) or node.target is not torch.cat or not isinstance(_value(node), torch.Tensor):
        return [], 0
    arguments: tuple[Any, ...] = node.args
    axis = arguments[1] if len(arguments) > 1 else node.kwargs.get("dim", 0)
    return list(arguments[0]), axis % _value(node).dim()


def _cut(index: Any, axis: int, length: int) -> tuple[int, int] | None:
    """Return start and stop of a cut along one dimension; None where the index is anything else."""
    index = index if isinstance(index, tuple) else (index,)
    if len(index) <= axis or not all(isinstance(one, slice) for one in index):
        return None
    cut = index[axis]
    if any(one != slice(None) for one in (*index[:axis], *index[axis + 1 :])) or cut.step not in (None, 1):
        return None
    if not all(bound is None or isinstance(bound, int) for bound in (cut.start, cut.stop)):
        return None
    start, stop, _ = cut.indices(length)
    return start, stop
