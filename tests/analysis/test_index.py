"""The copy of many records: taken where it is right, made anew where it is not, and never needed."""

from __future__ import annotations

import os
import shutil
import time

import pandas as pd
import pytest

from analysis import load
from svg.results import index
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
    monkeypatch.setattr(index, "read_measurements", lambda path: read.append(path))
    assert len(load.measurements(many)) and read == []


def test_only_what_has_changed_is_read_anew(many, tmp_path_factory, monkeypatch):
    shutil.rmtree(many / "svg-00003")
    shutil.rmtree(many / "svg-00005")
    write_plain_run(many / "svg-00005", {"seed": 1, "method": {"sparsity": 0.5}}, number=99)
    write_plain_run(many / "svg-00100", {"seed": 2, "method": {"sparsity": 0.5}}, number=77)
    read, real = [], index.read_measurements
    monkeypatch.setattr(index, "read_measurements", lambda path: read.append(path.name) or real(path))
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


@pytest.mark.timing
def test_ten_thousand_runs_are_loaded_in_five_seconds_from_the_second_time_on(tmp_path):
    write_many_runs(tmp_path, RUNS)
    load.runs(tmp_path)
    for read in (load.runs, load.measurements):
        # Of the processor: what other programs do meanwhile does not count.
        start = time.process_time()
        table = read(tmp_path)
        seconds = time.process_time() - start
        assert table["run_id"].nunique() == RUNS
        assert seconds < SECONDS, f"{read.__name__} took {seconds:.1f} s"
