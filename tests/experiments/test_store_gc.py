"""What is shown and freed of the store of dense twins."""

from __future__ import annotations

import re
import subprocess

import numpy as np
import pytest
import torch

from experiments import rows, runner, store_gc
from experiments.loading import PROJECT
from experiments.twins import Twins
from svg.atomic import Lock
from svg.results import read_run
from svg.store import DenseStore, Entry
from tests.experiments.conftest import planned

pytestmark = pytest.mark.slow


@pytest.fixture
def used(sparse):
    """The folder of one run, beside whose twin the store holds another that nobody uses."""
    path = runner.run(planned(*sparse))
    store = DenseStore(path.parent / ".dense")
    store.put(DenseStore.key({"of": "nobody"}), np.zeros((2, 4, 5, 3), np.uint8), fps=8)
    return path


def twin_of(path):
    [video] = read_run(path).videos
    return video.dense_key


def test_a_run_names_its_twin_and_the_store_has_its_frames_and_latents(used):
    entry = DenseStore(used.parent / ".dense").get(twin_of(used))
    assert entry.video().shape == (9, 32, 48, 3)
    latents = entry.latents()
    # 8 x 8 x 4 pixels a latent.
    assert latents.shape == (1, 16, 3, 4, 6) and latents.dtype == torch.float32 and latents.isfinite().all()


def test_it_shows_what_is_there_and_deletes_nothing_unless_asked(used, capsys):
    assert store_gc.main([str(used.parent)]) == 0
    out = capsys.readouterr().out
    assert "2 dense twins" in out and re.search(rf"{twin_of(used)} .* 1 video$", out, re.MULTILINE)
    assert len(re.findall(r"no videos$", out, re.MULTILINE)) == 1
    assert "nothing is deleted" in out
    assert len(DenseStore(used.parent / ".dense").sizes()) == 2


def test_it_frees_what_no_run_uses_and_the_rest_still_serves(used, sparse, capsys, monkeypatch):
    assert store_gc.main([str(used.parent), "--delete"]) == 0
    assert "freed 1" in capsys.readouterr().out
    store = DenseStore(used.parent / ".dense")
    assert list(store.sizes()) == [twin_of(used)]
    assert [path.name for path in store.root.iterdir()] == [twin_of(used)]
    second = runner.run(planned(*sparse, "method.sparsity=0.8"))
    assert twin_of(second) == twin_of(used) and list(store.sizes()) == [twin_of(used)]


def test_a_twin_whose_last_run_is_gone_is_free_unless_another_folder_uses_it(used, tmp_path, capsys):
    other = tmp_path / "others"
    other.mkdir()
    used.rename(other / used.name)
    store = ["--store", str(used.parent / ".dense")]
    assert store_gc.main([str(used.parent), str(other), *store]) == 0
    assert len(re.findall(r"no videos$", capsys.readouterr().out, re.MULTILINE)) == 1
    assert store_gc.main([str(used.parent), *store]) == 0
    assert len(re.findall(r"no videos$", capsys.readouterr().out, re.MULTILINE)) == 2


def test_while_a_run_is_being_written_nothing_is_freed(used, capsys):
    lock = Lock(used.with_name(".lock-other"))
    lock.acquire()
    try:
        assert store_gc.main([str(used.parent), "--delete"]) == 2
    finally:
        lock.release()
    assert re.fullmatch(r"error: .*: a run is being written by process \d+ on .*\n", capsys.readouterr().err)
    assert len(DenseStore(used.parent / ".dense").sizes()) == 2


def test_a_twin_that_another_process_makes_stays(used):
    store = DenseStore(used.parent / ".dense")
    key = DenseStore.key({"of": "nobody"})
    with store.making(key):
        assert store.remove([key]) == []
    assert store.remove([key]) == [key]


def test_a_twin_stays_while_a_run_reads_it(used, sparse, monkeypatch):
    store, read, freed = DenseStore(used.parent / ".dense"), Entry.video, []

    def video(entry):
        freed.append(store.remove([entry.path.name]))
        return read(entry)

    monkeypatch.setattr(Entry, "video", video)
    runner.run(planned(*sparse, "method.sparsity=0.8"))
    assert freed == [[]]
    assert store.remove([twin_of(used)]) == [twin_of(used)]


def test_a_twin_that_is_freed_between_being_taken_and_timed_again_is_made_anew(used, sparse, monkeypatch):
    store, get = DenseStore(used.parent / ".dense"), Twins.get
    taken = []

    def freed(self, *arguments):
        taken.append(get(self, *arguments))
        assert store.remove([taken[-1].key]) == [taken[-1].key]
        return taken[-1]

    monkeypatch.setattr(Twins, "get", freed)
    reasons = iter(["the machine was busy"])
    monkeypatch.setattr(rows, "busy_reason", lambda made, timing: next(reasons, None))
    second = runner.run(planned(*sparse, "method.sparsity=0.8"))
    assert read_run(second).status == "complete"
    assert np.array_equal(store.get(twin_of(second)).video(), taken[0].frames)


def test_no_folder_of_runs_is_one_line(tmp_path, capsys):
    assert store_gc.main([str(tmp_path / "missing")]) == 2
    assert re.fullmatch(
        r"error: runs_dir=\S+/missing cannot be read: No such file or directory\n", capsys.readouterr().err
    )


@pytest.mark.slow
def test_make_shows_and_frees(used):
    line = ["make", "-s", "-n", "store-gc", f"RUNS={used.parent}"]
    shown = subprocess.run(line, cwd=PROJECT, capture_output=True, text=True)
    assert shown.stdout.rstrip().endswith(f"-m experiments.store_gc {used.parent}")
    freed = subprocess.run([*line, "DELETE=1"], cwd=PROJECT, capture_output=True, text=True)
    assert freed.stdout.rstrip().endswith("--delete")
