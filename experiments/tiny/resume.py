"""Training that stops and goes on: weights, AdamW's second moments and the count of steps, kept as safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

SHARD_BYTES = 15 * 2**20


@dataclass
class Progress:
    """How far a training is: steps, seconds of its budget spent, the optimizer's second moments by name, and how many
    processes trained together, at most.
    """

    step: int = 0
    spent: float = 0.0
    squares: dict[str, torch.Tensor] = field(default_factory=dict)
    processes: int = 1


def load(path: Path, name: str, model: nn.Module) -> Progress:
    """Load the weights into the model and return the progress; untouched, and none, where nothing was saved."""
    stored = load_state(path, name)
    if stored is None:
        return Progress()
    tensors, metadata = stored
    model.load_state_dict(_part(tensors, "weight/"), strict=False)
    squares, processes = _part(tensors, "square/"), int(metadata.get("processes", 1))
    return Progress(int(metadata["step"]), float(metadata["spent"]), squares, processes)


def save(path: Path, name: str, model: nn.Module, progress: Progress) -> None:
    """Write what ``load`` reads; second moments in bf16."""
    tensors = {f"weight/{key}": value.float() for key, value in model.named_parameters()}
    tensors |= {f"square/{key}": value.to(torch.bfloat16) for key, value in progress.squares.items()}
    metadata = {"step": str(progress.step), "spent": f"{progress.spent:.1f}", "processes": str(progress.processes)}
    save_state(path, name, tensors, metadata)


def adamw(named: Mapping[str, nn.Parameter], progress: Progress, **settings: Any) -> torch.optim.AdamW:
    """Return AdamW whose second moments go on from an earlier piece; momentum is rebuilt within a few steps."""
    is_cuda = next(iter(named.values())).is_cuda
    optimizer = torch.optim.AdamW(named.values(), fused=is_cuda, **settings)
    for name, parameter in named.items():
        square = progress.squares.get(name)
        if square is None:
            continue
        optimizer.state[parameter] = {
            "step": torch.tensor(float(progress.step), device=parameter.device if is_cuda else "cpu"),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter).copy_(square),
        }
    return optimizer


def squares(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Return the optimizer's second moments by the parameters' names."""
    return {
        name: optimizer.state[parameter]["exp_avg_sq"]
        for name, parameter in model.named_parameters()
        if parameter in optimizer.state
    }


def save_state(path: Path, name: str, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Write tensors as numbered ``<name>-*.safetensors`` below 16 MiB, each atomically, the metadata in every one."""
    path.mkdir(parents=True, exist_ok=True)
    shards: list[dict[str, torch.Tensor]] = [{}]
    size = 0
    for key, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        if size + tensor.nbytes > SHARD_BYTES and shards[-1]:
            shards.append({})
            size = 0
        shards[-1][key] = tensor
        size += tensor.nbytes
    for index, shard in enumerate(shards):
        target = path / f"{name}-{index}.safetensors"
        partial = target.with_suffix(".partial")
        save_file(shard, partial, metadata | {"shards": str(len(shards))})
        partial.replace(target)


def load_state(path: Path, name: str) -> tuple[dict[str, torch.Tensor], dict[str, str]] | None:
    """Read what ``save_state`` wrote under this name; None where there is nothing.

    Raises:
        ValueError: If files are missing or belong to different pieces.
    """
    files = sorted(path.glob(f"{name}-*.safetensors"))
    if not files:
        return None
    tensors: dict[str, torch.Tensor] = {}
    headers = []
    for file in files:
        with safe_open(file, "pt") as handle:
            headers.append(handle.metadata())
        tensors |= load_file(file)
    if any(header != headers[0] for header in headers) or len(files) != int(headers[0]["shards"]):
        raise ValueError(f"{path} holds a half-written state of {name!r}; delete it or restore all of its files")
    return tensors, headers[0]


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
