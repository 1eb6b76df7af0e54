"""How compiled code reaches attention: one operator that torch.compile does not look into, and a handle for each site.

What a site does is decided anew at every call, by step, layer and branch. A graph that read them would hold for one
call only. So a graph holds a call of this operator, and a handle, which is a tensor and not a constant of the graph:
layers share a graph, and what stands under the handle runs as plain Python.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch

Two = tuple[torch.Tensor, torch.Tensor]
# (query, key, value, rotation, tokens apart) -> attention, of the query's shape but for so many last tokens; of those
Site = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, list[torch.Tensor], int], Two]

_numbers = itertools.count()
_open: dict[int, Site] = {}


def new_handle() -> torch.Tensor:
    """Return a handle that no other site has, a whole number on the CPU."""
    return torch.tensor(next(_numbers), device="cpu")


def open_site(handle: torch.Tensor, site: Site) -> Callable[[], None]:
    """Let compiled code find ``site`` under ``handle``; return what shuts it again."""
    number = int(handle)
    _open[number] = site

    def shut() -> None:
        del _open[number]

    return shut


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    rotation: list[torch.Tensor],
    num_apart: int,
    handle: torch.Tensor,
) -> Two:
    most, apart = _open[int(handle)](query, key, value, rotation, num_apart)
    # Outputs of an operator share no memory; those that are apart are few.
    return most.contiguous(), apart.clone(memory_format=torch.contiguous_format)


# As text, because annotations are not evaluated here.
_SCHEMA = (
    "(Tensor query, Tensor key, Tensor value, Tensor[] rotation, SymInt num_apart, Tensor handle) -> (Tensor, Tensor)"
)
# A graph of recorded kernels would repeat one call's decisions.
attend = torch.library.custom_op(
    "svg::attend", _attend, mutates_args=(), schema=_SCHEMA, tags=(torch.Tag.cudagraph_unsafe,)
)


@attend.register_fake
def _shape(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    rotation: list[torch.Tensor],
    num_apart: int,
    handle: torch.Tensor,
) -> Two:
    batch, seq_len, channels = query.shape
    return query.new_empty(batch, seq_len - num_apart, channels), query.new_empty(batch, num_apart, channels)
