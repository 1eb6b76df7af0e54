"""LPIPS of each frame, with weights from this machine's disk only; never with random ones."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import pickle
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from svg.quality.result import Metric, NotMeasured, Settings
from svg.video import to_float

if TYPE_CHECKING:
    from svg.quality.networks.lpips import LpipsNetwork

TRUNK_DIR_VARIABLE = "LPIPS_TRUNK_DIR"
# As torchvision publishes them: the name ends in the first digits of the file's sha256.
TRUNK_FILES = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}
# Below it the last pooling has nothing to pool.
SMALLEST_SIDES = {"alex": 31, "vgg": 16}
# Frames go through the network in groups of at most this many pixels, which bounds the memory of the features.
PIXELS_AT_ONCE = 2**19


def lpips(video: np.ndarray, reference: np.ndarray, settings: Settings, net: str) -> np.ndarray:
    """Return the LPIPS of each frame (frames,) with the trunk ``net``, ``"alex"`` or ``"vgg"``; 0 is identical.

    The networks see the protocol's range: [-1, 1], on which the heads were fitted, or [0, 1] as the reference
    repository's script feeds them.

    Raises:
        NotMeasured: If the trunk or the heads are not on this machine, or are not what their name says.
        ValueError: If the frames are smaller than the trunk's poolings need.
    """
    network = load(net, settings)
    num_frames, height, width = video.shape[:3]
    smallest = SMALLEST_SIDES[net]
    if min(height, width) < smallest:
        raise ValueError(f"frames are {height}x{width}; lpips_{net} needs at least {smallest}x{smallest} pixels")
    import torch

    def batch(frames: np.ndarray) -> torch.Tensor:
        images = torch.tensor(to_float(frames)).permute(0, 3, 1, 2)
        return images * 2 - 1 if settings.protocol.lpips_range == "[-1, 1]" else images

    size = max(1, PIXELS_AT_ONCE // (height * width))
    groups = [slice(start, start + size) for start in range(0, num_frames, size)]
    distances = [network.distance(batch(video[group]), batch(reference[group])) for group in groups]
    return torch.cat(distances).double().numpy()


def load(net: str, settings: Settings) -> LpipsNetwork:
    """Return the network, kept for the next video.

    Raises:
        NotMeasured: If a file is missing or is not what its name says; the reason ends in the command that mends it.
    """
    heads = _heads_file(net)
    trunk = _trunk_file(net, settings.lpips_trunk_dir)
    return _network(net, trunk, trunk.stat().st_mtime_ns, heads, settings.device)


@lru_cache(maxsize=2)
def _network(net: str, trunk: Path, trunk_changed: int, heads: Path, device: str) -> LpipsNetwork:
    import torch

    from svg.quality.networks.lpips import LpipsNetwork

    with trunk.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    expected = Path(TRUNK_FILES[net]).stem.rpartition("-")[2]
    if not digest.startswith(expected):
        mend = _download_command(net, trunk.parent)
        raise NotMeasured(f"{_shown(trunk)} has sha256 {digest[:8]}..., not {expected}...; delete it, then {mend}")
    try:
        states = [torch.load(path, map_location="cpu", weights_only=True) for path in (trunk, heads)]
        return LpipsNetwork(net, states[0], states[1], device)
    except (ValueError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise NotMeasured(f"the weights of lpips_{net} do not load: {error}", "failed") from error


def _heads_file(net: str) -> Path:
    """Return the linear heads v0.1 in the lpips wheel, which is not imported: it needs torchvision."""
    try:
        files = importlib.metadata.files("lpips") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.parts[-3:] == ("weights", "v0.1", f"{net}.pth"):
            return Path(str(file.locate()))
    raise NotMeasured(
        "the lpips package, which brings the linear heads, is missing: pip install --no-deps lpips==0.1.4"
    )


def _trunk_file(net: str, folder: Path | None) -> Path:
    if folder is not None:
        folders = [folder]
    else:
        import torch

        from_variable = os.environ.get(TRUNK_DIR_VARIABLE)
        folders = [Path(from_variable)] if from_variable else []
        folders.append(Path(torch.hub.get_dir()) / "checkpoints")
    for candidate in folders:
        if (candidate / TRUNK_FILES[net]).is_file():
            return candidate / TRUNK_FILES[net]
    searched = " or ".join(_shown(candidate) for candidate in folders)
    raise NotMeasured(f"backbone weights {TRUNK_FILES[net]} not found in {searched}; {_download_command(net, folder)}")


def _download_command(net: str, folder: Path | None = None) -> str:
    """Return the command that a machine with a network needs; it puts the weights where they are looked for."""
    options = f", model_dir=os.path.expanduser('{_shown(folder)}')" if folder else ""
    address = f"https://download.pytorch.org/models/{TRUNK_FILES[net]}"
    call = f"torch.hub.load_state_dict_from_url('{address}'{options}, check_hash=True)"
    return f'python -c "import os, torch; {call}"'


def _shown(path: Path) -> str:
    """Return a path for people, with ~ for their home folder."""
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)


METRICS = {
    f"lpips_{net}": Metric(f"lpips_{net}", "1", higher_is_better=False, measure=partial(lpips, net=net))
    for net in TRUNK_FILES
}
