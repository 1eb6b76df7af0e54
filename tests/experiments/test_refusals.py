"""What becomes of the failed run that a refused job left once the job passes."""

from __future__ import annotations

import pytest

from experiments import refusals
from experiments.identity import Names
from svg.atomic import Lock
from svg.results import lock_path
from tests.experiments.conftest import composed

NAMES = Names("tiny_wan", "svg", [], None, is_sweep=True)


@pytest.fixture
def job(tmp_path):
    """The settings of a job that was refused, and the folder of its failed run."""
    config = composed("method=svg", "device=cpu", f"runs_dir={tmp_path / 'runs'}")
    with pytest.raises(ValueError, match="no disk"), refusals.recorded(config, NAMES):
        raise ValueError("no disk")
    [path] = (tmp_path / "runs").glob("*-refused-*")
    return config, path


def passes(config):
    with refusals.recorded(config, NAMES):
        pass


def test_it_goes_and_leaves_nothing(job):
    config, path = job
    passes(config)
    assert list(path.parent.iterdir()) == []


def test_it_stays_while_another_process_writes_it(job):
    config, path = job
    lock = Lock(lock_path(path))
    lock.acquire()
    try:
        passes(config)
        assert (path / "run.json").is_file()
    finally:
        lock.release()


def test_a_damaged_one_stops_no_job_and_stays_for_whoever_sets_it_aside(job):
    config, path = job
    (path / "run.json").write_text("{")
    passes(config)
    assert (path / "run.json").read_text() == "{"
    assert not lock_path(path).exists()
