"""A launch starts on the GPU that holds its tensors, whichever GPU is current."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from triton.tools.tensor_descriptor import TensorDescriptor

from svg_kernels.launch import Launch


class Kernel:
    """Notes on which GPU it is started."""

    def __init__(self, events: list[object]) -> None:
        self.events = events

    def __getitem__(self, grid):
        return lambda **arguments: self.events.append(sorted(arguments))


@pytest.fixture
def events(monkeypatch):
    events: list[object] = []

    @contextmanager
    def device(chosen):
        events.append(chosen)
        yield
        events.append("left")

    monkeypatch.setattr(torch.cuda, "device", device)
    return events


@pytest.mark.parametrize("is_described", [False, True])
def test_a_kernel_is_started_on_the_gpu_of_its_first_tensor_there(is_described, events):
    with FakeTensorMode():
        x, host = torch.empty(4, 16, device="cuda:1"), torch.empty(3)
    given = TensorDescriptor(x, [4, 16], [16, 1], [4, 16]) if is_described else x
    Launch(Kernel(events), (1,), {"count": 3, "host": host, "none": None, "x": given}).run()
    assert events == [torch.device("cuda", 1), ["count", "host", "none", "x"], "left"]


def test_on_a_cpu_no_gpu_is_asked_for(events):
    Launch(Kernel(events), (1,), {"x": torch.empty(3), "count": 3}).run()
    assert events == [["count", "x"]]
