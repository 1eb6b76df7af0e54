"""Runs one sweep again and again in forked processes, kills each after a random time, and compares what is left.

A program of its own, so that what is forked holds no thread: ``python -m tests.experiments.killed_sweeps FOLDER KILLS
SETTING=VALUE ...`` prints how many sweeps were killed, how many came to their end, and of how many videos.
"""

from __future__ import annotations

import faulthandler
import os
import random
import shutil
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from experiments import compare, rows
from svg.results import list_runs, read_measurements, read_run

# Names of quantities that differ between two runs of the same, and what a record says of a moment.
TIMED = ("_s", "_gib", "speedup")
# Past it the program says where it stands and ends.
LIMIT_S = 900


def child(arguments: list[str]) -> int:
    """Start a sweep in a forked process that leads a group of its own, and return its id."""
    process = os.fork()
    # Whoever comes first: the parent may want to kill the group before the child has run at all.
    os.setpgid(process, process)
    if process:
        return process
    status = 1
    try:
        status = sweep(arguments)
    finally:
        os._exit(status)


def sweep(arguments: list[str]) -> int:
    """Run the sweep here, and return its exit status."""
    sys.argv = ["compare", "-m", *arguments]
    try:
        compare.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def ended(process: int, seconds: float) -> bool:
    """Wait so long for a process; return whether it ended well, and False once it was killed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            assert status == 0, f"the sweep ended with {os.waitstatus_to_exitcode(status)}"
            return True
        time.sleep(0.001)
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return False


def content(runs: Path) -> dict[str, Any]:
    """Return by run id what a sweep has left, times aside: its rows, its settings, and its videos' bytes."""
    found = {}
    for path in list_runs(runs):
        record = read_run(path)
        assert record.status == "complete", record.error
        table = read_measurements(path).to_pylist()
        values = [row for row in table if not row["quantity"].endswith(TIMED)]
        videos = [(video.sparse, (path / video.sparse).read_bytes()) for video in record.videos]
        found[record.run_id] = (record.config, record.config_hash, values, videos)
    return found


def main() -> None:
    faulthandler.dump_traceback_later(LIMIT_S, exit=True)
    runs, kills, arguments = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    # No other load on the machine shall make a row of times unavailable, and so another row.
    rows.MOST_APART = 100.0
    warnings.simplefilter("error", UserWarning)
    answer = os.dup(1)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    # Never killed, and here, so that every fork begins with the model loaded and warm.
    assert sweep(arguments) == 0
    expected = content(runs)
    assert expected
    shutil.rmtree(runs)
    start = time.monotonic()
    assert ended(child(arguments), 600)
    whole_s = time.monotonic() - start
    assert content(runs) == expected
    shutil.rmtree(runs)
    moments, killed, finished, is_fresh = random.Random(0), 0, 0, True
    while killed < kills:
        start = time.monotonic()
        is_whole = ended(child(arguments), moments.uniform(0, whole_s))
        if is_whole and is_fresh:
            # The machine was busier when the sweep was timed: later moments would find nothing left to kill.
            whole_s = min(whole_s, time.monotonic() - start)
        if is_whole:
            assert content(runs) == expected
            shutil.rmtree(runs)
            finished += 1
        else:
            killed += 1
        is_fresh = is_whole
        print(f"{killed} killed, {finished} came to their end; a whole one takes {whole_s:.2f} s", file=sys.stderr)
    assert ended(child(arguments), 600)
    assert content(runs) == expected
    left = [path.name for path in runs.iterdir() if path.name.startswith((".partial", ".lock"))]
    assert not left, left
    stray = [path.name for path in (runs / ".dense").iterdir() if path.name.startswith(".")]
    assert not stray, stray
    videos = sum(len(videos) for *_, videos in expected.values())
    os.write(answer, f"{killed} {finished} {videos} {whole_s:.2f}\n".encode())


if __name__ == "__main__":
    main()
