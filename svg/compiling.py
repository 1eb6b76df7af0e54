"""Compile a transformer's repeated blocks, one graph each, for as long as an attachment lasts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch._dynamo
from torch.fx import GraphModule

from svg.rewriting import ComputeOnce, rewrite

# Graphs of one kind of block, for all its shapes in a process; PyTorch itself stops at eight.
MOST_GRAPHS = 64

# A graph break or a shape that changes would cost what compiling is to save: the first ends in an error.
OPTIONS: dict[str, Any] = {"fullgraph": True, "dynamic": False}

# PyTorch itself reads a long row that it norms several times; it finds the better way by timing.
TUNING: dict[str, Any] = {"coordinate_descent_tuning": True}


def compile_blocks(transformer: Any, more_blocks: Iterable[str], options: Mapping[str, Any]) -> Callable[[], None]:
    """Have the blocks that a transformer repeats compiled when they first run; return what puts back what was there.

    Args:
        transformer: Its class names its repeated blocks in ``_repeated_blocks``, as diffusers has it.
        more_blocks: Classes of blocks beside those, by name.
        options: Of ``torch.compile``, beside or in place of ``OPTIONS``. A backend other than PyTorch's own gets the
            graphs as they are; its own gets them rewritten.

    Raises:
        ValueError: If there is no such block, or something runs inside of one that its graph cannot hold; from a
            block's first call if PyTorch cannot compile it.
    """
    names = {*(getattr(transformer, "_repeated_blocks", None) or ()), *more_blocks}
    blocks = [module for module in transformer.modules() if type(module).__name__ in names]
    if not blocks:
        raise ValueError(
            f"compile is true, but {type(transformer).__name__} has no blocks of the classes that repeat: "
            f"{', '.join(sorted(names)) or 'none is named'}; name them in the adapter's repeated_blocks"
        )
    options = OPTIONS | dict(options)
    if options.get("backend", "inductor") == "inductor":
        options["backend"] = _inductor
    if options["fullgraph"]:
        for block in blocks:
            _check_hooks(block)
    before = [block._compiled_call_impl for block in blocks]
    for block in blocks:
        block.compile(**options)
        block._compiled_call_impl = _told(block, block._compiled_call_impl)

    def put_back() -> None:
        for block, was in zip(blocks, before, strict=True):
            block._compiled_call_impl = was

    return put_back


def _inductor(
    graph: GraphModule, inputs: list[Any], mode: str | None = None, options: dict[str, Any] | None = None
) -> Callable[..., Any]:
    """Compile a rewritten graph by PyTorch's own compiler; a mode and options as ``torch.compile`` takes them."""
    rewrite(graph)
    of_mode = torch._inductor.list_mode_options(mode) if mode else {}
    settings = {**TUNING, "post_grad_custom_pre_pass": ComputeOnce(), **of_mode, **(options or {})}
    inductor: Any = torch._dynamo.lookup_backend("inductor")
    return inductor(graph, inputs, config_patches=settings)


def _told(block: torch.nn.Module, call: Callable[..., Any]) -> Callable[..., Any]:
    """Return a block's compiled call with room for more graphs, and with an error that says which setting it is."""
    limit = torch._dynamo.config.patch(recompile_limit=MOST_GRAPHS)

    def compiled(*args: Any, **kwargs: Any) -> Any:
        try:
            with limit:
                return call(*args, **kwargs)
        except torch._dynamo.exc.TorchDynamoException as error:
            # What comes after an empty line tells how to make it say more.
            said = " ".join(str(error).strip().split("\n\n")[0].split()) or type(error).__name__
            raise ValueError(
                f"compile is true, but PyTorch cannot compile {type(block).__name__} here: {said}; use compile=False"
            ) from error

    return compiled


def _check_hooks(block: torch.nn.Module) -> None:
    """Raise ``ValueError`` if accelerate or diffusers runs something of its own before a part of the block."""
    for module in block.modules():
        hooks = list(getattr(getattr(module, "_diffusers_hook", None), "hooks", ()))
        hooks += [type(module._hf_hook).__name__] if hasattr(module, "_hf_hook") else []
        if hooks:
            raise ValueError(
                f"compile is true, but {', '.join(hooks)} runs inside of {type(block).__name__}, which one graph "
                f"cannot hold; use compile=False, or enable_model_cpu_offload() where weights are to be offloaded"
            )
