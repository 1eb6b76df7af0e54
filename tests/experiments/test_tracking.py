"""Weights & Biases gets a copy of the record, offline; off, it is not even imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import runner, tracking
from experiments.schema import TrackingConfig
from svg.results import read_measurements
from tests.experiments.conftest import planned
from tests.fake_runs import DENSE_LAYERS, DENSE_STEPS, LAYERS, STEPS, write_fake_runs


@pytest.fixture(scope="module")
def fake_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fake")
    write_fake_runs(folder)
    return folder / "svg-0.25"


def test_history_has_every_sparse_steps_choices_errors_and_margins_by_layer(fake_run):
    history = tracking.head_history(read_measurements(fake_run))
    assert list(history) == list(range(DENSE_STEPS, STEPS))
    names = ("head_share_temporal", "head_error/spatial", "head_error/temporal", "head_margin")
    layers = range(DENSE_LAYERS, LAYERS)
    assert set(history[DENSE_STEPS]) == {f"{name}/layer_{layer:02d}" for name in names for layer in layers}
    assert 0 <= history[DENSE_STEPS]["head_share_temporal/layer_01"] <= 1


def test_means_are_over_whole_videos_only(fake_run):
    means = tracking.means(read_measurements(fake_run))
    frame = read_measurements(fake_run).to_pandas()
    whole = frame[(frame.quantity == "psnr_db") & frame.frame.isna()]
    assert means["psnr_db/standard"] == pytest.approx(whole["value"].mean())
    assert "step_s" not in means and "head_choice" not in means


def test_off_does_nothing(fake_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    tracking.publish(TrackingConfig(mode="off"), fake_run)


@pytest.mark.slow
def test_a_run_is_copied_to_wandb_offline_and_can_be_read_there(sparse, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    path = runner.run(planned(*sparse, "tracking=wandb"))
    [folder] = (path.parent / ".wandb" / "wandb").glob("offline-run-*")
    wandb = Path(sys.executable).with_name("wandb")
    shown = subprocess.run(
        [wandb, "leet", "inspect", "--summary", "--json", folder],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    summary = json.loads(shown.stdout)
    assert summary["config"]["method"]["sparsity"] == 0.7
    assert summary["summary"]["psnr_db/standard"] > 20
    assert any(name.startswith("head_margin/") for name in summary["summary"])
    assert len(list((folder / "files" / "media" / "videos").rglob("*.mp4"))) == 2
    tables = [file.name for file in (folder / "files" / "media" / "table").iterdir()]
    assert {name.split("_")[0] for name in tables} == {"measurements", "heads"}
