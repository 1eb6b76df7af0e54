"""The copy of many records: taken where it is right, made anew where it is not, and never needed."""

from __future__ import annotations

import json
import os
import shutil
import time

import pandas as pd
import pytest

from analysis import load
from svg.results import index
from svg.results.record import checksum
from tests.fake_runs import write_many_runs, write_plain_run

RUNS, SECONDS = 10_000, 5


@pytest.fixture
def many(tmp_path, monkeypatch):
    """A folder of twelve runs, enough for a copy, and the copy."""
    monkeypatch.setattr(index, "INDEX_FROM", 10)
    write_many_runs(tmp_path, 12)
    load.measurements(tmp_path)
    assert (tmp_path / ".index" / "rows.parquet").is_file()
    return tmp_path


def fresh(root, tmp_path_factory):
    """Return both tables of the runs as they are read one by one, without any copy."""
    bare = tmp_path_factory.mktemp("bare")
    for path in root.iterdir():
        if not path.name.startswith("."):
            shutil.copytree(path, bare / path.name)
    return load.runs(bare).drop(columns="path"), load.measurements(bare)


def check(root, tmp_path_factory):
    runs, rows = fresh(root, tmp_path_factory)
    for _ in range(2):
        pd.testing.assert_frame_equal(load.runs(root).drop(columns="path"), runs)
        pd.testing.assert_frame_equal(load.measurements(root), rows)


def test_the_copy_is_read_in_place_of_the_runs(many, tmp_path_factory, monkeypatch):
    check(many, tmp_path_factory)
    read = []
    monkeypatch.setattr(index, "read_measurements", lambda path, sha256=None: read.append(path))
    assert len(load.measurements(many)) and read == []


def test_only_what_has_changed_is_read_anew(many, tmp_path_factory, monkeypatch):
    shutil.rmtree(many / "svg-00003")
    shutil.rmtree(many / "svg-00005")
    write_plain_run(many / "svg-00005", {"seed": 1, "method": {"sparsity": 0.5}}, number=99)
    write_plain_run(many / "svg-00100", {"seed": 2, "method": {"sparsity": 0.5}}, number=77)
    read, real = [], index.read_measurements
    monkeypatch.setattr(index, "read_measurements", lambda path, *sha256: read.append(path.name) or real(path, *sha256))
    load.measurements(many)
    assert read == ["svg-00005", "svg-00100"]
    check(many, tmp_path_factory)


@pytest.mark.parametrize("name", ["rows.parquet", "facts.parquet"])
@pytest.mark.parametrize("harm", ["cut", "gone", "flipped", "of another time"])
def test_a_damaged_copy_is_made_anew(many, tmp_path_factory, name, harm):
    file = many / ".index" / name
    content = file.read_bytes()
    if harm == "cut":
        file.write_bytes(content[:100])
    elif harm == "gone":
        file.unlink()
    elif harm == "flipped":
        file.write_bytes(content[:60] + bytes([content[60] ^ 1]) + content[61:])
    else:
        os.utime(many / "svg-00001" / "run.json")
        load.runs(many)
        file.write_bytes(content)
    check(many, tmp_path_factory)


def test_without_a_place_for_the_copy_all_is_read_one_by_one(many, tmp_path_factory):
    shutil.rmtree(many / ".index")
    (many / ".index").write_text("in the way")
    check(many, tmp_path_factory)


def test_a_run_changed_by_hand_is_damaged_though_the_copy_knows_it(many):
    file = many / "svg-00004" / "run.json"
    file.write_text(file.read_text().replace('"sparsity": 0.25', '"sparsity": 0.15'))
    table = load.runs(many).set_index("run_id")
    assert table.loc["svg-00004", "status"] == "damaged"
    assert "was changed after it was written" in table.loc["svg-00004", "error.message"]
    with pytest.warns(UserWarning, match="left out: .*svg-00004"):
        assert "svg-00004" not in set(load.measurements(many)["run_id"])


def test_few_runs_leave_no_copy(tmp_path):
    write_many_runs(tmp_path, 3)
    load.measurements(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"svg-00000", "svg-00001", "svg-00002"}


def test_a_copy_that_moved_with_its_runs_spares_decoding_them_but_not_checking_them(many, tmp_path, monkeypatch):
    moved = shutil.copytree(many, tmp_path / "moved", ignore=shutil.ignore_patterns("moved"))
    file = moved / "svg-00007" / "measurements.parquet"
    content = file.read_bytes()
    file.write_bytes(content[:60] + bytes([content[60] ^ 1]) + content[61:])
    read = []
    monkeypatch.setattr(index, "read_measurements", lambda path, sha256=None: read.append(path))
    with pytest.warns(UserWarning, match="left out: .*svg-00007.*does not have the hash that run.json states of it"):
        assert load.measurements(moved)["run_id"].nunique() == 11
    assert read == []


def test_rows_of_another_run_are_not_taken_for_its_own(tmp_path):
    write_many_runs(tmp_path, 2)
    shutil.copy(tmp_path / "svg-00000" / "measurements.parquet", tmp_path / "svg-00001" / "measurements.parquet")
    assert list(load.runs(tmp_path)["status"]) == ["complete", "damaged"]


def test_rows_of_a_record_that_states_no_hash_of_them_are_decoded_before_they_count(tmp_path):
    write_many_runs(tmp_path, 2)
    for path in tmp_path.iterdir():
        content = json.loads((path / "run.json").read_text())
        del content["measurements_sha256"]
        (path / "run.json").write_text(json.dumps(content | {"checksum": checksum(content)}))
    file = tmp_path / "svg-00001" / "measurements.parquet"
    content = file.read_bytes()
    file.write_bytes(content[:60] + bytes([content[60] ^ 1]) + content[61:])
    assert list(load.runs(tmp_path)["status"]) == ["complete", "damaged"]


@pytest.mark.timing
def test_ten_thousand_runs_are_loaded_in_five_seconds(tmp_path):
    write_many_runs(tmp_path, RUNS)
    seconds = {}
    for name, read in {
        "runs": load.runs,
        "rows, decoded": load.measurements,
        "runs again": load.runs,
        "rows again": load.measurements,
    }.items():
        # Of the processor: what other programs do meanwhile does not count.
        start = time.process_time()
        assert read(tmp_path)["run_id"].nunique() == RUNS
        seconds[name] = time.process_time() - start
    # Decoding each file of rows for the first time is the one thing that takes longer.
    assert seconds.pop("rows, decoded") < 4 * SECONDS
    assert max(seconds.values()) < SECONDS, seconds
