"""Compare a sparse method with full attention: ``python -m experiments.compare [-m] [SETTING=VALUE ...]``."""

from __future__ import annotations

from experiments import planning, runner
from experiments.entry import command
from experiments.schema import Config


@command
def main(config: Config, names: planning.Names) -> None:
    runner.run(planning.check(config, names))


if __name__ == "__main__":
    main()
