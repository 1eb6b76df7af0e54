"""One video over several processes is one process's, bit for bit; what cannot be split is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import FirstBlockCacheConfig

import svg
from svg import parallel
from svg.layout import TokenLayout
from svg.parallel import Ulysses
from svg.receipt import Call, Receipt
from tests.split_videos import CASES, EXAMPLE, SIZES
from tests.tiny_pipelines import generate, tiny_wan_pipeline

ROOT = Path(__file__).resolve().parent.parent
METHOD = svg.SparseVideoGen(density=0.8, block_size=2)


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """Return what each process said of each case, by case and number of processes."""
    folder = tmp_path_factory.mktemp("split")
    line = [sys.executable, "-m", "tests.split_videos", str(folder)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[tuple[str, int], list[str]] = {}
    for line in done.stdout.splitlines():
        if line.count(": ") == 2:
            name, size, words = line.split(": ")
            found.setdefault((name, int(size)), []).append(words)
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", CASES)
def test_a_video_that_processes_share_is_one_processs_and_its_receipt_names_each_head_once(said, name, size):
    assert said[name, size] == ["equal"] * size


@pytest.mark.slow
def test_the_example_of_the_documents_makes_one_processs_video(said):
    assert said["the example", 2] == ["equal"] * 2


@pytest.mark.slow
def test_what_is_not_finite_in_one_process_ends_all_with_its_place(said):
    assert said["not finite", 2] == ["step 0, layer 1, branch uncond"] * 2


@pytest.mark.gpu
def test_two_gpus_make_one_gpus_video_of_the_example(tmp_path):
    if torch.cuda.device_count() < 2:
        pytest.skip(f"needs two NVIDIA GPUs, and torch finds {torch.cuda.device_count()}")
    done = under_torchrun(tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    differences = [float(line.split()[-1]) for line in done.stdout.splitlines() if line.startswith("differs by")]
    assert len(differences) == 2 and max(differences) < 1e-4


def under_torchrun(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the documents' example on two devices, where its small tiles have one backend, and then on one of them."""
    alone = 'with svg.attach(pipe, method, "reference"):\n    whole = generate()\n'
    tell = 'print(f"differs by {(video - whole).abs().max()}\\n", end="", flush=True)\n'
    text = EXAMPLE[1].replace("attach(pipe, method,", 'attach(pipe, method, "reference",') + alone + tell
    (folder / "split_video.py").write_text(text)
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    places = os.pathsep.join((str(ROOT), str(ROOT / "kernels")))
    return subprocess.run(
        [*line, str(folder / "split_video.py")], cwd=ROOT, env=os.environ | {"PYTHONPATH": places},
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip


@pytest.fixture
def group(monkeypatch):
    """Return a function that makes a group of so many processes, of which none but this one is there."""

    def make(size: int) -> object:
        monkeypatch.setattr(parallel.dist, "get_rank", lambda group: 0)
        monkeypatch.setattr(parallel.dist, "get_world_size", lambda group: size)
        return object()

    return make


@pytest.fixture(scope="module")
def pipeline():
    return tiny_wan_pipeline()


def test_heads_that_processes_cannot_share_are_refused_before_anything_runs(pipeline, group):
    with (
        pytest.raises(ValueError, match="parallel is a group of 3 processes, which cannot share 2 heads evenly"),
        svg.attach(pipeline, METHOD, parallel=group(3)),
    ):
        pass
    assert not pipeline.transformer._forward_pre_hooks


def test_a_video_of_fewer_tokens_than_processes_is_refused(group):
    with pytest.raises(ValueError, match="parallel is a group of 4 processes, more than the 3 video tokens"):
        Ulysses(group(4)).to_tokens(torch.zeros(1, 1, 5, 2), TokenLayout(3, 1, 2))


def test_a_group_of_one_is_no_group(pipeline, group):
    with svg.attach(pipeline, METHOD, parallel=group(1)) as run:
        assert run.parallel is None
        generate(pipeline)
    assert len(run.receipt.sparse_calls) == len(run.receipt.calls) > 0


@pytest.mark.parametrize(
    ("size", "degrees", "words"),
    [
        (None, (1, 2), "give its processes to svg.attach, too: parallel=torch.distributed.group.WORLD"),
        (2, (1, 4), "ring_degree=1 and ulysses_degree=4; it must have ulysses_degree=2 alone"),
        (2, (2, 1), "ring_degree=2 and ulysses_degree=1; it must have ulysses_degree=2 alone"),
    ],
)
def test_diffusers_own_splitting_is_refused_where_the_processes_are_not_the_same(group, size, degrees, words):
    pipeline = tiny_wan_pipeline()
    config = SimpleNamespace(ring_degree=degrees[0], ulysses_degree=degrees[1])
    for block in pipeline.transformer.blocks:
        block.attn1.processor._parallel_config = SimpleNamespace(context_parallel_config=config)
    with (
        pytest.raises(ValueError, match=words),
        svg.attach(pipeline, METHOD, parallel=None if size is None else group(size)),
    ):
        pass


def test_a_family_that_does_not_say_where_its_tokens_stand_is_refused(pipeline, group):
    silent = SimpleNamespace(self_attentions=lambda transformer: [block.attn1 for block in transformer.blocks])
    with pytest.raises(ValueError, match="SimpleNamespace has no token_arguments: it cannot split"):
        Ulysses(group(2)).split(silent, pipeline.transformer, lambda: None)


def test_statistics_that_cannot_be_put_together_are_refused(pipeline, group):
    with pytest.raises(ValueError, match="statistics is a SimpleNamespace, of which processes that share the heads"):
        svg.attach(pipeline, METHOD, parallel=group(2), statistics=SimpleNamespace())


def test_compiled_blocks_and_processes_that_share_a_video_are_refused(pipeline, group):
    with pytest.raises(ValueError, match="parallel and compile are both given"):
        svg.attach(pipeline, METHOD, parallel=group(2), compile=True)


def test_a_step_cache_is_refused_for_every_process_would_decide_for_itself(group):
    pipeline = tiny_wan_pipeline()
    pipeline.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    with pytest.raises(ValueError, match="step cache.*disable_cache"), svg.attach(pipeline, METHOD, parallel=group(2)):
        pass


def test_a_call_that_one_process_ran_dense_is_told_as_one_that_did():
    call = Call(0, 1, "cond", "flex", False, 0.5, 0.6, [["spatial"], ["temporal"]], {"spatial": [[0.1], [0.2]]})
    dense = replace(call, backend="sdpa", is_dense=True, density_token=1.0, choice=[["dense"]] * 2, error={})
    dense = replace(dense, density_tile=1.0, fallback="flex refused")
    receipt = Receipt()
    receipt.join([Receipt(_calls=[call]), Receipt(_calls=[dense])])
    [told] = receipt.calls
    assert (told.is_dense, told.backend, told.fallback, told.error) == (True, "sdpa", "flex refused", {})
    assert told.choice == [["spatial", "dense"], ["temporal", "dense"]]
    assert (told.density_token, told.density_tile) == (0.75, 0.8)
