"""What a capture will take, before it is made: one dense step shows the calls of every step and their sizes."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from experiments.generation import Generator
from svg import backends
from svg.captures.recorder import Selection
from svg.context import AttentionContext
from svg.cost.memory import GIB
from svg.methods.dense import Dense
from svg.plan import AttentionInputs, AttentionPlan
from svg.prompts import Prompt


@dataclass(frozen=True)
class Survey:
    """The self-attention calls of a generation.

    Args:
        num_steps: Denoising steps.
        num_layers: Layers of a transformer.
        num_heads: Heads of a call.
        head_bytes: Of query, key and value of one head, by layer and branch: the same at every step.
    """

    num_steps: int
    num_layers: int
    num_heads: int
    head_bytes: dict[tuple[int, str], int]

    def check(self, selection: Selection) -> None:
        """Raise ``ValueError`` if something is chosen that there is not."""
        counts = {"steps": self.num_steps, "layers": self.num_layers, "heads": self.num_heads}
        for name, count in counts.items():
            wrong = next((index for index in getattr(selection, name) or () if index >= count), None)
            if wrong is not None:
                raise ValueError(f"capture.{name} holds {wrong}; there are {count} {name}, counted from 0")
        branches = list(dict.fromkeys(branch for _, branch in self.head_bytes))
        unknown = next((name for name in selection.branches or () if name not in branches), None)
        if unknown is not None:
            raise ValueError(f"capture.branches holds {unknown!r}; this model's are {', '.join(branches)}")

    def bytes(self, selection: Selection) -> int:
        """Return how many bytes of tensors a generation's capture holds."""
        steps = self.num_steps if selection.steps is None else len(selection.steps)
        heads = self.num_heads if selection.heads is None else len(selection.heads)
        chosen = [
            size
            for (layer, branch), size in self.head_bytes.items()
            if (selection.layers is None or layer in selection.layers)
            and (selection.branches is None or branch in selection.branches)
        ]
        return steps * heads * sum(chosen)


@dataclass(frozen=True)
class _Sizes:
    """Looks at every call and notes its heads and their bytes."""

    def covers(self, context: AttentionContext) -> bool:
        return True

    def measure(self, inputs: AttentionInputs, plan: AttentionPlan, context: AttentionContext) -> tuple[int, int]:
        tensors = (inputs.query(), inputs.key(), inputs.value())
        return inputs.num_heads, sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def survey(generator: Generator, prompt: Prompt) -> Survey:
    """Run one dense step of a prompt's generation and return what its calls are like."""
    backend = backends.get("sdpa")
    made = generator(prompt, 0, Dense(), backend, backend, num_inference_steps=1, decodes=False, statistics=_Sizes())
    calls = made.receipt.sampled
    return Survey(
        num_steps=generator.model.num_inference_steps,
        num_layers=made.receipt.num_layers,
        num_heads=calls[0].statistics[0],
        head_bytes={(call.layer, call.branch): call.statistics[1] // call.statistics[0] for call in calls},
    )


def check_room(folder: str | Path, size: int) -> None:
    """Raise ``ValueError`` if the disk of a folder, which need not be there yet, has not so many bytes left."""
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if size > free:
        raise ValueError(
            f"captures_dir={folder}: the capture takes {size / GIB:.3g} GiB and the disk has {free / GIB:.3g} GiB "
            f"left; choose fewer of capture.steps, capture.layers, capture.heads or prompts"
        )
