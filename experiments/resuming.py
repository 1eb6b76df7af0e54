"""What stands where a run belongs: the run itself, an attempt that failed, something damaged, or nothing."""

from __future__ import annotations

import warnings
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from experiments.planning import Plan
from svg.atomic import Lock, LockHeldError
from svg.results import RecordError, RunRecord, RunSchemaError, check_whole, lock_path, read_run

# Where damaged runs are moved to, below the folder of all runs.
DAMAGED = ".damaged"


@dataclass(frozen=True)
class Found:
    """What a look at a run's folder found.

    Args:
        state: ``"done"``: the run, complete, of these very settings. ``"other"``: a complete run of other settings.
            ``"failed"``: an attempt that failed. ``"damaged"``: what cannot be read. ``"none"``: nothing.
        record: Of what was found, where it can be read.
        reason: What is damaged, or how the attempt failed.
    """

    state: Literal["done", "other", "failed", "damaged", "none"]
    record: RunRecord | None = None
    reason: str = ""


def look(plan: Plan) -> Found:
    """Return what stands where a run belongs; changes nothing.

    Raises:
        RunSchemaError: If it was written under another schema version.
    """
    if not (plan.path / "run.json").is_file():
        return Found("none")
    try:
        record = read_run(plan.path)
        check_whole(plan.path)
    except RunSchemaError:
        raise
    except RecordError as error:
        return Found("damaged", reason=str(error))
    if record.status == "failed":
        return Found("failed", record, str((record.error or {}).get("message", "")))
    return Found("done" if record.config_hash == plan.hash else "other", record)


def set_aside(plan: Plan) -> None:
    """Move a damaged run out of the way, with a warning that says where it lies; a busy one is left alone."""
    lock = Lock(lock_path(plan.path))
    with suppress(LockHeldError):
        lock.acquire()
        try:
            # Another process may have made it again since.
            found = look(plan)
            if found.state != "damaged":
                return
            aside = plan.path.parent / DAMAGED
            aside.mkdir(exist_ok=True)
            place = next(
                place for number in range(1, 10**6) if not (place := aside / f"{plan.run_id}-{number}").exists()
            )
            plan.path.rename(place)
            warnings.warn(f"{found.reason}; it lies in {place} now, and is made again", stacklevel=2)
        finally:
            lock.release()
