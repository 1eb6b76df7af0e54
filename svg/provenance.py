"""Where a measurement comes from: the code, its versions, the machine and the command line."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

# Distributions whose version can change a number; those that are not installed are left out.
DISTRIBUTIONS = (
    "sparse-videogen-bench",
    "torch",
    "triton",
    "diffusers",
    "transformers",
    "accelerate",
    "safetensors",
    "numpy",
    "scikit-image",
    "lpips",
    "av",
    "imageio-ffmpeg",
    "pyarrow",
    "hydra-core",
    "flash-attn",
    "flash-attn-4",
    "fa3-fwd",
    "nvidia-cutlass-dsl",
    "nvidia-cudnn-cu12",
    "nvidia-cudnn-cu13",
    "torchao",
    "mslk",
)
# Of these, and of Python and CUDA, the ones that decide pixels and times.
DECISIVE = (
    "python",
    "cuda",
    "torch",
    "triton",
    "diffusers",
    "transformers",
    "numpy",
    "flash-attn",
    "flash-attn-4",
    "fa3-fwd",
    "nvidia-cutlass-dsl",
    "nvidia-cudnn-cu12",
    "nvidia-cudnn-cu13",
    "torchao",
    "mslk",
)
_SECRET = re.compile(r"([^=]*(?:token|secret|password|api_?key)[^=]*=).+", re.IGNORECASE | re.DOTALL)

# New files that can change a run. A prompt file or a note can not: a run's settings hold its prompts.
CODE = (b".py", b".yaml", b".yml", b".toml", b".cu", b".so")


def collect(command: Sequence[str] | None = None, source: Path | None = None) -> dict[str, Any]:
    """Return what must be known to judge or repeat a measurement made by this process, as plain values.

    Args:
        command: The command line; by default that of this process.
        source: A file of the code that runs; its git checkout is described. By default this library's.

    Returns:
        ``commit`` (None outside a checkout), ``dirty``, ``diff_sha256`` (of every change since the commit, untracked
        code and settings included; None where there is none), ``versions``, ``cpu`` {name, cores}, ``gpu`` {name,
        driver} or None, ``threads`` (None if nobody has said), ``hostname_hash``, ``load_average`` (1, 5 and 15
        minutes) and ``command``, free of the home directory, the working directory and secrets.
    """
    return {
        **_checkout(source or Path(__file__)),
        "versions": _versions(),
        "cpu": {"name": _cpu_name(), "cores": _cores()},
        "gpu": _gpu(),
        "threads": _threads(),
        "hostname_hash": hashlib.sha256(socket.gethostname().encode()).hexdigest()[:12],
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "command": _command(command),
    }


def hardware(device_type: str) -> dict[str, Any]:
    """Return what a time measured by this process depends on besides its settings, as plain values.

    Args:
        device_type: ``"cpu"`` or ``"cuda"``.

    Returns:
        ``device``, the name of the GPU or the CPU; ``driver`` of a GPU, ``cores`` of a CPU; and ``versions``, the
        decisive ones.
    """
    versions = {name: version for name, version in _versions().items() if name in DECISIVE}
    if device_type == "cuda":
        gpu = _gpu() or {}
        return {"device": gpu.get("name"), "driver": gpu.get("driver"), "versions": versions}
    return {"device": _cpu_name(), "cores": _cores(), "versions": versions}


def _output(*command: str, cwd: Path | None = None) -> bytes | None:
    """The output of a command; None if it is absent, fails or hangs."""
    # A hook's environment would point git at another checkout.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment["GIT_OPTIONAL_LOCKS"] = "0"
    try:
        result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout


def _checkout(source: Path) -> dict[str, Any]:
    """The commit of the checkout that tracks ``source``, and a hash of all that differs from it."""
    unknown = {"commit": None, "dirty": False, "diff_sha256": None}
    # A mounted checkout belongs to another user; we run its code already.
    git = ("git", "-c", "safe.directory=*", "-c", "core.fsmonitor=false")
    # An installed copy inside somebody's checkout is not tracked by it.
    if _output(*git, "ls-files", "--error-unmatch", "--", source.name, cwd=source.parent) is None:
        return unknown
    top = _output(*git, "rev-parse", "--show-toplevel", cwd=source.parent)
    commit = _output(*git, "rev-parse", "--verify", "HEAD", cwd=source.parent)
    if top is None or commit is None:
        return unknown
    root = Path(os.fsdecode(top.rstrip(b"\n")))
    # Every choice that a person's configuration could make is made here, so that equal changes hash equally.
    plain = "--no-color --no-ext-diff --no-textconv --no-renames --binary --full-index --unified=3 --submodule=short"
    prefixes = ("--src-prefix=a/", "--dst-prefix=b/", "--diff-algorithm=myers", "--no-indent-heuristic")
    diff = _output(*git, "diff", *plain.split(), *prefixes, "HEAD", cwd=root)
    untracked = _output(*git, "ls-files", "-z", "--others", "--exclude-standard", cwd=root)
    if diff is None or untracked is None:
        return unknown
    digest = hashlib.sha256(diff)
    names = sorted(name for name in untracked.split(b"\0") if name.endswith(CODE))
    for name in names:
        digest.update(b"\0" + name + b"\0" + _content_hash(root / os.fsdecode(name)))
    dirty = bool(diff or names)
    return {"commit": commit.decode().strip(), "dirty": dirty, "diff_sha256": digest.hexdigest() if dirty else None}


def _content_hash(path: Path) -> bytes:
    try:
        if path.is_symlink():
            return hashlib.sha256(os.fsencode(os.readlink(path))).digest()
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        # Gone meanwhile, a checkout within this one, or not ours to read: its name counts.
        return b""


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in DISTRIBUTIONS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    torch = sys.modules.get("torch")
    if torch is not None and torch.version.cuda:
        versions["cuda"] = torch.version.cuda
    return versions


def _cpu_name() -> str:
    try:
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        match = None
    return match[1].strip() if match else platform.processor() or platform.machine() or "unknown"


def _cores() -> int:
    """Cores that this process may use, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gpu() -> dict[str, str | None] | None:
    rows = _output("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    reported = [row.rsplit(",", 1) for row in (rows or b"").decode(errors="replace").strip().splitlines() if "," in row]
    name, driver = (part.strip() for part in reported[0]) if reported else (None, None)
    torch = sys.modules.get("torch")
    if torch is not None:
        # torch knows which of several it uses.
        name = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return None if name is None else {"name": name, "driver": driver}


def _threads() -> int | None:
    torch = sys.modules.get("torch")
    if torch is not None:
        return torch.get_num_threads()
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdecimal() else None


def _command(command: Sequence[str] | None) -> str:
    words = list(command if command is not None else sys.orig_argv)
    if command is None and words:
        words[0] = Path(words[0]).name
    line = shlex.join(_SECRET.sub(r"\1...", word) for word in words)
    # The longer first: one of them may lie within the other.
    folders = sorted([(os.getcwd(), "."), (os.path.expanduser("~"), "~")], key=lambda pair: -len(pair[0]))
    for folder, name in folders:
        if len(folder) > 1:
            line = re.sub(rf"(?<![\w.-]){re.escape(folder)}(?![\w.-])", name, line)
    return line
