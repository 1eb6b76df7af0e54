"""When a checkpoint is downloaded: by the job that needs it, and never by a dry run."""

from __future__ import annotations

import shutil

import pytest

from experiments import estimating, runner

SIZE = ("model.height=64", "model.width=96", "model.num_frames=17", "method.block_size=8")
WAN = ("model=wan_t2v_1_3b", "method=svg", "device=cpu", "prompts=smoke", *SIZE)


@pytest.fixture
def events(monkeypatch, model_folder):
    """What happens, in order: looks into the cache, where nothing is, downloads, which give a tiny model, and runs."""
    seen = []

    def download(path, *, local_files_only, **settings):
        seen.append("look" if local_files_only else "download")
        if local_files_only:
            raise FileNotFoundError(f"{path} is not in the cache")
        return str(model_folder)

    monkeypatch.setattr("diffusers.DiffusionPipeline.download", download)
    monkeypatch.setattr(runner, "run", lambda plan: seen.append("run"))
    # Measured, it takes seconds.
    monkeypatch.setattr(estimating, "product_flops_per_s", lambda *arguments: 1e12)
    return seen


@pytest.mark.parametrize("sweep", [False, True])
def test_a_dry_run_says_what_is_not_downloaded_and_estimates_it_from_operations(call, tmp_path, events, sweep):
    densities = "method.density=0.8,0.9" if sweep else "method.density=0.8"
    line = (*(["-m"] if sweep else []), *WAN, densities, "dry_run=true", f"runs_dir={tmp_path / 'runs'}")
    status, out, err = call(*line)
    assert (status, err) == (0, "")
    jobs = 2 if sweep else 1
    assert events == ["look"] * jobs
    assert out.count("to make, not downloaded; 1 sparse and") == jobs and "unknown" not in out
    assert "time: from the operations of the transformer" in out
    assert not (tmp_path / "runs").exists()


def test_a_half_downloaded_checkpoint_is_not_downloaded(call, tmp_path, events, monkeypatch, model_folder):
    half = shutil.copytree(model_folder, tmp_path / "half")
    shutil.rmtree(half / "vae")
    monkeypatch.setattr("diffusers.DiffusionPipeline.download", lambda path, **settings: str(half))
    status, out, err = call(*WAN, "method.density=0.8", "dry_run=true", f"runs_dir={tmp_path / 'runs'}")
    assert (status, err) == (0, "") and "to make, not downloaded; " in out


def test_a_downloaded_checkpoint_of_another_family_is_refused_by_a_dry_run(call, tmp_path, monkeypatch, model_folder):
    monkeypatch.setattr("diffusers.DiffusionPipeline.download", lambda path, **settings: str(model_folder))
    settings = (
        "model=cosmos_t2w_7b",
        "model.revision=main",
        *WAN[1:],
        "method.density=0.8",
        f"runs_dir={tmp_path / 'runs'}",
    )
    status, out, err = call(*settings, "dry_run=true")
    assert (status, out) == (2, "") and "holds a WanPipeline, and model.pipeline is Cosmos" in err


def test_each_job_of_a_sweep_downloads_its_checkpoint_when_it_begins(call, events, sparse):
    settings = [word for word in sparse if not word.startswith("model.path=")]
    source = ("model.path=someone/model", "model.revision=main")
    status, out, err = call("-m", "method=svg", *settings, *source, "method.sparsity=0.7,0.8")
    assert (status, err) == (0, "") and "2 runs, 0 already complete, 2 to make" in out
    assert events == ["look", "look", "download", "run", "download", "run"]
