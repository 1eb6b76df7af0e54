"""LPIPS against the lpips package on a shared trunk, and that no weights means no number."""

import importlib.metadata
import json
import shlex
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

import svg.quality.lpips as lpips_module
from svg.quality import PROTOCOLS, evaluate
from svg.quality.networks.lpips import LpipsNetwork


def alexnet_features():
    return nn.Sequential(
        *(nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(inplace=True)),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(inplace=True)),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)),
    )


def vgg16_features():
    layers, width = [], 3
    for block in ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)):
        for channels in block:
            layers += [nn.Conv2d(width, channels, 3, padding=1), nn.ReLU(inplace=True)]
            width = channels
        layers.append(nn.MaxPool2d(2, 2))
    return nn.Sequential(*layers)


@pytest.fixture
def lpips_package(monkeypatch, random_trunk):
    """Import the lpips package on a stand-in for torchvision that has the random trunks; forget both afterwards."""

    def model(net, features):
        def build(pretrained):
            assert not pretrained
            built = features()
            built.load_state_dict({name.removeprefix("features."): x for name, x in random_trunk(net).items()})
            return SimpleNamespace(features=built)

        return build

    models = ModuleType("torchvision.models")
    models.alexnet, models.vgg16 = model("alex", alexnet_features), model("vgg", vgg16_features)
    torchvision = ModuleType("torchvision")
    torchvision.models = models
    monkeypatch.setitem(sys.modules, "torchvision", torchvision)
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    before = set(sys.modules)
    yield importlib.import_module("lpips")
    for name in set(sys.modules) - before:
        if name.partition(".")[0] == "lpips":
            del sys.modules[name]


@pytest.mark.slow
@pytest.mark.parametrize("net", ["alex", "vgg"])
@pytest.mark.parametrize("value_range", ["[-1, 1]", "[0, 1]"])
def test_it_equals_the_lpips_package_on_a_shared_trunk(lpips_package, random_trunk, net, value_range):
    judge = lpips_package.LPIPS(net=net, pnet_rand=True, verbose=False)
    heads = torch.load(lpips_module._heads_file(net), map_location="cpu", weights_only=True)
    ours = LpipsNetwork(net, random_trunk(net), heads)
    generator = torch.Generator().manual_seed(1)
    images, references = torch.rand(2, 3, 3, 49, 67, generator=generator)
    with torch.no_grad():
        expected = judge(images, references, normalize=value_range == "[-1, 1]").flatten()
    if value_range == "[-1, 1]":
        images, references = images * 2 - 1, references * 2 - 1
    assert expected.min() > 0.01
    assert ours.distance(images, references) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_each_protocol_feeds_its_own_range(moving_picture, random_trunk, trunk_dir, net):
    video, reference = moving_picture(noise=20), moving_picture()
    heads = torch.load(lpips_module._heads_file(net), map_location="cpu", weights_only=True)
    network = LpipsNetwork(net, random_trunk(net), heads)
    x, y = (torch.tensor(each).permute(0, 3, 1, 2) / 255 for each in (video, reference))
    for name, pair in {"standard": (x * 2 - 1, y * 2 - 1), "upstream": (x, y)}.items():
        settings = lpips_module.Settings(PROTOCOLS[name], lpips_trunk_dir=trunk_dir)
        measured = lpips_module.lpips(video, reference, settings, net)
        assert measured == pytest.approx(network.distance(*pair), abs=1e-6)


def test_groups_of_frames_do_not_change_the_values(moving_picture, trunk_dir, monkeypatch):
    measure = {"metrics": ["lpips_alex"], "lpips_trunk_dir": trunk_dir}
    [at_once] = evaluate(moving_picture(5, noise=9), moving_picture(5), **measure)
    monkeypatch.setattr(lpips_module, "PIXELS_AT_ONCE", 2 * 33 * 47)
    [in_groups] = evaluate(moving_picture(5, noise=9), moving_picture(5), **measure)
    assert at_once.status == "ok"
    assert at_once.n == 5
    assert in_groups.per_frame == pytest.approx(at_once.per_frame, abs=1e-6)


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_without_the_backbone_it_is_unavailable_with_the_command_that_fixes_it(moving_picture, tmp_path, net):
    [result] = evaluate(moving_picture(), moving_picture(), [f"lpips_{net}"], lpips_trunk_dir=tmp_path)
    assert (result.status, result.value, result.per_frame, result.n) == ("unavailable", None, None, 0)
    assert f"backbone weights {lpips_module.TRUNK_FILES[net]} not found in {tmp_path}" in result.reason
    [python, flag, code] = shlex.split(result.reason.partition("; ")[2])
    assert (python, flag) == ("python", "-c")
    asked = run_with_recorded_download(code)
    assert asked["url"].endswith(f"/{lpips_module.TRUNK_FILES[net]}")
    assert asked["model_dir"] == str(tmp_path)
    assert asked["check_hash"] is True


def run_with_recorded_download(code):
    """Run a command's code where torch.hub's download prints its arguments, and return them."""
    record = "lambda url, **options: print(json.dumps(options | {'url': url}))"
    prelude = f"import json, torch; torch.hub.load_state_dict_from_url = {record}; "
    done = subprocess.run([sys.executable, "-c", prelude + code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_backbones_are_found_by_variable_then_in_the_hub(moving_picture, trunk_dir, tmp_path, monkeypatch):
    def status():
        return evaluate(moving_picture(), moving_picture(noise=9), ["lpips_alex"])[0].status

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub_is_here"))
    monkeypatch.delenv("LPIPS_TRUNK_DIR", raising=False)
    assert status() == "unavailable"
    monkeypatch.setenv("LPIPS_TRUNK_DIR", str(trunk_dir))
    assert status() == "ok"
    monkeypatch.delenv("LPIPS_TRUNK_DIR")
    checkpoints = tmp_path / "hub_is_here" / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / lpips_module.TRUNK_FILES["alex"]).symlink_to(trunk_dir / lpips_module.TRUNK_FILES["alex"])
    assert status() == "ok"


def test_a_backbone_that_is_not_what_its_name_says_is_refused(moving_picture, random_trunk, tmp_path):
    torch.save(random_trunk("alex"), tmp_path / "alexnet-owt-7be5be79.pth")
    [result] = evaluate(moving_picture(), moving_picture(), ["lpips_alex"], lpips_trunk_dir=tmp_path)
    assert (result.status, result.value) == ("unavailable", None)
    assert "not 7be5be79" in result.reason
    assert "delete it, then python -c" in result.reason


def test_without_the_lpips_wheel_it_is_unavailable(moving_picture, trunk_dir, monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", missing)
    [result] = evaluate(moving_picture(), moving_picture(), ["lpips_vgg"], lpips_trunk_dir=trunk_dir)
    assert result.status == "unavailable"
    assert result.reason.endswith("pip install --no-deps lpips==0.1.4")


@pytest.mark.parametrize(("net", "smallest"), [("alex", 31), ("vgg", 16)])
def test_frames_too_small_for_the_poolings_are_an_error_that_says_so(moving_picture, trunk_dir, net, smallest):
    def measure(side):
        return evaluate(
            moving_picture(1, side, side), moving_picture(1, side, side), [f"lpips_{net}"], lpips_trunk_dir=trunk_dir
        )

    assert measure(smallest)[0].value == 0
    with pytest.raises(ValueError, match=f"needs at least {smallest}x{smallest} pixels"):
        measure(smallest - 1)


def test_weights_of_another_network_are_named(random_trunk):
    trunk = random_trunk("alex")
    with pytest.raises(ValueError, match=r"features\.0\.weight has shape \(64, 3, 11, 11\)"):
        LpipsNetwork("vgg", trunk, {})
    del trunk["features.3.bias"]
    heads = {"lin0.model.1.weight": torch.zeros(1, 64, 1, 1)}
    with pytest.raises(ValueError, match=r"the weights hold no features\.3\.bias"):
        LpipsNetwork("alex", trunk, heads)


def test_measuring_loads_neither_torchvision_nor_the_lpips_package():
    code = """
import sys, numpy as np
from svg.quality import PROTOCOLS, evaluate
evaluate(np.zeros((1, 32, 32, 3)), np.zeros((1, 32, 32, 3)), ["lpips_alex", "lpips_vgg"], lpips_trunk_dir="/")
print(sorted({"torchvision", "lpips"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
