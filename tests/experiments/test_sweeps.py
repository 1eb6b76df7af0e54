"""Whole sweeps as a user starts them: killed and started again, and side by side."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from analysis import load
from experiments.loading import PROJECT
from svg.results import lock_path
from tests.experiments.conftest import planned
from tests.experiments.counted_loads import FILE, loads_by_process


def command(*arguments):
    return [sys.executable, "-m", "experiments.compare", "-m", "method=svg", *arguments]


def wait_for(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the sweep ended before it could be killed"
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_sweep_killed_at_any_moment_and_started_again_leaves_what_one_never_killed_leaves(sparse, tmp_path):
    runs, kills = tmp_path / "runs", 50
    few = ("quality.metrics=[psnr]", "dense_backend=sdpa", "method=svg", "method.sparsity=0.7,0.8")
    line = [sys.executable, "-m", "tests.experiments.killed_sweeps", str(runs), str(kills), *sparse, *few]
    done = subprocess.run(line, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    killed, finished, videos, _ = map(float, done.stdout.split())
    assert (killed, videos) == (kills, 2)
    # Half of the moments lie so late that a sweep which goes on comes to its end now and then.
    assert finished > 0


@pytest.mark.slow
def test_two_sweeps_in_one_folder_make_every_run_once_between_them(sparse, tmp_path):
    line = command(*sparse, "dense_backend=sdpa", "method.sparsity=0.6,0.7,0.8,0.9")
    pipes = {"cwd": PROJECT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    sweeps = [subprocess.Popen(line, **pipes) for _ in range(2)]
    answers = [sweep.communicate(timeout=300) for sweep in sweeps]
    assert [sweep.returncode for sweep in sweeps] == [0, 0], answers
    assert [error for _, error in answers] == ["", ""]
    made = [re.findall(r"^(\S+): 1 video in", out, re.MULTILINE) for out, _ in answers]
    assert len(made[0]) + len(made[1]) == 4 and not set(made[0]) & set(made[1])
    table = load.runs(tmp_path / "runs")
    assert sorted(table["config.method.sparsity"]) == [0.6, 0.7, 0.8, 0.9] and set(table["status"]) == {"complete"}
    assert not [path for path in (tmp_path / "runs").iterdir() if path.name.startswith((".partial", ".lock"))]


@pytest.mark.slow
def test_a_sweep_waits_for_a_run_that_another_process_writes_and_makes_it_if_that_one_dies(sparse, tmp_path, call):
    path = planned(*sparse).path
    path.parent.mkdir(parents=True)
    code = "import sys, time; from pathlib import Path; from svg.atomic import Lock; Lock(Path(sys.argv[1])).acquire()"
    holder = subprocess.Popen(
        [sys.executable, "-c", f"{code}; print(1, flush=True); time.sleep(600)", str(lock_path(path))],
        cwd=PROJECT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout.readline() == "1\n"
    killer = threading.Timer(8, holder.kill)
    killer.start()
    status, out, err = call("-m", "method=svg", *sparse, "method.sparsity=0.7,0.8")
    assert (status, err) == (0, "")
    assert not killer.is_alive() and holder.wait() == -signal.SIGKILL
    # The other one first, though it came second.
    assert [line.split("-")[2] for line in out.splitlines() if "1 video in" in line] == ["0.8", "0.7"]


def test_jobs_that_come_to_the_same_run_are_made_once(sparse, tmp_path, call):
    status, out, err = call("-m", "method=svg", *sparse, "method.row_range=all", "device=cpu,auto")
    assert (status, err) == (0, "")
    assert "sweep: 1 run, 0 already complete, 1 to make, 1 of 2 jobs come to the same as another" in out
    assert len(load.runs(tmp_path / "runs")) == 1


@pytest.mark.slow
def test_a_killed_sweep_goes_on_where_it_stopped(sparse, tmp_path):
    runs = tmp_path / "runs"
    line = command(*sparse, "model.num_inference_steps=60", "method.sparsity=0.6,0.7,0.8")
    process = subprocess.Popen(line, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    # Killed while the second run is being written.
    wait_for(lambda: any(path.name.startswith(".lock-tiny_wan-svg-0.7") for path in runs.glob(".lock-*")), process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert list(load.runs(runs)["config.method.sparsity"]) == [0.6]
    done = subprocess.run(line, cwd=PROJECT, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("already complete") == 1
    table = load.runs(runs)
    assert sorted(table["config.method.sparsity"]) == [0.6, 0.7, 0.8]
    assert set(table["status"]) == {"complete"}
    assert not list(runs.glob(".partial-*")) and not list(runs.glob(".lock-*"))


@pytest.mark.slow
def test_runs_side_by_side_share_the_dense_twin_and_a_failure_does_not_stop_the_others(sparse, tmp_path):
    counted = "method._target_=tests.experiments.counted_loads.CountedLoads"
    line = command(*sparse, counted, "+launcher=parallel", "method.sparsity=0.02,0.7,0.8,0.9")
    environment = os.environ | {FILE: str(tmp_path / "loads")}
    done = subprocess.run(line, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert done.stderr.count("error: ") == done.stderr.count(": method.sparsity (the fraction kept") == 1
    assert done.stderr.count("\n") == 1
    table = load.runs(tmp_path / "runs").set_index("config.method.sparsity")
    assert dict(table["status"]) == {0.02: "failed", 0.7: "complete", 0.8: "complete", 0.9: "complete"}
    # Each process of the two keeps its model.
    loads = loads_by_process(tmp_path / "loads")
    assert set(loads.values()) == {1} and len(loads) <= 2
    assert len([entry for entry in (tmp_path / "runs" / ".dense").iterdir() if len(entry.name) == 32]) == 1
