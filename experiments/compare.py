"""Compare a sparse method with full attention: ``python -m experiments.compare [-m] [SETTING=VALUE ...]``."""

from __future__ import annotations

from experiments import runner
from experiments.entry import command
from experiments.schema import Config


@command
def main(config: Config, names: runner.Names) -> None:
    runner.run(runner.check(config, names))


if __name__ == "__main__":
    main()
