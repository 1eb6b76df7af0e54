"""A captured attention call as a method sees it: the inputs and the context of the generation that it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from svg.captures.index import Capture, CapturedCall
from svg.context import AttentionContext
from svg.operations import TorchOperations
from svg.plan import AttentionInputs


@dataclass(frozen=True, eq=False)
class LoadedCall:
    """The tensors of a call on a device, each ``(batch, heads, seq_len, head_dim)`` for ``capture.heads``."""

    capture: Capture
    call: CapturedCall
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor

    def inputs(self, heads: slice, operations: TorchOperations) -> AttentionInputs:
        """Return the inputs of some of the heads, by their places in the files. Norm and RoPE are done already."""
        lengths = self.call.key_lengths

        def finish(rows: torch.Tensor, indices: torch.Tensor | None) -> torch.Tensor:
            return rows.unflatten(2, (-1, self.query.shape[3])).transpose(1, 2)

        query, key, value = (x[:, heads].transpose(1, 2).flatten(2) for x in (self.query, self.key, self.value))
        num_heads = self.query[:, heads].shape[1]
        key_lengths = None if lengths is None else torch.tensor(lengths)
        return AttentionInputs(query, key, value, num_heads, finish, finish, operations, key_lengths)

    def context(self, head_offset: int, state: dict[str, Any]) -> AttentionContext:
        """Return where the call stood, for inputs that begin at the head ``head_offset`` of the model."""
        return AttentionContext(
            layout=self.call.layout,
            layer=self.call.layer,
            num_layers=self.capture.num_layers,
            step=self.call.step,
            num_steps=self.capture.num_steps,
            branch=self.call.branch,
            seed=self.capture.seed,
            head_offset=head_offset,
            state=state,
        )


def load(capture: Capture, call: CapturedCall, device: torch.device) -> LoadedCall:
    """Return a call of a capture, its hash checked.

    Raises:
        RecordError: If its file is missing or damaged.
    """
    from safetensors.torch import load as tensors_of

    tensors = tensors_of(capture.data(call))
    return LoadedCall(capture, call, **{name: tensor.to(device) for name, tensor in tensors.items()})


def runs_of_heads(heads: list[int]) -> list[slice]:
    """Return the places in ``heads`` of indices that follow one another: what one plan can be made for."""
    starts = [place for place in range(len(heads)) if place == 0 or heads[place] != heads[place - 1] + 1]
    return [slice(start, stop) for start, stop in zip(starts, [*starts[1:], len(heads)], strict=True)]
