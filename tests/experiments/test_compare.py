"""One command, one record: what a run writes, what it takes from the store, and what it leaves alone."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from analysis import load
from analysis.summary import summary
from experiments import identity, rows, runner, truncation
from experiments.building import dense_backend_modules
from experiments.generation import Generation, noise_generator
from svg.methods.dense import Dense
from svg.receipt import Receipt
from svg.results import RunWriter, read_run
from svg.video import read_lossless
from tests.experiments.conftest import planned


def rows_of(path):
    return load.measurements(path.parent).query("run_id == @path.name")


def value(rows, quantity, protocol=None):
    found = rows[(rows["quantity"] == quantity) & rows["frame"].isna() & rows["step"].isna()]
    if protocol is not None:
        found = found[found["protocol"] == protocol]
    [number] = found["value"]
    return number


@pytest.fixture(scope="module")
def _module_cache():
    return {}


@pytest.fixture
def finished(sparse, _module_cache, tmp_path_factory):
    """The folder of one run of svg, made once."""
    if "path" not in _module_cache:
        folder = tmp_path_factory.mktemp("finished")
        overrides = [*sparse, f"runs_dir={folder}", "method.first_layers_fp=0.5", "seeds=[0,1]"]
        _module_cache["path"] = runner.run(planned(*overrides))
    return _module_cache["path"]


def test_a_run_records_quality_cost_and_densities_for_every_video(finished):
    rows = rows_of(finished)
    assert set(rows["seed"].dropna()) == {0, 1}
    rows = rows[rows["seed"] == 1]
    assert value(rows, "psnr_db") > 20
    assert 0.5 < value(rows, "ssim") < 1
    assert value(rows, "density_requested") == 0.7
    tile = value(rows, "density_executed", "tile")
    assert 0.5 < tile <= 0.7
    # One of two layers and none of three steps is dense: first_times_fp is 0.125 of 3 steps.
    assert (value(rows, "dense_steps"), value(rows, "dense_layers")) == (0, 1)
    assert value(rows, "density_overall", "tile") == pytest.approx((1 + tile) / 2)
    assert value(rows, "pflops_sparse") < value(rows, "pflops_dense")


def test_the_phases_add_up_to_the_generation_and_the_steps_to_the_denoising(finished):
    rows = rows_of(finished)
    rows = rows[rows["seed"] == 0]
    phases = rows[rows["quantity"] == "phase_s"]
    assert set(phases["protocol"]) == {"attention", "profiling", "reordering", "rest"}
    assert phases["value"].min() > 0
    assert phases["value"].sum() == pytest.approx(value(rows, "generation_s"))
    steps = rows[rows["quantity"] == "step_s"]
    assert list(steps["step"]) == [0, 1, 2]
    assert steps["value"].sum() == pytest.approx(value(rows, "denoise_s"))
    assert value(rows, "denoise_s") + value(rows, "decode_s") < value(rows, "generation_s")
    ratio = value(rows, "dense_generation_s") / value(rows, "generation_s")
    assert value(rows, "speedup") == pytest.approx(ratio)


def test_the_heads_choice_is_the_pattern_with_the_smaller_error(finished):
    rows = rows_of(finished)
    heads = rows[rows["head"].notna() & (rows["seed"] == 0)]
    place = ["step", "layer", "branch", "head"]
    choices = heads[heads["quantity"] == "head_choice"].set_index(place)["value"]
    # 3 steps, 1 sparse layer, 2 branches, 2 heads.
    assert len(choices) == 12
    errors = heads[heads["quantity"] == "head_error"].pivot(index=place, columns="protocol", values="value")
    assert ((errors["temporal"] < errors["spatial"]) == (choices.reindex(errors.index) == 1)).all()
    assert len(heads[heads["quantity"] == "head_margin"]) == 12


def test_the_record_says_what_ran_and_keeps_the_pixels(finished):
    record = read_run(finished)
    assert (record.model, record.method, record.backend, record.dense_backend) == (
        "tiny_wan",
        "svg",
        "cpu_gather",
        "sdpa",
    )
    assert record.config["method"]["sparsity"] == 0.7
    assert record.provenance["threads"] == 1
    assert len(record.videos) == 2
    assert read_lossless(finished / record.videos[0].sparse).shape == (9, 32, 48, 3)
    assert (finished / record.videos[0].dense_preview).stat().st_size > 0


@pytest.mark.slow
def test_a_prompt_that_is_too_long_is_cut_told_of_once_and_recorded(sparse, call, tmp_path):
    texts = f"prompts.texts=[a red circle,{'a blue square moves ' * 5}]"
    truncation._warn.cache_clear()
    status, _, err = call("-m", "method=svg", *sparse, "method.sparsity=0.7,0.8", texts)
    assert status == 0
    [line] = err.splitlines()
    assert line.startswith("warning: prompt p01-") and line.endswith("takes 16 of 20 tokens, the others are cut off")
    for run in load.runs(tmp_path / "runs").itertuples():
        assert [prompt.get("truncated") for prompt in run.prompts] == [None, "text_encoder takes 16 of 20 tokens"]


@pytest.mark.slow
def test_a_complete_run_is_kept_and_made_again_only_on_demand(sparse, call):
    settings = ("method=svg", *sparse)
    status, first, _ = call(*settings)
    assert status == 0
    status, second, _ = call(*settings)
    assert (status, "already complete" in second) == (0, True)
    status, third, _ = call(*settings, "overwrite=true")
    assert (status, "already complete" in third) == (0, False)
    assert first.split(":")[0] == third.split(":")[0]


@pytest.mark.slow
def test_a_failed_attempt_to_make_a_complete_run_again_leaves_it_there(sparse, tmp_path, monkeypatch):
    path = runner.run(planned(*sparse))

    def fail(*args, **kwargs):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(runner, "evaluate", fail)
    with pytest.raises(RuntimeError, match="out of luck"):
        runner.run(planned(*sparse, "overwrite=true"))
    assert read_run(path).status == "complete"


def test_the_dense_twin_is_made_once_for_a_sweep_and_its_time_comes_from_it(sparse, monkeypatch):
    runs = [runner.run(planned(*sparse, f"method.sparsity={density}")) for density in (0.6, 0.7)]
    times = [value(rows_of(path), "dense_generation_s") for path in runs]
    assert times[0] == times[1]
    assert len([entry for entry in (runs[0].parent / ".dense").iterdir() if len(entry.name) == 32]) == 1


def test_a_twin_timed_on_a_busy_machine_is_timed_again_and_keeps_its_frames(sparse, monkeypatch):
    first = runner.run(planned(*sparse))
    [entry] = [entry for entry in (first.parent / ".dense").iterdir() if len(entry.name) == 32]
    frames = read_lossless(entry / "video.mkv")
    facts = json.loads((entry / "meta.json").read_text())
    facts["meta"]["total_s"] += 1000.0
    (entry / "meta.json").write_text(json.dumps(facts))

    second = runner.run(planned(*sparse, "method.sparsity=0.8"))
    assert value(rows_of(second), "dense_generation_s") < 1000
    assert value(rows_of(second), "speedup") > 0
    assert np.array_equal(read_lossless(entry / "video.mkv"), frames)


def test_no_speedup_is_reported_where_the_same_work_took_another_time(sparse, monkeypatch):
    generation = runner.Generator.__call__

    def slowed(self, prompt, seed, method, *arguments, **settings):
        made = generation(self, prompt, seed, method, *arguments, **settings)
        return made if isinstance(method, Dense) else replace(made, total_s=made.total_s + 1000.0)

    monkeypatch.setattr(runner.Generator, "__call__", slowed)
    rows = rows_of(runner.run(planned(*sparse)))
    speedups = rows[rows["quantity"].str.contains("speedup")]
    assert set(speedups["quantity"]) == {
        "speedup",
        "denoise_speedup",
        "attention_speedup",
        "attention_call_speedup",
    }
    assert set(speedups["status"]) == {"unavailable"} and speedups["value"].isna().all()
    assert speedups["reason"].str.contains("the machine was busy").all()
    assert value(rows, "generation_s") > 1000


@pytest.mark.parametrize(("apart_s", "is_busy"), [(0.04, False), (0.06, True), (-0.04, False), (-0.06, True)])
@pytest.mark.parametrize("scale", [1, 1000])
def test_a_speedup_stands_where_shared_work_took_the_same_time_to_a_tenth_of_a_generation(
    monkeypatch, apart_s, is_busy, scale
):
    monkeypatch.setattr(rows, "MOST_APART", 0.1)
    dense = {"total_s": 1.0 * scale, "attention_s": [0.7 * scale]}
    # Both share 0.3 s; the shorter generation takes half a second.
    made = Generation(None, (0.5 + apart_s) * scale, 0.0, (), 0.0, {"attention": [0.2 * scale]}, 0.0, Receipt())
    reason = rows.busy_reason(made, dense)
    assert (reason is not None) == is_busy
    assert reason is None or "more than 10% of a generation apart" in reason


def test_dense_against_itself_is_identical_and_exactly_as_fast(small):
    path = runner.run(planned(*small, method="dense"))
    rows = rows_of(path)
    psnr = rows[(rows["quantity"] == "psnr_db") & rows["frame"].isna()]
    assert list(psnr["status"]) == ["infinite"]
    assert value(rows, "speedup") == 1
    assert value(rows, "density_executed", "tile") == 1
    assert value(rows, "pflops_sparse") == value(rows, "pflops_dense")


def test_noise_depends_on_the_prompts_text_and_the_seed_only():
    first, again = (torch.randn(4, generator=noise_generator("a circle", 3)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, torch.randn(4, generator=noise_generator("a circle", 4)))
    assert not torch.equal(first, torch.randn(4, generator=noise_generator("a square", 3)))


@pytest.mark.slow
def test_a_sweep_goes_on_after_a_failure_records_it_and_ends_with_status_two(sparse, call, tmp_path):
    status, out, err = call("-m", "method=svg", *sparse, "method.sparsity=0.02,0.7")
    assert status == 2
    assert "method.sparsity" in err
    assert err.count("\n") == 1
    table = load.runs(tmp_path / "runs").set_index("config.method.sparsity")
    assert dict(table["status"]) == {0.02: "failed", 0.7: "complete"}
    assert "0.02" in table["error.message"][0.02]
    assert "1 video in" in out


REFUSED = {
    "a value": ("method.num_sampled_rows=0,4", "method.num_sampled_rows is 0"),
    "a folder": ("model.path=no/such/folder,MODEL", "model.path=no/such/folder is not a folder"),
    "a range": ("model.num_inference_steps=0,3", "model.num_inference_steps is 0; it must be at least 1"),
    "a size": ("model.height=33,32", "model.height is 33; this model takes multiples of 16"),
    "a device": ("device=tpu,cpu", "device is 'tpu'"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", REFUSED)
def test_a_job_of_a_sweep_that_is_refused_before_anything_is_loaded_is_a_failed_run(sparse, call, tmp_path, case):
    setting, message = REFUSED[case]
    name = setting.partition("=")[0]
    model = next(word.removeprefix("model.path=") for word in sparse if word.startswith("model.path="))
    settings = [word for word in sparse if not word.startswith(f"{name}=")]
    status, out, err = call("-m", "method=svg", *settings, setting.replace("MODEL", model))
    assert status == 2 and message in err and err.count("\n") == 1
    assert "1 video in" in out
    table = load.runs(tmp_path / "runs").set_index("status")
    assert sorted(table.index) == ["complete", "failed"]
    assert message in table["error.message"]["failed"]
    assert setting.split(",")[0] in table["overrides"]["failed"]
    labels = summary(load.measurements(tmp_path / "runs"), load.runs(tmp_path / "runs"))["label"]
    assert list(labels) == ["svg sparsity=0.7"] * 2


@pytest.mark.slow
def test_a_refused_job_that_passes_later_leaves_no_failed_run(sparse, call, tmp_path, model_folder):
    later = tmp_path / "later"
    settings = [word for word in sparse if not word.startswith("model.path=")]
    line = ("-m", "method=svg", *settings, f"model.path={later}")
    assert call(*line)[0] == 2
    assert load.runs(tmp_path / "runs")["status"].tolist() == ["failed"]
    shutil.copytree(model_folder, later)
    assert call(*line)[0] == 0
    assert load.runs(tmp_path / "runs")["status"].tolist() == ["complete"]


def test_a_misspelt_setting_stops_a_sweep_with_one_line(sparse, call, tmp_path):
    status, _, err = call("-m", "method=svg", *sparse, "model.hieght=32,48")
    assert status == 2 and "model.hieght is no setting; did you mean model.height?" in err and err.count("\n") == 1
    assert not list((tmp_path / "runs").glob("*/run.json"))


@pytest.mark.slow
def test_the_demos_cases_are_a_sweep(small, call, tmp_path):
    settings = [*small, "model.method_defaults.block_size=2", "method.sparsity=0.8"]
    status, _, err = call("-m", "case=svg_at_50,random_at_25", *settings)
    assert (status, err) == (0, "")
    assert set(load.runs(tmp_path / "runs")["method"]) == {"svg", "random_blocks"}


def test_another_prompt_set_gives_other_ids_and_a_file_takes_the_place_of_the_list(sparse, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red circle\n\na blue square\n", encoding="utf-8")
    plan = planned(*sparse, f"prompts.path={tmp_path / 'prompts.txt'}")
    assert [prompt.text for prompt in plan.prompts] == ["a red circle", "a blue square"]
    assert plan.hash != planned(*sparse).hash


def test_other_weights_are_another_run(sparse, model_folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(model_folder, copy)
    same = planned(*sparse, f"model.path={copy}").hash
    assert same == planned(*sparse).hash
    config = json.loads((copy / "scheduler" / "scheduler_config.json").read_text())
    (copy / "scheduler" / "scheduler_config.json").write_text(json.dumps(config | {"shift": 3.0}))
    assert planned(*sparse, f"model.path={copy}").hash != same


@pytest.mark.parametrize(
    ("dense", "device_type", "modules"),
    [
        ("cudnn", "cuda", "svg.backends.cudnn"),
        ("sdpa_math", "cpu", "svg.backends.sdpa"),
        ("auto", "cpu", "svg.backends._fastest svg.backends.sdpa"),
        (
            "auto",
            "cuda",
            "svg.backends._fastest svg.backends.sdpa svg.backends.cudnn svg.backends.flash2 svg.backends.flash3 "
            "svg.backends.flash4 svg.backends.triton_block_sparse",
        ),
    ],
)
def test_a_dense_backends_code_is_its_own_and_that_of_auto_all_it_may_pick(dense, device_type, modules):
    assert dense_backend_modules(dense, device_type) == modules.split()


def test_a_runs_code_holds_the_dense_backends_and_the_protocols(sparse, monkeypatch):
    asked = []
    monkeypatch.setattr(identity, "code_hash", lambda *modules: asked.extend(modules) or "0" * 16)
    planned(*sparse, "dense_backend=sdpa", "backend=cpu_gather")
    needed = "experiments.generation svg.methods.svg svg.backends.cpu_gather svg.backends.sdpa svg.models.wan"
    assert {*needed.split(), "svg.quality.psnr", "svg.quality.protocol"} <= set(asked)


def test_two_writers_of_one_run_are_refused_in_one_line(sparse, call):
    plan = planned(*sparse)
    holder = RunWriter(
        plan.config.runs_dir,
        plan.run_id,
        model="m",
        method="m",
        backend="b",
        dense_backend="b",
        config={},
        provenance={},
        prompts=[],
        seeds=[0],
    )
    with holder:
        status, out, err = call("method=svg", *sparse)
    assert (status, out) == (2, "")
    assert "is being written by process" in err
    assert err.count("\n") == 1


def test_generate_makes_the_videos_that_compare_makes(sparse, call, tmp_path):
    status, _, err = call("method=svg", *sparse, command="generate")
    assert (status, err) == (0, "")
    [made] = (tmp_path / "runs" / "videos").glob("*.mkv")
    assert made.with_suffix(".mp4").stat().st_size > 0
    path = runner.run(planned(*sparse))
    assert np.array_equal(read_lossless(made), read_lossless(path / read_run(path).videos[0].sparse))
    status, _, err = call("method=svg", *sparse, command="generate")
    assert (status, "overwrite=true" in err) == (2, True)


def test_every_attention_call_is_a_row_with_its_backend_and_what_was_asked_and_computed(finished):
    rows = rows_of(finished)
    calls = rows[(rows["quantity"] == "call_density") & (rows["seed"] == 1)]
    # 3 steps, 2 layers of which the first is dense, 2 branches.
    assert len(calls) == 3 * 2 * 2 * 3
    wide = calls.pivot(index=["step", "layer", "branch"], columns="protocol", values="value").reset_index()
    dense, sparse = wide[wide["layer"] == 0], wide[wide["layer"] == 1]
    assert (dense[["requested", "token", "tile"]] == 1).all(axis=None)
    assert (sparse["requested"] == 0.7).all()
    # Whole tiles of 4 of 18 x 18 pairs: rounding leaves out less than one of them.
    assert (sparse["requested"] - sparse["tile"]).between(0, 4 / 18**2).all()
    assert set(calls[calls["layer"] == 0]["backend"]) == {"sdpa"}
    assert set(calls[calls["layer"] == 1]["backend"]) == {"cpu_gather"}
    assert calls["reason"].isna().all()


def test_dense_attention_on_a_kernel_that_was_asked_for_is_another_run_than_the_twins_copy(small):
    copy, asked = (planned(*small, f"backend={name}", method="dense") for name in ("auto", "cpu_gather"))
    assert copy.backend == asked.backend and copy.run_id != asked.run_id


def test_dense_attention_on_another_kernel_is_a_noise_floor_beside_the_twin(small):
    path = runner.run(
        planned(*small, "backend=reference", "dense_backend=sdpa", "model.dtype=bfloat16", method="dense")
    )
    rows = rows_of(path)
    assert read_run(path).backend == "reference"
    calls = rows[rows["quantity"] == "call_density"]
    assert set(calls["backend"]) == {"reference"} and (calls["value"] == 1).all()
    psnr = rows[(rows["quantity"] == "psnr_db") & rows["frame"].isna()]
    # Another order of the same sums: not the same video, and near it.
    assert list(psnr["status"]) == ["ok"] and psnr["value"].item() > 30
    assert value(rows, "density_executed", "tile") == 1
