"""Tests that need a GPU: skipped with a reason where there is none, and never reported as run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
WITHOUT_GPU = os.environ | {"CUDA_VISIBLE_DEVICES": ""}

pytestmark = pytest.mark.slow


def test_a_test_that_needs_a_gpu_is_skipped_with_the_reason_where_there_is_none():
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu", "tests/test_backend_sdpa.py"]
    done = subprocess.run(line, cwd=ROOT, env=WITHOUT_GPU, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
    assert "needs an NVIDIA GPU, and torch finds none here" in done.stdout
    assert " skipped" in done.stdout and "passed" not in done.stdout and "failed" not in done.stdout


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_test_gpu_fails_where_there_is_no_gpu(tmp_path):
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    (tmp_path / ".ready").touch()
    line = ["make", "test-gpu", f"VENV={tmp_path}"]
    done = subprocess.run(line, cwd=ROOT, env=WITHOUT_GPU, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "error: torch finds no NVIDIA GPU here: no test was run" in done.stderr
