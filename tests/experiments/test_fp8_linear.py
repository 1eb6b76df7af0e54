"""Linear layers in FP8: which ones, how exact, told apart in records and plans, and refused where that cannot be."""

from __future__ import annotations

import copy
import importlib.util
import re
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from analysis import load
from experiments import fp8_linear, planning, step_planning
from experiments.forecasting import forecast
from experiments.identity import Names
from experiments.loading import load_pipeline
from experiments.one_step import build_step
from experiments.schema import PlanConfig, StepConfig
from svg import attach, backends
from svg.cost.memory import weight_bytes
from svg.methods.dense import Dense
from svg.models import adapter_named
from svg.results import list_runs, read_run
from tests.experiments.conftest import composed, planned
from tests.experiments.test_compiled_runs import STEP

has_torchao = importlib.util.find_spec("torchao") is not None
with_torchao = pytest.mark.skipif(not has_torchao, reason="torchao is not installed; `make setup-torchao` adds it")
FP8 = ("model.linear_precision=fp8", "model.dtype=bfloat16")
CPU = torch.device("cpu")
# Greatest value of e4m3.
MOST = 448.0


@pytest.fixture
def installed(monkeypatch):
    """Let settings be checked as if torchao were there."""
    monkeypatch.setattr(fp8_linear, "find_spec", lambda name: name)
    monkeypatch.setattr(fp8_linear, "version_of", lambda name: "0.18.0")


def chosen(transformer: torch.nn.Module, pipeline: str) -> set[str]:
    return {name for name, _ in transformer.named_modules() if fp8_linear._is_chosen(name, pipeline)}


def quantised(transformer: torch.nn.Module) -> set[str]:
    layers = (pair for pair in transformer.named_modules() if isinstance(pair[1], torch.nn.Linear))
    return {name for name, layer in layers if is_traceable_wrapper_subclass(layer.weight)}


def rounded(rows: torch.Tensor, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """Return rows rounded to e4m3, each with a scale of its own, which is rounded to ``dtype``; in float64."""
    scale = (rows.abs().amax(-1, keepdim=True).to(dtype) / MOST).float().clamp(min=1e-20)
    return (rows.float() / scale).clamp(-MOST, MOST).to(torch.float8_e4m3fn).double() * scale.double()


def planned_step(*settings: str, of: str = "tiny_wan") -> step_planning.StepPlan:
    config = composed(*STEP, f"model={of}", *settings, config_name="step_latency", settings=StepConfig)
    return step_planning.check(config, Names(of, "svg"))


def forecast_of(*settings: str) -> dict:
    config = composed(*settings, config_name="plan", settings=PlanConfig)
    return forecast(config, Names("hunyuan_video_t2v", "svg"))


@pytest.mark.parametrize(
    ("model", "more"),
    [
        ("hunyuan_video_t2v", ("transformer.diffusers.num_layers=1", "transformer.diffusers.num_single_layers=1")),
        # Its text always has 512 tokens: the video has more.
        ("wan_i2v_14b_480p", ("max_sequence_length=512", "height=192", "width=256")),
        ("cogvideox1_5_t2v", ()),
        ("cosmos_t2w_7b", ()),
    ],
)
def test_a_familys_layers_in_fp8_are_those_of_its_blocks_that_every_video_token_goes_through(model, more):
    sizes = ("transformer.num_heads=1", "transformer.num_layers=2", "transformer.ffn_dim=256", "dtype=float32", *more)
    plan = planned_step(*(f"model.{size}" for size in sizes), of=model)
    step = build_step(plan.config.model, plan.layout, CPU, 0)
    transformer, rows = step.denoiser.transformer, {}

    def note(name):
        return lambda layer, inputs: rows.update({name: inputs[0].shape[:-1].numel()})

    for name, layer in transformer.named_modules():
        if isinstance(layer, torch.nn.Linear):
            layer.register_forward_pre_hook(note(name))
    step(Dense(), backends.get("sdpa"), backends.get("sdpa"))
    in_blocks = {layer for block in step.adapter.blocks(transformer) for layer in block.modules()}
    least = plan.layout.num_video_tokens
    expected = {name for name, seen in rows.items() if seen >= least and transformer.get_submodule(name) in in_blocks}
    assert expected and chosen(transformer, plan.config.model.pipeline) == expected


@pytest.mark.usefixtures("installed")
def test_linear_layers_in_fp8_are_another_run_and_the_models_own_precision_is_not_a_new_setting(sparse):
    fp8, plain = planned(*sparse, *FP8), planned(*sparse, "model.dtype=bfloat16")
    assert fp8.settings["model"]["linear_precision"] == "fp8" and "linear_precision" not in plain.settings["model"]
    assert fp8.hash != plain.hash
    fp8, plain = planned_step(*FP8), planned_step("model.dtype=bfloat16")
    assert fp8.settings["model"]["linear_precision"] == "fp8" and "linear_precision" not in plain.settings["model"]
    assert fp8.hash != plain.hash


def test_a_plan_counts_as_many_operations_with_less_memory_and_in_less_time(call):
    shared = ("model=hunyuan_video_t2v", "model.num_frames=5", "method.sparsity=0.9", "gpu=h100")
    plain, fp8 = forecast_of(*shared), forecast_of(*shared, *FP8)
    assert fp8["pflops_dense"] == plain["pflops_dense"]
    # 60 blocks of 4 products of 3072 x 3072 and 2 of 3072 x 12288.
    weights = 60 * (4 * 3072**2 + 2 * 3072 * 12288)
    assert (plain["video_weights_gib"], fp8["video_weights_gib"]) == (2 * weights / 2**30, weights / 2**30)
    products = 50 * 2 * plain["seq_len"] * weights
    saved = products / 989.4e12 - products / 1978.9e12
    for name in ("floor_dense_s", "floor_s"):
        assert plain[name] - fp8[name] == pytest.approx(saved)
    status, out, err = call("model=wan_t2v_14b", *FP8, "gpu=a100", command="plan")
    assert (status, out) == (2, "") and "NVIDIA A100 multiplies nothing in FP8; use model.linear_precision=bf16" in err
    status, out, err = call("model=tiny_wan", FP8[0], command="plan")
    assert (status, out) == (2, "") and "model.dtype is float32; use model.dtype=bfloat16" in err


@pytest.mark.parametrize(
    ("dtype", "capability", "version", "words"),
    [
        ("float32", None, "0.18.0", "model.dtype is float32; use model.dtype=bfloat16, or use model.linear_precision"),
        (
            "bfloat16",
            (8, 6),
            "0.18.0",
            r"needs compute capability 8.9 \(Ada\) or newer, this GPU has 8.6; use model.lin",
        ),
        (
            "bfloat16",
            None,
            None,
            r"needs torchao, which is not installed; install the extra fp8 \(make setup-torchao\)",
        ),
        ("bfloat16", None, "0.12.0", "needs torchao 0.17 or newer, found 0.12.0; install the extra fp8"),
    ],
)
def test_what_cannot_be_in_fp8_is_refused_with_what_can(monkeypatch, dtype, capability, version, words):
    model = SimpleNamespace(linear_precision="fp8", dtype=dtype, pipeline="WanPipeline")
    monkeypatch.setattr(fp8_linear, "find_spec", lambda name: version)
    monkeypatch.setattr(fp8_linear, "version_of", lambda name: version)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    with pytest.raises(ValueError, match=f"^model.linear_precision=fp8 .*{words}"):
        fp8_linear.check(model, CPU if capability is None else torch.device("cuda"))


def test_a_family_that_names_no_layers_is_refused(monkeypatch):
    monkeypatch.delattr(type(adapter_named("WanPipeline")), "video_layers")
    model = SimpleNamespace(linear_precision="fp8", dtype="bfloat16", pipeline="WanPipeline")
    with pytest.raises(ValueError, match="the adapter of WanPipeline does not say in video_layers"):
        fp8_linear.check(model, CPU)


def test_a_refusal_is_one_line_and_writes_nothing(call, sparse, tmp_path):
    status, out, err = call(*sparse, "model.linear_precision=fp8")
    assert (status, out) == (2, "") and err.count("\n") == 1 and "model.dtype is float32" in err
    assert not (tmp_path / "runs").exists()


@pytest.fixture(scope="module")
def layer():
    """A model with one linear layer, and tokens for it: one has an outlier, one is all zeros."""
    torch.manual_seed(0)
    block = torch.nn.ModuleDict({"attn1": torch.nn.ModuleDict({"to_q": torch.nn.Linear(48, 80)})})
    model = torch.nn.ModuleDict({"blocks": torch.nn.ModuleList([block])}).to(torch.bfloat16).requires_grad_(False)
    tokens = torch.randn(2, 37, 48).to(torch.bfloat16)
    tokens[1, 3, 5] = 300.0
    tokens[0, 7] = 0.0
    return model, tokens


def error(output: torch.Tensor, layer: torch.nn.Linear, tokens: torch.Tensor) -> float:
    """Return how far an output is from the product of rounded rows in float64, as a share of that."""
    off = []
    # Compiled code may round the tokens' scales less.
    for dtype in (torch.bfloat16, torch.float32):
        expected = rounded(tokens, dtype) @ rounded(layer.weight).T + layer.bias.double()
        off.append(float((output.double() - expected).norm() / expected.norm()))
    return min(off)


@with_torchao
@pytest.mark.slow
def test_a_layer_computes_the_product_of_its_rounded_rows(layer):
    model, tokens = layer
    found = copy.deepcopy(model)
    fp8_linear.quantise(found, "WanPipeline", CPU)
    output = found.blocks[0].attn1.to_q(tokens)
    assert output.dtype == torch.bfloat16
    # It rounds once more, to bfloat16.
    assert error(output, model.blocks[0].attn1.to_q, tokens) < 3e-3
    weight = found.blocks[0].attn1.to_q.weight
    assert weight_bytes(found) == 48 * 80 + 4 * 80 + 2 * 80 and weight.nbytes > 48 * 80


@with_torchao
@pytest.mark.slow
@pytest.mark.parametrize(
    ("columns", "words"),
    [(40, "multiples of 16, and blocks.0.attn1.to_q is 48 x 40"), (80, "blocks.0.attn1.to_q has one of zeros")],
)
def test_a_layer_that_fp8_does_not_compute_is_refused_by_name(columns, words):
    block = torch.nn.ModuleDict({"attn1": torch.nn.ModuleDict({"to_q": torch.nn.Linear(48, columns)})})
    model = torch.nn.ModuleDict({"blocks": torch.nn.ModuleList([block])}).to(torch.bfloat16)
    block.attn1.to_q.weight.data[3] = 0.0
    with pytest.raises(ValueError, match=f"^model.linear_precision=fp8 .*{words}; use model.linear_precision=bf16"):
        fp8_linear.quantise(model, "WanPipeline", CPU)


@pytest.mark.slow
def test_every_job_of_the_sweep_is_planned_on_the_embedded_model_in_bfloat16(installed, call, tmp_path):
    size = ("model=tiny_wan", "model.dtype=bfloat16", "prompts=smoke")
    status, out, err = call("-m", "experiment=fp8_linear", *size, "dry_run=true", f"runs_dir={tmp_path / 'runs'}")
    assert (status, err) == (0, "")
    assert out.count("to make; 1 sparse") == 4 and "4 runs, 4 to make: " in out


@with_torchao
@pytest.mark.slow
def test_a_checkpoint_has_the_layers_of_a_built_transformer_and_works_with_compiled_blocks_and_lora_adapters():
    from peft import LoraConfig

    model = composed("model=tiny_wan", *FP8).model
    plain = composed("model=tiny_wan", "model.dtype=bfloat16").model
    folder = planning.find_folder(model)
    loaded = load_pipeline(model, folder, CPU)
    built = load_pipeline(plain, folder, CPU).transformer
    assert not quantised(built) and quantised(loaded.transformer) == chosen(built, model.pipeline)
    fp8_linear.quantise(built, model.pipeline, CPU)
    assert quantised(built) == quantised(loaded.transformer)
    for (name, one), other in zip(built.named_parameters(), loaded.transformer.parameters(), strict=True):
        parts = ("qdata", "scale") if is_traceable_wrapper_subclass(one) else ("data",)
        assert all(torch.equal(getattr(one, part), getattr(other, part)) for part in parts), name

    def latents(compile):
        noise, sizes = torch.Generator().manual_seed(0), {"height": 32, "width": 48, "num_frames": 5}
        with attach(loaded, Dense(), "sdpa", compile=compile):
            return loaded("a red circle", generator=noise, num_inference_steps=1, output_type="latent", **sizes).frames

    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    plain = latents(False)
    assert torch.equal(latents({"backend": keep}), plain)
    assert len(graphs) == 1
    torch._dynamo.reset()
    loaded.transformer.add_adapter(LoraConfig(r=2, init_lora_weights=False, target_modules=["to_q", "to_out.0"]))
    assert not torch.equal(latents(False), plain)
    loaded.transformer.delete_adapters("default")
    assert torch.equal(latents(False), plain)


@with_torchao
@pytest.mark.slow
def test_runs_and_steps_with_layers_in_fp8_say_so_and_have_twins_of_their_own(call, tmp_path):
    size = ("model.height=32", "model.width=48", "model.num_frames=5", "model.num_inference_steps=1")
    made = ("method=dense", "dense_backend=sdpa", "statistics=off")
    types = ("model.dtype=bfloat16", "model.vae_dtype=float32")
    run = (*size, *made, *types, "quality.metrics=[psnr]", "device=cpu", f"runs_dir={tmp_path}")
    for precision in ("bf16", "fp8"):
        status, _, err = call(*run, f"model.linear_precision={precision}")
        assert status == 0, err
    records = {record.config["model"].get("linear_precision"): record for record in map(read_run, list_runs(tmp_path))}
    assert set(records) == {None, "fp8"} and "torchao" in records["fp8"].provenance["versions"]
    stored = {records[precision].videos[0].dense_key for precision in (None, "fp8")}
    assert len(stored) == 2 and {path.name for path in (tmp_path / ".dense").iterdir()} == stored
    rows = load.measurements(tmp_path)
    [plain] = rows[(rows["quantity"] == "plain_psnr_db") & rows["frame"].isna()].to_dict("records")
    assert plain["run_id"] == records["fp8"].run_id and 10 < plain["value"] < 60
    assert set(rows.loc[(rows["quantity"] == "psnr_db") & rows["frame"].isna(), "status"]) == {"infinite"}
    status, _, err = call(*STEP, "model.transformer.num_heads=4", *FP8, f"runs_dir={tmp_path}", command="step_latency")
    assert status == 0, err
    rows = load.measurements(tmp_path)
    [held] = rows.loc[rows["quantity"] == "weights_gib", "value"]
    plan = planned_step("model.transformer.num_heads=4", "model.dtype=bfloat16")
    whole = weight_bytes(build_step(plan.config.model, plan.layout, CPU, 0).denoiser.transformer) / 2**30
    assert 0.5 * whole < held < 0.7 * whole


@with_torchao
@pytest.mark.gpu
@pytest.mark.parametrize("is_compiled", [False, True])
def test_a_layer_on_a_gpu_computes_the_product_of_its_rounded_rows(layer, is_compiled):
    model, tokens = copy.deepcopy(layer[0]).to("cuda"), layer[1].to("cuda")
    found = copy.deepcopy(model)
    fp8_linear.quantise(found, "WanPipeline", torch.device("cuda"))
    call = torch.compile(found.blocks[0].attn1.to_q, fullgraph=True) if is_compiled else found.blocks[0].attn1.to_q
    # Tensor cores add products in FP8 with some 14 bits.
    assert error(call(tokens), model.blocks[0].attn1.to_q, tokens) < 1e-2


def test_patterns_are_of_whole_names():
    for name in ("proj_out", "transformer_blocks.0.proj_out", "single_transformer_blocks.0.norm.linear"):
        assert not fp8_linear._is_chosen(name, "HunyuanVideoPipeline")
    assert fp8_linear._is_chosen("single_transformer_blocks.0.proj_out", "HunyuanVideoPipeline")
    assert re.fullmatch(adapter_named("WanPipeline").video_layers[0], "blocks.0.attn1.to_out.0")
