"""Build the environment .venv: one torch that suits this machine, the pinned dependencies, and this project, editable.

`make setup` runs it with a Python that has no packages, so it uses the standard library only. Every step says what it
does and how long it took. A second run repairs what is missing and leaves the rest.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
OLDEST, NEWEST = (3, 11), (3, 13)
# PyTorch's own index of builds without CUDA, asked only where the configured index has none.
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# The published linear heads of LPIPS. Its dependency torchvision is left out: nothing here imports either package.
LPIPS_HEADS = "lpips==0.1.4"
FIRST_IMPORTS = """
import torch, diffusers.utils.export_utils, transformers, hydra, wandb, pandas, pyarrow.parquet, skimage.metrics, av
import matplotlib.pyplot, imageio_ffmpeg, pytest
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline
device = torch.cuda.get_device_name() if torch.cuda.is_available() else "the CPU"
print(f"  torch {torch.__version__} runs on {device}")
"""


class SetupError(Exception):
    """A step failed; the message is for people."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="folder of the environment (%(default)s)")
    parser.add_argument("--torch-cpu-index", default=TORCH_CPU_INDEX, help="second place to look for a CPU torch")
    arguments = parser.parse_args()
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        found = ".".join(map(str, sys.version_info[:3]))
        print(f"error: Python is {found}; it must be 3.11 to 3.13: make setup PYTHON=python3.12", file=sys.stderr)
        return 2
    begin = time.perf_counter()
    try:
        python = make_environment(arguments.venv)
        gpu = find_gpu()
        install_torch(python, gpu, arguments.torch_cpu_index)
        extras = "dev,flash" if gpu else "dev"
        step("Install the project and its pinned dependencies", python, "-c", CONSTRAINTS, "-e", f"{ROOT}[{extras}]")
        step("Add the linear heads of LPIPS, without torchvision", python, "--no-deps", LPIPS_HEADS)
        check(python)
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"Set up in {time.perf_counter() - begin:.0f} s", flush=True)
    return 0


def make_environment(venv: Path) -> Path:
    """Return the Python of ``venv``, made afresh if it does not run (a moved folder) or is of another version."""
    python = venv / "bin" / "python"
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if venv.exists():
        if runs(python, version):
            return python
        if not (venv / "pyvenv.cfg").exists():
            raise SetupError(f"{venv} exists and is no Python environment; move it away")
        print(f"{venv} does not run Python {version} with pip; it is made afresh", flush=True)
        shutil.rmtree(venv)
    print(f"Make {venv} with Python {version} ({sys.executable})", flush=True)
    if subprocess.run([sys.executable, "-m", "venv", venv]).returncode != 0:
        raise SetupError(f"{sys.executable} cannot make environments; see the message above")
    return python


def runs(python: Path, version: str) -> bool:
    question = "import sys, pip; print('.'.join(map(str, sys.version_info[:2])))"
    try:
        answer = subprocess.run([python, "-c", question], capture_output=True, text=True)
    except OSError:
        return False
    return answer.returncode == 0 and answer.stdout.strip() == version


def find_gpu() -> str | None:
    """Return the name of the first NVIDIA GPU that the driver lists, or None."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]
    return lines[0].split(" (UUID")[0] if listed.returncode == 0 and lines else None


def install_torch(python: Path, gpu: str | None, cpu_index: str) -> None:
    """Install the pinned torch: the index's own choice with a GPU or off Linux, else a CPU build where there is one."""
    pinned = pinned_torch()
    if gpu or sys.platform != "linux":
        step(f"Install {pinned} for {gpu or sys.platform}", python, "-c", CONSTRAINTS, pinned)
        return
    cpu_build = f"{pinned}+cpu"
    print("No NVIDIA GPU is listed by nvidia-smi, so a CPU build of torch is looked for", flush=True)
    if step(f"Install {cpu_build} from the configured index", python, cpu_build, optional=True):
        return
    options = ["--extra-index-url", cpu_index, "--retries", "1", "--timeout", "15"]
    if step(f"Install {cpu_build} from {cpu_index}", python, *options, cpu_build, optional=True):
        return
    print(f"No CPU build of {pinned} is offered here; the default build runs on the CPU too,", flush=True)
    print("  but may bring several GB of CUDA libraries", flush=True)
    step(f"Install {pinned}", python, "-c", CONSTRAINTS, pinned)


def pinned_torch() -> str:
    """Return the line of constraints.txt that pins torch, as ``torch==2.13.0``."""
    [line] = [line for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines() if line.startswith("torch==")]
    return line


def step(title: str, python: Path, *arguments: str | Path, optional: bool = False) -> bool:
    """Run ``pip install`` with ``arguments``; an optional one that fails says why in a line and returns False."""
    options = ["-qq", "--disable-pip-version-check", "--no-compile"]
    status, messages = timed(title, [python, "-m", "pip", "install", *options, *arguments], quiet=optional)
    if status == 0:
        return True
    if not optional:
        raise SetupError(f"pip ended with status {status}; its own message stands above")
    offered = "No matching distribution" not in messages
    print(f"  {messages.strip().splitlines()[-1] if offered and messages.strip() else 'not offered'}", flush=True)
    return False


def check(python: Path) -> None:
    """Import what the project's commands import: it shows that the environment works, and writes their bytecode.

    Only that bytecode is worth having at once; pip would spend most of its time on the rest.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    if timed("Import everything once", [python, "-c", FIRST_IMPORTS], environment)[0] != 0:
        raise SetupError("the environment does not import; the message above says what is missing")


def timed(
    title: str, command: list[str | Path], environment: dict[str, str] | None = None, quiet: bool = False
) -> tuple[int, str]:
    """Run a command and return its status and, if quiet, its messages; a watching person sees the seconds pass."""
    watched = sys.stdout.isatty()
    print(f"{title} ...", flush=True)
    begin = time.perf_counter()
    with tempfile.TemporaryFile("w+", errors="replace") as messages:
        output = messages if quiet else None
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
        while True:
            try:
                status = process.wait(timeout=1 if watched else None)
                break
            except subprocess.TimeoutExpired:
                print(f"\r  {time.perf_counter() - begin:.0f} s", end="", flush=True)
        messages.seek(0)
        written = messages.read()
    print(
        "\r" * watched + f"  {'done' if status == 0 else 'ended'} after {time.perf_counter() - begin:.0f} s", flush=True
    )
    return status, written


if __name__ == "__main__":
    sys.exit(main())
