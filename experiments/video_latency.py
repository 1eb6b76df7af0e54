"""Time the denoising of a full-size video: ``python -m experiments.video_latency [-m] [SETTING=VALUE ...]``."""

from __future__ import annotations

from functools import partial

from experiments import planning, refusals, step_planning, step_runner
from experiments.entry import command
from experiments.schema import VideoConfig


@partial(command, settings=VideoConfig, config_name="video_latency", refused=refusals.record)
def main(config: VideoConfig, names: planning.Names) -> None:
    with refusals.recorded(config, names):
        plan = step_planning.check(config, names)
    step_runner.run(plan)


if __name__ == "__main__":
    main()
