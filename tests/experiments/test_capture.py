"""experiments.capture writes what methods plan on, and experiments.replay scores them on it as the generation did."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace

import pytest
import torch
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from analysis import load, replays
from analysis.replays import replay_table
from experiments import capture_survey, replaying, runner
from experiments.capture_survey import check_room
from experiments.entry import one_line
from experiments.identity import Names
from experiments.schema import CaptureConfig, ReplayConfig
from svg.captures import recorder
from svg.captures.index import INDEX_FILE, read, read_all
from svg.captures.recorder import Selection
from svg.results import RecordError
from tests.experiments.conftest import composed, planned

pytestmark = pytest.mark.slow

PLACE = ["step", "layer", "branch", "head"]
# What a run and a replay measure of a head by the same definition.
SHARED = ["head_choice", "head_error", "head_margin", "head_output_error", "head_kept_mass", "head_regret"]


@pytest.fixture
def captured(small, call, tmp_path):
    """Capture with more settings and return the folder of the generations and what was printed."""

    def of(*more: str):
        folder = tmp_path / "captures"
        before = {*folder.iterdir()} if folder.exists() else set()
        status, out, err = call(*small, f"captures_dir={folder}", *more, command="capture")
        assert (status, err) == (0, "")
        new = {*folder.iterdir()} - before
        return (new or before).pop(), out

    return of


@pytest.fixture
def replayed(call, tmp_path):
    """Replay a folder with more settings and return the rows of each run by its method."""

    def of(folder, *more: str):
        runs_dir = tmp_path / "replays"
        words = [f"captures={folder}", f"runs_dir={runs_dir}", "device=cpu", "threads=1", *more]
        status, _, err = call(*words, command="replay")
        assert (status, err) == (0, "")
        rows = load.measurements(runs_dir)
        return dict(iter(rows.groupby("method")))

    return of


SPARSE = ("method.sparsity=0.7", "method.block_size=2")


def heads_of(rows, names=SHARED):
    rows = rows[rows["quantity"].isin(names)]
    return rows.set_index(["quantity", "protocol", *PLACE])["value"].sort_index()


@pytest.mark.parametrize(("method", "chosen"), [("svg", "null"), ("random_blocks", "[1]")])
def test_a_replay_decides_and_loses_what_the_generation_did(small, captured, replayed, method, chosen):
    words = [*SPARSE, "method.first_times_fp=0.4"]
    run = runner.run(planned(*small, *words, "statistics=every", method=method))
    expected = heads_of(load.measurements(run.parent).query("run_id == @run.name"))
    folder, _ = captured(f"method={method}", *words, f"capture.heads={chosen}")
    found = heads_of(replayed(folder, f"method={method}", *words)[method])
    if chosen != "null":
        expected = expected[expected.index.get_level_values("head") == 1]
    # The first of three steps was kept dense.
    assert set(found.index.get_level_values("step")) == {1, 2}
    assert found.index.equals(expected.index)
    assert found.to_numpy() == pytest.approx(expected.to_numpy(), rel=1e-4, abs=1e-9)


def test_a_backend_is_judged_on_captured_calls_and_fp8_rounds_far_more(captured, replayed, tmp_path):
    folder, _ = captured("capture.steps=[1]")
    precisions = ("backend=reference", "backend.precision=bf16,fp8")
    replayed(folder, "method=svg", *SPARSE, "method.first_layers_fp=0.5", *precisions)
    rows = load.measurements(tmp_path / "replays").query("quantity == 'head_rounding_error'")
    table = replay_table(load.measurements(tmp_path / "replays"), load.runs(tmp_path / "replays"))
    plain, fp8 = table.sort_values("rounding_error")["rounding_error"]
    assert 0 < plain < 1e-5 and 0.005 < fp8 < 0.08
    # Two layers, branches and heads, the dense layer included.
    assert len(rows) == 2 * 2 * 2 * 2 and set(rows["layer"]) == {0, 1}
    assert set(load.runs(tmp_path / "replays")["backend"]) == {"reference", "reference_fp8"}


def test_methods_stand_side_by_side_on_the_same_calls(captured, replayed, tmp_path, capsys):
    folder, _ = captured("capture.steps=[1]", "prompts.texts=[a red circle,a blue square]")
    methods = "method=svg,one_pattern_temporal,oracle_choice"
    replayed(folder, methods, *SPARSE, "method.first_layers_fp=0.5")
    # Another number of rows is another comparison.
    replayed(folder, "method=svg", *SPARSE, "method.first_layers_fp=0.5", "num_rows=null")
    table = replay_table(load.measurements(tmp_path / "replays"), load.runs(tmp_path / "replays"))
    assert sorted(table["captures"].value_counts()) == [1, 3]
    assert set(table["prompts"]) == {2} and set(table["captured"]) == {"dense"}
    # Of two layers one stays dense, in either branch of both prompts.
    assert set(table["calls"]) == set(table["dense_calls"]) == {4}
    rows = table[table["captures"].map(table["captures"].value_counts()) == 3].set_index("label")
    by_name = {label.split()[0]: row for label, row in rows.iterrows()}
    errors = {name: row["output_error"] for name, row in by_name.items()}
    # All 18 rows were profiled: the choice is the best of the two patterns for every head.
    assert by_name["svg"]["regret"] == 0 and by_name["svg"]["agreement"] == 1
    assert errors["svg"] == errors["oracle_choice"]
    assert errors["svg"] <= errors["one_pattern_temporal"]
    assert (rows["plan_s"] > 0).all() and rows["density"].between(0.5, 0.9).all()
    assert replays.main([str(tmp_path / "replays")]) == 0
    out = capsys.readouterr().out
    assert "2 prompts" in out and "4 + 4 dense" in out


def test_a_capture_holds_the_chosen_calls_with_all_that_a_plan_needs(captured):
    folder, out = captured("capture.steps=[2]", "capture.layers=[0]", "capture.branches=[cond]", "seeds=[3,4]")
    first, second = read_all(folder)
    assert [first.seed, second.seed] == [3, 4]
    assert "0 already captured" in out and "GiB to write" in out
    [call] = first.calls
    assert (call.step, call.layer, call.branch, call.key_lengths) == (2, 0, "cond", None)
    assert (first.num_steps, first.num_layers, first.num_heads, first.heads) == (3, 2, 2, [0, 1])
    assert len(first.timesteps) == 3
    assert first.provenance["versions"]["torch"] == torch.__version__
    size = sum(path.stat().st_size for path in first.path.glob("*.safetensors"))
    # Query, key and value of 2 heads, 18 tokens and 12 channels in float32, and the header.
    assert 0 <= size - 3 * 2 * 18 * 12 * 4 < 400


def test_what_is_there_is_not_captured_again_and_what_is_damaged_is(small, call, captured):
    words = ["capture.steps=[0]", "capture.layers=[1]"]
    folder, _ = captured(*words)
    [capture] = read_all(folder)
    file = capture.path / capture.calls[0].file
    made = file.stat().st_mtime_ns
    assert "1 already captured" in captured(*words)[1]
    assert file.stat().st_mtime_ns == made
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(RecordError, match="is damaged: it has not the hash"):
        capture.data(capture.calls[0])
    with pytest.warns(UserWarning, match="made again"):
        captured(*words)
    capture = read(capture.path)
    assert capture.data(capture.calls[0])
    other = replace(capture, prompt=capture.prompt | {"text": "another"})
    (capture.path / INDEX_FILE).write_text(json.dumps(other.content()))
    status, _, err = call(*small, f"captures_dir={folder.parent}", *words, command="capture")
    assert status == 2 and "holds the capture of another prompt with the id" in err and err.count("\n") == 1


SURVEY = capture_survey.Survey(3, 2, 4, {(layer, branch): 1000 for layer in (0, 1) for branch in ("cond", "uncond")})


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"steps": (3,)}, "capture.steps holds 3; there are 3 steps, counted from 0"),
        ({"layers": (0, 2)}, "capture.layers holds 2; there are 2 layers, counted from 0"),
        ({"heads": (5,)}, "capture.heads holds 5; there are 4 heads, counted from 0"),
        ({"branches": ("joint",)}, "capture.branches holds 'joint'; this model's are cond, uncond"),
    ],
)
def test_what_a_model_has_not_is_refused(choice, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        SURVEY.check(Selection(**choice))


def test_the_size_is_that_of_the_chosen_calls_and_heads():
    assert SURVEY.bytes(Selection()) == 3 * 4 * 4 * 1000
    assert SURVEY.bytes(Selection(steps=(1,), layers=(0,), branches=("cond",), heads=(0, 3))) == 2 * 1000


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("capture.heads=[1,1]", "capture.heads is [1, 1]; it must hold at least one, each once, or be null"),
        ("capture.steps=[]", "capture.steps is []; it must hold at least one, each once, or be null"),
        ("capture.steps=[-1]", "capture.steps is -1; it must be at least 0"),
        ("capture.step=[1]", "capture.step is no setting; did you mean capture.steps?"),
    ],
)
def test_a_choice_that_is_none_is_refused_by_name(word, message):
    with pytest.raises((HydraException, ValueError)) as refusal:
        composed(word, config_name="capture", settings=CaptureConfig)
    assert one_line(refusal.value) == message


def test_a_wrong_choice_is_refused_in_one_line_and_writes_nothing(small, call, tmp_path):
    status, _, err = call(*small, f"captures_dir={tmp_path / 'captures'}", "capture.heads=[5]", command="capture")
    assert (status, err) == (2, "error: capture.heads holds 5; there are 2 heads, counted from 0\n")
    assert not (tmp_path / "captures").exists()


def test_a_disk_without_the_room_is_told_by_its_folder_and_both_sizes(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    check_room(tmp_path / "not" / "yet", free // 2)
    with pytest.raises(ValueError, match=r"captures_dir=\S+yet: the capture takes .* GiB and the disk has .* GiB left"):
        check_room(tmp_path / "not" / "yet", 2 * free)


def test_a_generation_that_fails_leaves_no_half_of_a_capture(small, call, tmp_path, monkeypatch):
    def full(path, data):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(recorder, "write_bytes", full)
    status, _, err = call(*small, f"captures_dir={tmp_path / 'captures'}", command="capture")
    assert status == 2 and "cannot be written: No space left on device" in err and err.count("\n") == 1
    assert [path for path in (tmp_path / "captures").rglob("*") if path.is_file()] == []


def test_a_replay_refuses_what_it_cannot_read_or_use(captured, call, tmp_path):
    folder, _ = captured("capture.steps=[1]", "capture.layers=[1]")
    [capture] = read_all(folder)
    refusals = {
        (f"captures={tmp_path / 'none'}",): "cannot be read: No such file or directory",
        (f"captures={folder.parent}",): f"it holds folders of some: {folder}",
        (f"captures={folder}", "model=tiny_wan"): "model is no setting of a replay, which takes captures, method, case",
        (f"captures={folder}", "method.sparsity=2"): "is 2; it must be in (0, 1]",
        (f"captures={folder}", "num_rows=0"): "num_rows is 0; it must be at least 1",
    }
    for words, message in refusals.items():
        with pytest.raises((ValueError, RecordError, OmegaConfBaseException)) as refusal:
            config = composed(*words, config_name="replay", settings=ReplayConfig)
            replaying.check(config, Names("tiny_wan", "svg", list(words)))
        assert message in one_line(refusal.value)
    index = capture.path / "index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"seed": 1}))
    status, _, err = call(f"captures={folder}", f"runs_dir={tmp_path / 'replays'}", command="replay")
    assert status == 2 and "was changed after it was written" in err and err.count("\n") == 1
    assert list((tmp_path / "replays").glob("[!.]*")) == []
