"""experiments.head_patterns makes the run that its settings name, with the statistics of every call, and draws it."""

from __future__ import annotations

import pandas as pd
import pytest

from analysis import load

pytestmark = pytest.mark.slow


def test_a_run_is_made_where_it_is_not_there_and_every_call_of_it_is_in_the_atlas(sparse, call, tmp_path):
    words = [*sparse, "quality.metrics=[psnr]"]
    status, _, err = call(*words, command="head_patterns")
    assert (status, err) == (0, "")
    [drawn] = (tmp_path / "runs" / "head_patterns").iterdir()
    assert {path.suffix for path in drawn.iterdir()} == {".png", ".pdf", ".csv"}
    table = pd.read_csv(drawn / "heads.csv")
    # 2 layers, 2 heads and 2 branches, whose every call has all statistics.
    assert len(table) == 8
    columns = ["kept_mass", "agreement", "regret", "entropy", "same_frame_mass", "margin", "over_steps"]
    assert table[columns].notna().all(axis=None)
    rows = load.measurements(tmp_path / "runs")
    assert (rows[rows["quantity"] == "statistics_steps"][["value", "n"]] == 3).all(axis=None)


def test_a_run_that_is_not_there_is_refused_and_nothing_is_made(call, tmp_path):
    assert call(f"run={tmp_path / 'none'}", f"runs_dir={tmp_path / 'runs'}", command="head_patterns")[0] == 2
    assert list(tmp_path.iterdir()) == []
