"""Moving pictures to measure, and random backbones of the right shape to test arithmetic and files with."""

import hashlib

import numpy as np
import pytest
import torch

import svg.quality.lpips as lpips_module
from svg.quality.networks.lpips import TRUNKS, Convolution


@pytest.fixture
def moving_picture():
    """Return a maker of uint8 videos (frames, height, width, 3): waves that travel, different in each channel."""

    def make(num_frames=3, height=33, width=47, noise=0.0, seed=0):
        frame, row, column, channel = np.ogrid[:num_frames, :height, :width, :3]
        waves = np.sin(0.35 * column + 0.2 * row * (channel + 1) + 0.7 * frame)
        video = 127.5 + 90 * waves + np.random.default_rng(seed).normal(0, noise or 1e-9, waves.shape)
        return np.clip(np.rint(video), 0, 255).astype(np.uint8)

    return make


def make_random_trunk(net):
    """Return a random state dict with the keys and shapes of torchvision's ``features``."""
    generator = torch.Generator().manual_seed(0)
    state, position = {}, 0
    for layer in TRUNKS[net]:
        if isinstance(layer, Convolution):
            shape = (layer.channels_out, layer.channels_in, layer.kernel, layer.kernel)
            deviation = (2 / (layer.channels_in * layer.kernel**2)) ** 0.5
            state[f"features.{position}.weight"] = torch.randn(shape, generator=generator) * deviation
            state[f"features.{position}.bias"] = torch.randn(layer.channels_out, generator=generator) * 0.1
        position += 2 if isinstance(layer, Convolution) else 1
    return state


@pytest.fixture
def random_trunk():
    """Return the maker of random backbones; it returns the same one for the same net."""
    return make_random_trunk


@pytest.fixture(scope="session")
def random_trunks(tmp_path_factory):
    """Write both random backbones once: the folder, and the file name of each with its true digest."""
    folder = tmp_path_factory.mktemp("trunks")
    names = {}
    for net in TRUNKS:
        path = folder / "new.pth"
        torch.save(make_random_trunk(net), path)
        names[net] = f"{net}-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth"
        path.rename(folder / names[net])
    return folder, names


@pytest.fixture
def trunk_dir(random_trunks, monkeypatch):
    """Return a folder whose backbones count as the published ones during the test."""
    folder, names = random_trunks
    monkeypatch.setattr(lpips_module, "TRUNK_FILES", names)
    return folder
