"""Write the query, key and value of chosen attention calls: ``python -m experiments.capture [SETTING=VALUE ...]``."""

from __future__ import annotations

from functools import partial

from experiments import capturing, planning
from experiments.entry import command
from experiments.schema import CaptureConfig


@partial(command, settings=CaptureConfig, config_name="capture")
def main(config: CaptureConfig, names: planning.Names) -> None:
    capturing.run(planning.check(config, names))


if __name__ == "__main__":
    main()
