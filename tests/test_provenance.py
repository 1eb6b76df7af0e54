"""Where a measurement comes from."""

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import svg
from svg.provenance import collect, hardware


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false")
    done = subprocess.run(("git", *identity, *arguments), cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path):
    """A repository with a package of one module and an ignore rule."""
    package = tmp_path / "checkout" / "package"
    package.mkdir(parents=True)
    (package / "module.py").write_text("x = 1\n")
    (tmp_path / "checkout" / ".gitignore").write_text("ignored\n")
    git(tmp_path / "checkout", "init", "-q")
    git(tmp_path / "checkout", "add", ".")
    git(tmp_path / "checkout", "commit", "-qm", "Begin")
    return tmp_path / "checkout"


def code_of(checkout: Path) -> tuple:
    facts = collect(["x"], source=checkout / "package" / "module.py")
    return facts["commit"], facts["dirty"], facts["diff_sha256"]


def test_a_clean_checkout_is_its_commit(checkout):
    (checkout / "ignored").write_text("anything")
    assert code_of(checkout) == (git(checkout, "rev-parse", "HEAD"), False, None)


def test_every_change_makes_another_hash_and_taking_it_back_makes_it_clean(checkout):
    clean = code_of(checkout)
    module = checkout / "package" / "module.py"
    hashes = set()
    module.write_text("x = 2\n")
    hashes.add(code_of(checkout)[2])
    git(checkout, "add", ".")
    assert code_of(checkout)[2] in hashes, "what is staged is the same change"
    module.write_text("x = 3\n")
    hashes.add(code_of(checkout)[2])
    git(checkout, "checkout", "-q", "HEAD", "--", ".")
    new = checkout / "new ü.py"
    for content in ("y = 1\n", "y = 2\n"):
        new.write_text(content)
        hashes.add(code_of(checkout)[2])
    new.rename(checkout / "other.py")
    hashes.add(code_of(checkout)[2])
    (checkout / "other.py").unlink()
    (checkout / "link.py").symlink_to("nowhere")
    hashes.add(code_of(checkout)[2])
    assert len(hashes) == 6
    assert None not in hashes
    (checkout / "link.py").unlink()
    assert code_of(checkout) == clean


def test_a_new_file_that_no_run_can_read_as_code_or_settings_is_no_change(checkout):
    clean = code_of(checkout)
    for name in ("my_prompts.txt", "notes.md", "figure.png"):
        (checkout / name).write_text("a red ball")
    assert code_of(checkout) == clean


def test_a_persons_git_settings_and_environment_change_nothing(checkout, tmp_path, monkeypatch):
    (checkout / "package" / "module.py").write_text("x = 2\n")
    plain = code_of(checkout)
    git(checkout, "config", "diff.noprefix", "true")
    git(checkout, "config", "diff.context", "9")
    git(checkout, "config", "color.ui", "always")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", "false")
    assert code_of(checkout) == plain
    assert plain[1] is True


def test_outside_a_checkout_there_is_no_commit(tmp_path):
    (tmp_path / "module.py").write_text("")
    facts = collect(["x"], source=tmp_path / "module.py")
    assert (facts["commit"], facts["dirty"], facts["diff_sha256"]) == (None, False, None)


def test_an_installed_copy_does_not_take_the_commit_of_the_checkout_it_lies_in(checkout):
    installed = checkout / "ignored"
    installed.mkdir()
    (installed / "module.py").write_text("")
    assert collect(["x"], source=installed / "module.py")["commit"] is None


def test_without_git_there_is_no_commit(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    assert code_of(checkout) == (None, False, None)


def test_the_facts_are_plain_values_of_the_agreed_names():
    facts = collect(["x"])
    assert json.loads(json.dumps(facts)) == facts
    assert set(facts) == {
        "commit",
        "dirty",
        "diff_sha256",
        "versions",
        "cpu",
        "gpu",
        "threads",
        "hostname_hash",
        "load_average",
        "command",
    }
    assert facts["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert facts["versions"]["numpy"]
    assert facts["cpu"]["name"]
    assert facts["cpu"]["cores"] == len(os.sched_getaffinity(0))
    assert len(facts["load_average"]) == 3


def test_the_machines_name_is_hashed(monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "private-name")
    facts = collect(["x"])
    assert "private-name" not in json.dumps(facts)
    monkeypatch.setattr("socket.gethostname", lambda: "other-name")
    assert collect(["x"])["hostname_hash"] != facts["hostname_hash"]


def test_the_command_line_hides_home_folder_working_folder_and_secrets(tmp_path, monkeypatch):
    home, work = tmp_path / "me", tmp_path / "me" / "work"
    work.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(work)
    words = ["python", f"{work}/x.py", f"a={home}/data b", f"b={home}2/data", "tracking.api_key=se cret", "n=3"]
    command = collect(words)["command"]
    assert command == f"python ./x.py 'a=~/data b' b={home}2/data tracking.api_key=... n=3"


def test_a_home_inside_the_working_folder_is_hidden_too(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.chdir(tmp_path)
    assert collect([f"{tmp_path}/me/x", f"{tmp_path}/y"])["command"] == "~/x ./y"


def test_by_default_the_command_is_this_process():
    code = "from svg.provenance import collect, hardware; print(collect()['command'])"
    environment = {**os.environ, "PYTHONPATH": str(Path(svg.__file__).parents[1])}
    run = subprocess.run(
        [sys.executable, "-c", code, "a=1"], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.startswith("python")
    assert run.stdout.rstrip().endswith("a=1")


def test_threads_are_torchs_own_where_it_is_loaded_and_the_environments_where_not():
    code = (
        "import sys; from svg.provenance import collect, hardware; first = collect()['threads']; "
        "assert 'torch' not in sys.modules; import torch; torch.set_num_threads(2); "
        "print(first, collect()['threads'])"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(svg.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["1", "2"]


def test_the_gpu_is_what_the_driver_reports(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA Example, 96 GB, 570.1'\necho 'Other, 570.1'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert collect(["x"])["gpu"] == {"name": "NVIDIA Example, 96 GB", "driver": "570.1"}


def test_a_machine_without_a_gpu_has_none(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed, no driver'\nexit 9\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert collect(["x"])["gpu"] is None


@pytest.mark.parametrize("name", ["torch", "triton", "flash-attn", "flash-attn-4", "fa3-fwd", "nvidia-cutlass-dsl"])
def test_the_version_of_everything_that_computes_attention_decides_a_time(name, monkeypatch):
    monkeypatch.setattr(metadata, "version", lambda asked: "0.0.0" if asked == name else "1.2.3")
    assert hardware("cpu")["versions"][name] == "0.0.0"
