"""The LPIPS distance of Zhang et al. 2018 on AlexNet or VGG-16 features, without torchvision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch.nn.functional import conv2d, max_pool2d


class Convolution(NamedTuple):
    """A convolution and its ReLU; LPIPS compares the features after it where ``is_tap``."""

    channels_in: int
    channels_out: int
    kernel: int
    stride: int
    padding: int
    is_tap: bool


class Pooling(NamedTuple):
    """A max pooling."""

    kernel: int
    stride: int


def _vgg_block(channels_in: int, channels_out: int, depth: int) -> list[Convolution]:
    widths = [channels_in, *[channels_out] * depth]
    return [Convolution(widths[i], widths[i + 1], 3, 1, 1, is_tap=i == depth - 1) for i in range(depth)]


# The networks of Krizhevsky 2014 and Simonyan and Zisserman 2015, up to the last layer that LPIPS looks at.
TRUNKS: dict[str, list[Convolution | Pooling]] = {
    "alex": [
        Convolution(3, 64, 11, 4, 2, is_tap=True),
        Pooling(3, 2),
        Convolution(64, 192, 5, 1, 2, is_tap=True),
        Pooling(3, 2),
        Convolution(192, 384, 3, 1, 1, is_tap=True),
        Convolution(384, 256, 3, 1, 1, is_tap=True),
        Convolution(256, 256, 3, 1, 1, is_tap=True),
    ],
    "vgg": [
        *_vgg_block(3, 64, 2),
        Pooling(2, 2),
        *_vgg_block(64, 128, 2),
        Pooling(2, 2),
        *_vgg_block(128, 256, 3),
        Pooling(2, 2),
        *_vgg_block(256, 512, 3),
        Pooling(2, 2),
        *_vgg_block(512, 512, 3),
    ],
}

# What the published heads were fitted with: mean and deviation of ImageNet on [-1, 1].
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)


class LpipsNetwork:
    """LPIPS v0.1 with linear heads.

    Args:
        net: ``"alex"`` or ``"vgg"``.
        trunk: State dict of the whole backbone with torchvision's keys; only ``features.*`` is used.
        heads: State dict of the linear heads with the lpips package's keys, ``lin0.model.1.weight`` and on.
        device: Where it runs.

    Raises:
        ValueError: If a weight is missing or has another shape.
    """

    def __init__(
        self, net: str, trunk: Mapping[str, torch.Tensor], heads: Mapping[str, torch.Tensor], device: str = "cpu"
    ) -> None:
        self.layers = TRUNKS[net]
        self.device = device
        self.weights: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.heads: list[torch.Tensor] = []
        # Position in torchvision's list of layers, where a ReLU counts as one.
        position = 0
        for layer in self.layers:
            if isinstance(layer, Pooling):
                position += 1
                continue
            shape = (layer.channels_out, layer.channels_in, layer.kernel, layer.kernel)
            weight = _weight(trunk, f"features.{position}.weight", shape)
            bias = _weight(trunk, f"features.{position}.bias", shape[:1])
            self.weights.append((weight.to(device), bias.to(device)))
            position += 2
            if layer.is_tap:
                name = f"lin{len(self.heads)}.model.1.weight"
                self.heads.append(_weight(heads, name, (1, layer.channels_out, 1, 1)).to(device))

    @torch.no_grad()
    def distance(self, images: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
        """Return the distance of each pair (batch,) on the CPU.

        Args:
            images: (batch, 3, height, width) float32; the heads were fitted on values in [-1, 1].
            references: The same shape.
        """
        total = torch.zeros(len(images), device=self.device)
        taps = zip(self._features(images), self._features(references), self.heads, strict=True)
        for features, twins, head in taps:
            total += conv2d((_unit(features) - _unit(twins)) ** 2, head).mean(dim=(1, 2, 3))
        return total.cpu()

    def _features(self, images: torch.Tensor) -> list[torch.Tensor]:
        x = (images.to(self.device) - _channels(SHIFT, self.device)) / _channels(SCALE, self.device)
        taps, weights = [], iter(self.weights)
        for layer in self.layers:
            if isinstance(layer, Pooling):
                x = max_pool2d(x, layer.kernel, layer.stride)
                continue
            x = conv2d(x, *next(weights), stride=layer.stride, padding=layer.padding).relu()
            if layer.is_tap:
                taps.append(x)
        return taps


def _channels(values: tuple[float, ...], device: str) -> torch.Tensor:
    return torch.tensor(values, device=device).view(1, 3, 1, 1)


def _unit(features: torch.Tensor) -> torch.Tensor:
    return features / (features.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)


def _weight(state: Mapping[str, torch.Tensor], name: str, shape: tuple[int, ...]) -> torch.Tensor:
    if name not in state:
        raise ValueError(f"the weights hold no {name}")
    if tuple(state[name].shape) != shape:
        raise ValueError(f"{name} has shape {tuple(state[name].shape)}; this network needs {shape}")
    return state[name].float()
