"""What methods compute with, against the definition in float64."""

from __future__ import annotations

import pytest
import torch

from svg import operations
from svg.operations import TorchOperations

BATCH, HEADS, LENGTH, DIM = 2, 3, 23, 8


def tensors(dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, BATCH, HEADS, LENGTH, DIM, generator=generator, dtype=torch.float64).to(dtype).unbind()


def probabilities(query, key, keep=None, key_lengths=None):
    scores = query.double() @ key.double().transpose(-1, -2) / DIM**0.5
    if keep is not None:
        scores = scores.masked_fill(~keep, -torch.inf)
    if key_lengths is not None:
        scores = scores.masked_fill((torch.arange(LENGTH) >= key_lengths[:, None])[:, None, None], -torch.inf)
    return scores.softmax(-1)


def some_keeps(rows: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    keeps = [torch.rand(rows, LENGTH, generator=generator) < share for share in (0.3, 0.8)]
    for keep in keeps:
        keep[:, 0] = True
    return keeps


@pytest.mark.parametrize("key_lengths", [None, torch.tensor([LENGTH, 9])], ids=["whole", "padded"])
def test_errors_are_mean_squares_over_rows_and_channels(key_lengths):
    query, key, value = tensors()
    rows = torch.tensor([4, 0, 22, 4])
    keeps = some_keeps(4)
    found = TorchOperations().pattern_errors(query[:, :, rows], key, value, keeps, torch.float64, key_lengths)
    full = probabilities(query[:, :, rows], key, None, key_lengths) @ value
    for error, keep in zip(found, keeps, strict=True):
        masked = probabilities(query[:, :, rows], key, keep, key_lengths) @ value
        assert torch.allclose(error, (masked - full).square().mean((-1, -2)), rtol=1e-10)


def test_a_row_without_a_kept_key_counts_as_zero_output_or_as_nan_as_in_the_reference_code():
    query, key, value = tensors()
    nothing = torch.zeros(LENGTH, LENGTH, dtype=torch.bool)
    full = probabilities(query, key) @ value
    error = TorchOperations().pattern_errors(query, key, value, [nothing], torch.float64)[0]
    assert torch.allclose(error, full.square().mean((-1, -2)), rtol=1e-10)
    assert TorchOperations().pattern_errors(query, key, value, [nothing], None).isnan().all()


def test_both_ways_to_an_error_agree():
    query, key, value = tensors()
    found = [TorchOperations().pattern_errors(query, key, value, some_keeps(LENGTH), x) for x in (torch.float64, None)]
    assert torch.allclose(*found, rtol=1e-10)


def test_a_pattern_that_keeps_everything_has_no_error():
    query, key, value = tensors()
    keeps = [torch.ones(LENGTH, LENGTH, dtype=torch.bool)]
    assert not TorchOperations().pattern_errors(query, key, value, keeps).any()


@pytest.mark.parametrize(("given", "dtype"), [(torch.float32, torch.float32), (None, torch.bfloat16)])
def test_errors_have_the_precision_asked_for_and_none_means_the_inputs_own(given, dtype):
    errors = TorchOperations().pattern_errors(*tensors(torch.bfloat16), some_keeps(LENGTH), given)
    assert errors.dtype == dtype


def test_the_inputs_of_pattern_errors_stay_as_they_were():
    query, key, value = tensors()
    copies = query.clone(), key.clone(), value.clone()
    TorchOperations().pattern_errors(query, key, value, some_keeps(LENGTH), None, torch.tensor([5, 7]))
    assert all(torch.equal(x, y) for x, y in zip((query, key, value), copies, strict=True))


@pytest.mark.parametrize("scores_at_a_time", [1, 2 * BATCH * HEADS * LENGTH * 5, 10**9])
@pytest.mark.parametrize("key_lengths", [None, torch.tensor([LENGTH, 9])], ids=["whole", "padded"])
def test_mass_is_the_probability_that_falls_into_each_tile(monkeypatch, scores_at_a_time, key_lengths):
    monkeypatch.setattr(operations, "MOST_SCORES_CPU", scores_at_a_time)
    query, key, _ = tensors()
    query_offsets, key_offsets = torch.tensor([0, 5, 6, 13, 23]), torch.tensor([0, 1, 10, 23])
    mass = TorchOperations().tile_mass(query, key, query_offsets, key_offsets, key_lengths)
    exact = probabilities(query, key, None, key_lengths)
    for row in range(4):
        for column in range(3):
            queries = slice(query_offsets[row], query_offsets[row + 1])
            tile = exact[:, :, queries, key_offsets[column] : key_offsets[column + 1]]
            assert torch.allclose(mass[:, :, row, column].double(), tile.sum((-1, -2)), atol=1e-6)


def test_a_row_of_tiles_holds_as_much_mass_as_it_has_queries():
    query, key, _ = tensors()
    offsets = torch.tensor([0, 4, 8, 12, 16, 20, 23])
    mass = TorchOperations().tile_mass(query, key, offsets, offsets)
    assert torch.allclose(mass.sum(-1), offsets.diff().float().expand(BATCH, HEADS, -1), atol=1e-5)
