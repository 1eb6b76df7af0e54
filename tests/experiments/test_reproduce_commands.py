"""What fills a published table really does, at a size that only shows that it runs; and what a plan's record holds."""

from __future__ import annotations

import json
import shlex

import pytest

from analysis import load, reproduce
from analysis.published_tables import read
from analysis.reproduce_commands import commands

pytestmark = pytest.mark.slow


def test_the_commands_of_a_table_fill_it(call, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for line in commands(read("svg-layout"), smoke=True):
        _, _, module, *arguments = shlex.split(line)
        status, _, error = call(*arguments, command=module.removeprefix("experiments."))
        assert (status, error) == (0, "")
    folder = tmp_path / "runs" / "reproduce-smoke"
    assert reproduce.main(["svg-layout", "--runs", str(folder), "--allow-dirty"]) == 0
    tiny = capsys.readouterr().out.partition("Tiny models")[2]
    assert tiny.count("\n| ") == 2 + 2 and "not run" not in tiny


def test_a_plan_is_recorded_once_and_is_what_the_command_prints(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = ["model=tiny_wan", "method=svg", "method.sparsity=0.25", "format=json"]
    recorded = [*settings, "record=true", "runs_dir=plans"]
    status, out, error = call(*recorded, command="plan")
    assert (status, error, out.count("\n")) == (0, "", 1)
    found = json.loads(out)
    rows = load.measurements(tmp_path / "plans").set_index(["quantity", "protocol"])["value"]
    assert rows["pflops_sparse"].item() == found["pflops_sparse"]
    assert rows["density_executed", "tile"] == found["density_tile"]
    status, out, error = call(*recorded, command="plan")
    assert (status, json.loads(out)) == (0, found) and "already complete" in error
    [run] = load.runs(tmp_path / "plans").to_dict("records")
    assert (run["status"], run["dense_backend"], run["config.forecast.gpu"]) == ("complete", "none", "h200")
    status, _, error = call(*recorded, "method.sparsity=0.01", command="plan")
    assert status == 2 and "method.sparsity" in error and len(load.runs(tmp_path / "plans")) == 1


def test_what_a_method_decides_as_it_runs_is_recorded_as_unavailable(call, tmp_path):
    status, _, _ = call(
        "method=oracle_blocks", "method.sparsity=0.25", "record=true", f"runs_dir={tmp_path}", command="plan"
    )
    rows = load.measurements(tmp_path).set_index("quantity")
    assert status == 0 and rows.loc["pflops_dense", "status"] == "ok"
    for quantity in ("density_requested", "num_steps"):
        assert rows.loc[quantity, "status"] == "ok"
    assert set(rows["status"]) <= {"ok", "unavailable"}
