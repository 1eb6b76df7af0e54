"""Every command of the documents runs, in the order of the pages, in an empty folder, as small as it goes."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"(?:<!-- not run: (?P<reason>.+?) -->\n+)?^```sh\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"(?:\S*/)?python -m (?P<module>(?:experiments|analysis|svg_kernels)\.\w+)(?: (?P<rest>.*))?")


class Command(NamedTuple):
    """A module and its arguments, as a document has them."""

    module: str
    arguments: list[str]


def commands(text: str) -> list[Command]:
    """Return the commands of a page in their order, those of ``make`` as what make would run."""
    found = []
    for block in BLOCK.finditer(text):
        if block["reason"]:
            continue
        for line in block["text"].replace("\\\n", " ").splitlines():
            if re.match(r"\. \S+/activate$", line):
                continue
            made = []
            for command in made_by(line) if line.startswith("make ") else [line]:
                words = COMMAND.fullmatch(command.partition(" #")[0].strip())
                if words:
                    made.append(Command(words["module"], shlex.split(words["rest"] or "")))
            assert made, f"neither python -m nor make, and not marked as not run: {line}"
            found += made
    return found


def made_by(line: str) -> list[str]:
    listed = subprocess.run([*line.split(), "-n"], cwd=ROOT, capture_output=True, text=True, check=True)
    return listed.stdout.splitlines()


def test_a_block_is_run_unless_a_reason_stands_before_it():
    page = "```sh\nmake demo\n```\n\n<!-- not run: downloads weights -->\n\n```sh\npython -m experiments.compare\n```\n"
    assert [module for module, _ in commands(page)] == ["experiments.compare", "analysis.report"]
    with pytest.raises(AssertionError, match="not marked as not run: rm -r runs"):
        commands("```sh\nrm -r runs\n```\n")


# What a command gets in place of the document's own words: a model of 18 tokens instead of one that takes minutes.
SMALL = {
    "model.height": "32",
    "model.width": "48",
    "model.num_frames": "9",
    "model.num_inference_steps": "2",
    "model.max_sequence_length": "16",
    "quality.metrics": "[psnr]",
    "method.sparsity": "0.7",
    "method.block_size": "2",
    "prompts": "smoke",
    "device": "cpu",
    "threads": "1",
}
# One step of a full-size model with two blocks of three heads, on the backends that every machine has.
SMALL_STEP = {
    **SMALL,
    "model": "wan_t2v_1_3b",
    "model.height": "64",
    "model.width": "96",
    "model.transformer.num_layers": "2",
    "model.transformer.num_heads": "3",
    "model.transformer.ffn_dim": "96",
    "backend": "reference",
    "dense_backend": "sdpa",
    "seconds": "0",
}


def smallest(command: Command, model_folder: Path) -> list[str]:
    """Return a command's arguments at the smallest size; as they are where nothing is generated."""
    small = {**SMALL, "model.path": str(model_folder)}
    made = dict.fromkeys(("experiments.compare", "experiments.generate", "experiments.head_patterns"), small)
    made["experiments.step_latency"] = SMALL_STEP
    if command.module == "analysis.figures":
        return [*command.arguments, "--figure", "head_atlas"]
    if command.module not in made or "--help" in command.arguments:
        return command.arguments
    wanted = made[command.module]
    if "dry_run=true" in command.arguments:
        wanted = {"model": "tiny_wan", "method.sparsity": "0.25"}
    elif "experiment=demo" in command.arguments:
        # Its dense case has no fraction to be set.
        wanted = wanted | {"case": "svg_at_25,random_at_25"}
    elif "experiment=dense_backend" in command.arguments:
        # Dense attention knows no settings of a method.
        wanted = {name: value for name, value in wanted.items() if not name.startswith("method.")}
    # Two values are a sweep, too.
    shorter = [re.sub(r"^([^,\[]+,[^,\[]+),.*", r"\1", word) for word in command.arguments]
    kept = [word for word in shorter if word.partition("=")[0] not in wanted]
    return [*kept, *(f"{name}={value}" for name, value in wanted.items())]


def run(module: str, arguments: list[str], monkeypatch) -> int:
    """Run a command, in this process where it can be, and return its exit status."""
    if module.startswith("svg_kernels"):
        # In this process Triton interprets, and compiles nothing.
        environment = {**os.environ, "TRITON_INTERPRET": "0"}
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments], env=environment, capture_output=True, text=True
        )
        sys.stderr.write(done.stderr)
        return done.returncode
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    program = importlib.import_module(module)
    if hasattr(program, "__path__"):
        program = importlib.import_module(f"{module}.__main__")
    try:
        return program.main() or 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1


@pytest.mark.slow
def test_every_command_of_the_documents_runs(model_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{ROOT / 'kernels'}")
    for name in ("results", "assets"):
        Path(name).symlink_to(ROOT / name)
    Path("my_prompts.txt").write_text("a big red circle\n", encoding="utf-8")
    done = set()
    for document in DOCUMENTS:
        for command in commands(document.read_text(encoding="utf-8")):
            arguments = smallest(command, model_folder)
            same = (command.module, *sorted(set(arguments) - {"-m"}))
            if same not in done:
                done.add(same)
                status = run(command.module, arguments, monkeypatch)
                assert status == 0, f"{document.name}: {command}: {capsys.readouterr().err}"
    assert {"experiments.compare", "experiments.plan", "analysis.report"} <= {module for module, *_ in done}
