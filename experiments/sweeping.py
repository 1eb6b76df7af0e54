"""Runs the jobs of a sweep that are not done yet, whichever launcher is configured and whoever else runs them too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.utils import JobStatus
from hydra.errors import HydraException

from experiments import dry_run, planning, resuming
from experiments.composing import Composer
from experiments.entry import BUSY, USER_ERRORS, fail, one_line, process
from experiments.tracking import publish_sweep
from svg.atomic import Lock
from svg.results import RecordError, RunSchemaError, config_hash, lock_path

# Settings that make no other sweep: where its records go and how its jobs are started.
NAMELESS = ("runs_dir=", "store_dir=", "overwrite=", "tracking", "launcher=", "hydra")


@dataclass(frozen=True)
class Job:
    """One job of a sweep.

    Args:
        overrides: Its command line.
        plan: The checked run; None where its settings are refused.
        refusal: Why, in one line.
    """

    overrides: Sequence[str]
    plan: planning.Plan | None
    refusal: str = ""


def sweep(master: Any, loader: Any, launcher: Any, expanded: Sequence[Sequence[str]]) -> list[Any]:
    """Launch what is not done of a sweep, and return what the launcher did.

    A run that another process is writing is left to it; once all others are made, it is waited for, and made here if
    it has not come.

    Args:
        master: The sweep's settings, Hydra's own among them.
        loader: Hydra's configuration loader.
        launcher: Hydra's launcher.
        expanded: The overrides of every job.
    """
    jobs = list(plans(master, loader, expanded))
    if any(job.plan is not None and job.plan.config.dry_run for job in jobs):
        print(dry_run.text(jobs), flush=True)
        return []
    # One that is refused is launched all the same: it says itself why. One that lacks its checkpoint downloads it.
    todo = [job for job in unlike(jobs) if job.plan is None or not is_done(job.plan)]
    print(_counts(jobs, todo), flush=True)
    name = name_of(jobs)
    results: list[Any] = []
    if todo:
        _make_folder(master)
    while todo:
        named = [[*job.overrides, f"hydra.job.name={name}"] for job in todo]
        new = list(launcher.launch(named, initial_job_idx=len(results)))
        results += new
        busy = [(job.overrides, path) for job, result in zip(todo, new, strict=True) if (path := _busy_path(result))]
        for _, path in busy:
            wait_for(path)
        # Only now are the ids known of those that had no checkpoint before.
        todo = list(plans(master, loader, [overrides for overrides, _ in busy], may_download=True)) if busy else []
        todo = [job for job in todo if job.plan is None or not is_done(job.plan)]
    for result in results:
        if result.status == JobStatus.FAILED:
            # A job in another process. The public name of its error would print lines of Hydra's own.
            error = result._return_value
            if process.wants_traceback or not isinstance(error, USER_ERRORS):
                raise error
            fail(error, result.overrides)
    if results:
        _publish(name, jobs)
    return results


def plans(master: Any, loader: Any, expanded: Sequence[Sequence[str]], may_download: bool = False) -> Iterator[Job]:
    """Yield the job of every list of overrides, its run checked; by default no checkpoint is downloaded for that.

    Raises:
        HydraException: If one of them names a file or a setting that there is not: no job could begin.
    """
    compose = Composer(master, loader, expanded)
    for overrides in expanded:
        try:
            yield Job(overrides, planning.check(*compose(overrides), may_download))
        except HydraException:
            raise
        except USER_ERRORS as error:
            yield Job(overrides, None, one_line(error))


def name_of(jobs: Sequence[Job]) -> str:
    """Return what a sweep is called, the same each time that its jobs are: its experiment and a hash of them."""
    experiment = next((job.plan.names.experiment for job in jobs if job.plan is not None), None)
    asked = sorted(sorted(text for text in job.overrides if not text.startswith(NAMELESS)) for job in jobs)
    return f"{experiment or 'sweep'}-{config_hash({'jobs': asked})[:8]}"


def _make_folder(master: Any) -> None:
    """Make the folder that launchers want; raise ``RecordError`` if it cannot be."""
    try:
        Path(master.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecordError(f"runs_dir={master.runs_dir} cannot be written: {error.strerror}") from error


def _publish(name: str, jobs: Sequence[Job]) -> None:
    """Send the table of a sweep that is tracked."""
    made = [job.plan for job in unlike(jobs) if job.plan is not None]
    if made:
        tracking = made[0].config.tracking
        publish_sweep(tracking, tracking.group or name, [plan.path for plan in made if plan.path.is_dir()])


def unlike(jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs, of those that come to the same run the first only."""
    first = {job.plan.path: job for job in reversed(jobs) if job.plan is not None}
    return [job for job in jobs if job.plan is None or first[job.plan.path] is job]


def is_done(plan: planning.Plan) -> bool:
    """Return whether a run need not be made."""
    try:
        return not plan.config.overwrite and resuming.look(plan).state == "done"
    except RunSchemaError:
        # The job itself refuses.
        return False


def wait_for(path: Path) -> None:
    """Wait until no other process writes the run of a folder."""
    lock = Lock(lock_path(path))
    lock.acquire(wait=True)
    lock.release()


def _busy_path(result: Any) -> Path | None:
    """Return the folder of a run that a job left to another process, as the machine of the job names it; else None."""
    if result.status != JobStatus.COMPLETED or not str(result.return_value).startswith(BUSY):
        return None
    return Path(result.return_value.removeprefix(BUSY))


def _counts(jobs: Sequence[Job], todo: Sequence[Job]) -> str:
    runs = len(unlike(jobs))
    same = f", {len(jobs) - runs} of {len(jobs)} jobs come to the same as another" if runs < len(jobs) else ""
    return (
        f"sweep: {runs} run{'s' if runs != 1 else ''}, {runs - len(todo)} already complete, {len(todo)} to make{same}"
    )
