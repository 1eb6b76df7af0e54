"""How long it takes to see that a sweep is done."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from tests.experiments.conftest import planned
from tests.fake_runs import write_plain_run

RUNS, SECONDS = 1000, 10


@pytest.mark.timing
def test_a_thousand_finished_runs_are_recognised_and_skipped_in_ten_seconds(sparse, call):
    plan = planned(*sparse)
    for seed in range(RUNS):
        one = replace(plan, settings=plan.settings | {"seed": seed, "seeds": [seed]})
        write_plain_run(one.path, one.settings)
    # Of the processor: what other programs do meanwhile does not count.
    start = time.process_time()
    status, out, err = call("-m", "method=svg", *sparse, f"seed={','.join(map(str, range(RUNS)))}")
    seconds = time.process_time() - start
    assert (status, err) == (0, "")
    assert out == f"sweep: {RUNS} runs, {RUNS} already complete, 0 to make\n"
    assert seconds < SECONDS, f"{seconds:.1f} s"
