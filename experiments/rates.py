"""Time the matrix products of a model, and a copy: ``python -m experiments.rates [-m] [SETTING=VALUE ...]``."""

from __future__ import annotations

from functools import partial

from experiments import measured_rates, planning, refusals
from experiments.entry import command
from experiments.schema import RatesConfig


@partial(command, settings=RatesConfig, config_name="rates", refused=refusals.record)
def main(config: RatesConfig, names: planning.Names) -> None:
    with refusals.recorded(config, names):
        plan = measured_rates.check(config, names)
    measured_rates.run(plan)


if __name__ == "__main__":
    main()
