"""Weights & Biases gets a copy of the record, offline; off, it is not even imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import wandb

from experiments import runner, tracking
from experiments.schema import TrackingConfig
from svg.results import read_measurements
from tests.experiments.conftest import planned
from tests.fake_runs import DENSE_LAYERS, DENSE_STEPS, LAYERS, RUNS, STEPS, write_fake_runs


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


@pytest.fixture
def wandb_of_nobody(monkeypatch, tmp_path):
    """Weights & Biases as on a machine where nobody has logged in."""
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "NETRC", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "nobody"))
    wandb.teardown()
    yield
    wandb.teardown()


def test_online_without_a_login_is_refused_before_the_run_and_nothing_is_written(
    sparse, call, tmp_path, wandb_of_nobody
):
    status, out, err = call("method=svg", *sparse, "tracking=wandb", "tracking.mode=online")
    assert status == 2 and out == ""
    assert err.startswith("error: tracking.mode=online, but nobody is logged in") and err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_publishing_without_a_login_is_refused(fake_run, call, wandb_of_nobody):
    status, _, err = call(f"runs_dir={fake_run.parent}", "tracking.mode=online", command="publish")
    assert status == 2 and "nobody is logged in" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["run_id=no-such-run"], "holds no complete run of run_id=no-such-run"),
        (["run_id=svg-0.05"], "holds no complete run of run_id=svg-0.05"),
        (["tracking=off"], "tracking.mode is 'off'; to publish, it must be offline or online"),
        (["tracking.mode=now"], "tracking.mode"),
    ],
)
def test_what_cannot_be_published_is_one_line(fake_run, call, settings, message):
    status, _, err = call(f"runs_dir={fake_run.parent}", *settings, command="publish")
    assert status == 2 and message in err and err.count("\n") == 1


def test_every_complete_run_of_a_folder_is_published_and_a_failed_one_is_not(fake_run, call, monkeypatch):
    sent = []
    monkeypatch.setattr(tracking, "publish", lambda settings, path: sent.append((settings.mode, path.name)))
    status, out, _ = call(f"runs_dir={fake_run.parent}", command="publish")
    assert status == 0 and out.count("published (offline)") == len(RUNS)
    assert sorted(sent) == sorted(("offline", name) for name, *_ in RUNS)


@pytest.mark.slow
def test_a_finished_run_can_be_published_later(fake_run, call, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    status, out, _ = call(f"runs_dir={fake_run.parent}", "run_id=svg-0.25", command="publish")
    assert (status, out) == (0, "svg-0.25: published (offline)\n")
    assert len(list((fake_run.parent / ".wandb" / "wandb").glob("offline-run-*"))) == 1


@pytest.mark.slow
def test_a_run_is_copied_to_wandb_offline_and_can_be_read_there(sparse, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    path = runner.run(planned(*sparse, "tracking=wandb"))
    [folder] = (path.parent / ".wandb" / "wandb").glob("offline-run-*")
    program = Path(sys.executable).with_name("wandb")
    shown = subprocess.run(
        [program, "leet", "inspect", "--summary", "--json", folder],
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
