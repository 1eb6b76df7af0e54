"""Weights & Biases gets a copy of the record, offline; off, it is not even imported."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import wandb

from experiments import tracked, tracking
from experiments.schema import TrackingConfig
from svg.results import Measurement, RunWriter, list_runs, read_measurements, read_run
from svg.video import read_preview
from tests.fake_runs import (
    DENSE_LAYERS,
    DENSE_STEPS,
    FRAMES,
    HEADS,
    HEIGHT,
    LAYERS,
    PROMPTS,
    RUNS,
    STEPS,
    WIDTH,
    write_fake_runs,
)


@pytest.fixture(scope="module")
def fake_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fake")
    write_fake_runs(folder)
    return folder / "svg-0.25"


def test_history_has_every_sparse_steps_choices_errors_and_margins_by_layer(fake_run):
    history = tracked.head_history(read_measurements(fake_run))
    assert list(history) == list(range(DENSE_STEPS, STEPS))
    names = ("head_share_temporal", "head_error/spatial", "head_error/temporal", "head_margin")
    layers = range(DENSE_LAYERS, LAYERS)
    assert set(history[DENSE_STEPS]) == {f"{name}/layer_{layer:02d}" for name in names for layer in layers}
    assert 0 <= history[DENSE_STEPS]["head_share_temporal/layer_01"] <= 1


def test_means_are_over_whole_videos_only(fake_run):
    means = tracked.means(read_measurements(fake_run))
    frame = read_measurements(fake_run).to_pandas()
    whole = frame[(frame.quantity == "psnr_db") & frame.frame.isna()]
    assert means["psnr_db/standard"] == pytest.approx(whole["value"].mean())
    assert "step_s" not in means and "head_choice" not in means


def test_backends_that_were_tried_have_no_mean_and_an_identical_video_counts_once(tmp_path):
    place = {"prompt_id": "a", "seed": 0}
    names = {"model": "m", "method": "dense", "backend": "flex", "dense_backend": "sdpa"}
    with RunWriter(tmp_path, "run", config={}, provenance={}, prompts=[], seeds=[0], **names) as run:
        for protocol in ("standard", "upstream"):
            same = {"value": None, "status": "infinite", "protocol": protocol}
            run.add(Measurement(quantity="psnr_db", unit="dB", **same, **place))
        for backend, value in (("sdpa", 1.0), ("flash3", 3.0)):
            run.add(Measurement(quantity="dense_call_ms", unit="ms", value=value, backend=backend))
    assert tracked.means(read_measurements(tmp_path / "run")) == {}
    row = dict(zip(tracked.SWEEP_COLUMNS, tracked.sweep_row(tmp_path / "run"), strict=True))
    assert row["identical_videos"] == 1


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
    tables = []
    monkeypatch.setattr(tracking, "publish_sweep", lambda settings, group, paths: tables.append((group, len(paths))))
    status, out, _ = call(f"runs_dir={fake_run.parent}", command="publish")
    assert status == 0 and out.count("published (offline)") == len(RUNS)
    # The failed one is in its sweep's table.
    assert tables == [("demo", len(RUNS) + 1)]
    assert sorted(sent) == sorted(("offline", name) for name, *_ in RUNS)


def test_a_damaged_run_is_told_of_and_keeps_no_other_from_being_published(fake_run, call, monkeypatch, tmp_path):
    sent = []
    monkeypatch.setattr(tracking, "publish", lambda settings, path: sent.append(path.name))
    monkeypatch.setattr(tracking, "publish_sweep", lambda settings, group, paths: None)
    for name in ("dense", fake_run.name):
        shutil.copytree(fake_run.parent / name, tmp_path / name)
    (tmp_path / "dense" / "measurements.parquet").write_bytes(b"PAR1")
    with pytest.warns(UserWarning, match="not published: .*dense/measurements.parquet is damaged"):
        status, *_ = call(f"runs_dir={tmp_path}", command="publish")
    assert (status, sent) == (0, [fake_run.name])


def read_back(folder):
    """Return what wandb's own reader finds in a run's file, which is what `wandb sync` sends: by type of record."""
    program = Path(sys.executable).with_name("wandb")
    line = [program, "leet", "inspect", "--json", folder]
    shown = subprocess.run(line, capture_output=True, text=True, timeout=60, check=True).stdout
    found = {}
    for record in map(json.loads, shown.splitlines()):
        found.setdefault(record["type"], []).append(record[record["type"]])
    summary = {}
    for record in found["summary"]:
        summary |= record["update"]
    return found["run"][-1], summary, [record["item"] for record in found.get("history", [])], found


@pytest.mark.slow
def test_wandbs_own_reader_finds_the_settings_tags_rows_histograms_and_video_of_a_record(
    fake_run, monkeypatch, tmp_path
):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    tracking.publish(TrackingConfig(mode="offline", dir=str(tmp_path)), fake_run)
    [folder] = (tmp_path / "wandb").glob("offline-run-*")
    run, summary, history, _ = read_back(folder)
    record, rows = read_run(fake_run), read_measurements(fake_run)
    config = run["config"]["update"]
    assert {name: config[name] for name in record.config} == record.config
    assert (config["sparsity"], config["num_sampled_rows"], config["method_name"]) == (0.25, 64, "svg")
    assert (run["run_group"], run["display_name"], run["job_type"]) == ("demo", "svg-0.25", "run")
    assert run["tags"] == ["tiny_wan", "svg", "density=0.25", "demo", "commit=0123456789", "dirty"]
    means = tracked.means(rows)
    assert {name: summary[name] for name in means} == means
    assert (summary["machine/cpu"], summary["machine/peak_memory_gib"]) == ("Example CPU 2.0 GHz", 1.7)
    steps = [item for item in history if "head_margin/layer_01" in item]
    assert [item["_step"] for item in steps] == list(range(DENSE_STEPS, STEPS))
    for layer in range(DENSE_LAYERS, LAYERS):
        for item in steps:
            counts = item[f"head_choice/layer_{layer:02d}/heads.values"]
            assert len(counts) == tracking.BINS and sum(counts) == HEADS
    for prompt in PROMPTS:
        [item] = [item for item in history if f"video/{prompt['prompt_id']}-s0.path" in item]
        clip = folder / "files" / item[f"video/{prompt['prompt_id']}-s0.path"]
        frames = read_preview(clip)
        assert frames.shape == (FRAMES, HEIGHT, 2 * WIDTH + 8, 3)
        dense = read_preview(fake_run / "videos" / f"{prompt['prompt_id']}-s0.dense.mp4")
        # Encoded twice, and the right half is noisier.
        off = abs(frames.astype(int) - np.concatenate([dense, dense[:, :, :8], dense], axis=2)).mean(axis=(0, 1, 3))
        assert off[:WIDTH].mean() < 3 < off[-WIDTH:].mean()


@pytest.mark.slow
def test_a_sweep_is_one_group_with_a_table_of_its_runs_and_live_metrics_where_asked_for(
    sparse, call, tmp_path, monkeypatch
):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(tracking, "SAMPLING_S", 0.1)
    line = ("-m", "method=svg", *sparse, "tracking=wandb", "tracking.system_metrics=true")
    status, _, err = call(*line, "method.sparsity=0.02,0.7")
    assert status == 2 and err.count("\n") == 1 and "sparsity" in err
    found = [read_back(folder) for folder in (tmp_path / "runs" / ".wandb" / "wandb").glob("offline-run-*")]
    by_name = {run["display_name"]: (run, summary, history, rest) for run, summary, history, rest in found}
    records = {record.status: record for record in map(read_run, list_runs(tmp_path / "runs"))}
    made, refused = records["complete"], records["failed"]
    [group] = {run["run_group"] for run, *_ in found}
    assert re.fullmatch(r"sweep-[0-9a-f]{8}", group) and {made.sweep, refused.sweep} == {group}
    assert set(by_name) == {made.run_id, refused.run_id, f"summary of {group}"}
    run, summary, _, rest = by_name[made.run_id]
    assert run["config"]["update"]["sparsity"] == 0.7 and run["tags"][:3] == ["tiny_wan", "svg", "density=0.7"]
    assert summary["psnr_db/standard"] > 20 and rest["stats"] and rest["exit"][0]["exit_code"] == 0
    assert by_name[refused.run_id][3]["exit"][0]["exit_code"] == 1
    _, summary, _, rest = by_name[f"summary of {group}"]
    assert "stats" not in rest
    assert (summary["complete"], summary["failed"], summary["damaged"]) == (1, 1, 0)
    [file] = (tmp_path / "runs" / ".wandb" / "wandb").glob("offline-run-*/files/media/table/sweep_*.json")
    table = json.loads(file.read_text())
    assert table["columns"] == list(tracked.SWEEP_COLUMNS)
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert [(row["run_id"], row["status"], row["density_requested"]) for row in rows] == [
        (refused.run_id, "failed", None),
        (made.run_id, "complete", 0.7),
    ]
    assert rows[0]["error"] == refused.error["message"]


def test_a_damaged_run_is_named_in_its_sweeps_table(fake_run, tmp_path):
    path = shutil.copytree(fake_run, tmp_path / fake_run.name)
    (path / "measurements.parquet").write_bytes(b"PAR1")
    row = dict(zip(tracked.SWEEP_COLUMNS, tracked.sweep_row(path), strict=True))
    assert (row["status"], row["psnr_db"]) == ("damaged", None) and "measurements.parquet is damaged" in row["error"]
    whole = dict(zip(tracked.SWEEP_COLUMNS, tracked.sweep_row(fake_run.parent / "dense"), strict=True))
    assert (whole["status"], whole["psnr_db"], whole["identical_videos"]) == ("complete", None, 2)


def test_settings_stand_at_the_top_by_the_last_part_of_their_names(fake_run):
    rows, record = read_measurements(fake_run), read_run(fake_run)
    overrides = ["+case=svg_at_25", "model.num_inference_steps=4", "quality.metrics=[psnr]", "runs_dir=here", "seed=0"]
    config = tracked.config_of(replace(record, overrides=overrides), rows)
    assert (config["case_name"], config["num_inference_steps"], config["seed"]) == ("svg_at_25", 4, 0)
    assert "runs_dir" not in config and "metrics" not in config
    assert config["model"] == record.config["model"] and config["model_name"] == "tiny_wan"
