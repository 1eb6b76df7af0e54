"""Show the stored dense twins, and free those that no run uses: ``python -m experiments.store_gc [RUNS_DIR ...]``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from svg.atomic import Lock, LockHeldError
from svg.results import RecordError, list_runs, read_run
from svg.store import DenseStore

GIB = 2**30


def uses(runs_dirs: Iterable[Path]) -> tuple[dict[str, int], int]:
    """Return how many videos have each twin, by key, and how many do not say which they have.

    Raises:
        RecordError: If a folder or a run in it cannot be read, or a run is being written.
    """
    found: dict[str, int] = {}
    silent = 0
    for runs_dir in runs_dirs:
        for lock in runs_dir.glob(".lock-*"):
            _refuse_if_held(lock)
        for path in list_runs(runs_dir):
            for video in read_run(path).videos:
                silent += video.dense_key is None
                if video.dense_key is not None:
                    found[video.dense_key] = found.get(video.dense_key, 0) + 1
    return found, silent


def _refuse_if_held(path: Path) -> None:
    lock = Lock(path)
    try:
        lock.acquire()
    except LockHeldError as error:
        raise RecordError(
            f"{path.parent}: a run is being written by {error.holder}, and may use any twin; try again when it is done"
        ) from None
    lock.release()


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m experiments.store_gc", description=__doc__)
    parser.add_argument("runs_dirs", nargs="*", type=Path, default=[Path("runs")], help="folders of runs (runs)")
    parser.add_argument("--store", type=Path, help="folder of the twins (default: .dense in the first folder of runs)")
    parser.add_argument("--delete", action="store_true", help="free what no run uses; else it is only shown")
    options = parser.parse_args(arguments)
    store = DenseStore(options.store or options.runs_dirs[0] / ".dense")
    try:
        used, silent = uses(options.runs_dirs)
        lines, free, kept_bytes, free_bytes = [], [], 0, 0
        for key, size in store.sizes().items():
            count = used.get(key, 0)
            lines.append(f"  {key}  {size / GIB:8.4f} GiB  {count or 'no'} video{'s' if count != 1 else ''}")
            free += [] if count else [key]
            kept_bytes, free_bytes = kept_bytes + size * bool(count), free_bytes + size * (not count)
        freed = store.remove(free) if options.delete else []
    except RecordError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join([f"{store.root}: {len(lines)} dense twins", *lines]))
    print(f"{kept_bytes / GIB:.4f} GiB in use, {free_bytes / GIB:.4f} GiB that no run uses")
    if silent:
        print(f"{silent} videos of older runs do not say which twin they have")
    print(f"freed {len(freed)}" if options.delete else "nothing is deleted; to free what no run uses: --delete")
    return 0


if __name__ == "__main__":
    sys.exit(main())
