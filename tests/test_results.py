"""Records of runs: what is written is read back, and nothing half-written ever reads as whole."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import svg
from svg import atomic
from svg.results import (
    MEASUREMENT_SCHEMA,
    Measurement,
    RecordError,
    RunBusy,
    RunExists,
    RunSchemaError,
    RunWriter,
    canonical_json,
    config_hash,
    list_runs,
    read_measurements,
    read_run,
)

FACTS = {
    "model": "tiny_wan",
    "method": "svg",
    "backend": "cpu_gather",
    "dense_backend": "sdpa",
    "config": {"seed": 0, "method": {"sparsity": 0.25}},
    "provenance": {"commit": None},
    "prompts": [{"prompt_id": "p00-aaaaaaaa", "text": "ein Käfer"}],
    "seeds": [0],
}
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(svg.__file__).parents[1]), "OMP_NUM_THREADS": "1"}

# A process that enters a run, says so, and waits.
WAITING_WRITER = """
import json, sys
from svg.results import Measurement, RunWriter
with RunWriter(sys.argv[1], "a", **json.loads(sys.argv[2])) as run:
    run.add(Measurement(quantity="ssim", unit="1", value=0.5))
    print("inside", flush=True)
    sys.stdin.read()
"""

# A process that forks a writer again and again and lets it die a little later each time: before the file system call
# of that number ("call"), or by the kernel's hand when a file grows beyond that many bytes ("byte").
DYING_WRITERS = """
import contextlib, json, os, pathlib, resource, shutil, signal, sys
from svg.results import Measurement, RecordError, RunExists, RunWriter, list_runs, read_measurements, read_run
from svg.results import writer as writer_module

root, facts, how, old_status = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3], sys.argv[4]

def write(count, fail=False):
    with RunWriter(root, "a", **facts) as run:
        paths = run.video_paths("p00", 0)
        paths.sparse.write_bytes(b"pixels" * 500)
        run.add_video("p00", 0, frames=1, fps=8, height=2, width=2)
        run.extend(Measurement(quantity="ssim", unit="1", value=0.5, head=head) for head in range(count))
        if fail:
            raise ValueError("on purpose")

def die(number):
    if how == "byte":
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (40 * number, 40 * number))
        return
    left = [number]
    def count(event, arguments):
        if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir", "os.scandir", "step"):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(count)
    for name in ("fsync", "pwrite", "ftruncate", "close"):
        real = getattr(os, name)
        setattr(os, name, lambda *arguments, real=real: (sys.audit("step"), real(*arguments))[1])

deaths = before = after = 0
for number in range(2000):
    shutil.rmtree(root, ignore_errors=True)
    if old_status == "failed":
        with contextlib.suppress(ValueError):
            write(3, fail=True)
    child = os.fork()
    if child == 0:
        die(number)
        try:
            write(5)
        finally:
            os._exit(0)
    status = os.waitpid(child, 0)[1]
    runs = list_runs(root) if root.exists() else []
    if runs:
        assert [path.name for path in runs] == ["a"], runs
        record, rows = read_run(runs[0]), read_measurements(runs[0]).num_rows
        assert (record.status, rows) in (("complete", 5), ("failed", 3)), (number, record.status, rows)
        assert (runs[0] / record.videos[0].sparse).read_bytes() == b"pixels" * 500
    is_new = bool(runs) and record.status == "complete"
    assert bool(runs) or old_status == "none", f"the failed record was lost at {number}"
    before, after = before + (not is_new), after + is_new
    # Whatever is left, the next process is not hindered by it and clears it away.
    try:
        write(5)
    except RunExists:
        assert is_new
    assert [path.name for path in list_runs(root)] == ["a"]
    left = sorted(path.name for path in root.iterdir())
    assert left == ["a"], left
    if os.WIFEXITED(status):
        break
    deaths += 1
print(deaths, before, after)
"""


def writer(root, run_id="a", **changes):
    return RunWriter(root, run_id, **{**FACTS, **changes})


def ssim(value=0.5, **place):
    return Measurement(quantity="ssim", unit="1", value=value, **place)


def names(root):
    return sorted(path.name for path in root.iterdir())


def test_a_run_reads_back_as_it_was_written(tmp_path):
    with writer(tmp_path / "new" / "runs", overrides=["seed=0"], experiment="demo") as run:
        paths = run.video_paths("p00-aaaaaaaa", 0)
        paths.sparse.write_bytes(b"pixels")
        paths.dense_preview.write_bytes(b"preview")
        run.add_video("p00-aaaaaaaa", 0, frames=5, fps=8, height=16, width=24)
        run.add(ssim(prompt_id="p00-aaaaaaaa", seed=0, step=1, layer=2, head=3, branch="cond", frame=4, spread=0.1))
        run.extend([Measurement(quantity="psnr_db", unit="dB", value=None, status="infinite", protocol="standard")])
    record = read_run(run.path)
    facts = {name: getattr(record, name) for name in FACTS}
    assert facts == FACTS
    assert (record.status, record.error, record.experiment, record.overrides) == ("complete", None, "demo", ["seed=0"])
    assert record.config_hash == config_hash(FACTS["config"])
    assert record.created.endswith("+00:00")
    (video,) = record.videos
    assert (run.path / video.sparse).read_bytes() == b"pixels"
    assert (run.path / video.dense_preview).read_bytes() == b"preview"
    assert video.preview is None
    table = read_measurements(run.path)
    assert table.schema.equals(MEASUREMENT_SCHEMA)
    first, second = table.to_pylist()
    assert first["run_id"] == "a" and first["method"] == "svg" and first["value"] == 0.5
    assert [first[name] for name in ("step", "layer", "head", "frame", "n", "status")] == [1, 2, 3, 4, 1, "ok"]
    assert second["value"] is None and second["status"] == "infinite" and second["step"] is None
    assert names(tmp_path / "new" / "runs") == ["a"]


def test_the_columns_and_their_order_are_fixed():
    assert ",".join(MEASUREMENT_SCHEMA.names) == (
        "run_id,model,method,backend,dense_backend,prompt_id,seed,step,layer,head,branch,frame,quantity,protocol,unit,"
        "value,n,spread,higher_is_better,status,reason"
    )


def test_numbers_of_numpy_are_numbers(tmp_path):
    with writer(tmp_path) as run:
        run.add(ssim(np.float32(0.25), seed=np.int64(2**40), head=np.int32(3), n=np.int16(2)))
    (row,) = read_measurements(run.path).to_pylist()
    assert (row["value"], row["seed"], row["head"], row["n"]) == (0.25, 2**40, 3, 2)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"value": float("nan")}, "finite"),
        ({"value": float("inf")}, "finite"),
        ({"value": "0.5"}, "finite"),
        ({"spread": float("nan")}, "finite"),
        ({"value": None}, "only ok has a value"),
        ({"status": "infinite"}, "only ok has a value"),
        ({"value": None, "status": "failed"}, "needs a reason"),
        ({"value": None, "status": "unavailable", "reason": ""}, "needs a reason"),
        ({"status": "fine"}, "not one of"),
        ({"quantity": ""}, "needs a quantity"),
        ({"head": 1.5}, "whole number"),
        ({"step": 2**31}, "whole number"),
        ({"seed": 2**63}, "whole number"),
        ({"n": None}, "whole number"),
    ],
)
def test_a_measurement_that_contradicts_itself_is_refused(changes, rule):
    with pytest.raises(ValueError, match=rule):
        Measurement(**({"quantity": "ssim", "unit": "1", "value": 0.5} | changes))


def test_a_configuration_has_one_hash_whatever_the_order_of_its_keys():
    assert config_hash({"a": 1, "b": {"c": 2, "d": None}}) == config_hash({"b": {"d": None, "c": 2}, "a": 1})
    assert config_hash({"a": 1}) != config_hash({"a": 2})
    assert len(config_hash({})) == 16


@pytest.mark.parametrize("value", [float("nan"), object(), {1, 2}, Path("x")])
def test_what_json_cannot_say_is_refused_before_the_work_begins(tmp_path, value):
    with pytest.raises(ValueError, match="plain numbers"):
        canonical_json({"a": value})
    with pytest.raises(ValueError, match="plain numbers"):
        writer(tmp_path, config={"a": value})


@pytest.mark.parametrize("run_id", ["", ".", "..", "a/b", ".hidden", "a b", "ä", "x" * 201, "-a", "a\n"])
def test_a_run_id_that_is_no_plain_file_name_is_refused(tmp_path, run_id):
    with pytest.raises(ValueError, match="run_id"):
        writer(tmp_path, run_id)


def test_an_error_is_recorded_with_what_was_measured_and_goes_on_its_way(tmp_path):
    with pytest.raises(ZeroDivisionError), writer(tmp_path) as run:
        run.add(ssim())
        run.video_paths("p00", 0).sparse.write_bytes(b"pixels")
        run.add_video("p00", 0, frames=1, fps=8, height=2, width=2)
        raise ZeroDivisionError("first line\n  second line")
    record = read_run(run.path)
    assert record.status == "failed"
    assert record.error == {"type": "ZeroDivisionError", "message": "first line second line"}
    assert read_measurements(run.path).num_rows == 1
    assert len(record.videos) == 1
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_failed_run_is_replaced_whole_and_a_complete_one_never(tmp_path, monkeypatch, can_exchange):
    if not can_exchange:
        monkeypatch.setattr(atomic, "_exchange", lambda first, second: False)
    with pytest.raises(ValueError, match="on purpose"), writer(tmp_path) as run:
        run.video_paths("old", 0).sparse.write_bytes(b"old")
        raise ValueError("on purpose")
    with writer(tmp_path) as run:
        run.add(ssim())
        assert read_run(run.path).status == "failed", "until the end the old record stands"
    assert read_run(run.path).status == "complete"
    assert not (run.path / "videos" / "old-s0.mkv").exists()
    assert names(tmp_path) == ["a"]
    with pytest.raises(RunExists, match="already complete") as caught, writer(tmp_path):
        pytest.fail("the block of a run that exists must not be entered")
    assert caught.value.path == run.path
    assert read_measurements(run.path).num_rows == 1
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_leaves_no_run(tmp_path, interrupt):
    with pytest.raises(interrupt), writer(tmp_path) as run:
        run.add(ssim())
        raise interrupt
    assert names(tmp_path) == []


def test_nothing_is_listed_before_the_end(tmp_path):
    with writer(tmp_path):
        assert list_runs(tmp_path) == []
    assert list_runs(tmp_path) == [tmp_path / "a"]


def test_a_second_writer_is_told_who_is_first_and_does_no_harm(tmp_path):
    with writer(tmp_path) as run:
        with pytest.raises(RunBusy, match=rf"process {os.getpid()} on .*\.lock-a"), writer(tmp_path):
            pytest.fail("the block of a busy run must not be entered")
        with writer(tmp_path, "b"):
            pass
    assert read_run(run.path).status == "complete"
    assert names(tmp_path) == ["a", "b"]


def start_waiting_writer(root):
    command = [sys.executable, "-c", WAITING_WRITER, str(root), json.dumps(FACTS)]
    process = subprocess.Popen(command, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "inside\n"
    return process


def test_another_process_is_told_too_and_a_dead_ones_lock_is_taken_over(tmp_path):
    process = start_waiting_writer(tmp_path)
    try:
        with pytest.raises(RunBusy, match=rf"runs_dir={tmp_path}: .* by process {process.pid} on"), writer(tmp_path):
            pytest.fail("the block of a busy run must not be entered")
    finally:
        process.kill()
        process.communicate()
    assert names(tmp_path) == [".lock-a", f".partial-a-{process.pid}"], "what a killed process leaves"
    assert list_runs(tmp_path) == []
    with writer(tmp_path) as run:
        run.add(ssim())
    assert read_measurements(run.path).num_rows == 1
    assert names(tmp_path) == ["a"]


def test_a_terminated_process_leaves_nothing_that_reads_as_a_run(tmp_path):
    process = start_waiting_writer(tmp_path)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert list_runs(tmp_path) == []


def test_what_dead_writers_of_other_runs_left_is_not_touched(tmp_path):
    for name in (".partial-a-b-12", ".partial-ab-12", ".partial-a-12-34-old.bak", ".partial-a-12", ".partial-a-12-old"):
        (tmp_path / name).mkdir()
    with writer(tmp_path):
        pass
    assert names(tmp_path) == [".partial-a-12-34-old.bak", ".partial-a-b-12", ".partial-ab-12", "a"]


def test_a_full_disk_is_one_line_and_leaves_the_old_record(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="on purpose"), writer(tmp_path):
        raise ValueError("on purpose")

    def full(path, data):
        Path(path).write_bytes(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("svg.results.writer.write_bytes", full)
    with pytest.raises(RecordError, match="No space left on device") as caught, writer(tmp_path) as run:
        run.add(ssim())
    assert str(caught.value) == f"runs_dir={tmp_path}: run a cannot be written: No space left on device"
    assert read_run(run.path).error["message"] == "on purpose"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_disk_that_fills_inside_the_block_leaves_no_failed_run(tmp_path, number):
    with pytest.raises(RecordError, match=r"run a cannot be written: .*\(/elsewhere/x\)"), writer(tmp_path):
        try:
            raise OSError(number, os.strerror(number), "/elsewhere/x")
        except OSError as error:
            raise RuntimeError("the encoder gave up") from error
    assert names(tmp_path) == []


@pytest.mark.slow
def test_a_file_that_grows_beyond_its_limit_is_one_line(tmp_path):
    code = """
import json, resource, sys
from svg.results import Measurement, RecordError, RunWriter
limit = int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    with RunWriter(sys.argv[1], "a", **json.loads(sys.argv[2])) as run:
        run.extend(Measurement(quantity="ssim", unit="1", value=value / 7) for value in range(9000))
except RecordError as error:
    print(error)
"""
    for limit in (0, 30, 300, 3000):
        command = [sys.executable, "-c", code, str(tmp_path / "runs"), json.dumps(FACTS), str(limit)]
        run = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True)
        assert run.stdout.count("\n") == 1 and "File too large" in run.stdout, (limit, run)
        assert names(tmp_path / "runs") == [], limit


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RecordError, match="runs_dir=.*cannot be written: "), writer(tmp_path / "file" / "runs"):
        pytest.fail("there is no place for a run")


def test_something_else_at_the_runs_place_is_left_alone(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.txt").write_text("mine")
    with pytest.raises(RecordError, match="not a run"), writer(tmp_path):
        pytest.fail("the place is taken")
    assert (tmp_path / "a" / "thesis.txt").read_text() == "mine"
    assert names(tmp_path) == ["a"]


def test_a_video_that_was_not_written_is_refused(tmp_path):
    with writer(tmp_path) as run:
        with pytest.raises(ValueError, match="was not written"):
            run.add_video("p00", 0, frames=1, fps=8, height=2, width=2)
        run.video_paths("p00", 0).sparse.touch()
        with pytest.raises(ValueError, match="was not written"):
            run.add_video("p00", 0, frames=1, fps=8, height=2, width=2)


def test_a_stray_byte_of_the_command_line_does_not_lose_the_run(tmp_path):
    stray = os.fsdecode(b"prompts.path=\xff")
    with writer(tmp_path, overrides=[stray]) as run:
        pass
    assert read_run(run.path).overrides == [stray]


def damage(path, **changes):
    file = path / "run.json"
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({name: value for name, value in content.items() if value != "gone"}))


def test_another_schema_version_is_one_line_that_names_both(tmp_path):
    with writer(tmp_path) as run:
        pass
    damage(run.path, schema_version=99)
    with pytest.raises(RunSchemaError, match="schema_version 99, this version reads 1"):
        read_run(run.path)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"status": "running"}, "damaged"),
        ({"model": "gone", "seeds": "gone"}, "lacks model, seeds"),
        ({"videos": [{"prompt_id": "p"}]}, "damaged"),
        ({"run_id": "b"}, "must keep its name"),
    ],
)
def test_a_damaged_run_is_one_line(tmp_path, changes, rule):
    with writer(tmp_path) as run:
        pass
    damage(run.path, **changes)
    with pytest.raises(RecordError, match=rule) as caught:
        read_run(run.path)
    assert "\n" not in str(caught.value)


def test_a_file_cut_short_is_one_line(tmp_path):
    with writer(tmp_path) as run:
        run.add(ssim())
    for name, read in (("run.json", read_run), ("measurements.parquet", read_measurements)):
        whole = (run.path / name).read_bytes()
        for length in (0, 1, len(whole) // 2, len(whole) - 1):
            (run.path / name).write_bytes(whole[:length])
            with pytest.raises(RecordError, match="damaged") as caught:
                read(run.path)
            assert "\n" not in str(caught.value)
        (run.path / name).unlink()
        with pytest.raises(RecordError, match=f"has no {name}"):
            read(run.path)


def test_runs_are_listed_by_name_and_other_things_are_not(tmp_path):
    for name in ("b", "a"):
        with writer(tmp_path, name):
            pass
    (tmp_path / "report.html").touch()
    (tmp_path / "multirun").mkdir()
    assert [path.name for path in list_runs(tmp_path)] == ["a", "b"]


@pytest.mark.parametrize("place", ["missing", "file"])
def test_a_folder_of_runs_that_is_none_is_one_line(tmp_path, place):
    (tmp_path / "file").touch()
    with pytest.raises(RecordError, match="runs_dir=.* cannot be read: "):
        list_runs(tmp_path / place)


def test_importing_the_records_loads_neither_torch_nor_pandas():
    code = "import sys, svg.results; sys.exit(any(name in sys.modules for name in ('torch', 'pandas')))"
    assert subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, check=False).returncode == 0


def test_a_process_that_wrote_and_read_ends_well(tmp_path):
    code = """
import json, sys
from svg.results import Measurement, RunWriter, read_measurements
with RunWriter(sys.argv[1], "a", **json.loads(sys.argv[2])) as run:
    run.add(Measurement(quantity="ssim", unit="1", value=0.5))
assert read_measurements(run.path).num_rows == 1
"""
    command = [sys.executable, "-c", code, str(tmp_path), json.dumps(FACTS)]
    assert subprocess.run(command, env=ENVIRONMENT, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("how", ["call", "byte"])
@pytest.mark.parametrize("old_status", ["none", "failed"])
def test_a_process_killed_at_any_moment_leaves_nothing_half(tmp_path, how, old_status):
    if old_status == "failed" and not _can_exchange(tmp_path):
        pytest.skip("this file system cannot exchange two names, so an old record may be lost to a kill")
    command = [sys.executable, "-c", DYING_WRITERS, str(tmp_path / "runs"), json.dumps(FACTS), how, old_status]
    run = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    deaths, before, after = map(int, run.stdout.split())
    assert deaths >= 20, "the writer must have died at many places"
    assert before >= 20, "and mostly before its run was there"
    assert after >= (2 if how == "call" else 1), "and after it was there, while it cleared up"


@pytest.mark.slow
def test_processes_that_race_for_the_same_runs_make_each_of_them_once(tmp_path):
    code = """
import json, sys
from svg.results import Measurement, RunBusy, RunExists, RunWriter
won = 0
for number in range(150):
    try:
        with RunWriter(sys.argv[1], f"run-{number % 50}", **json.loads(sys.argv[2])) as run:
            run.extend(Measurement(quantity="ssim", unit="1", value=0.5) for _ in range(3))
        won += 1
    except (RunBusy, RunExists):
        pass
print(won)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "runs"), json.dumps(FACTS)]
    racers = [subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    wins = [int(racer.communicate()[0]) for racer in racers]
    assert sum(wins) == 50
    runs = list_runs(tmp_path / "runs")
    assert len(runs) == 50 == len(names(tmp_path / "runs"))
    assert all(read_run(path).status == "complete" and read_measurements(path).num_rows == 3 for path in runs)


@pytest.mark.slow
def test_a_reader_never_sees_a_run_vanish_while_it_is_replaced(tmp_path):
    if not _can_exchange(tmp_path):
        pytest.skip("this file system cannot exchange two names")
    code = """
import contextlib, json, sys
from svg.results import RunWriter
for number in range(300):
    with contextlib.suppress(ValueError), RunWriter(sys.argv[1], "a", **json.loads(sys.argv[2])):
        raise ValueError(str(number))
"""
    root = tmp_path / "runs"
    process = subprocess.Popen([sys.executable, "-c", code, str(root), json.dumps(FACTS)], env=ENVIRONMENT)
    deadline = time.monotonic() + 60
    while not (root / "a").exists() and time.monotonic() < deadline:
        time.sleep(0.001)
    seen = set()
    while process.poll() is None:
        seen.add(read_run(root / "a").error["message"])
    assert process.returncode == 0
    assert len(seen) > 10


def _can_exchange(folder):
    first, second = folder / "first", folder / "second"
    first.mkdir()
    second.mkdir()
    return atomic._exchange(first, second)
