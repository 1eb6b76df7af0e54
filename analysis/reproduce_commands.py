"""The command lines that measure a published table, on any machine or on one with a GPU."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence

from analysis.published_tables import ON_GPU, Published

# A size of videos at which everything runs in seconds, and no number means anything.
SMOKE = (
    "model.height=32",
    "model.width=48",
    "model.num_frames=49",
    "model.max_sequence_length=16",
    "model.num_inference_steps=2",
    "model.method_defaults.block_size=8",
    "model.method_defaults.first_times_fp=0",
    "quality.metrics=[psnr]",
)


def commands(
    published: Published, *, on_gpu: bool = False, smoke: bool = False, step_settings: Sequence[str] = ()
) -> Iterator[str]:
    """Yield the command lines that measure a table.

    Args:
        published: The table.
        on_gpu: Those that need a GPU, or those for any machine.
        smoke: At a size that only shows that they run.
        step_settings: Of timed steps, where the table does not say.
    """
    # Apart from real runs: a table would take one for the other.
    folder = f"runs/reproduce{'-smoke' * smoke}/{published.name}"
    for verb, each in published.commands.items():
        for arguments in each if (verb in ON_GPU) == on_gpu else []:
            words = [sys.executable, "-m", f"experiments.{verb}", *(["-m"] if verb != "bench_kernels" else [])]
            words += shlex.split(arguments)
            if verb == "plan":
                words += ["record=true", "format=json", f"runs_dir={folder}/plans"]
            elif verb == "compare":
                prompts = "demo_first_frame" if any("first_frames" in word for word in words) else "smoke"
                words += [*((f"prompts={prompts}", *SMOKE) if smoke else ()), f"runs_dir={folder}/tiny"]
            elif verb == "step_latency":
                said = {word.partition("=")[0] for word in words}
                words += [word for word in step_settings if word.partition("=")[0] not in said]
                words.append("runs_dir=runs/reproduce/steps")
            else:
                words.append("--overwrite")
            yield shlex.join(words) + (" >/dev/null" if verb == "plan" else "")
