"""Dense videos of a model with all layers in its own precision, for runs with linear layers in FP8.

The dense twin of such a run has the same layers, so that both differ in attention alone. These say what the layers do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from experiments import loading
from experiments.estimating import twins_of
from experiments.generation import Generator
from experiments.planning import Plan
from experiments.progress import Progress
from experiments.twins import Twins
from experiments.warmup import WarmUps
from svg.methods.dense import Dense
from svg.prompts import Prompt

# What this process has seen in the store: twins of a run, by prompt and seed.
_seen: dict[tuple[str, frozenset[str]], dict[tuple[str, int], str]] = {}


def keys(
    plan: Plan, store: Twins, jobs: Sequence[tuple[Prompt, int]], pick: Callable[..., Any]
) -> dict[tuple[str, int], str]:
    """Return the name in the store of each video, by prompt and seed; made now where the store has none.

    Nothing is returned for a run whose layers are all in the model's own precision, or that measures no quality. The
    model that makes them is not kept: beside the run's own there may be no room for it.

    Args:
        plan: Of the run.
        store: Where they are kept.
        jobs: Prompts and seeds.
        pick: From settings, generator and prompt to the choice of a dense backend.
    """
    config = plan.config
    if config.model.linear_precision == "bf16" or not config.quality.metrics:
        return {}
    place = str(store.root), frozenset(twins_of(plan.settings))
    if place in _seen:
        return _seen[place]
    assert plan.folder is not None, "a plan of a run that is made has its checkpoint"
    model = replace(config.model, linear_precision="bf16")
    loading.forget()
    generator = Generator(loading.load_pipeline(model, plan.folder, plan.device), model, plan.device, config.compile)
    generator.check(plan.prompts)
    backend = pick(config, generator, plan.prompts[0]).backend
    ready = WarmUps(generator, Dense(), backend, backend)
    found = {}
    with Progress(plan.run_id, len(jobs) * model.num_inference_steps) as bar:
        bar.say("dense, all layers in bf16")
        for prompt, seed in jobs:
            ready(prompt)
            found[prompt.prompt_id, seed] = store.get(generator, backend, prompt, seed, bar.step).key
    del generator, ready
    loading.forget()
    _seen[place] = found
    return found
