"""The orders of a palette on a device, as kernels read them."""

from __future__ import annotations

from functools import lru_cache

import torch

from svg.order import inverse
from svg.plan import HeadPattern


@lru_cache(maxsize=4)
def stacked_orders(
    patterns: tuple[HeadPattern, ...], seq_len: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the orders of queries, of keys, and back from queries, each int32 ``(patterns, seq_len)``."""
    plain = torch.arange(seq_len)
    queries = [plain if pattern.query_order is None else pattern.query_order.cpu() for pattern in patterns]
    keys = [plain if pattern.key_order is None else pattern.key_order.cpu() for pattern in patterns]
    undo = [inverse(order) for order in queries]
    first, second, third = (torch.stack(orders).to(device, torch.int32) for orders in (queries, keys, undo))
    return first, second, third
