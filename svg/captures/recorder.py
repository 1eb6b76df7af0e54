"""Writes chosen attention calls while a generation runs: what ``svg.attach`` takes as ``statistics``."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from svg.atomic import Lock, LockHeldError, partial_folder, publish, storage_error, sweep, write_bytes
from svg.captures.index import CapturedCall
from svg.context import AttentionContext
from svg.placement import send
from svg.plan import AttentionInputs, AttentionPlan
from svg.receipt import Receipt
from svg.results import RecordError


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which calls, and which of their heads; None is all of them. Indices count from 0."""

    steps: tuple[int, ...] | None = None
    layers: tuple[int, ...] | None = None
    branches: tuple[str, ...] | None = None
    heads: tuple[int, ...] | None = None

    def covers(self, context: AttentionContext) -> bool:
        """Return whether a call is chosen."""
        chosen = ((self.steps, context.step), (self.layers, context.layer), (self.branches, context.branch))
        return all(wanted is None or own in wanted for wanted, own in chosen)


@dataclass(frozen=True)
class Recorder:
    """Writes the chosen calls of one generation as safetensors files, one at a time, and holds none of them.

    Args:
        selection: Which calls and heads.
        folder: Where; it must be there.
    """

    selection: Selection
    folder: Path

    def covers(self, context: AttentionContext) -> bool:
        return self.selection.covers(context)

    def measure(self, inputs: AttentionInputs, plan: AttentionPlan, context: AttentionContext) -> dict[str, Any]:
        """Write a call and return its facts for the index; waits for the device."""
        from safetensors.torch import save

        tensors = {"query": inputs.query(), "key": inputs.key(), "value": inputs.value()}
        if self.selection.heads is not None:
            heads = send(torch.tensor(self.selection.heads), inputs.device)
            tensors = {name: tensor.index_select(1, heads) for name, tensor in tensors.items()}
        data = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
        file = f"step{context.step:03}-layer{context.layer:02}-{context.branch}.safetensors"
        write_bytes(self.folder / file, data)
        lengths = inputs.key_lengths
        return {
            "file": file,
            "sha256": hashlib.sha256(data).hexdigest(),
            "layout": context.layout,
            "key_lengths": None if lengths is None else lengths.tolist(),
        }


def calls_of(receipt: Receipt) -> list[CapturedCall]:
    """Return the calls that a ``Recorder`` wrote during the generation of a receipt."""
    return [
        CapturedCall(
            step=call.step,
            layer=call.layer,
            branch=call.branch,
            transformer=call.transformer,
            item_branches=list(call.item_branches),
            **call.statistics,
        )
        for call in receipt.sampled
    ]


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """Yield a hidden folder that becomes ``path`` when the block ends well; else nothing is left of it.

    Raises:
        RecordError: If another process writes the same folder, or the disk refuses.
    """
    lock, partial = Lock(path.with_name(f".lock-{path.name}")), partial_folder(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        sweep(path)
        partial.mkdir()
        yield partial
        publish(partial, path)
    except LockHeldError as error:
        raise RecordError(f"capture {path} is being written by {error.holder}; wait for it") from None
    except Exception as error:
        refusal = storage_error(error) or (error if isinstance(error, OSError) else None)
        if refusal is None:
            raise
        raise RecordError(f"capture {path} cannot be written: {refusal.strerror or refusal}") from error
    finally:
        if lock.is_held:
            shutil.rmtree(partial, ignore_errors=True)
            lock.release()


def plain(selection: Selection) -> dict[str, Any]:
    """Return a selection as plain values, for the hash that names a capture."""
    return {name: None if value is None else list(value) for name, value in asdict(selection).items()}
