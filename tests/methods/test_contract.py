"""What every method must keep to. Walks ``conf/method`` and ``svg/methods``: a new one is covered when it is added."""

from __future__ import annotations

import importlib
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path

import pytest
import torch
import yaml

import svg
from svg.backends.reference import ReferenceBackend
from svg.layout import TokenLayout
from svg.method import SparseMethod
from svg.plan import AttentionInputs
from tests.methods.helpers import context_of, inputs_of, kept_by_head, masked_attention, random_inputs, random_tensors

SETTINGS = {
    path.stem: yaml.safe_load(path.read_text())
    for path in sorted((Path(__file__).parents[2] / "conf" / "method").glob("*.yaml"))
}
FILES = sorted(path.stem for path in (Path(svg.__file__).parent / "methods").glob("*.py") if path.stem != "__init__")

# Layout, tile size, and a density that text, first frame and diagonal leave room for.
CASES = {
    "odd": (TokenLayout(3, 5), 1, 0.6),
    "tiles of three": (TokenLayout(4, 7), 3, 0.7),
    "text last": (TokenLayout(4, 6, 7), 1, 0.8),
    "text first": (TokenLayout(4, 6, 7, "first"), 3, 0.9),
    "ragged": (TokenLayout(5, 33), 16, 0.6),
    "more frames than places": (TokenLayout(9, 4), 1, 0.4),
    "one frame": (TokenLayout(1, 9), 3, 1.0),
    "one token": (TokenLayout(1, 1), 1, 1.0),
    "shorter than a tile": (TokenLayout(2, 5), 128, 1.0),
}
# These read the tiles that they chose back to the host, as a block mask is built there.
CHOOSES_TILES = ("random_blocks", "random_blocks_pure", "oracle_blocks")


def method_of(name: str, **settings: object):
    """Return the method of a settings file, null for its own defaults, as the runner makes it."""
    given = {key: value for key, value in SETTINGS[name].items() if key != "_target_" and value is not None}
    module, _, class_name = SETTINGS[name]["_target_"].rpartition(".")
    method_class = getattr(importlib.import_module(module), class_name)
    known = {field.name for field in fields(method_class)}
    return method_class(**given | {key: value for key, value in settings.items() if key in known})


def method_for(name: str, case: str):
    layout, block_size, density = CASES[case]
    return method_of(name, density=density, block_size=block_size), layout


SPARSE = [name for name in SETTINGS if isinstance(method_of(name, density=0.5), SparseMethod)]

every_method = pytest.mark.parametrize("name", SETTINGS)
every_sparse_method = pytest.mark.parametrize("name", SPARSE)
every_case = pytest.mark.parametrize("case", CASES)


def test_every_file_of_methods_has_settings_and_all_settings_are_those_of_a_file():
    homes = {settings["_target_"].split(".")[2] for settings in SETTINGS.values()}
    assert homes == set(FILES)


@every_method
def test_settings_name_every_field_and_no_other(name):
    module, _, class_name = SETTINGS[name]["_target_"].rpartition(".")
    known = {field.name for field in fields(getattr(importlib.import_module(module), class_name))}
    assert set(SETTINGS[name]) - {"_target_"} == known


@every_method
def test_a_method_is_frozen(name):
    with pytest.raises(FrozenInstanceError):
        method_of(name, density=0.5).density = 0.1


@every_method
@every_case
def test_a_plan_fits_its_call(name, case):
    method, layout = method_for(name, case)
    plan = method.plan(random_inputs(layout, batch=2), context_of(layout))
    rows, columns = plan.assignment.shape
    assert rows in (1, 2)
    assert columns in (1, 3)
    assert set(plan.assignment.flatten().tolist()) <= set(range(len(plan.patterns)))
    for pattern in plan.patterns:
        for order in (pattern.query_order, pattern.key_order):
            assert order is None or torch.equal(order.sort().values, torch.arange(layout.seq_len))
        assert pattern.mask is None or (pattern.mask.query_len, pattern.mask.key_len) == (layout.seq_len,) * 2


@every_method
@every_case
def test_every_query_keeps_a_key(name, case):
    method, layout = method_for(name, case)
    plan = method.plan(random_inputs(layout, batch=2), context_of(layout))
    assert kept_by_head(plan, 2, 3, layout.seq_len).any(-1).all()


@every_method
@every_case
def test_a_plan_computed_in_its_own_order_is_masked_attention_in_the_original_one(name, case):
    method, layout = method_for(name, case)
    tensors = [x.double() for x in random_tensors(layout, batch=2)]
    plan = method.plan(inputs_of(*tensors), context_of(layout))
    output = plan.restore(ReferenceBackend()(*plan.arrange(*tensors), plan))
    expected = masked_attention(*tensors, kept_by_head(plan, 2, 3, layout.seq_len))
    assert torch.allclose(output, expected, atol=1e-12)


@every_sparse_method
@every_case
def test_no_more_is_kept_than_the_density_asked_for(name, case):
    method, layout = method_for(name, case)
    plan = method.plan(random_inputs(layout), context_of(layout))
    token, tile = (float(share) for share in plan.density(layout.seq_len))
    kept = kept_by_head(plan, 1, 3, layout.seq_len).double().mean().item()
    assert token == pytest.approx(kept)
    assert token <= method.density + 1e-9
    assert token <= tile


@every_sparse_method
def test_a_longer_sequence_gets_the_density_asked_for_to_half_a_percent(name):
    layout = TokenLayout(7, 48, 5)
    method = method_of(name, density=0.45, block_size=8)
    plan = method.plan(random_inputs(layout), context_of(layout))
    token, tile = (float(share) for share in plan.density(layout.seq_len))
    assert token == pytest.approx(0.45, abs=0.005)
    assert tile == pytest.approx(token, abs=0.005 if getattr(method, "rounding", "tile") == "tile" else 0.1)


@every_sparse_method
@pytest.mark.parametrize("case", ["odd", "text last", "ragged", "one token"])
def test_all_kept_is_full_attention(name, case):
    layout, block_size, _ = CASES[case]
    method = method_of(name, density=1.0, block_size=block_size)
    tensors = [x.double() for x in random_tensors(layout)]
    plan = method.plan(inputs_of(*tensors), context_of(layout))
    output = plan.restore(ReferenceBackend()(*plan.arrange(*tensors), plan))
    everything = torch.ones(layout.seq_len, layout.seq_len, dtype=torch.bool)
    assert torch.allclose(output, masked_attention(*tensors, everything), atol=1e-12)
    assert [float(share) for share in plan.density(layout.seq_len)] == [1.0, 1.0]


@every_method
def test_keys_past_an_items_length_get_no_attention(name):
    layout = TokenLayout(4, 6, 7)
    tensors = [x.double() for x in random_tensors(layout, batch=2)]
    lengths = torch.tensor([31, 27])
    method = method_of(name, density=0.8, block_size=1, num_sampled_rows=31)
    plan = method.plan(inputs_of(*tensors, lengths), context_of(layout))
    assert torch.equal(plan.key_lengths, lengths)

    query, key, value = (x.clone() for x in tensors)
    key[1, :, 27:], value[1, :, 27:] = 100.0, 100.0
    changed = method.plan(inputs_of(query, key, value, lengths), context_of(layout))
    assert torch.equal(changed.assignment, plan.assignment)
    before = ReferenceBackend()(*plan.arrange(*tensors), plan)
    after = ReferenceBackend()(*changed.arrange(query, key, value), changed)
    assert torch.equal(before[0], after[0])
    assert torch.allclose(plan.restore(before)[1], changed.restore(after)[1], atol=1e-12)


@every_method
def test_the_same_seed_step_and_layer_give_the_same_plan_and_the_global_generator_is_untouched(name):
    layout = TokenLayout(5, 33)
    method, inputs = method_of(name, density=0.6, block_size=4, num_sampled_rows=3), random_inputs(layout, batch=2)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = method.plan(inputs, context_of(layout, seed=8))
    torch.rand(7)
    second = method.plan(inputs, context_of(layout, seed=8))
    torch.manual_seed(3)
    assert torch.equal(torch.get_rng_state(), state)
    method.plan(inputs, context_of(layout, seed=8))
    assert torch.equal(torch.get_rng_state(), state)
    kept = [kept_by_head(plan, 2, 3, layout.seq_len) for plan in (first, second)]
    assert torch.equal(*kept)


@every_method
def test_the_tensors_that_a_method_is_handed_stay_as_they_were(name):
    layout = TokenLayout(5, 33)
    tensors = random_tensors(layout)
    inputs, before = inputs_of(*tensors), [x.clone() for x in tensors]
    method_of(name, density=0.6, block_size=4).plan(inputs, context_of(layout))
    after = inputs.query(), inputs.key(), inputs.value()
    assert all(torch.equal(x, y) for x, y in zip(after, before, strict=True))


@pytest.mark.parametrize("name", [name for name in SETTINGS if name not in CHOOSES_TILES])
def test_a_plan_is_made_without_reading_a_value_from_the_device(name):
    layout = TokenLayout(5, 33)
    tensors = torch.empty(3, 2, 3, layout.seq_len, 8, device="meta").unbind()
    plan = method_of(name, density=0.6, block_size=4).plan(inputs_of(*tensors), context_of(layout))
    assert plan.assignment.device.type in ("meta", "cpu")


@pytest.mark.gpu
@every_method
def test_a_plan_made_on_a_gpu_keeps_what_one_made_on_the_cpu_keeps(name):
    layout = TokenLayout(9, 120)
    tensors = random_tensors(layout, batch=2)
    method = method_of(name, density=0.4, block_size=16)
    on_cpu = method.plan(inputs_of(*tensors), context_of(layout))
    on_gpu = method.plan(inputs_of(*(x.cuda() for x in tensors)), context_of(layout))
    kept = [kept_by_head(replace(plan, assignment=plan.assignment.cpu()), 2, 3, 1080) for plan in (on_cpu, on_gpu)]
    # Tiles of nearly equal mass may change places with the rounding of the GPU's sums.
    assert (kept[0] != kept[1]).double().mean() < (1e-3 if name == "oracle_blocks" else 1e-9)
    output = on_gpu.restore(ReferenceBackend()(*on_gpu.arrange(*(x.cuda() for x in tensors)), on_gpu))
    assert torch.allclose(output.cpu(), masked_attention(*tensors, kept[1]), atol=1e-4)


@every_method
def test_a_method_plans_in_half_precision(name):
    layout = TokenLayout(5, 33)
    tensors = [x.bfloat16() for x in random_tensors(layout)]
    plan = method_of(name, density=0.6, block_size=4).plan(inputs_of(*tensors), context_of(layout))
    assert kept_by_head(plan, 1, 3, layout.seq_len).any(-1).all()


# What a user can set wrongly.


@every_sparse_method
@pytest.mark.parametrize("knob", ["sparsity", "density"])
@pytest.mark.parametrize("value", [0.0, -0.25, 1.5, float("nan")])
def test_a_fraction_outside_its_range_is_refused(name, knob, value):
    with pytest.raises(ValueError, match=rf"method\.{knob}.*is {value}.*\(0, 1\]"):
        method_of(name, **{knob: value})


@every_sparse_method
def test_sparsity_and_density_together_are_refused(name):
    with pytest.raises(ValueError, match=r"method\.sparsity=0\.2 and method\.density=0\.3.*one of them"):
        method_of(name, sparsity=0.2, density=0.3)


@every_sparse_method
def test_neither_sparsity_nor_density_is_refused_when_it_is_needed(name):
    layout = TokenLayout(3, 5)
    with pytest.raises(ValueError, match=r"method\.sparsity is not given"):
        method_of(name, block_size=1).plan(random_inputs(layout), context_of(layout))


@every_sparse_method
def test_a_density_below_what_text_and_sink_keep_is_refused(name):
    layout = TokenLayout(4, 6, 7)
    method = method_of(name, density=0.3, block_size=1)
    with pytest.raises(ValueError, match=r"method\.sparsity.*is 0\.3, but text.*alone keep 0\.\d+.*raise it"):
        method.plan(random_inputs(layout), context_of(layout))


@every_sparse_method
@pytest.mark.parametrize(
    ("knob", "value", "rule"),
    [
        ("first_times_fp", -0.1, r"\[0, 1\]"),
        ("first_times_fp", 1.1, r"\[0, 1\]"),
        ("first_layers_fp", 2, r"\[0, 1\]"),
        ("threshold_rule", "old", "step_index"),
        ("block_size", 0, "at least 1"),
        ("query_block_size", 0, "at least 1"),
        ("sink", "last_frame", "first_frame"),
        ("rounding", "up", "ceil128"),
        ("key_order", "random", "sink_first"),
        ("spatial_unit", "pixel", "frame"),
    ],
)
def test_a_setting_outside_its_range_is_refused(name, knob, value, rule):
    with pytest.raises(ValueError, match=rf"method\.{knob} is '?{value}'?.*{rule}"):
        method_of(name, density=0.5, **{knob: value})


def test_the_inputs_of_these_tests_are_those_of_the_library():
    inputs = random_inputs(TokenLayout(3, 5))
    rows = torch.tensor([4, 0])
    assert isinstance(inputs, AttentionInputs)
    assert torch.equal(inputs.query_rows(rows), inputs.query()[:, :, rows])
