"""Compare a sparse method with full attention: ``python -m experiments.compare [-m] [SETTING=VALUE ...]``."""

from __future__ import annotations

from functools import partial

from experiments import planning, refusals, runner
from experiments.entry import command
from experiments.schema import Config


@partial(command, refused=refusals.record)
def main(config: Config, names: planning.Names) -> None:
    with refusals.recorded(config, names):
        plan = planning.check(config, names)
    runner.run(plan)


if __name__ == "__main__":
    main()
