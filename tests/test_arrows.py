"""Who may import what: the table of rooms, read against the imports of every file, lazy ones included."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Where each top-level package stands.
PACKAGES = {
    "svg": "svg",
    "svg_kernels": "kernels/svg_kernels",
    "experiments": "experiments",
    "hydra_plugins": "hydra_plugins",
    "analysis": "analysis",
}


class Room(NamedTuple):
    """What the modules of a room may import besides the standard library and the room itself."""

    ours: str = ""
    others: str = ""


# What a plan is made of: data, and the torch arithmetic on it.
PLAN = "svg.layout svg.context svg.placement svg.order svg.pattern svg.block_mask svg.operations svg.plan"
# What several methods share.
SHARED = "svg.schedule svg.method svg.palette svg.in_place svg.bands svg.tile_choice"

ROOMS = {
    "svg": Room(),
    # The data of attention. Only those that compute need torch.
    "svg.layout": Room(),
    "svg.schedule": Room(),
    "svg.timesteps": Room(),
    "svg.context": Room("svg.layout", "torch"),
    "svg.order": Room("svg.layout", "torch"),
    "svg.pattern": Room("svg.layout", "torch"),
    "svg.placement": Room("", "torch"),
    "svg.sites": Room("", "torch"),
    "svg.operations": Room("svg.placement", "torch"),
    "svg.block_mask": Room("svg.layout svg.placement svg.order svg.pattern", "torch"),
    "svg.plan": Room("svg.layout svg.placement svg.order svg.pattern svg.block_mask svg.operations", "torch"),
    # The same data as kernels read it.
    "svg.pattern_integers": Room("svg.pattern svg.block_mask svg_kernels"),
    "svg.pattern_orders": Room(PLAN, "torch"),
    "svg.kernel_operations": Room(f"{PLAN} svg.pattern_integers svg.pattern_orders svg_kernels", "torch"),
    # A method decides: no kernel, no backend, no model.
    "svg.method": Room(f"{PLAN} svg.schedule", "torch"),
    "svg.palette": Room(PLAN, "torch"),
    "svg.reordered": Room(PLAN, "torch"),
    "svg.in_place": Room(f"{PLAN} svg.reordered", "torch"),
    "svg.bands": Room(f"{PLAN} svg.schedule svg.method svg.palette", "torch"),
    "svg.tile_choice": Room(PLAN, "torch"),
    "svg.methods": Room(f"{PLAN} {SHARED}", "torch"),
    # A backend computes, a model adapts: neither knows a method, nor each other.
    "svg_kernels": Room("", "torch triton"),
    "svg.backends": Room(
        f"{PLAN} svg.reordered svg.pattern_integers svg.pattern_orders svg_kernels",
        "torch flash_attn fa3_fwd_interface",
    ),
    "svg.models": Room("svg.layout svg.context svg.plan svg.sites svg_kernels", "torch diffusers"),
    # What heads look at is told from finished tensors and the plan alone.
    "svg.pattern_statistics": Room(PLAN, "torch"),
    "svg.statistics_sample": Room(f"{PLAN} svg.pattern_statistics", "torch"),
    # Tensors of attention calls, kept; the index alone needs no torch.
    "svg.captures.index": Room("svg.layout svg.results"),
    "svg.captures": Room(f"{PLAN} svg.receipt svg.atomic svg.results svg.captures.index", "torch safetensors"),
    # attach joins what it is handed; only `attaching` finds backends and models by name.
    "svg.receipt": Room(PLAN, "torch"),
    "svg.rewriting": Room("", "torch"),
    "svg.compiling": Room("svg.rewriting", "torch"),
    "svg.finite": Room("svg.layout svg.context", "torch"),
    "svg.parallel": Room("svg.layout svg.plan", "torch"),
    "svg.attachment": Room(f"{PLAN} svg.schedule svg.receipt svg.finite svg.compiling", "torch"),
    "svg.attaching": Room(
        "svg.attachment svg.parallel svg.backends svg.models svg.operations svg.kernel_operations", "torch"
    ),
    # Side rooms: they measure and keep, and know nothing of attention, save that cost reads plans.
    "svg.cost": Room("svg.plan svg.receipt", "torch"),
    "svg.video": Room("", "numpy torch av"),
    "svg.quality": Room("svg.video", "numpy torch skimage imageio imageio_ffmpeg"),
    "svg.atomic": Room(),
    "svg.results": Room("svg.atomic", "pyarrow"),
    "svg.store": Room("svg.atomic svg.results svg.video", "numpy torch safetensors"),
    "svg.prompts": Room(),
    "svg.vbench": Room("svg.prompts"),
    "svg.provenance": Room(),
    "svg.code_hash": Room(),
    # The training of the embedded model stands by itself; the other verbs use the whole library.
    "experiments.tiny": Room("", "numpy torch diffusers transformers tokenizers safetensors skimage PIL"),
    "experiments": Room(
        "svg.* svg_kernels experiments.tiny",
        "numpy torch torchao diffusers transformers safetensors PIL pyarrow hydra omegaconf wandb tqdm",
    ),
    # Hydra loads it whenever it runs: it hands a sweep to the command without importing anything of ours.
    "hydra_plugins": Room("", "hydra omegaconf ray"),
    # Reads records and captures only.
    "analysis": Room("svg.results svg.captures.index", "numpy scipy pandas pyarrow matplotlib PIL av safetensors yaml"),
}


@cache
def modules() -> dict[str, Path]:
    """Return the file of every module of ours."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            name = ".".join((package, *parts)).removesuffix(".__init__")
            found[name] = path
    return found


def room_of(module: str) -> str | None:
    """Return the longest room that the module stands in; the facade ``svg`` is itself only."""
    parts = module.split(".")
    prefixes = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    return next((name for name in prefixes if name in ROOMS and (name != "svg" or module == "svg")), None)


def imported(source: str, module: str, is_package: bool = False) -> Iterator[tuple[int, str]]:
    """Yield line and name of everything a file imports, wherever in the file it stands."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                # `from svg import backends` imports the module svg.backends, `from svg import attach` the facade.
                inner = f"{origin}.{alias.name}"
                yield node.lineno, inner if inner in modules() else origin
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            name = node.args[0] if node.args else None
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield node.lineno, name.value


def wrong_arrows(source: str, module: str, is_package: bool = False) -> list[str]:
    """Return a line for each import that the table does not allow."""
    name = room_of(module)
    if name is None:
        return [f"{module} stands in no room: give it a row in ROOMS"]
    room = ROOMS[name]
    wrong = []
    for line, target in imported(source, module, is_package):
        top = target.split(".")[0]
        if top in sys.stdlib_module_names:
            continue
        if top in PACKAGES:
            allowed = (name, *room.ours.split())
            fits = room_of(target) in allowed or ("svg.*" in allowed and top == "svg")
        else:
            fits = top in room.others.split()
        if not fits:
            wrong.append(f"{module}:{line} imports {target}, which {name} may not")
    return wrong


@pytest.mark.parametrize("module", sorted(modules()))
def test_a_module_imports_only_what_its_room_may(module):
    path = modules()[module]
    assert wrong_arrows(path.read_text(encoding="utf-8"), module, path.name == "__init__.py") == []


@pytest.mark.parametrize(
    ("module", "source", "target"),
    [
        ("svg.layout", "import torch", "torch"),
        ("svg.methods.new", "def plan():\n    from svg.backends import sdpa", "svg.backends.sdpa"),
        ("svg.methods.new", "from ..backends import sdpa", "svg.backends.sdpa"),
        ("svg.methods.new", "from svg import backends", "svg.backends"),
        ("svg.methods.new", "from svg import attach", "svg"),
        ("svg.methods.new", "import importlib\nimportlib.import_module('svg_kernels.band')", "svg_kernels.band"),
        ("svg.backends.new", "import svg.methods.svg as svg_method", "svg.methods.svg"),
        ("svg.models.new", "from svg.backends.sdpa import SdpaBackend", "svg.backends.sdpa"),
        ("svg.quality.new", "from svg.plan import AttentionPlan", "svg.plan"),
        ("svg.results.new", "import pandas as pd", "pandas"),
        ("svg.cost.new", "if True:\n    import hydra", "hydra"),
        ("svg_kernels.new", "from svg.layout import TokenLayout", "svg.layout"),
        ("experiments.tiny.new", "import svg", "svg"),
        ("experiments.new", "from analysis.load import runs", "analysis.load"),
        ("hydra_plugins.new", "from experiments import sweeping", "experiments"),
        ("hydra_plugins.new", "import torch", "torch"),
        ("analysis.new", "import torch", "torch"),
        ("analysis.new", "from svg.video import read_lossless", "svg.video"),
        ("svg.new_file", "", "in no room"),
    ],
)
def test_a_wrong_arrow_is_found(module, source, target):
    [line] = wrong_arrows(source, module)
    assert target in line


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("svg.methods.new", "import math\nfrom svg.plan import AttentionPlan\nfrom svg.methods.dense import Dense"),
        ("svg.backends.new", "import torch\nfrom ._per_head import check_fits"),
        ("experiments.new", "from svg import attach, models\nimport hydra, wandb"),
        ("analysis.new", "from svg.results import list_runs\nimport pandas"),
    ],
)
def test_a_right_arrow_is_let_through(module, source):
    assert wrong_arrows(source, module) == []


def test_the_table_has_no_circles():
    def reaches(room: str, seen: tuple[str, ...]) -> None:
        assert room not in seen, " -> ".join((*seen, room))
        for target in ROOMS[room].ours.split():
            if target != "svg.*":
                reaches(target, (*seen, room))

    for room in ROOMS:
        reaches(room, ())


@pytest.mark.parametrize(
    "names",
    [
        "svg svg.layout svg.schedule svg.results svg.prompts svg.provenance svg.store svg.video svg.quality",
        "analysis.load analysis.tables analysis.reproduce analysis.figures analysis.report analysis.attention_maps",
    ],
)
def test_what_needs_no_torch_loads_none(names):
    heavy = "{'torch', 'diffusers', 'transformers', 'hydra', 'wandb', 'torchvision'}"
    code = f"import sys, {', '.join(names.split())}; print(*sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == ("", 0), done.stderr


@cache
def files() -> list[Path]:
    """Return the project's own files: those git knows, or all where this is no repository."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True)
    if listed.returncode == 0:
        paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    else:
        hidden = {".venv", "runs", "build", "__pycache__"}
        paths = [path for path in ROOT.rglob("*") if not hidden & set(path.relative_to(ROOT).parts)]
    return [path for path in paths if path.is_file()]


def test_nothing_imports_torchvision():
    for path in files():
        if path.suffix == ".py":
            names = {name.split(".")[0] for _, name in imported(path.read_text(encoding="utf-8"), "tests.any")}
            assert "torchvision" not in names, path


def test_no_file_names_a_path_of_one_machine():
    # Put together here, so that this file does not hold what it looks for.
    folders = "|".join(("work", "root", "opt/" + "pypi", "opt/" + "wheels", "tmp/" + "bash", r"home/\w+"))
    pattern = re.compile(rf"(?<![\w.~*])/(?:{folders})/")
    found = []
    for path in files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}: {hit.group()}" for hit in pattern.finditer(text)]
    assert found == []


def test_every_package_that_is_imported_is_a_declared_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    lines = project["dependencies"] + extras["flash"] + extras["cluster"] + extras["fp8"]
    declared = {re.split(r"[<>=;\[ ]", line)[0].lower().replace("-", "_") for line in lines}
    distributions = {"skimage": "scikit_image", "PIL": "pillow", "hydra": "hydra_core", "flash_attn": "flash_attn_4"}
    distributions |= {"fa3_fwd_interface": "fa3_fwd", "yaml": "pyyaml"}
    names = {name for room in ROOMS.values() for name in room.others.split()}
    assert {distributions.get(name, name) for name in names} <= declared
