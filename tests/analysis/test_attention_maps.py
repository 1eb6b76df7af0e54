"""The example maps: which heads they are of, and that a temporal head is a diagonal once its tokens are reordered."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from analysis import attention_maps
from svg.captures.index import CapturedCall, read_all
from svg.layout import TokenLayout
from tests.fake_captures import write_capture

LAYOUT = TokenLayout(4, 6, num_text_tokens=3, text_position="first")


@pytest.fixture(scope="module")
def captures(tmp_path_factory) -> Path:
    """A capture of heads 2, 5 and 7: of neither kind, spatial, and temporal; the last key is padding."""
    folder = tmp_path_factory.mktemp("captures")
    token = torch.arange(LAYOUT.num_video_tokens)
    own = torch.zeros(3, LAYOUT.seq_len, 10)
    own[1, 3 + token, token // 6] = own[2, 3 + token, 4 + token % 6] = 30.0
    data = save({name: own[None].to(torch.bfloat16) for name in ("query", "key", "value")})
    (folder / "call.safetensors").write_bytes(data)
    call = CapturedCall(
        file="call.safetensors",
        sha256=hashlib.sha256(data).hexdigest(),
        step=1,
        layer=2,
        branch="cond",
        transformer=0,
        layout=LAYOUT,
        key_lengths=[LAYOUT.seq_len - 1],
        item_branches=[],
    )
    write_capture(folder, [call], [2, 5, 7])
    return folder


def test_the_heads_are_the_most_spatial_and_the_most_temporal(captures):
    found = attention_maps.most_spatial_and_temporal(read_all(captures))
    assert [(kind, head.head) for kind, head in found.items()] == [("spatial", 5), ("temporal", 7)]
    assert [head.mass for head in found.values()] == pytest.approx([1.0, 1.0])


def test_a_temporal_head_is_a_diagonal_once_reordered_and_padding_gets_nothing(captures):
    head = attention_maps.most_spatial_and_temporal(read_all(captures))["temporal"]
    query, key = attention_maps._query_and_key(head)
    orders = attention_maps._orders(head.call)
    before, after = (attention_maps.pooled_map(query, key, order) for order in orders.values())
    # Fewer tokens than cells: the map itself.
    assert after.sum(1) == pytest.approx(np.ones(LAYOUT.seq_len))
    place = np.repeat(np.arange(6), 4)
    assert after[3:, 3:][place[:, None] != place].max() < 1e-6
    assert before[3:, 3:][place[:, None] != place].max() > 0.2
    assert before[:, -1].max() == 0


def test_a_long_map_is_pooled_to_means_of_its_cells(monkeypatch):
    query = key = np.zeros((50, 4), np.float32)
    monkeypatch.setattr(attention_maps, "CELLS", 7)
    assert attention_maps.pooled_map(query, key, np.arange(50)) == pytest.approx(np.full((7, 7), 1 / 50))


@pytest.mark.slow
def test_the_figure_is_written_and_a_folder_without_captures_is_refused(captures, tmp_path, capsys):
    assert attention_maps.main([str(captures), "--output", str(tmp_path / "maps")]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"maps.png", "maps.pdf"}
    capsys.readouterr()
    assert attention_maps.main([str(tmp_path), "--output", str(tmp_path / "none")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: captures={tmp_path} holds no captured generation") and error.count("\n") == 1
