"""Training on one device, or on several of one machine under ``torchrun``: what the processes share."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import nn

# Between the seeds of two processes, so that each sees clips and noise of its own.
RANK_SEEDS = 10_000_019


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together.

    Args:
        rank: Its number, from 0; rank 0 writes the files.
        count: Processes in all.
        device: What this one computes on.
    """

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def join(cls) -> Ranks:
        """Return this process's place, and meet the others where ``torchrun`` started several."""
        rank, count = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        is_cuda = torch.cuda.is_available()
        device = torch.device("cuda", rank) if is_cuda else torch.device("cpu")
        if is_cuda:
            torch.cuda.set_device(device)
        if count > 1 and not dist.is_initialized():
            # gloo carries what lies on the CPU: the clock, which must not wait for the GPU.
            dist.init_process_group("cpu:gloo,cuda:nccl" if is_cuda else "gloo")
        return cls(rank, count, device)

    def agree(self, value: float) -> float:
        """Return rank 0's value, so that all do the same."""
        if self.count == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64)
        dist.broadcast(shared, 0)
        return shared.item()

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its mean over the processes."""
        if self.count == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.count
        pieces = flat.split([gradient.numel() for gradient in gradients])
        torch._foreach_copy_(gradients, [piece.view(g.shape) for piece, g in zip(pieces, gradients, strict=True)])

    def gather(self, part: torch.Tensor) -> torch.Tensor:
        """Return ``(count, *part.shape)``: everyone's part, of one shape, in the order of the ranks."""
        if self.count == 1:
            return part[None]
        whole = torch.empty(self.count, *part.shape, dtype=part.dtype, device=part.device)
        # A list of views, which gloo knows as well as NCCL.
        dist.all_gather(list(whole.unbind()), part.contiguous())
        return whole

    def leave(self) -> None:
        """Part from the others, where there are any."""
        if self.count > 1:
            dist.destroy_process_group()
