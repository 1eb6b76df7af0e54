"""Host tensors on a device: sent so that the host waits for nothing, and sent once where they never change."""

from __future__ import annotations

import torch
from torch.utils.weak import WeakTensorKeyDictionary

# Copies of host tensors that are still alive, by device.
_copies: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def send(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return ``x`` on ``device``. From the host to another device the copy is queued and not waited for."""
    if x.device.type != "cpu" or device.type == "cpu":
        return x.to(device)
    # Out of pageable memory the driver may wait for all work that is queued before the copy.
    return (x.pin_memory() if device.type == "cuda" else x).to(device, non_blocking=True)


def resident(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return ``x`` on ``device``; a copy of it is made once and lives as long as ``x``, which must not change."""
    if x.device == device:
        return x
    by_device = _copies.setdefault(x, {})
    if device not in by_device:
        by_device[device] = send(x, device)
    return by_device[device]
