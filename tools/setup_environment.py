"""Build the environment .venv: one torch that suits this machine, the pinned dependencies, and this project, editable.

`make setup` runs it with a Python that has no packages, so it uses the standard library only. Every step says what it
does and how long it took. A second run repairs what is missing and leaves the rest.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
OLDEST, NEWEST = (3, 11), (3, 13)
# PyTorch's own index of builds without CUDA, asked only where the configured index has none.
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# The published linear heads of LPIPS. Its dependency torchvision is left out: nothing here imports either package.
LPIPS_HEADS = "lpips==0.1.4"


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
        extras = "dev,gpu" if gpu else "dev"
        step("Install the project and its pinned dependencies", python, "-c", CONSTRAINTS, "-e", f"{ROOT}[{extras}]")
        step("Add the linear heads of LPIPS, without torchvision", python, "--no-deps", LPIPS_HEADS)
    except subprocess.CalledProcessError as error:
        print(f"error: pip ended with status {error.returncode}; its own message stands above", file=sys.stderr)
        return 2
    print(f"Environment {arguments.venv} is ready after {time.perf_counter() - begin:.0f} s", flush=True)
    return 0


def make_environment(venv: Path) -> Path:
    """Return the Python of ``venv``, made afresh if it does not run (a moved folder) or is of another version."""
    python = venv / "bin" / "python"
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    question = "import sys, pip; print('.'.join(map(str, sys.version_info[:2])))"
    if python.exists():
        answer = subprocess.run([python, "-c", question], capture_output=True, text=True)
        if answer.returncode == 0 and answer.stdout.strip() == version:
            return python
        print(f"{venv} does not run Python {version} with pip; it is made afresh", flush=True)
        shutil.rmtree(venv)
    print(f"Make {venv} with Python {version} ({sys.executable})", flush=True)
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    return python


def find_gpu() -> str | None:
    """Return the name of the first NVIDIA GPU that the driver lists, or None."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]
    return lines[0].split(" (UUID")[0] if listed.returncode == 0 and lines else None


def install_torch(python: Path, gpu: str | None, cpu_index: str) -> None:
    """Install the pinned torch: the index's default build with a GPU or off Linux, else a CPU build where there is one."""
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
    print(f"No CPU build of {pinned} is offered here: the default build follows. It runs on the CPU, but may bring", end="")
    print(" several GB of CUDA libraries", flush=True)
    step(f"Install {pinned}", python, "-c", CONSTRAINTS, pinned)


def pinned_torch() -> str:
    """Return the line of constraints.txt that pins torch, as ``torch==2.13.0``."""
    [line] = [line for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines() if line.startswith("torch==")]
    return line


def step(title: str, python: Path, *arguments: str | Path, optional: bool = False) -> bool:
    """Run ``pip install`` with ``arguments``; an optional one that fails returns False and keeps pip's output to itself."""
    print(f"{title} ...", flush=True)
    begin = time.perf_counter()
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, check=not optional, capture_output=optional)
    print(f"  {'done' if done.returncode == 0 else 'not offered'} in {time.perf_counter() - begin:.0f} s", flush=True)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
