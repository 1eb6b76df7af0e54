"""The kernels' benchmark, rehearsed without a GPU: rows with their origin, and no time for a kernel that is wrong."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest
import torch

import svg_kernels
from experiments import bench_kernels, identity
from svg.provenance import hardware
from svg.results import list_runs, read_measurements, read_run
from svg_kernels import reorder

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="rehearses in the interpreter; a GPU runs it for real"
)


def bench(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["bench_kernels", *arguments])
    return bench_kernels.main()


def small(folder) -> tuple[str, ...]:
    return "--size", "small", "--dtype", "float32", "--repeats", "2", "--kernel", "reorder", "--runs-dir", str(folder)


def test_a_rehearsal_writes_a_run_of_rows_for_every_case(monkeypatch, tmp_path, capsys):
    assert bench(monkeypatch, *small(tmp_path)) == 0
    [path] = list_runs(tmp_path)
    record, rows = read_run(path), read_measurements(path).to_pylist()
    assert (record.status, record.method, record.model) == ("complete", "reorder", "kernels")
    assert "versions" in record.provenance
    assert [json.loads(prompt["text"])["shape"] for prompt in record.prompts] == [
        list(case["shape"]) for case in reorder.SPEC.cases
    ]
    timed = [row for row in rows if row["quantity"] == "latency_ms"]
    assert {(row["prompt_id"], row["protocol"]) for row in timed} == {
        (str(case), protocol) for case in range(len(reorder.SPEC.cases)) for protocol in ("ours", "eager")
    }
    assert all(row["value"] > 0 and row["n"] == 2 for row in timed)
    assert capsys.readouterr().out.count("reorder ") == len(reorder.SPEC.cases)


@pytest.mark.slow
def test_sparse_attention_is_timed_beside_the_fastest_dense_backend_of_the_machine(monkeypatch, tmp_path):
    case = {"shape": (1, 1, 40, 16), "tile": 16, "density": 0.5, "exact": False}
    spec = replace(svg_kernels.specs()["block_sparse_attention"], cases=(case,))
    monkeypatch.setattr(svg_kernels, "specs", lambda: {"block_sparse_attention": spec})
    arguments = [word.replace("reorder", "block_sparse_attention") for word in small(tmp_path)]
    assert bench(monkeypatch, *arguments) == 0
    rows = read_measurements(list_runs(tmp_path)[0]).to_pylist()
    latencies = {row["protocol"]: row["value"] for row in rows if row["quantity"] == "latency_ms"}
    assert set(latencies) == {"ours", "dense"}
    [candidate] = [row for row in rows if row["quantity"] == "dense_call_ms"]
    assert candidate["backend"] == "sdpa" and "on a call of 1 x 1 x 40 x 16" in candidate["reason"]
    [rate] = [row["value"] for row in rows if row["quantity"] == "kernel_tflops"]
    assert rate == pytest.approx(spec.flops(case) / latencies["ours"] / 1e9)
    assert {row["quantity"] for row in rows if row["status"] == "unavailable"} >= {"sm_clock_mhz", "power_w"}


def test_a_wrong_kernel_gets_no_time(monkeypatch, tmp_path, capsys):
    wrong = torch.full((1,), torch.nan), torch.zeros(1)
    monkeypatch.setattr(bench_kernels, "errors", lambda outputs, exact: (float(wrong[0]), 1.0))
    assert bench(monkeypatch, *small(tmp_path)) == 2
    assert "the kernel is wrong on this machine" in capsys.readouterr().err
    [path] = list_runs(tmp_path)
    assert read_run(path).status == "failed"
    assert read_measurements(path).num_rows == 0


def test_another_machine_or_another_code_replaces_no_record_and_the_same_one_does(monkeypatch, tmp_path):
    monkeypatch.setattr(bench_kernels, "_measure", lambda *arguments: iter(()))
    monkeypatch.setattr(bench_kernels, "_say", lambda *arguments: None)
    facts = hardware("cpu")
    for device, code in (("Example GPU", "0" * 16), ("Another GPU", "0" * 16), ("Another GPU", "1" * 16)):
        monkeypatch.setattr(identity, "_machine", lambda device_type, device=device: facts | {"device": device})
        monkeypatch.setattr(bench_kernels, "code_hash", lambda *modules, code=code: code)
        for _ in range(2):
            assert bench(monkeypatch, *small(tmp_path), "--overwrite") == 0
    records = [read_run(path) for path in list_runs(tmp_path)]
    assert sorted(record.config["code"] for record in records) == ["0" * 16, "0" * 16, "1" * 16]
    assert bench(monkeypatch, *small(tmp_path)) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--repeats", "1"), "--repeats is 1; it must be at least 2"),
        (("--size", "paper"), "--size is paper, --dtype bfloat16: a CPU needs small and float32"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(monkeypatch, tmp_path, capsys, arguments, message):
    assert bench(monkeypatch, *arguments, "--runs-dir", str(tmp_path)) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
    assert list(tmp_path.iterdir()) == []


def test_without_a_gpu_and_an_interpreter_it_says_what_to_set(monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("TRITON_INTERPRET")
    assert bench(monkeypatch, "--runs-dir", str(tmp_path)) == 2
    assert "set TRITON_INTERPRET=1 and --size small" in capsys.readouterr().err
