"""Setting up: which torch is chosen, what is said, and what a person can get wrong. No package is installed here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PINNED = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))

# A Python that notes what pip is asked for and has no torch on its list that ``OFFERED`` does not name.
FAKE_PYTHON = """#!/bin/sh
case "$*" in
  *"import sys, pip"*) echo {version}; exit 0;;
  *"pip install"*) echo "$*" >> {log};;
  *) exit 0;;
esac
case "$*" in
  *"torch=="*"+cpu"*) case "$*" in
    *{offered}*) exit 0;;
    *) echo "ERROR: No matching distribution found" >&2; exit 1;;
  esac;;
esac
"""
FAKE_SMI = "#!/bin/sh\necho 'GPU 0: NVIDIA H200 (UUID: GPU-1)'\n"


def script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def setup(tmp_path):
    """Return a function that runs the setup with a fake environment, and returns its process and what pip was asked."""

    def run(offered: str = "nothing", has_gpu: bool = False, version: str = "", **options):
        log, bin_folder = tmp_path / "log", tmp_path / "bin"
        version = version or f"{sys.version_info[0]}.{sys.version_info[1]}"
        script(tmp_path / "venv/bin/python", FAKE_PYTHON.format(version=version, log=log, offered=offered))
        script(bin_folder / "nvidia-smi", FAKE_SMI if has_gpu else "#!/bin/sh\nexit 9\n")
        environment = {**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}
        command = [sys.executable, ROOT / "tools/setup_environment.py", "--venv", tmp_path / "venv"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, **options)
        return done, log.read_text().splitlines() if log.exists() else []

    return run


linux_only = pytest.mark.skipif(sys.platform != "linux", reason="builds without CUDA are named +cpu on Linux only")


@linux_only
def test_without_a_gpu_a_cpu_torch_of_the_configured_index_is_taken(setup):
    done, asked = setup(offered=f"{PINNED}+cpu")
    assert done.returncode == 0, done.stderr
    assert asked[0].endswith(f" {PINNED}+cpu") and "--extra-index-url" not in asked[0]
    assert not any(line.endswith(f" {PINNED}") for line in asked)
    assert any(line.endswith("[dev]") for line in asked)


@linux_only
def test_where_the_index_has_none_pytorchs_own_is_asked(setup):
    done, asked = setup(offered="whl/cpu")
    assert done.returncode == 0, done.stderr
    assert "not offered" in done.stdout
    assert "--extra-index-url" in asked[1] and asked[1].endswith(f" {PINNED}+cpu")
    assert not any(line.endswith(f" {PINNED}") for line in asked)


@linux_only
def test_where_nobody_has_a_cpu_torch_the_default_follows_and_its_size_is_said(setup):
    done, asked = setup()
    assert done.returncode == 0, done.stderr
    assert f"No CPU build of {PINNED} is offered here" in done.stdout
    assert "several GB of CUDA libraries" in done.stdout
    assert asked[2].endswith(f" {PINNED}")


def test_with_a_gpu_the_default_torch_and_flash_attention_are_taken(setup):
    done, asked = setup(has_gpu=True)
    assert done.returncode == 0, done.stderr
    assert "NVIDIA H200" in done.stdout
    assert asked[0].endswith(f" {PINNED}")
    assert any(line.endswith("[dev,flash]") for line in asked)
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["flash"]
    assert any(line.startswith("flash-attn-4") for line in extra)


def test_torchvision_is_never_asked_for(setup):
    _, asked = setup()
    [heads] = [line for line in asked if "lpips" in line]
    assert "--no-deps" in heads
    assert "torchvision" not in (ROOT / "constraints.txt").read_text() + "".join(asked)


def test_a_folder_that_is_no_environment_is_left_alone(setup, tmp_path):
    done, asked = setup(version="2.7")
    assert (done.returncode, asked) == (2, [])
    assert done.stderr.splitlines() == [f"error: {tmp_path / 'venv'} exists and is no Python environment; move it away"]
    assert (tmp_path / "venv/bin/python").exists()


@pytest.fixture
def checkout(tmp_path):
    """Return a copy of what `make setup` reads, in a folder with a space in its name."""
    copy = tmp_path / "a copy"
    copy.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "tools"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, copy / name)
    return copy


def test_an_old_python_is_refused_in_one_line(checkout):
    pretend = "import runpy, sys; sys.version_info = (3, 10, 2); sys.argv = sys.argv[1:]; "
    pretend += "runpy.run_path(sys.argv[0], run_name='__main__')"
    script(checkout / "old", f'#!/bin/sh\nexec "{sys.executable}" -c "{pretend}" "$@"\n')
    done = subprocess.run(["make", "-s", "setup", "PYTHON=./old"], cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 2
    assert (
        done.stderr.splitlines()[0] == "error: Python is 3.10.2; it must be 3.11 to 3.13: make setup PYTHON=python3.12"
    )
    assert not (checkout / ".venv").exists()


def test_a_machine_without_python_is_told_what_is_missing(checkout):
    done = subprocess.run(["make", "-s", "setup", "PYTHON="], cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: found no Python 3.11, 3.12 or 3.13 that can make environments")


def test_a_second_setup_does_nothing(checkout):
    (checkout / ".venv").mkdir()
    (checkout / ".venv/.ready").touch()
    done = subprocess.run(["make", "-s", "setup", "PYTHON=/nowhere"], cwd=checkout, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "The environment .venv is ready")


def test_a_demo_of_all_models_names_the_one_that_is_missing_before_it_builds_anything(checkout):
    (checkout / "assets/tiny_wan").mkdir(parents=True)
    (checkout / "assets/tiny_wan/model_index.json").touch()
    done = subprocess.run(["make", "-s", "demo-models"], cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == (
        "error: assets/tiny_hunyuan_video is not there; python -m experiments.train_tiny --family hunyuan_video trains "
        "it, on a GPU"
    )
    assert not (checkout / ".venv").exists()
