"""Compare a sparse method with full attention: ``python -m experiments.compare [-m] [SETTING=VALUE ...]``."""

from __future__ import annotations

from functools import partial

from experiments import dry_run, planning, refusals, runner, sweeping
from experiments.entry import command
from experiments.schema import Config


@partial(command, refused=refusals.record, sweep=sweeping.sweep)
def main(config: Config, names: planning.Names) -> None:
    if config.dry_run:
        plan = planning.check(config, names, may_download=False)
        print(dry_run.text([sweeping.Job(names.overrides, plan)]), flush=True)
        return
    with refusals.recorded(config, names):
        plan = planning.check(config, names)
    runner.run(plan)


if __name__ == "__main__":
    main()
