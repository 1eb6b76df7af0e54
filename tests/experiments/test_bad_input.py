"""What a user can cause ends in one line that names the setting, its value and the rule; nothing is written."""

from __future__ import annotations

import errno
import json
import logging
import re
import shutil
import subprocess
import sys

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors.torch import load_file, save_file
from transformers import UMT5EncoderModel

from experiments import runner
from experiments.loading import PROJECT
from experiments.weights import all_weights, check_parts


def refused(call, tmp_path, *arguments: str, status: int = 2) -> str:
    """Call compare, check that it refuses in one line and writes nothing, and return the line."""
    got, out, err = call(*arguments)
    assert (got, out) == (status, "")
    assert err.startswith("error: ") and err.count("\n") == 1, err
    assert "Traceback" not in err
    runs = tmp_path / "runs"
    assert not runs.exists() or all(entry.name == ".dense" for entry in runs.iterdir())
    return err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["method.sparsity=0"], "method.sparsity .* is 0; it must be in"),
        (["method.sparsity=1.5"], "method.sparsity .* is 1.5; it must be in"),
        (["method.sparsity=-0.1"], "method.sparsity .* is -0.1"),
        (["method.sparsity=0.02"], "method.sparsity .* is 0.02, but text, first frame and diagonal alone keep"),
        (["method.density=0.3"], "method.sparsity=0.7 and method.density=0.3 are the same quantity"),
        (["method.num_sampled_rows=0"], "method.num_sampled_rows is 0; it must be at least 1"),
        (["method.num_sampled_rows=many"], "method.num_sampled_rows is 'many'; it must be a whole number"),
        (["method.first_times_fp=2"], "method.first_times_fp is 2; it must be in"),
        (["method.spasity=0.3"], "method.spasity is no setting; did you mean method.sparsity"),
        (["+method.spasity=0.3"], "method.spasity is no setting of this method; did you mean method.sparsity"),
        (["model.hight=32"], "model.hight is no setting; did you mean model.height"),
        (["+model.hight=32"], "model.hight is no setting; did you mean model.height"),
        (["+sead=1"], "sead is no setting; did you mean seed"),
        (["method=sgv"], "method=sgv is not in conf/method; known are cached_choice, dense, "),
        (["method._target_=svg.methods.none.None"], "method._target_=svg.methods.none.None cannot be imported"),
        (["model.height=40"], "model.height is 40; this model takes multiples of 16, such as"),
        (["model.width=40"], "model.width is 40; this model takes multiples of 16"),
        (["model.num_frames=8"], r"model.num_frames is 8; this model takes 4k \+ 1 frames, such as 9"),
        (["model.num_frames=133"], "model.num_frames makes 34 positions; this model knows at most 32"),
        (["model.num_frames=nine"], "model.num_frames=nine: Value 'nine' .* could not be converted to Integer"),
        (["seeds=[one]"], "seeds=.one.: Value 'one' .* could not be converted to Integer"),
        (["quality.metrics=psnr"], "quality.metrics=psnr: .* str is not a .* list"),
        (["quality.metrics=[psnr,psnr]"], "quality.metrics holds 'psnr' twice"),
        (["quality.protocols=[]"], "quality.protocols is empty"),
        (["prompts.texts=[a cat,a dog,a cat]"], "prompts holds 'a cat' twice"),
        (["overwrite"], "'overwrite' cannot be read: .*; write SETTING=VALUE"),
        (["seeds=[1,2"], "'seeds=.1,2' cannot be read: .*; write SETTING=VALUE"),
        (["model.path=nowhere"], "model.path=nowhere is not a folder"),
        (["model.flow_shift=-1"], "model.flow_shift is -1"),
        (["backend=sdpa"], "sdpa computes dense plans only, .*; use backend="),
        (["backend=none"], "backend=none is not in conf/backend"),
        (["dense_backend=none"], "dense_backend is 'none'; it must be one of auto"),
        (["dense_backend=sdpa_cudnn"], "sdpa_cudnn needs CUDA"),
        (["device=tpu"], "device is 'tpu'"),
        (["device=cuda"], "device is 'cuda', but torch finds no CUDA GPU"),
        (["prompts.path=nowhere.txt"], "prompts.path=nowhere.txt cannot be read"),
        (["prompts.path=nowhere.json"], "prompts.path=nowhere.json cannot be read"),
        (["prompts.path=nowhere.txt", "prompts.dimension=color"], "prompts.dimension goes with prompts.path=FILE.json"),
        (["prompts.dimension=color"], "prompts.dimension goes with prompts.path=FILE.json"),
        (["prompts.texts=[]"], "prompts.texts holds no prompt"),
        (["quality.metrics=[fid]"], "quality.metrics holds 'fid'; known are"),
        (["quality.protocols=[mine]"], "quality.protocols holds 'mine'"),
        (["run_id=a/b"], "run_id is 'a/b'; it must be a file name"),
        (["seed=-1"], "seeds holds -1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_setting_is_refused_in_one_line(call, tmp_path, sparse, arguments, words, monkeypatch):

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    method = [] if any(word.startswith("method=") for word in arguments) else ["method=svg"]
    line = refused(call, tmp_path, *method, *sparse, *arguments)
    assert re.search(words, line), line


@pytest.mark.parametrize(
    ("content", "words"), [(b"", "holds no prompt"), (b"\n\n", "holds no prompt"), (b"a\xff\n", "is not UTF-8: line 1")]
)
def test_a_prompt_file_without_prompts_or_not_in_utf8_is_refused(call, tmp_path, sparse, content, words):
    (tmp_path / "prompts.txt").write_bytes(content)
    assert words in refused(call, tmp_path, "method=svg", *sparse, f"prompts.path={tmp_path / 'prompts.txt'}")


@pytest.fixture
def broken(model_folder, tmp_path):
    """A copy of the model that a test may damage."""
    return shutil.copytree(model_folder, tmp_path / "broken")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "model_index.json").unlink(), "holds no model_index.json"),
        (lambda folder: (folder / "model_index.json").write_text("{"), "model_index.json cannot be read"),
        (lambda folder: shutil.rmtree(folder / "vae"), "is half there: its part vae is missing"),
        (lambda folder: (folder / "vae" / "config.json").unlink(), "is half there: vae/config.json is missing"),
        (
            lambda folder: (folder / "transformer" / "diffusion_pytorch_model.safetensors").unlink(),
            "has no safetensors in transformer",
        ),
        (
            lambda folder: (folder / "transformer" / "diffusion_pytorch_model.safetensors").write_bytes(b"cut short"),
            "cannot be loaded as WanPipeline",
        ),
    ],
)
def test_half_a_checkpoint_is_refused_by_the_part_that_is_missing(call, tmp_path, sparse, broken, damage, words):
    damage(broken)
    assert words in refused(call, tmp_path, "method=svg", *sparse, f"model.path={broken}")


@pytest.mark.parametrize(
    ("part", "ending"), [("transformer", "norm_q.weight"), ("text_encoder", ".q.weight"), ("vae", ".weight")]
)
def test_a_checkpoint_whose_files_lack_a_weight_is_refused_instead_of_run_with_a_random_one(
    call, tmp_path, sparse, broken, part, ending
):
    [file] = (broken / part).glob("*.safetensors")
    tensors = load_file(file)
    lost = next(name for name in tensors if name.endswith(ending))
    save_file({name: tensor for name, tensor in tensors.items() if name != lost}, file, {"format": "pt"})
    line = refused(call, tmp_path, "method=svg", *sparse, f"model.path={broken}")
    assert f"model.path={broken} is half there: its safetensors lack the weight" in line
    assert lost in line


def test_the_embedded_models_files_lack_no_weight_and_loading_them_says_nothing(caplog, monkeypatch):
    folder = PROJECT / "assets" / "tiny_wan"
    # Loggers that an earlier test has had Hydra disable speak again.
    for name in [name for name in logging.root.manager.loggerDict if name.startswith("transformers")]:
        monkeypatch.setattr(logging.getLogger(name), "disabled", False)
    monkeypatch.setattr(logging.getLogger("transformers"), "handlers", [caplog.handler])
    with all_weights(folder):
        parts = {
            "transformer": WanTransformer3DModel.from_pretrained(folder / "transformer"),
            "vae": AutoencoderKLWan.from_pretrained(folder / "vae"),
            "text_encoder": UMT5EncoderModel.from_pretrained(folder / "text_encoder"),
        }
    assert not [record.getMessage() for record in caplog.records if record.name.startswith("transformers")]
    check_parts(folder, parts)


def test_a_shard_that_the_index_names_must_be_there(call, tmp_path, sparse, broken):
    index = {"weight_map": {"a": "part-2.safetensors"}}
    (broken / "vae" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    line = refused(call, tmp_path, "method=svg", *sparse, f"model.path={broken}")
    assert "vae/part-2.safetensors is missing" in line


def test_a_full_disk_leaves_no_run(call, tmp_path, sparse, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(runner, "write_lossless", full)
    line = refused(call, tmp_path, "method=svg", *sparse)
    assert "runs_dir=" in line and "No space left on device" in line


def test_too_little_memory_is_said_in_one_line(call, tmp_path, sparse, monkeypatch):
    def full(self, *args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 TiB.\nMore lines")

    monkeypatch.setattr("diffusers.WanPipeline.__call__", full)
    line = refused(call, tmp_path, "method=svg", *sparse)
    assert "too little memory for model.height=32, model.width=48 and model.num_frames=9" in line


def test_a_folder_that_takes_no_video_is_named_before_a_model_is_loaded(call, tmp_path, sparse, monkeypatch):
    monkeypatch.setattr("experiments.generate.load_pipeline", None)
    (tmp_path / "file").write_text("")
    status, out, err = call("method=svg", *sparse, f"runs_dir={tmp_path / 'file'}", command="generate")
    assert (status, out) == (2, "")
    assert err == f"error: runs_dir={tmp_path / 'file'} cannot be written: Not a directory\n"


def test_a_sweep_into_what_is_no_folder_names_it(call, tmp_path, sparse):
    (tmp_path / "file").write_text("")
    status, _, err = call("-m", "method=svg", *sparse, f"runs_dir={tmp_path / 'file' / 'runs'}")
    assert (status, err) == (2, f"error: runs_dir={tmp_path / 'file' / 'runs'} cannot be written: Not a directory\n")


@pytest.mark.parametrize("command", ["generate", "plan"])
def test_a_command_without_a_dry_run_refuses_one(call, small, command):
    status, out, err = call("method=svg", *small, "dry_run=true", command=command)
    assert (status, out) == (2, "")
    assert err == "error: dry_run is true, and only experiments.compare has a dry run; set it to false\n"


def test_a_folder_of_another_run_is_refused(call, sparse, tmp_path):
    assert call("method=svg", *sparse, "run_id=mine")[0] == 0
    before = (tmp_path / "runs" / "mine" / "run.json").read_bytes()
    status, out, err = call("method=svg", *sparse, "run_id=mine", "method.sparsity=0.8")
    assert (status, out) == (2, "")
    assert "run_id=mine: " in err and "choose another run_id or runs_dir" in err
    assert (tmp_path / "runs" / "mine" / "run.json").read_bytes() == before


@pytest.mark.slow
def test_the_real_command_ends_in_one_line_without_a_traceback(tmp_path):
    command = [sys.executable, "-m", "experiments.compare", "method.sparsity=7", f"runs_dir={tmp_path / 'runs'}"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: method.sparsity (the fraction kept, also method.density) is 7; it must be in (0, 1]\n"
    assert not (tmp_path / "runs").exists()
