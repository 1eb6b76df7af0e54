"""Every kernel against its reference: in the interpreter or on a GPU, and compiled for GPUs that are not there."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import svg_kernels
from svg_kernels import block_sparse_attention, fp8_attention, fp8_inputs, fp8_model, norm_rope
from svg_kernels.spec import MOST_ROUNDINGS, allowed_errors, as_dtype, errors

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent.parent
CASES = [(name, case) for name, spec in svg_kernels.specs().items() for case in spec.cases]
IDS = [f"{name}-{index}" for index, (name, _) in enumerate(CASES)]


def assert_close(name: str, case: dict, dtype: torch.dtype, device: str):
    """At most twice the error of eager PyTorch in the same precision, or a few roundings, both against float64."""
    spec = svg_kernels.specs()[name]
    inputs = spec.inputs(case, dtype, torch.device(device))
    major, minor = torch.cuda.get_device_capability() if device == "cuda" else (8, 0)
    outputs = spec.run(inputs, 10 * major + minor)
    exact = spec.reference(as_dtype(inputs, torch.float64), None)
    greatest, mean = errors(outputs, exact)
    allowed_greatest, allowed_mean = allowed_errors(spec.reference(inputs, None), exact)
    assert greatest <= allowed_greatest
    assert mean <= allowed_mean


def test_a_reference_that_rounds_by_luck_allows_a_few_roundings_and_one_that_moves_data_allows_nothing():
    exact = (torch.tensor([8.0, 2.0], dtype=torch.float64),)
    assert allowed_errors((exact[0] + 1,), exact) == (2, 2)
    lucky = (exact[0] + 1e-12,)
    eps = torch.finfo(torch.float32).eps
    assert allowed_errors(lucky, exact) == pytest.approx((MOST_ROUNDINGS * 8 * eps, MOST_ROUNDINGS * 34**0.5 * eps))
    assert allowed_errors(exact, exact) == (0, 0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the GPU test covers it")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(("name", "case"), CASES, ids=IDS)
def test_a_kernel_in_the_interpreter_equals_its_reference(name, case, dtype):
    assert_close(name, case, dtype, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("name", "case"), CASES, ids=IDS)
def test_a_kernel_on_a_gpu_equals_its_reference(name, case, dtype):
    major, minor = torch.cuda.get_device_capability()
    if (least := svg_kernels.specs()[name].least_capability) > 10 * major + minor:
        pytest.skip(f"{name} needs a GPU of compute capability {least / 10}")
    assert_close(name, case, dtype, "cuda")


def compile_ahead(*arguments: str) -> str:
    """Compile in a process of its own: in this one Triton interprets."""
    environment = {**os.environ, "TRITON_INTERPRET": "0", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels'}"}
    command = [sys.executable, "-m", "svg_kernels.ahead", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("capability", "dtype"),
    # 86, 89 and 120 have equal shared memory; float32's settings are the same for every GPU.
    [*((capability, "bfloat16") for capability in (80, 89, 90, 100, 120)), (86, "float32")],
)
def test_kernels_compile_for_gpus_that_are_not_there_and_fit_their_shared_memory(capability, dtype):
    lines = compile_ahead("--capability", str(capability), "--dtype", dtype).splitlines()
    able = {name for name, spec in svg_kernels.specs().items() if capability >= spec.least_capability}
    assert {line.split()[0] for line in lines} == able
    for head_dim in (64, 128, 256):
        assert any(f"{head_dim})," in line for line in lines if line.startswith("block_sparse_attention"))
    # Where two programs that fill each other's gaps are the faster way, one's products wait for one another.
    masked = [
        line
        for line in lines
        if line.split()[0].endswith("attention") and ("'exact': True" in line or "lengths" in line)
    ]
    assert masked and not any(" serial " in line for line in masked)
    whole_tiles = [line for line in lines if line.startswith("fp8") and "'exact': True" not in line]
    assert not any(" spills " in line for line in whole_tiles)
    if capability == 90:
        # Warpgroups that share tiles keep two products running at once.
        shared = [line for line in lines if " warpgroup_program " in line]
        assert len(shared) == 10 and not any(word in line for line in shared for word in (" serial ", " spills "))


@pytest.mark.skipif(torch.cuda.is_available(), reason="Triton interprets on the CPU alone")
@pytest.mark.parametrize("block_queries", [16, 32])
@pytest.mark.parametrize("is_fp8", [False, True])
def test_only_rows_that_outgrew_their_base_are_computed_anew(block_queries, is_fp8):
    case = {"shape": (2, 2, 70, 64), "tile": 32, "density": 0.5, "exact": False}
    inputs = block_sparse_attention.SPEC.inputs(case, torch.float32, torch.device("cpu"))
    settings = block_sparse_attention.Settings(block_queries, 32, 4, 2)
    marks = torch.zeros(2, 2, 3, 2, dtype=torch.int32)
    marks[0, 1, 2, 0] = marks[1, 0, 0, 1] = 1
    outgrown = torch.cat([marks.new_ones(1), marks.flatten()])
    output = torch.full_like(inputs["query"], torch.nan)
    if is_fp8:
        found, launches = fp8_inputs.prepare(inputs["key"], inputs["value"], wide_values=True)
        others = (inputs[name] for name in ("lists", "assignment", "lengths"))
        launches.append(fp8_attention.prepare(inputs["query"], found, output, *others, settings, outgrown))
        given = {**inputs, "score_type": "e4m3", "wide_values": True}
        (expected,) = fp8_attention.SPEC.reference(given, None)
    else:
        launches = [block_sparse_attention.prepare(**inputs, output=output, settings=settings, outgrown=outgrown)]
        (expected,) = block_sparse_attention.SPEC.reference(inputs, None)
    for launch in launches:
        launch.run()
    is_computed = torch.zeros(2, 2, 70, dtype=torch.bool)
    is_computed[0, 1, 64:] = is_computed[1, 0, :32] = True
    assert torch.equal(output.isnan().all(-1), ~is_computed)
    torch.testing.assert_close(output[is_computed], expected[is_computed], rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(torch.cuda.is_available(), reason="Triton interprets on the CPU alone")
def test_queries_rounded_by_a_pass_of_their_own_are_those_of_the_model():
    tokens_first = torch.randn(2, 131, 3, 64, generator=torch.Generator().manual_seed(0))
    query = tokens_first.transpose(1, 2)
    rows, scales, launch = fp8_inputs.prepare_queries(query)
    launch.run()
    expected, back = fp8_model.rounded_query(query)
    found, expected = rows[:, :, :131].float(), expected.float()
    # Sums in another order: here and there a number between two of e4m3 falls to the other one.
    assert (found != expected).float().mean() < 1e-3
    torch.testing.assert_close(found, expected, rtol=0.125, atol=0.01)
    # The model's have the softmax's own factors in them.
    torch.testing.assert_close(scales[:, :, :131] * (64**-1.5 * fp8_model.LOG2_E), back)


@pytest.mark.gpu
def test_scores_far_above_those_of_the_first_tile_are_as_exact_as_with_a_running_maximum():
    if torch.cuda.get_device_capability()[0] != 9:
        pytest.skip("needs Hopper")
    case = {"shape": (1, 2, 1300, 128), "tile": 128, "density": 0.4, "exact": False, "key_scale": 300}
    inputs = block_sparse_attention.SPEC.inputs(case, torch.bfloat16, torch.device("cuda"))
    output = torch.empty_like(inputs["query"])
    first, again = block_sparse_attention.fastest(**inputs, output=output, capability=90)
    outputs = []
    for launches in ([first, again], [replace(again, arguments={**again.arguments, "outgrown": None})]):
        output.fill_(torch.nan)
        for launch in launches:
            launch.run()
        outputs.append(output.clone())
    # Not all: rows that kept to their base are the first program's.
    has_any, *marks = first.arguments["outgrown"].tolist()
    marked = sum(marks) / len(marks)
    assert has_any and 0.5 < marked < 1
    torch.testing.assert_close(*outputs, rtol=1e-2, atol=1e-2)


def test_a_norm_over_all_heads_has_no_bias_and_is_the_same_for_text():
    x, weight = torch.randn(1, 5, 32), torch.ones(32)
    norm = norm_rope.Norm("rms_all", weight)
    for more in ({"norm": norm, "text_norm": norm_rope.Norm("rms_all", weight)}, {"norm": replace(norm, bias=weight)}):
        with pytest.raises(ValueError, match="no bias, and is the same for text"):
            norm_rope.prepare(x, 2, rotation=None, **more)
