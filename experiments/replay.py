"""Score methods on captured attention calls: ``python -m experiments.replay captures=FOLDER method=A,B``."""

from __future__ import annotations

from functools import partial

from experiments import replaying
from experiments.entry import command
from experiments.identity import Names
from experiments.schema import ReplayConfig


@partial(command, settings=ReplayConfig, config_name="replay")
def main(config: ReplayConfig, names: Names) -> None:
    replaying.run(replaying.check(config, names))


if __name__ == "__main__":
    main()
