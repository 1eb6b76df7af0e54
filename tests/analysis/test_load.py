"""Records as tables."""

import builtins
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import svg
from analysis import load
from svg.results import MEASUREMENT_SCHEMA, Measurement, RecordError, RunWriter, read_measurements
from tests.fake_runs import FAILED_RUN, PROMPTS, RUNS, write_fake_runs


@pytest.fixture(scope="module")
def fake_runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return root, write_fake_runs(root)


@pytest.fixture
def own_runs(fake_runs, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(fake_runs[0], tmp_path / "runs")


def writer(root, run_id, config=None, provenance=None):
    names = {"model": "m", "method": "svg", "backend": "cpu_gather", "dense_backend": "sdpa"}
    facts = {"config": config or {}, "provenance": provenance or {}, "prompts": [], "seeds": [0]}
    return RunWriter(root, run_id, **names, **facts)


def write(root, run_id, *rows, **facts):
    with writer(root, run_id, **facts) as run:
        run.extend(rows)


def ssim(value=0.5, **place):
    return Measurement(quantity="ssim", unit="1", value=value, **place)


def test_every_run_is_a_row_failed_ones_too(fake_runs):
    root, run_ids = fake_runs
    table = load.runs(root).set_index("run_id")
    assert sorted(table.index) == sorted(run_ids)
    assert table.loc[FAILED_RUN, "status"] == "failed"
    assert table.loc[FAILED_RUN, "error.type"] == "ValueError"
    assert "method.sparsity=0.05" in table.loc[FAILED_RUN, "error.message"]
    assert (table.drop(FAILED_RUN)["status"] == "complete").all()
    assert table.drop(FAILED_RUN)["error.message"].isna().all()
    assert table.loc["svg-0.25", "config.method.sparsity"] == 0.25
    assert pd.isna(table.loc["dense", "config.method.sparsity"])
    assert table.loc["dense", "provenance.cpu.name"] == "Example CPU 2.0 GHz"
    assert table.loc["dense", "prompts"] == PROMPTS
    assert table.loc["svg-0.25", "overrides"] == ["method=svg", "method.sparsity=0.25"]
    assert (root / "svg-0.25" / table.loc["svg-0.25", "videos"][0]["preview"]).is_file()
    assert table.loc["svg-0.25", "path"] == str(root / "svg-0.25")


def test_the_columns_of_runs_are_typed(fake_runs):
    types = load.runs(fake_runs[0]).dtypes
    assert types["run_id"] == "string" and types["error.message"] == "string"
    assert types["config.seed"] == "Int64" and types["config.method.num_sampled_rows"] == "Int64"
    assert types["config.method.sparsity"] == "Float64"
    assert types["provenance.dirty"] == "boolean"
    assert str(types["created"]).endswith("UTC]")


def test_a_setting_keeps_its_type_when_its_values_happen_to_be_whole(tmp_path):
    write(tmp_path, "a", config={"scale": 5.0, "mixed": 1, "list": [1], "odd": 1})
    write(tmp_path, "b", config={"scale": 6.0, "mixed": 1.5, "list": None, "odd": "x"})
    table = load.runs(tmp_path)
    assert table["config.scale"].dtype == "Float64"
    assert table["config.mixed"].dtype == "Float64"
    assert table["config.list"].tolist() == [[1], None]
    assert table["config.odd"].tolist() == [1, "x"]


def test_what_is_null_in_one_run_and_nested_in_another_is_the_nested_columns(tmp_path):
    write(tmp_path, "a", provenance={"gpu": None})
    write(tmp_path, "b", provenance={"gpu": {"name": "G", "driver": "1"}})
    table = load.runs(tmp_path)
    assert "provenance.gpu" not in table and "error" not in table
    assert table["provenance.gpu.name"].isna().tolist() == [True, False]


def test_every_measurement_is_a_row_with_its_run(fake_runs):
    root, run_ids = fake_runs
    table = load.measurements(root)
    assert list(table.columns) == [*MEASUREMENT_SCHEMA.names, "run_status", "created", "experiment", "config_hash"]
    assert len(table) == sum(read_measurements(root / run_id).num_rows for run_id in run_ids)
    assert set(table["run_id"]) == {run_id for run_id, *_ in RUNS}
    assert set(table["run_status"]) == {"complete"} and set(table["experiment"]) == {"demo"}
    psnr = table[(table["quantity"] == "psnr_db") & table["frame"].isna() & (table["run_id"] == "svg-0.25")]
    assert len(psnr) == len(PROMPTS)
    assert psnr["value"].between(26, 31).all()


def test_the_columns_of_measurements_are_typed_and_nulls_stay_nulls(fake_runs):
    table = load.measurements(fake_runs[0])
    types = table.dtypes
    assert types["value"] == "float64" and types["spread"] == "float64"
    assert types["seed"] == "Int64" and types["head"] == "Int32" and types["n"] == "Int64"
    assert types["higher_is_better"] == "boolean" and types["quantity"] == "string"
    infinite = table[table["status"] == "infinite"]
    assert len(infinite) and infinite["value"].isna().all() and infinite["reason"].isna().all()
    unavailable = table[table["status"] == "unavailable"]
    assert set(unavailable["quantity"]) == {"lpips_alex", "lpips_vgg"} and unavailable["reason"].notna().all()
    assert table.groupby("step")["value"].size().sum() == table["step"].notna().sum()


def test_a_failed_run_keeps_the_rows_it_had(tmp_path):
    write(tmp_path, "a", ssim())
    with pytest.raises(ValueError, match="on purpose"), writer(tmp_path, "b") as run:
        run.add(ssim(0.25))
        raise ValueError("on purpose")
    table = load.measurements(tmp_path).set_index("run_id")
    assert table.loc["b", "run_status"] == "failed" and table.loc["b", "value"] == 0.25


def test_runs_without_measurements_make_an_empty_table_of_the_same_columns(tmp_path):
    write(tmp_path, "a")
    empty = load.measurements(tmp_path)
    write(tmp_path, "b", ssim())
    full = load.measurements(tmp_path)
    assert len(empty) == 0 and len(full) == 1
    assert list(empty.dtypes.items()) == list(full.dtypes.items())


def test_what_is_being_written_and_what_is_no_run_is_passed_over(own_runs, recwarn):
    whole = load.runs(own_runs)
    shutil.copytree(own_runs / "dense", own_runs / ".partial-dense-99")
    (own_runs / "multirun").mkdir()
    (own_runs / "report.html").touch()
    pd.testing.assert_frame_equal(load.runs(own_runs), whole)
    assert set(load.measurements(own_runs)["run_id"]) == {run_id for run_id, *_ in RUNS}
    assert not [warning for warning in recwarn if issubclass(warning.category, UserWarning)]


@pytest.mark.parametrize("harm", ["no run.json", "no measurements", "cut json", "cut measurements", "copied"])
def test_a_damaged_run_is_a_row_with_its_error_and_no_measurement(own_runs, harm):
    path = own_runs / "svg-0.25"
    if harm == "no run.json":
        (path / "run.json").unlink()
    elif harm == "no measurements":
        (path / "measurements.parquet").unlink()
    elif harm == "cut json":
        (path / "run.json").write_bytes((path / "run.json").read_bytes()[:100])
    elif harm == "cut measurements":
        (path / "measurements.parquet").write_bytes((path / "measurements.parquet").read_bytes()[:100])
    else:
        path = path.rename(own_runs / "svg-0.25 (copy)")
    table = load.runs(own_runs).set_index("run_id")
    assert len(table) == len(RUNS) + 1
    assert table.loc[path.name, "status"] == "damaged"
    assert "\n" not in table.loc[path.name, "error.message"]
    with pytest.warns(UserWarning, match="left out: .*svg-0.25"):
        measured = load.measurements(own_runs)
    assert "svg-0.25" not in set(measured["run_id"]) and "svg-0.50" in set(measured["run_id"])


def test_a_run_that_may_not_be_looked_into_is_not_passed_over(own_runs, monkeypatch):
    whole, look, read = len(load.runs(own_runs)), os.stat, builtins.open

    def refusing(call):
        def refuse(path, *rest, **more):
            if "svg-0.25" in str(path) or "lost+found" in str(path):
                raise PermissionError(13, "Permission denied")
            return call(path, *rest, **more)

        return refuse

    (own_runs / "lost+found").mkdir()
    monkeypatch.setattr(os, "stat", refusing(look))
    monkeypatch.setattr(builtins, "open", refusing(read))
    table = load.runs(own_runs).set_index("run_id")
    assert len(table) == whole and table.loc["svg-0.25", "status"] == "damaged"
    assert table.loc["svg-0.25", "error.message"].endswith("run.json cannot be read: Permission denied")


def test_another_schema_version_is_one_line(own_runs):
    file = own_runs / "svg-0.25" / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"schema_version": 2}))
    for read in (load.runs, load.measurements):
        with pytest.raises(RecordError, match="schema_version 2, this version reads 1") as caught:
            read(own_runs)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("read", [load.runs, load.measurements])
def test_a_folder_without_runs_is_one_line(tmp_path, read):
    with pytest.raises(RecordError, match=r"runs_dir=.* holds no finished run"):
        read(tmp_path)
    with pytest.raises(RecordError, match=r"runs_dir=.*missing cannot be read: No such file"):
        read(tmp_path / "missing")


def test_the_fake_runs_are_the_same_each_time(fake_runs, tmp_path):
    write_fake_runs(tmp_path)
    for run_id, *_ in RUNS:
        assert read_measurements(tmp_path / run_id).equals(read_measurements(fake_runs[0] / run_id))


def test_loading_records_loads_no_torch(fake_runs):
    code = "import sys; from analysis import load; load.runs(sys.argv[1]); load.measurements(sys.argv[1]); "
    code += "sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(Path(svg.__file__).parents[1])}
    command = [sys.executable, "-c", code, str(fake_runs[0])]
    assert subprocess.run(command, env=environment, check=False).returncode == 0
