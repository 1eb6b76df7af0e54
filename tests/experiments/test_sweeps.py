"""Whole sweeps as a user starts them: killed and started again, and side by side."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from analysis import load
from experiments.loading import PROJECT

pytestmark = pytest.mark.slow


def command(*arguments):
    return [sys.executable, "-m", "experiments.compare", "-m", "method=svg", *arguments]


def wait_for(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the sweep ended before it could be killed"
        assert time.monotonic() < end
        time.sleep(0.02)


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


def test_runs_side_by_side_share_the_dense_twin_and_a_failure_does_not_stop_the_others(sparse, tmp_path):
    line = command(*sparse, "+launcher=parallel", "method.sparsity=0.02,0.7,0.8")
    done = subprocess.run(line, cwd=PROJECT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "error: method.sparsity" in done.stderr and "Traceback" not in done.stderr
    table = load.runs(tmp_path / "runs").set_index("config.method.sparsity")
    assert dict(table["status"]) == {0.02: "failed", 0.7: "complete", 0.8: "complete"}
    assert len([entry for entry in (tmp_path / "runs" / ".dense").iterdir() if len(entry.name) == 32]) == 1
