"""Records that are not what they should be: named, set aside or refused, and in no mean."""

from __future__ import annotations

import errno
import json
import shutil
from datetime import datetime, timedelta

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from analysis import load
from analysis.summary import summary
from experiments import runner
from svg.results import Measurement, read_run, writer
from tests.experiments.conftest import planned


def edit(path, **changes):
    file = path / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def cut(path):
    file = path / "measurements.parquet"
    file.write_bytes(file.read_bytes()[:-50])


def by_hand(path):
    file = path / "run.json"
    text = file.read_text()
    assert '"sparsity": 0.7' in text
    file.write_text(text.replace('"sparsity": 0.7', '"sparsity": 0.6'))


def other_machine(path):
    """Say that the run was made elsewhere: no setting, and still not what was written."""
    edit(path, provenance=read_run(path).provenance | {"hostname_hash": "0" * 12})


def no_rows(path):
    (path / "measurements.parquet").unlink()


@pytest.mark.slow
@pytest.mark.parametrize("harm", [cut, by_hand, other_machine, no_rows])
def test_a_damaged_run_is_set_aside_with_a_warning_and_made_again(sparse, tmp_path, harm):
    path = runner.run(planned(*sparse))
    harm(path)
    with pytest.warns(UserWarning, match=r"\.damaged/\S+-1 now, and is made again"):
        assert runner.run(planned(*sparse)) == path
    assert read_run(path).status == "complete"
    assert len(load.runs(tmp_path / "runs")) == 1
    [aside] = (tmp_path / "runs" / ".damaged").iterdir()
    assert aside.name == f"{path.name}-1" and (aside / "run.json").is_file()


@pytest.mark.slow
def test_a_sweep_makes_a_damaged_run_again_and_skips_the_others(sparse, call, tmp_path):
    line = ("-m", "method=svg", *sparse, "method.sparsity=0.7,0.8")
    assert call(*line)[0] == 0
    cut(planned(*sparse).path)
    with pytest.warns(UserWarning, match="is damaged: .*made again"):
        status, out, _ = call(*line)
    assert status == 0 and "sweep: 2 runs, 1 already complete, 1 to make" in out
    assert set(load.runs(tmp_path / "runs")["status"]) == {"complete"}


@pytest.mark.slow
@pytest.mark.parametrize("harm", [cut, by_hand, other_machine])
def test_the_tables_name_a_damaged_run_and_take_nothing_from_it(sparse, tmp_path, harm):
    for density in (0.7, 0.8):
        runner.run(planned(*sparse, f"method.sparsity={density}"))
    harm(planned(*sparse).path)
    with pytest.warns(UserWarning, match=f"left out: .*{planned(*sparse).run_id}"):
        rows = load.measurements(tmp_path / "runs")
    table = summary(rows, load.runs(tmp_path / "runs"))
    assert sorted(table["status"]) == ["complete", "damaged"]
    damaged = table[table["status"] == "damaged"].iloc[0]
    assert damaged["error"] and damaged["psnr_db_n"] == 0


@pytest.mark.slow
def test_a_run_of_another_version_is_refused_and_left_alone(sparse, call, capsys):
    path = runner.run(planned(*sparse))
    capsys.readouterr()
    edit(path, schema_version=99)
    before = (path / "run.json").read_bytes()
    for line in (("method=svg", *sparse), ("-m", "method=svg", *sparse)):
        status, out, err = call(*line)
        assert status == 2 and "1 video in" not in out
        assert "has schema_version 99, this version reads 1" in err and err.count("\n") == 1
    assert (path / "run.json").read_bytes() == before


@pytest.mark.slow
def test_other_weights_under_the_same_name_are_another_row(sparse, model_folder, tmp_path):
    other = shutil.copytree(model_folder, tmp_path / "other" / model_folder.name)
    [file] = (other / "transformer").glob("*.safetensors")
    save_file({name: tensor * np.float32(1.01) for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    plans = [planned(*sparse), planned(*sparse, f"model.path={other}")]
    assert plans[0].names.model == plans[1].names.model and plans[0].run_id != plans[1].run_id
    for plan in plans:
        runner.run(plan)
    assert len([entry for entry in (tmp_path / "runs" / ".dense").iterdir() if len(entry.name) == 32]) == 2
    table = summary(load.measurements(tmp_path / "runs"), load.runs(tmp_path / "runs"))
    assert list(table["videos"]) == [1, 1]
    assert all("model.fingerprint=" in label for label in table["label"])


@pytest.mark.slow
def test_a_run_during_which_the_wall_clock_jumped_stands_apart_from_the_others(sparse, tmp_path, monkeypatch):
    class Backwards(datetime):
        """A clock that loses an hour each time it is read."""

        reads = 0

        @classmethod
        def now(cls, tz=None):
            cls.reads += 1
            return datetime.now(tz) - timedelta(hours=cls.reads)

    runner.run(planned(*sparse))
    monkeypatch.setattr(writer, "datetime", Backwards)
    path = runner.run(planned(*sparse, "seed=1"))
    record = read_run(path)
    assert record.provenance["clock_jump_s"] < -3000
    rows = load.measurements(tmp_path / "runs")
    # Durations come from a steady clock.
    assert (rows[rows["unit"] == "s"]["value"] >= 0).all()
    table = summary(rows, load.runs(tmp_path / "runs"))
    assert list(table["videos"]) == [1, 1] and table["environment"].nunique() == 2


def test_a_negative_duration_is_no_measurement():
    with pytest.raises(ValueError, match=r"step_s: value is -0\.5 s; a clock ran backwards"):
        Measurement(quantity="step_s", unit="s", value=-0.5)


@pytest.mark.slow
def test_a_disk_that_fills_in_the_middle_of_a_sweep_costs_the_runs_that_did_not_fit(
    sparse, call, tmp_path, monkeypatch
):
    real, written = runner.write_lossless, []

    def filling(path, frames, fps):
        if len(written) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        real(path, frames, fps)

    line = ("-m", "method=svg", *sparse, "method.sparsity=0.7,0.8,0.9")
    monkeypatch.setattr(runner, "write_lossless", filling)
    status, _, err = call(*line)
    assert status == 2 and err.count("No space left on device") == 2 and err.count("\n") == 2
    assert list(load.runs(tmp_path / "runs")["status"]) == ["complete"]
    assert not [path for path in (tmp_path / "runs").iterdir() if path.name.startswith((".partial", ".lock"))]
    monkeypatch.setattr(runner, "write_lossless", real)
    status, out, err = call(*line)
    assert (status, err) == (0, "") and "3 runs, 1 already complete, 2 to make" in out
