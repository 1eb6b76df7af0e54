"""How long it takes to see that a sweep is done, and how much of a run is spent on anything but the run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from experiments import identity, planning, resuming, rows, runner, tracking, truncation, twins
from svg import provenance
from svg.results import RunWriter
from tests.experiments.conftest import composed, planned
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


class Clock:
    """Counts the processor's seconds inside some functions, once where one calls another."""

    def __init__(self) -> None:
        self.seconds, self._depth = 0.0, 0

    def __call__(self, function):
        def timed(*arguments, **settings):
            start, self._depth = time.process_time(), self._depth + 1
            try:
                made = function(*arguments, **settings)
                return list(made) if isinstance(made, Iterator) else made
            finally:
                self._depth -= 1
                self.seconds += time.process_time() - start if self._depth == 0 else 0.0

        return timed


# What checks the settings, knows a run again and records it; not what generates, measures or writes its videos.
BOOKKEEPING = [
    (planning, "check"),
    (resuming, "is_kept"),
    (provenance, "collect"),
    (truncation, "facts"),
    (twins.Twins, "_identity"),
    *[(rows, name) for name in ("quality_rows", "density_rows", "call_rows", "cost_rows", "head_rows", "busy_reason")],
    (runner, "statistics_rows"),
    *[(RunWriter, name) for name in ("__init__", "__enter__", "__exit__", "add_video", "extend")],
    (tracking, "check"),
    (tracking, "publish"),
]


@pytest.mark.timing
def test_planning_and_bookkeeping_take_less_than_a_fiftieth_of_a_run_of_the_embedded_model(tmp_path, monkeypatch):
    names = identity.Names("tiny_wan", "svg")
    # A quarter of the model's own steps at half its length, so that the test is soon done: of a whole run, it is less.
    settings = ["model.num_inference_steps=2", "model.num_frames=17", "method.sparsity=0.35"]
    settings += ["quality.metrics=[psnr,ssim]", "threads=1", f"runs_dir={tmp_path}"]
    config = composed("model=tiny_wan", *settings)
    # Once in a process, not in a run: diffusers is loaded, and the code that counts is read and hashed.
    planning.check(config, names)
    clock = Clock()
    for place, name in BOOKKEEPING:
        monkeypatch.setattr(place, name, clock(getattr(place, name)))
    start = time.process_time()
    path = runner.run(planning.check(config, names))
    whole = time.process_time() - start
    assert (path / "run.json").is_file()
    assert 0 < clock.seconds < 0.02 * whole, f"{clock.seconds:.2f} s of {whole:.1f} s"
