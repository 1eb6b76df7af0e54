"""The text of ``--help``: every setting with its default, unit and range, as the comments of ``conf/`` give them."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Container
from pathlib import Path

# Groups in the order in which they are shown, and the file that a plain command line picks.
GROUPS = {
    "model": "tiny_wan",
    "method": "svg",
    "backend": "auto",
    "prompts": "smoke",
    "quality": "standard",
    "statistics": "sparse",
    "tracking": "off",
}
OVERLAYS = {
    "experiment": "a table or figure; most are sweeps and want -m",
    "case": "several settings under one name, as sweeps compare them",
    "embedded": "a model that comes with the project, and what it is asked for",
    "launcher": "how the runs of a sweep are started",
}
_SETTING = re.compile(r"(?P<indent>(?:  )?)(?P<key>[a-z_]\w*):(?P<value>.*?)(?:  # (?P<words>.*))?")
_WIDTH, _COLUMN = 118, 34


def text(command: str, summary: str, conf: Path, config_name: str = "config") -> str:
    """Return the whole help of one command.

    Args:
        command: Such as ``experiments.compare``.
        summary: What it does.
        conf: The folder of the settings.
        config_name: File in it with the command's settings; they come before those that all commands have.
    """
    without = set(GROUPS) | {"defaults", "hydra"}
    own: dict[str, tuple[str, str]] = {}
    for name in _files(conf, config_name):
        # What a file says comes before what it begins with, and instead of it.
        own |= {
            key: said
            for key, said in _settings(conf / f"{name}.yaml", without, is_nested=True).items()
            if key not in own
        }
    parts = [
        f"usage: python -m {command} [-m] [SETTING=VALUE ...]",
        summary,
        "-m makes one run for each combination of comma-separated values: -m method.sparsity=0.25,0.5 seed=0,1\n"
        "SVG_TRACEBACK=1 in the environment shows where an error comes from.",
        _section("settings", own),
    ]
    parts += [_group(conf, group, default) for group, default in GROUPS.items()]
    for group, what in OVERLAYS.items():
        names = ", ".join(sorted(file.stem for file in (conf / group).glob("*.yaml")))
        parts.append(_wrapped(f"{group}=NAME", f"{what}: {names}"))
    return "\n\n".join(parts) + "\n"


def _files(conf: Path, name: str) -> list[str]:
    """Return a file of settings and those that it begins with, one after the other."""
    begins = re.search(r"^defaults:\n  - (\w+)\n", (conf / f"{name}.yaml").read_text(encoding="utf-8"), re.MULTILINE)
    return [name] if begins is None or begins[1] == "schema" else [name, *_files(conf, begins[1])]


def _group(conf: Path, group: str, default: str) -> str:
    """One group: its choices with their first lines, then every setting that any of them has."""
    files = sorted((conf / group).glob("*.yaml"))
    choices = [_wrapped(f"  {file.stem}{' *' if file.stem == default else ''}", headline(file)) for file in files]
    seen: dict[str, tuple[str, str]] = {}
    for file in sorted(files, key=lambda file: file.stem != default):
        for key, (value, words) in _settings(file).items():
            only = words if file.stem == default else f"{words} (not in every {group})"
            seen.setdefault(key, (value, only))
    settings = _section("", {f"{group}.{key}": found for key, found in seen.items()})
    return f"{group}=NAME, one of (* where nothing is said):\n" + "\n".join(choices) + "\n" + settings


def _settings(
    file: Path, without: Container[str] = ("_target_", "defaults"), is_nested: bool = False
) -> dict[str, tuple[str, str]]:
    """The settings at the top of a file, and one level below if ``is_nested``: key to (value, words of its comment)."""
    found: dict[str, tuple[str, str]] = {}
    above = ""
    for line in file.read_text(encoding="utf-8").splitlines():
        match = _SETTING.fullmatch(line)
        if match is None:
            continue
        if not match["indent"]:
            above = match["key"]
        elif not is_nested:
            continue
        key = f"{above}.{match['key']}" if match["indent"] else above
        if above not in without:
            found[key] = (match["value"].strip(" \"'"), match["words"] or "")
    return found


def headline(file: Path) -> str:
    """Return what a file of settings opens with: its source, or its question."""
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("# ")]
    return next(line.removeprefix("# ") for line in lines if not line.startswith("# @package"))


def _section(title: str, settings: dict[str, tuple[str, str]]) -> str:
    lines = [_wrapped(f"  {key}={value}" if value else f"  {key}", words) for key, (value, words) in settings.items()]
    return "\n".join([f"{title}:", *lines] if title else lines)


def _wrapped(left: str, right: str) -> str:
    """Two columns; a long left one pushes the right one to the next line."""
    lines = textwrap.wrap(right, _WIDTH - _COLUMN) or [""]
    margin = " " * _COLUMN
    first = f"{left.ljust(_COLUMN)}{lines[0]}" if len(left) < _COLUMN - 1 else f"{left}\n{margin}{lines[0]}"
    return "\n".join([first.rstrip(), *(margin + line for line in lines[1:])]).rstrip()
