"""The store of dense generations: bit for bit, whole or absent, never somebody else's."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import svg
from svg.results import RecordError
from svg.store import DenseStore
from svg.video import to_uint8

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(svg.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
KEY = DenseStore.key({"model": "tiny_wan", "seed": 0})

# Forks a process that puts, and kills it before the file system call of each number in turn.
DYING_PUTS = """
import os, pathlib, shutil, signal, sys, warnings
import numpy as np
import svg.video, av
from svg.store import DenseStore

warnings.simplefilter("error")
root, video = pathlib.Path(sys.argv[1]), np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
key = DenseStore.key({"a": 1})
deaths = absent = whole = 0
for number in range(500):
    shutil.rmtree(root, ignore_errors=True)
    child = os.fork()
    if child == 0:
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
        try:
            DenseStore(root).put(key, video, fps=8, meta={"generation_s": 1.5})
        finally:
            os._exit(0)
    status = os.waitpid(child, 0)[1]
    entry = DenseStore(root).get(key)
    absent, whole = absent + (entry is None), whole + (entry is not None)
    entry = DenseStore(root).put(key, video, fps=8, meta={"generation_s": 1.5})
    assert np.array_equal(entry.video(), video) and entry.meta == {"generation_s": 1.5}
    assert [path.name for path in root.iterdir()] == [key], list(root.iterdir())
    if os.WIFEXITED(status):
        break
    deaths += 1
print(deaths, absent, whole)
"""


@pytest.fixture
def store(tmp_path):
    return DenseStore(tmp_path / "store")


def clip(seed=0, frames=3, height=5, width=7):
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def test_what_is_put_comes_back_bit_for_bit(store):
    latents = torch.randn(1, 16, 3, 5, 7).transpose(1, 2)
    put = store.put(KEY, clip(), fps=8, latents=latents, meta={"generation_s": 2.5, "steps": [1, 2]})
    got = DenseStore(store.root).get(KEY)
    assert got == put
    assert (got.fps, got.meta) == (8.0, {"generation_s": 2.5, "steps": [1, 2]})
    assert np.array_equal(got.video(), clip())
    assert torch.equal(got.latents(), latents)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_floating_point_video_is_rounded_by_the_one_rule_and_latents_keep_their_type(store, dtype):
    video = torch.rand(2, 5, 7, 3)
    entry = store.put(KEY, video, fps=7.5, latents=torch.ones(2, dtype=dtype))
    assert np.array_equal(entry.video(), to_uint8(video))
    assert entry.latents().dtype == dtype


def test_a_generation_without_latents_has_none(store):
    assert store.put(KEY, clip(), fps=8).latents() is None
    assert store.get(KEY).latents() is None


def test_what_was_never_put_is_absent_and_looking_makes_nothing(store):
    assert store.get(KEY) is None
    assert not store.root.exists()


def test_a_key_is_of_what_it_names_whatever_the_order():
    assert DenseStore.key({"seed": 0, "model": "tiny_wan"}) == KEY
    assert DenseStore.key({"seed": 1, "model": "tiny_wan"}) != KEY
    with pytest.raises(ValueError, match="identity"):
        DenseStore.key({})
    with pytest.raises(ValueError, match="plain numbers"):
        DenseStore.key({"device": torch.device("cpu")})


@pytest.mark.parametrize("key", ["", "..", "a" * 31, "g" * 32, KEY.upper() + "A"])
def test_what_is_no_key_is_refused(store, key):
    with pytest.raises(ValueError, match="not a key"):
        store.get(key)


def test_the_first_generation_of_a_key_stays(store):
    store.put(KEY, clip(0), fps=8)
    second = store.put(KEY, clip(1), fps=8)
    assert np.array_equal(second.video(), clip(0))


def test_a_generation_is_replaced_only_on_demand(store):
    store.put(KEY, clip(0), fps=8, meta={"total_s": 9.0})
    assert store.put(KEY, clip(0), fps=8, meta={"total_s": 3.0}, replace=True).meta == {"total_s": 3.0}
    assert store.get(KEY).meta == {"total_s": 3.0}
    assert np.array_equal(store.get(KEY).video(), clip(0))


def flip_last_byte(file):
    file.write_bytes(file.read_bytes()[:-1] + bytes([file.read_bytes()[-1] ^ 1]))


@pytest.mark.parametrize("name", ["video.mkv", "latents.safetensors", "meta.json"])
@pytest.mark.parametrize("harm", [flip_last_byte, Path.unlink, lambda file: os.truncate(file, 3)])
def test_a_damaged_generation_is_a_warning_and_is_made_again(store, name, harm):
    entry = store.put(KEY, clip(0), fps=8, latents=torch.ones(2))
    harm(entry.path / name)
    with pytest.warns(UserWarning, match="is damaged and will be made again"):
        assert store.get(KEY) is None
    with pytest.warns(UserWarning, match="is damaged"):
        store.put(KEY, clip(1), fps=8)
    assert np.array_equal(store.get(KEY).video(), clip(1))
    assert [path.name for path in store.root.iterdir()] == [KEY]


def test_a_generation_that_was_given_anothers_name_is_not_taken_for_it(store):
    entry = store.put(KEY, clip(), fps=8)
    other = DenseStore.key({"seed": 1})
    entry.path.rename(store.root / other)
    with pytest.warns(UserWarning, match="not the generation of its name"):
        assert store.get(other) is None


@pytest.mark.parametrize(
    "content", ["[]", "{}", "null", '{"sha256": 3}', '{"sha256": {}}', '{"sha256": {"../x": "y"}}']
)
def test_strange_facts_are_damage_not_a_crash(store, content):
    entry = store.put(KEY, clip(), fps=8)
    (entry.path / "meta.json").write_text(content)
    with pytest.warns(UserWarning, match="is damaged"):
        assert store.get(KEY) is None


@pytest.mark.parametrize("piece", ["write_lossless", "write_bytes", "publish"])
def test_a_full_disk_is_one_line_and_leaves_nothing(store, monkeypatch, piece):
    def full(path, *rest):
        if piece != "publish":
            Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(f"svg.store.{piece}", full)
    with pytest.raises(RecordError, match="cannot be written: No space left on device") as caught:
        store.put(KEY, clip(), fps=8, latents=torch.ones(2))
    assert "\n" not in str(caught.value)
    assert list(store.root.iterdir()) == []


def test_a_video_that_the_disk_cut_short_is_not_stored(store, monkeypatch):
    def cut(path, frames, fps):
        from svg.video import write_lossless

        write_lossless(path, frames, fps)
        os.truncate(path, os.path.getsize(path) - 200)

    monkeypatch.setattr("svg.store.write_lossless", cut)
    with pytest.raises(RecordError, match="does not give back what was written"):
        store.put(KEY, clip(), fps=8)
    assert list(store.root.iterdir()) == []


def test_a_store_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    store = DenseStore(tmp_path / "file")
    with pytest.raises(RecordError, match="cannot be written: "):
        store.put(KEY, clip(), fps=8)
    with pytest.raises(RecordError, match="cannot be written: "), store.making(KEY):
        pytest.fail("there is no place for a lock")


def test_what_is_no_video_or_no_plain_value_is_refused(store):
    with pytest.raises(ValueError, match="frames, height, width, 3"):
        store.put(KEY, np.zeros((2, 3)), fps=8)
    with pytest.raises(ValueError, match="plain numbers"):
        store.put(KEY, clip(), fps=8, meta={"device": torch.device("cpu")})
    assert not store.root.exists()


def test_processes_that_need_the_same_generation_make_it_once(tmp_path):
    code = """
import sys, time
import numpy as np
from svg.store import DenseStore
store, made = DenseStore(sys.argv[1]), 0
for seed in range(6):
    key = store.key({"seed": seed})
    with store.making(key):
        if store.get(key) is None:
            time.sleep(0.02)
            store.put(key, np.full((2, 4, 5, 3), seed, np.uint8), fps=8)
            made += 1
    assert (store.get(key).video() == seed).all()
print(made)
"""
    command = [sys.executable, "-W", "error", "-c", code, str(tmp_path)]
    makers = [subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert sum(int(maker.communicate()[0]) for maker in makers) == 6
    assert len(list(tmp_path.iterdir())) == 6


def test_the_facts_of_a_generation_are_readable_json(store):
    entry = store.put(KEY, clip(), fps=8, meta={"generation_s": 1.5})
    facts = json.loads((entry.path / "meta.json").read_text())
    assert facts["key"] == KEY and set(facts["sha256"]) == {"video.mkv"}


@pytest.mark.slow
def test_a_process_killed_at_any_moment_leaves_a_whole_generation_or_none(tmp_path):
    command = [sys.executable, "-c", DYING_PUTS, str(tmp_path / "store")]
    run = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    deaths, absent, whole = map(int, run.stdout.split())
    assert deaths >= 20 and absent >= 10 and whole >= 2
