"""dense_backend=auto: measured once for a machine, its versions and calls that are alike, and kept on disk."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path

import pytest
import torch

from experiments import dense_choice
from experiments.dense_choice import bucket, choose_fastest, user_cache_dir
from svg import backends
from svg.backends._fastest import DenseTiming

SHAPE, CPU = (1, 2, 90, 32), torch.device("cpu")


def timings(shape, dtype, device, repeats=5):
    """What a machine with three candidates would measure; every call leaves a mark beside it."""
    if "SVG_MARKS" in os.environ:
        (Path(os.environ["SVG_MARKS"]) / f"{os.getpid()}-{os.urandom(4).hex()}").touch()
    math, auto = backends.get("sdpa", kernel="math"), backends.get("sdpa")
    absent = DenseTiming(backends.get("flash3"), None, "flash3 needs CUDA, got cpu; use backend=sdpa")
    return [DenseTiming(math, 1.5, repeats=5), DenseTiming(auto, 2.0, repeats=5), absent]


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Count the measurements, each a file in this folder."""
    folder = tmp_path / "marks"
    folder.mkdir()
    monkeypatch.setenv("SVG_MARKS", str(folder))
    monkeypatch.setattr(backends, "time_dense", timings)
    monkeypatch.setattr(dense_choice, "_unkept", {})
    return folder


def choose(folder, shape=SHAPE, dtype=torch.float32):
    return choose_fastest(shape, dtype, CPU, folder)


def count(folder) -> int:
    return len(list(folder.iterdir()))


def test_it_is_measured_once_and_the_rows_say_what_was_measured(measured, tmp_path):
    first, again = choose(tmp_path / "cache"), choose(tmp_path / "cache")
    assert count(measured) == 1
    assert first == again and again.backend.name == "sdpa_math"
    rows = [(row.backend, row.value, row.n, row.status) for row in again.rows({"seed": 0})]
    assert rows == [("sdpa_math", 1.5, 5, "ok"), ("sdpa", 2.0, 5, "ok"), ("flash3", None, 0, "unavailable")]
    assert [row.reason for row in again.rows()][2] == "flash3 needs CUDA, got cpu; use backend=sdpa"
    assert all("on a call of 1 x 2 x 90 x 32" in row.reason for row in list(again.rows())[:2])


@pytest.mark.parametrize("what", ["shape", "head_dim", "dtype", "version", "device", "driver", "code", "threads"])
def test_what_may_change_the_order_is_measured_anew(what, measured, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    choose(cache)
    choose(cache, (1, 2, 95, 32))
    assert count(measured) == 1
    machine = dense_choice._machine("cpu")
    changed = {"version": {"versions": {"torch": "0"}}, "device": {"device": "?"}, "driver": {"driver": "1.2"}}
    monkeypatch.setattr(dense_choice, "_machine", lambda kind: machine | changed.get(what, {}))
    if what == "code":
        monkeypatch.setattr(dense_choice, "code_hash", lambda *modules: "0" * 16)
    if what == "threads":
        monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
    shape = {"shape": (1, 2, 900, 32), "head_dim": (1, 2, 90, 64)}.get(what, SHAPE)
    choose(cache, shape, torch.bfloat16 if what == "dtype" else torch.float32)
    assert count(measured) == 2


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"checksum": 1}', "value", "bytes"])
def test_a_damaged_file_is_measured_again_with_a_warning(damage, measured, tmp_path):
    choose(tmp_path)
    [file] = (tmp_path / "dense_backends").iterdir()
    if damage == "value":
        content = json.loads(file.read_bytes())
        content["timings"][0]["latency_ms"] = 0.001
        damage = json.dumps(content).encode()
    file.write_bytes(b"\xff\xfe" if damage == "bytes" else damage)
    with pytest.warns(UserWarning, match=r"\.json is damaged \(.*\); the dense backends are measured again"):
        assert choose(tmp_path).timings[0].latency_ms == 1.5
    assert count(measured) == 2
    choose(tmp_path)
    assert count(measured) == 2


def test_a_folder_that_cannot_be_written_is_told_and_the_process_measures_once(measured, tmp_path):
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match=r"cache_dir=.*file cannot be used .* set cache_dir to a folder of yours"):
        choose(tmp_path / "file")
    choose(tmp_path / "file")
    assert count(measured) == 1


def test_too_little_memory_for_a_candidate_is_forgotten_with_the_process(measured, tmp_path, monkeypatch):
    absent = DenseTiming(backends.get("cudnn"), None, "OutOfMemoryError: CUDA out of memory")
    monkeypatch.setattr(backends, "time_dense", lambda *arguments: [*timings(*arguments)[:2], absent])
    choose(tmp_path)
    choose(tmp_path)
    assert count(measured) == 1
    assert list((tmp_path / "dense_backends").glob("*.json")) == []


def test_too_little_memory_to_try_at_all_names_a_way_out(measured, tmp_path, monkeypatch):
    def full(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(backends, "time_dense", full)
    with pytest.raises(ValueError, match=r"cpu has too little memory .* call of 1 x 2 x 90 x 32; .*dense_backend=sdpa"):
        choose(tmp_path)
    assert list((tmp_path / "dense_backends").iterdir()) == []


def test_processes_that_ask_at_once_measure_once(measured, tmp_path):
    # Forked, so that they have the measured time of this process.
    context = multiprocessing.get_context("fork")
    askers = [context.Process(target=choose, args=(tmp_path,)) for _ in range(4)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert [asker.exitcode for asker in askers] == [0] * 4
    assert count(measured) == 1
    assert [path.suffix for path in (tmp_path / "dense_backends").iterdir()] == [".json"]


def test_where_none_runs_it_says_why(monkeypatch, tmp_path):
    absent = DenseTiming(backends.get("cudnn"), None, "cudnn needs CUDA")
    monkeypatch.setattr(backends, "time_dense", lambda *arguments: [absent])
    with pytest.raises(ValueError, match="dense_backend=auto: none runs on cpu: cudnn needs CUDA"):
        choose(tmp_path)


def test_the_users_cache_folder_is_where_the_system_has_it(monkeypatch, tmp_path):
    assert user_cache_dir() == Path(os.environ["SVG_CACHE_DIR"])
    monkeypatch.delenv("SVG_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache_dir() == tmp_path / "sparse-videogen-bench"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(dense_choice.sys, "platform", "darwin")
    assert user_cache_dir() == Path.home() / "Library/Caches/sparse-videogen-bench"
    monkeypatch.setattr(dense_choice.sys, "platform", "linux")
    assert user_cache_dir() == Path.home() / ".cache/sparse-videogen-bench"


def test_sizes_within_a_fifth_share_a_bucket_and_twice_the_size_does_not():
    assert bucket(1) == 1
    assert bucket(118_784) == bucket(119_056) == bucket(115_456)
    assert len({bucket(tokens) for tokens in (32_760, 75_600, 119_056)}) == 3
