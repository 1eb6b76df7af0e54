"""The atlas of a run: its figures, and a table with what the rows say of every head."""

from __future__ import annotations

import pandas as pd
import pytest

from analysis import head_patterns, load
from tests.fake_runs import write_fake_runs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    write_fake_runs(root)
    return root


def test_the_table_holds_each_heads_means_and_the_stability_of_its_choices(folder):
    measurements, runs = load.measurements(folder), load.runs(folder)
    table = head_patterns.head_table(measurements, runs, "svg-0.25").set_index(["layer", "head", "branch"])
    own = measurements.query("run_id == 'svg-0.25'")
    means = own.groupby(["quantity", "layer", "head", "branch"])["value"].mean()
    for column, quantity in (("margin", "head_margin"), ("temporal_share", "head_choice")):
        assert table[column].tolist() == pytest.approx([means[quantity, *place] for place in table.index])
    assert table[["over_steps", "over_prompts"]].notna().all(axis=None)


@pytest.mark.slow
def test_the_command_writes_both_figures_and_the_table_beside_the_run(folder, capsys):
    assert head_patterns.main([str(folder / "svg-0.25")]) == 0
    out = capsys.readouterr().out
    written = {path.name for path in (folder / "head_patterns" / "svg-0.25").iterdir()}
    assert written == {"heads.png", "heads.pdf", "steps.png", "steps.pdf", "heads.csv"}
    assert "over_prompts" in out and str(folder / "head_patterns" / "svg-0.25" / "heads.csv") in out
    table = pd.read_csv(folder / "head_patterns" / "svg-0.25" / "heads.csv")
    assert {"layer", "head", "branch", "margin", "over_steps"} <= set(table)
    # What lies beside the runs is no run.
    assert "head_patterns" not in set(load.runs(folder)["run_id"])


@pytest.mark.parametrize(
    ("run", "message"),
    [("random_blocks-0.25", "has no row about its heads"), ("svg-0.05", "no complete run"), ("none", "is not a run")],
)
def test_a_run_without_heads_is_refused_in_one_line(folder, tmp_path, capsys, run, message):
    assert head_patterns.main([str(folder / run), "--output", str(tmp_path / "atlas")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert not (tmp_path / "atlas").exists()


def test_a_folder_that_takes_no_figure_is_named(folder, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    output = tmp_path / "file" / "atlas"
    assert head_patterns.main([str(folder / "svg-0.25"), "--output", str(output)]) == 2
    assert capsys.readouterr().err == f"error: --output {output} cannot be written: Not a directory\n"
