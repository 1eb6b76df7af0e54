"""Time one denoising step of a full-size model: ``python -m experiments.step_latency [-m] [SETTING=VALUE ...]``."""

from __future__ import annotations

from functools import partial

from experiments import planning, refusals, step_planning, step_runner
from experiments.entry import command
from experiments.schema import StepConfig


@partial(command, settings=StepConfig, config_name="step_latency", refused=refusals.record)
def main(config: StepConfig, names: planning.Names) -> None:
    with refusals.recorded(config, names):
        plan = step_planning.check(config, names)
    step_runner.run(plan)


if __name__ == "__main__":
    main()
