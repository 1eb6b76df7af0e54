"""The table of all runs."""

import math
import statistics

import pytest

from analysis import load
from analysis.settings import environments
from analysis.table import print_summary, summary
from svg.results import Measurement, RunWriter
from tests.fake_runs import FAILED_RUN, PROVENANCE, RUNS, write_fake_runs


@pytest.fixture(scope="module")
def fake(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    write_fake_runs(root)
    return load.measurements(root), load.runs(root)


def write(root, run_id, *rows, method="svg", seed=0, provenance=PROVENANCE, dense_backend="sdpa", **knobs):
    config = {"seed": seed, "runs_dir": str(root), "method": {"sparsity": 0.25, **knobs}}
    names = {"model": "m", "method": method, "backend": "cpu_gather", "dense_backend": dense_backend}
    facts = {"config": config, "provenance": provenance, "prompts": [], "seeds": [seed]}
    with RunWriter(root, run_id, **names, **facts) as run:
        run.extend(rows)


def psnr(value, prompt_id="p0", seed=0, protocol="standard", status="ok", **more):
    place = {"prompt_id": prompt_id, "seed": seed, "protocol": protocol, "status": status}
    return Measurement(quantity="psnr_db", unit="dB", value=value, **place, **more)


def table_of(root, **options):
    return summary(load.measurements(root), load.runs(root), **options)


def test_every_run_has_a_row_and_dense_comes_first(fake):
    table = summary(*fake)
    assert sorted(run for runs in table["runs"] for run in runs) == sorted([name for name, *_ in RUNS] + [FAILED_RUN])
    assert table["method"].iloc[0] == "dense"


def test_a_row_is_the_mean_over_videos(fake):
    measurements, runs = fake
    row = summary(measurements, runs).set_index("label").loc["svg sparsity=0.25"]
    of_run = measurements[(measurements["run_id"] == "svg-0.25") & measurements["frame"].isna()]
    values = of_run.loc[of_run["quantity"] == "psnr_db", "value"].tolist()
    assert len(values) == 2 and row["psnr_db"] == pytest.approx(statistics.mean(values))
    assert (row["psnr_db_low"], row["psnr_db_high"]) == (min(values), max(values))
    assert row["videos"] == 2 and row["density_executed"] == pytest.approx(0.28)
    assert row["density_executed_token"] == pytest.approx(0.24875)


def test_infinite_values_are_counted_and_never_averaged(tmp_path):
    write(tmp_path, "a", psnr(30.0, "p0"), psnr(None, "p1", status="infinite"), psnr(20.0, "p2"))
    row = table_of(tmp_path).iloc[0]
    assert row["psnr_db"] == 25 and row["psnr_db_n"] == 2 and row["psnr_db_infinite"] == 1
    assert row["psnr_db_note"] == "∞ (1 of 3 identical)"


def test_a_value_that_leaves_frames_out_says_so(tmp_path):
    reason = "mean of the others: 1 of 9 frames are identical to the reference"
    write(tmp_path, "a", psnr(30.0, "p0"), psnr(40.0, "p1", reason=reason))
    row = table_of(tmp_path).iloc[0]
    assert row["psnr_db"] == 35 and row["psnr_db_note"] == f"1 of 2: {reason}"


def test_a_missing_value_says_why(tmp_path):
    write(tmp_path, "a", psnr(30.0, "p0"), psnr(None, "p1", status="failed", reason="NaN in frame 3"))
    row = table_of(tmp_path).iloc[0]
    assert row["psnr_db"] == 30 and row["psnr_db_note"] == "1 of 2 failed: NaN in frame 3"


def test_runs_that_differ_in_their_seed_share_a_row(tmp_path):
    for seed in range(3):
        write(tmp_path, f"s{seed}", psnr(20.0 + seed, seed=seed), seed=seed)
    (row,) = table_of(tmp_path).to_dict("records")
    assert row["psnr_db"] == 21 and row["psnr_db_n"] == 3 and row["runs"] == ["s0", "s1", "s2"]
    assert len(table_of(tmp_path, pooled=False)) == 3


def test_the_interval_is_over_prompts_and_not_over_the_seeds_of_one(tmp_path):
    for seed in range(4):
        write(
            tmp_path,
            f"s{seed}",
            *(psnr(20.0 + 4 * prompt + seed, f"p{prompt}", seed) for prompt in range(3)),
            seed=seed,
        )
    (row,) = table_of(tmp_path).to_dict("records")
    # The prompts' means are 21.5, 25.5 and 29.5: t(0.975, 2) = 4.302653 times 4 over the root of 3.
    assert row["psnr_db"] == 25.5 and row["psnr_db_n"] == 12
    half = 4.302653 * 4 / math.sqrt(3)
    assert (row["psnr_db_ci_low"], row["psnr_db_ci_high"]) == pytest.approx((25.5 - half, 25.5 + half), rel=1e-6)
    assert row["psnr_db_prompts"] == 3


def test_many_seeds_of_one_prompt_have_no_interval(tmp_path):
    write(tmp_path, "a", *(psnr(20.0 + seed, seed=seed) for seed in range(5)))
    assert math.isnan(table_of(tmp_path)["psnr_db_ci_low"][0])


def test_a_prompt_with_more_seeds_counts_no_more_than_another(tmp_path):
    write(tmp_path, "a", psnr(20.0, "p0", 0), psnr(30.0, "p0", 1), psnr(31.0, "p1", 0))
    assert table_of(tmp_path)["psnr_db"].tolist() == [28.0]


def test_a_video_that_two_runs_made_counts_once_through_the_later_run(tmp_path):
    write(tmp_path, "all", *(psnr(20.0 + seed, seed=seed) for seed in range(3)), seed=0)
    write(tmp_path, "one", psnr(30.0, seed=2), seed=2)
    (row,) = table_of(tmp_path).to_dict("records")
    assert row["runs"] == ["all", "one"]
    assert row["videos"] == row["psnr_db_n"] == row["psnr_db_total"] == 3
    assert row["psnr_db"] == pytest.approx((20 + 21 + 30) / 3)


@pytest.mark.parametrize(
    "changed",
    [{"cpu": {"name": "Other CPU", "cores": 2}}, {"versions": {"torch": "2.14"}}, {"commit": "f" * 40}, {"threads": 2}],
)
def test_other_machines_versions_and_code_are_never_averaged(tmp_path, changed):
    write(tmp_path, "a", psnr(20.0))
    write(tmp_path, "b", psnr(30.0, seed=1), seed=1, provenance=PROVENANCE | changed)
    table = table_of(tmp_path)
    assert sorted(table["psnr_db"]) == [20, 30]
    assert sorted(table["environment"]) == sorted(environments(load.runs(tmp_path))) == ["A", "B"]


def test_the_load_of_the_machine_does_not_split_a_row(tmp_path):
    write(tmp_path, "a", psnr(20.0))
    busy = PROVENANCE | {"load_average": [9.0, 9.0, 9.0], "command": "x seed=1", "model_path": "/elsewhere"}
    write(tmp_path, "b", psnr(30.0, seed=1), seed=1, provenance=busy)
    assert len(table_of(tmp_path)) == 1


def test_the_knobs_of_a_row_are_those_that_differ(tmp_path):
    for size in (32, 64):
        write(tmp_path, f"b{size}", psnr(20.0), block_size=size, num_sampled_rows=64)
    assert set(table_of(tmp_path)["label"]) == {"svg sparsity=0.25 block_size=32", "svg sparsity=0.25 block_size=64"}


@pytest.mark.parametrize(
    ("commits", "is_dirty", "says_code"), [("aa", False, False), ("ab", False, False), ("aa", True, True)]
)
def test_a_label_says_the_code_only_where_its_commit_does_not(tmp_path, commits, is_dirty, says_code):
    for backend, code, commit in zip(("flex", "reference"), "12", commits, strict=True):
        names = {"model": "a", "method": "svg", "backend": backend, "dense_backend": "sdpa"}
        facts = {"config": {"seed": 0, "method": {}, "code": code}, "prompts": [], "seeds": [0]}
        provenance = PROVENANCE | {"commit": 40 * commit, "dirty": is_dirty}
        with RunWriter(tmp_path, backend, **names, **facts, provenance=provenance) as run:
            run.add(psnr(20.0))
    assert all(("code=" in label) == says_code for label in table_of(tmp_path)["label"])


def test_what_each_model_has_of_its_own_is_said_by_its_name(tmp_path):
    for model, frames, steps in (("a", 33, 8), ("a", 33, 20), ("b", 65, 8)):
        config = {"seed": 0, "method": {}, "model": {"num_frames": frames, "num_inference_steps": steps}}
        names = {"model": model, "method": "svg", "backend": "flex", "dense_backend": "sdpa"}
        facts = {"config": config, "provenance": PROVENANCE, "prompts": [], "seeds": [0]}
        with RunWriter(tmp_path, f"{model}{steps}", **names, **facts) as run:
            run.add(psnr(20.0))
    assert set(table_of(tmp_path)["label"]) == {f"svg model.num_inference_steps={steps}" for steps in (8, 20)}


def test_a_methods_default_that_each_model_has_of_its_own_is_said_by_its_name(tmp_path):
    for model, share in (("a", 0.1), ("b", 0.2)):
        names = {"model": model, "method": "svg", "backend": "flex", "dense_backend": "sdpa"}
        facts = {"config": {"method": {"first_times_fp": share}}, "provenance": PROVENANCE, "prompts": [], "seeds": [0]}
        with RunWriter(tmp_path, model, **names, **facts) as run:
            run.add(psnr(20.0))
    assert table_of(tmp_path)["label"].tolist() == ["svg", "svg"]


def test_the_settings_of_a_backend_are_knobs(tmp_path):
    for size in (32, 64):
        config = {"seed": 0, "method": {}, "backend": {"name": "flex", "tile": size}}
        names = {"model": "m", "method": "svg", "backend": "flex", "dense_backend": "sdpa"}
        facts = {"config": config, "provenance": PROVENANCE, "prompts": [], "seeds": [0]}
        with RunWriter(tmp_path, f"b{size}", **names, **facts) as run:
            run.add(psnr(20.0))
    assert table_of(tmp_path)["label"].tolist() == ["svg backend.tile=32", "svg backend.tile=64"]


def test_a_setting_that_another_backend_has_not_is_said_by_the_backends_name(tmp_path):
    for backend, settings in (("sdpa", {"kernel": "auto"}), ("flex", {"precision": "bf16"})):
        config = {"seed": 0, "method": {}, "backend": {"name": backend, **settings}}
        names = {"model": "m", "method": "svg", "backend": backend, "dense_backend": "sdpa"}
        facts = {"config": config, "provenance": PROVENANCE, "prompts": [], "seeds": [0]}
        with RunWriter(tmp_path, backend, **names, **facts) as run:
            run.add(psnr(20.0))
    assert set(table_of(tmp_path)["label"]) == {"svg backend=sdpa", "svg backend=flex"}


def test_the_protocol_is_chosen_and_never_mixed(tmp_path):
    write(tmp_path, "a", psnr(20.0), psnr(30.0, protocol="upstream"))
    assert table_of(tmp_path)["psnr_db"].tolist() == [20]
    assert table_of(tmp_path, protocol="upstream")["psnr_db"].tolist() == [30]


def test_frames_and_steps_are_not_mistaken_for_videos(tmp_path):
    write(tmp_path, "a", psnr(20.0), psnr(99.0, frame=0), psnr(99.0, step=1))
    assert table_of(tmp_path)["psnr_db"].tolist() == [20]


def test_a_failed_run_is_a_row_with_its_error(fake):
    row = summary(*fake).set_index("label").loc["svg sparsity=0.05"]
    assert row["status"] == "failed" and "less than text and first frame" in row["error"]
    assert math.isnan(row["psnr_db"])


def test_the_printed_table_names_what_a_reader_needs(fake, capsys):
    measurements, runs = fake
    print_summary(summary(measurements, runs), runs, width=120)
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 120
    assert "speed-up vs sdpa  denoising  " in text and "∞ (2 of 2)" in text
    flat = " ".join(text.split())
    off = "one_pattern +0.0300, random_blocks +0.0600, svg +0.0600"
    assert f"Density computed less density asked for, at most: {off}." in flat
    assert "Noise floor: not measured (run experiment=dense_backend)." in flat
    assert "Over fewer than 8 prompts an interval means little; over fewer than 3 there is none." in flat
    assert "failed: method.sparsity=0.05 is less than" in text
    assert "LPIPS alex: unavailable: backbone weights alexnet-owt-7be5be79.pth not found" in text
    assert "commit 0123456789 with uncommitted changes" in text


def test_reasons_that_differ_in_their_numbers_alone_are_said_once(tmp_path):
    lost = {"quantity": "speedup", "unit": "1", "value": None, "status": "unavailable", "seed": 0}
    reasons = ["busy for 0.5 s", "busy for 1.25 s", "no clock", "busy for 0.5 s"]
    write(tmp_path, "a", *(Measurement(reason=words, prompt_id=f"p{n}", **lost) for n, words in enumerate(reasons)))
    [note] = summary(load.measurements(tmp_path), load.runs(tmp_path))["speedup_note"]
    assert note == "unavailable: busy for 0.5 s (1 more with other numbers); no clock"


def test_several_dense_backends_stand_beside_their_speedups(tmp_path, capsys):
    faster = Measurement(quantity="speedup", unit="1", value=1.5, prompt_id="p0", seed=0)
    write(tmp_path, "a", faster, dense_backend="sdpa")
    write(tmp_path, "b", faster, dense_backend="flex")
    print_summary(table_of(tmp_path), load.runs(tmp_path), width=120)
    text = capsys.readouterr().out
    assert "1.50× sdpa" in text and "1.50× flex" in text


def test_sparse_calls_that_ran_dense_are_told(tmp_path, capsys):
    place = {"prompt_id": "p0", "seed": 0}
    density = Measurement(quantity="density_executed", unit="1", value=0.4, protocol="tile", **place)
    write(tmp_path, "a", density, Measurement(quantity="fallbacks", unit="calls", value=3, **place))
    write(tmp_path, "b", density, Measurement(quantity="fallbacks", unit="calls", value=0, **place), method="other")
    print_summary(table_of(tmp_path), load.runs(tmp_path), width=120)
    lines = capsys.readouterr().out.splitlines()
    assert "[1] density: 3 sparse calls a video ran dense, on average" in lines
    assert sum("0.400 [1]" in line for line in lines) == 1


def test_long_names_wrap_and_lose_nothing(tmp_path, capsys):
    name = "a_method_with_a_very_long_name_that_does_not_fit_into_a_line_of_a_terminal"
    write(tmp_path, "a", psnr(20.0), method=name)
    print_summary(table_of(tmp_path), load.runs(tmp_path), width=80)
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert name in "".join(line[:60].strip() for line in text.splitlines())


def test_intervals_are_shown_as_long_as_they_fit(tmp_path, capsys):
    place = {"quantity": "speedup", "unit": "1", "seed": 0}
    faster = [Measurement(value=1.5 + 0.1 * index, prompt_id=f"p{index}", **place) for index in range(3)]
    write(tmp_path, "a", *(psnr(20.0 + index, f"p{index}") for index in range(3)), *faster)
    table, runs = table_of(tmp_path), load.runs(tmp_path)
    print_summary(table, runs, width=120)
    assert "1.60× [1.35, 1.85]" in (wide := capsys.readouterr().out) and "21.00 [18.52, 23.48]" in wide
    assert "[low, high]: 95 % interval" in wide
    print_summary(table, runs, width=85)
    assert "1.60× " in (narrow := capsys.readouterr().out) and "[1.35" not in narrow and "[18.52" in narrow
    print_summary(table, runs, width=60)
    assert "[18.52" not in (narrowest := capsys.readouterr().out) and "No interval fits this width" in narrowest
