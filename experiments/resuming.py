"""What stands where a run belongs: the run itself, an attempt that failed, something damaged, or nothing."""

from __future__ import annotations

import warnings
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from experiments.identity import Checked
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


def look(plan: Checked) -> Found:
    """Return what stands where a run belongs; changes nothing.

    Raises:
        RunSchemaError: If it was written under another schema version.
    """
    if not (plan.path / "run.json").is_file():
        return Found("none")
    try:
        record = read_run(plan.path)
        check_whole(plan.path, record.measurements_sha256)
    except RunSchemaError:
        raise
    except RecordError as error:
        return Found("damaged", reason=str(error))
    if record.status == "failed":
        return Found("failed", record, str((record.error or {}).get("message", "")))
    return Found("done" if record.config_hash == plan.hash else "other", record)


def is_kept(plan: Checked) -> bool:
    """Return whether a run is complete and stays, and say so; else its place is free, something damaged set aside.

    Raises:
        ValueError: If a complete run of other settings stands there.
        RunSchemaError: If what stands there was written under another schema version.
    """
    found = look(plan)
    if found.state == "damaged":
        set_aside(plan)
    if plan.config.overwrite:
        return False
    if found.state == "other":
        raise ValueError(
            f"run_id={plan.run_id}: {plan.path} holds a complete run with other settings; choose another run_id or "
            f"runs_dir"
        )
    if found.state == "done" and found.record is not None:
        made = found.record.created
        print(f"{plan.run_id}: already complete, made {made}; overwrite=true makes it again", flush=True)
    return found.state == "done"


def set_aside(plan: Checked) -> None:
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
