"""experiments.step_latency: every model's step is timed, dense, sparse and with fixed plans, and becomes rows."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import pytest
import torch

from analysis import load
from analysis.steps import step_table
from experiments import identity, one_step, step_planning, step_rows, step_runner
from experiments.entry import CONF
from experiments.forced_choice import FixedPlans, ForcedChoice, deal
from experiments.forecasting import size_of
from experiments.generation import PHASES
from experiments.identity import Names
from experiments.one_step import Step, build_step
from experiments.schema import StepConfig
from svg import backends, provenance
from svg.backends import cpu_gather
from svg.cost.gpu_clocks import GpuClocks, parse
from svg.cost.roofline import gpu_of_driver
from svg.operations import TorchOperations
from svg.results import list_runs, read_run
from tests.experiments.conftest import composed

pytestmark = pytest.mark.slow

MODELS = sorted(file.stem for file in (CONF / "model").glob("*.yaml"))
# One of each family; the others take long all together.
QUICK = ("cogvideox1_5_t2v", "cosmos_t2w_7b", "hunyuan_video_t2v", "tiny_wan")
# Of two heads.
FFN = {"Wan": 64, "Hun": 1024, "Cog": 512, "Cos": 1024}


@pytest.fixture
def tiny(tmp_path):
    """Return settings that make any model small: two blocks of two heads, a video of a second."""

    def of(model: str) -> list[str]:
        split = "model.transformer.diffusers.num_layers=1 model.transformer.diffusers.num_single_layers=1"
        own = [*split.split(), "model.geometry.image_tokens=3"] if "hunyuan" in model else []
        # diffusers knows an image's tokens by a text of 512.
        own += [] if "wan_i2v" in model else ["model.max_sequence_length=7"]
        return [
            f"model={model}",
            "model.height=64",
            "model.width=96",
            "model.num_frames=17",
            "model.transformer.num_layers=2",
            "model.transformer.num_heads=3",
            f"model.transformer.ffn_dim={FFN[composed(f'model={model}').model.pipeline[:3]] * 3 // 2}",
            "method.block_size=8",
            "method.density=0.9",
            "method.sparsity=null",
            "seconds=0",
            "device=cpu",
            "threads=1",
            f"runs_dir={tmp_path / 'runs'}",
            *own,
        ]

    return of


def planned(*overrides: str) -> step_planning.StepPlan:
    """Return the checked plan of a command line."""
    config = composed(*overrides, config_name="step_latency", settings=StepConfig)
    return step_planning.check(config, Names("tiny_wan", "svg"))


@pytest.mark.parametrize(
    ("backend", "share"),
    [
        ("triton_block_sparse", 0),
        ("triton_block_sparse_fp8", 1),
        ("triton_block_sparse_fp8_int8", 1),
        ("triton_block_sparse_fp8_qk", 0.5),
    ],
)
def test_products_with_values_as_they_are_count_as_no_products_in_8_bits(backend, share):
    calls = [SimpleNamespace(backend=backend, density_tile=density) for density in (0.3, 1.0)]
    timing = SimpleNamespace(receipt=SimpleNamespace(calls=calls))
    found = SimpleNamespace(timings={"sparse": [timing]}, flops=lambda kind: (8.0, 1.0))
    assert step_rows.Measured.fp8_attention_flops(found, "sparse") == pytest.approx(8 * share)


@pytest.mark.parametrize(
    "model", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
)
def test_every_models_step_is_timed_checked_and_recorded(call, tiny, tmp_path, model):
    operators = model == "tiny_wan"
    status, out, err = call(*tiny(model), f"operators={operators}", command="step_latency")
    assert (status, err) == (0, "")
    assert "dense" in out and "sparse" in out and "fixed" in out
    [path] = list_runs(tmp_path / "runs")
    record = read_run(path)
    assert (record.model, record.status, record.config["weights"]) == (model, "complete", "random")
    rows = load.measurements(tmp_path / "runs")
    values = rows.set_index(["quantity", rows["protocol"].fillna("")])["value"]
    batch = 2 if "cogvideox" in model else 1
    assert record.config["call"]["batch"] == batch
    for kind in ("dense_", "", "fixed_"):
        phases = [values[f"{kind}phase_s", phase] for phase in ("attention", "profiling", "reordering", "rest")]
        assert sum(phases) == pytest.approx(values[f"{kind}step_s", ""])
        assert phases[0] > 0
    apart = rows[rows["quantity"] == "dense_operator_s"].set_index("protocol")["value"]
    assert set(apart.index) == ({*PHASES, "products", "other_attention", "rest"} if operators else set())
    assert not operators or min(apart[["attention", "products", "other_attention", "rest"]]) > 0
    assert values["phase_s", "profiling"] > values["dense_phase_s", "profiling"]
    assert values["check_error", ""] <= values["check_allowed", ""]
    assert values["dense_check_error", ""] <= values["dense_check_allowed", ""]
    assert values["density_executed", "tile"] == pytest.approx(0.9, abs=0.05)
    assert values["attention_pflop", ""] < values["dense_attention_pflop", ""]
    assert values["fixed_attention_pflop", ""] == values["attention_pflop", ""]
    assert values["dense_layers", ""] == 0


def test_heads_are_dealt_out_and_the_fixed_step_repeats_the_plans(tiny):
    plan = planned(*tiny("tiny_wan"), "temporal_share=0.34")
    step = build_step(plan.config.model, plan.layout, plan.device, seed=0)
    sparse = ForcedChoice(plan.method, deal(2, 1, 3, temporal_share=0.34, seed=0))
    backend, dense_backend = backends.get("reference"), backends.get("sdpa")
    first = step(sparse, backend, dense_backend).receipt
    again = step(FixedPlans(sparse), backend, dense_backend).receipt
    choices = [call.choice for call in first.calls]
    assert len(choices) == 2 * 2
    assert all(heads.count("temporal") == 1 for [heads] in choices)
    assert [call.choice for call in again.calls] == choices
    assert again.density_executed == first.density_executed
    assert {call.branch for call in first.calls} == {"cond", "uncond"}
    # It has decided for real: both kinds were tried on every head.
    assert all(set(call.error) == {"spatial", "temporal"} for call in first.calls)


def test_a_model_that_is_cut_short_is_warmed_up_on_two_blocks_of_each_kind_though_it_has_fewer(tiny, monkeypatch):
    plan = planned(*tiny("hunyuan_video_t2v"), "compile=true")
    built = []

    def build(*arguments):
        built.append(build_step(*arguments[:-1]))
        return built[-1]

    monkeypatch.setattr(step_runner, "build_step", build)
    checks = step_runner._warm_up(plan, backends.get("sdpa"))
    assert len(built[0].adapter.self_attentions(built[0].denoiser.transformer)) == 4
    assert checks["sparse"].checked and checks["dense"].checked


def test_a_step_profiles_and_reorders_with_what_svg_attach_would_take(tiny, monkeypatch):
    @dataclass(frozen=True)
    class Counting(TorchOperations):
        calls: list[str] = field(default_factory=list)

        def profile(self, *arguments, **more):
            self.calls.append("profile")
            return super().profile(*arguments, **more)

        def arrange(self, *arguments):
            self.calls.append("arrange")
            return super().arrange(*arguments)

    counting = Counting()
    monkeypatch.setattr(one_step, "fastest_operations", lambda device: counting)
    plan = planned(*tiny("tiny_wan"))
    step = build_step(plan.config.model, plan.layout, plan.device, seed=0)
    step(ForcedChoice(plan.method, None), backends.get("reference"), backends.get("sdpa"))
    assert counting.calls == ["profile", "arrange"] * 4


def test_a_fixed_step_decides_nothing(tiny, monkeypatch):
    plan = planned(*tiny("tiny_wan"))
    step = build_step(plan.config.model, plan.layout, plan.device, seed=0)
    sparse = ForcedChoice(plan.method, None)
    backend = backends.get("reference")
    step(sparse, backend, backend)
    monkeypatch.setattr(type(plan.method), "plan", None)
    assert step(FixedPlans(sparse), backend, backend).receipt.sparse_calls


@pytest.mark.parametrize(("share", "temporal"), [(0.0, 0), (2 / 3, 16), (1.0, 24)])
def test_every_layer_and_item_has_the_share_at_places_of_its_own(share, temporal):
    choices = deal(num_layers=5, batch=2, num_heads=24, temporal_share=share, seed=1)
    assert choices.shape == (5, 2, 24)
    assert (choices.sum(-1) == temporal).all()
    assert torch.equal(choices, deal(5, 2, 24, share, seed=1))
    if 0 < temporal < 24:
        assert len(choices.flatten(0, 1).unique(dim=0)) == 10


@pytest.mark.slow
def test_methods_that_do_not_choose_between_the_two_kinds_keep_their_plans(tiny, call, tmp_path):
    settings = [setting for setting in tiny("tiny_wan") if setting != "method.block_size=8"]
    status, _, err = call(*settings, "method=random_blocks", "method.block_size=8", command="step_latency")
    assert (status, err) == (0, "")
    [path] = list_runs(tmp_path / "runs")
    assert read_run(path).config["temporal_share"] is None


def test_dense_layers_of_the_method_stay_dense_in_a_sparse_step(tiny, call, tmp_path):
    status, _, err = call(
        *tiny("tiny_wan"),
        "method.first_layers_fp=0.5",
        "steps=[dense,sparse]",
        "gpu=h200",
        command="step_latency",
    )
    assert (status, err) == (0, "")
    rows = load.measurements(tmp_path / "runs")
    values = rows.set_index(["quantity", rows["protocol"].fillna("")])["value"]
    assert values["dense_layers", ""] == 1
    assert values["density_executed", "tile"] < values["density_overall", "tile"] < 1
    assert values["floor_s", ""] < values["dense_floor_s", ""]
    assert values["roofline_share", ""] == pytest.approx(values["floor_s", ""] / values["step_s", ""])
    assert not rows["quantity"].str.startswith("fixed_").any()
    assert "deciding_s" not in set(rows["quantity"])


@pytest.mark.slow
def test_steps_are_repeated_in_turns_as_often_as_asked_for(tiny, call, tmp_path, monkeypatch):
    order = []
    real = Step.__call__

    def counted(self, method, backend, dense_backend):
        order.append(type(method).__name__)
        return real(self, method, backend, dense_backend)

    monkeypatch.setattr(Step, "__call__", counted)
    status, _, err = call(*tiny("tiny_wan"), "repeats=3", command="step_latency")
    assert (status, err) == (0, "")
    there = ["Dense", "ForcedChoice", "FixedPlans"]
    assert order == [*there, *there, *there[::-1], *there]
    rows = load.measurements(tmp_path / "runs").set_index("quantity")
    assert rows.loc["step_s", "n"] == 3
    assert rows.loc["step_s_p10", "value"] <= rows.loc["step_s", "value"] <= rows.loc["step_s_p90", "value"]
    assert rows.loc["step_s", "spread"] > 0


@pytest.mark.slow
def test_a_backend_that_fails_becomes_a_failed_run_and_the_next_one_is_timed(tiny, call, tmp_path, monkeypatch):
    def broken(*arguments):
        raise NotImplementedError("no kernel\nfor this machine")

    monkeypatch.setattr(cpu_gather.CpuGatherBackend, "__call__", broken)
    status, _, err = call("-m", *tiny("tiny_wan"), "backend=cpu_gather,reference", command="step_latency")
    assert status == 2
    assert err.count("\n") == 1
    assert "with backend=cpu_gather failed: NotImplementedError: no kernel for this machine" in err
    runs = load.runs(tmp_path / "runs").set_index("backend")
    assert dict(runs["status"]) == {"cpu_gather": "failed", "reference": "complete"}
    assert "no kernel for this machine" in runs.loc["cpu_gather", "error.message"]


@pytest.mark.parametrize(("fixed_s", "status"), [(0.5, "ok"), (1.5, "unavailable")])
def test_deciding_that_is_lost_in_how_steps_vary_has_no_seconds_but_a_share(tiny, fixed_s, status):
    plan = planned(*tiny("tiny_wan"))
    step = build_step(plan.config.model, plan.layout, plan.device, seed=0)
    backend = backends.get("reference")
    made = step(ForcedChoice(plan.method, None), backend, backend)
    timings = {name: [replace(made, step_s=seconds)] for name, seconds in (("sparse", 1.0), ("fixed", fixed_s))}
    sizes = plan.config.model.transformer
    found = step_rows.Measured(
        timings={"dense": [made], **timings},
        size=size_of(plan.config.model, sizes),
        predictions=2,
        seq_len=plan.layout.seq_len,
        density_requested=0.9,
        warmup_s=1.0,
        compile_s=0.0,
        build_s=1.0,
        weights_gib=1.0,
        checks={},
        clocks={"sm_clock_mhz": [1980.0, 1700.0, 1755.0]},
        gpu="no peak rate is known of a CPU",
        rates="nothing was measured",
        element_size=4,
        num_steps=(1, 3),
    )
    rows = {row.quantity: row for row in step_rows.rows(found, {"seed": 0})}
    assert rows["deciding_s"].status == status
    assert (rows["deciding_share"].value > 0) == (status == "ok")
    assert status == "ok" or "0.5 s longer" in rows["deciding_s"].reason
    assert (rows["sm_clock_mhz"].value, rows["sm_clock_mhz"].n) == (1755.0, 3)
    assert rows["power_w"].status == rows["roofline_share"].status == "unavailable"


@pytest.mark.slow
def test_a_job_of_a_sweep_that_is_refused_is_a_failed_row_of_the_table(tiny, call, tmp_path):
    settings = [setting for setting in tiny("tiny_wan") if not setting.startswith("model.width")]
    status, _, err = call("-m", *settings, "model.width=100,96", command="step_latency")
    assert status == 2
    assert "model.width is 100; this model takes multiples of 16" in err and err.count("\n") == 1
    table = step_table(load.measurements(tmp_path / "runs"), load.runs(tmp_path / "runs")).set_index("status")
    assert set(table.index) == {"failed", "complete"}
    assert "model.width is 100" in table.loc["failed", "error"]
    assert table.loc["failed", "call"] == "–" and table.loc["complete", "call"] == "1 × 3 × 864 × 64, 2 layers"


def test_a_backend_that_is_wrong_has_no_time(tiny, call, tmp_path, monkeypatch):
    monkeypatch.setattr(cpu_gather.CpuGatherBackend, "__call__", lambda self, query, key, value, plan: value)
    status, _, err = call(*tiny("tiny_wan"), "backend=cpu_gather", command="step_latency")
    assert status == 2
    assert "backend cpu_gather is wrong on this machine" in err and err.count("\n") == 1
    assert load.measurements(tmp_path / "runs").empty


def test_too_little_memory_is_one_line(tiny, call, monkeypatch):
    def full(*arguments, **more):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    monkeypatch.setattr(step_runner, "build_step", full)
    status, _, err = call(*tiny("tiny_wan"), command="step_latency")
    assert status == 2 and err.count("\n") == 1
    assert "cpu has too little memory; make model.height, model.width or model.num_frames smaller" in err


@pytest.mark.slow
def test_a_complete_record_is_kept_until_it_is_asked_for_again(tiny, call, tmp_path):
    for more, said in (([], "dense"), ([], "already complete"), (["overwrite=true"], "dense")):
        status, out, err = call(*tiny("tiny_wan"), *more, command="step_latency")
        assert (status, err) == (0, "")
        assert said in out
    assert len(list_runs(tmp_path / "runs")) == 1


def test_a_step_on_another_machine_or_under_other_code_is_another_record(tiny, monkeypatch):
    def path():
        return planned(*tiny("tiny_wan")).path

    paths = [path()]
    assert path() == paths[0]
    facts = provenance.hardware("cpu") | {"device": "Example GPU"}
    monkeypatch.setattr(identity, "_machine", lambda device_type: facts)
    paths.append(path())
    monkeypatch.setattr(identity, "code_hash", lambda *modules: "0" * 16)
    paths.append(path())
    assert len(set(paths)) == 3


def test_a_steps_code_is_that_of_what_computes_it_and_of_its_inputs(tiny, monkeypatch):
    asked = []
    monkeypatch.setattr(identity, "code_hash", lambda *modules: asked.extend(modules) or "0" * 16)
    planned(*tiny("tiny_wan"), "backend=cpu_gather", "dense_backend=sdpa")
    needed = "svg.methods.svg svg.backends.cpu_gather svg.backends.sdpa svg.models.wan experiments.random_steps.wan"
    assert {*needed.split(), "experiments.one_step", "experiments.forced_choice"} <= set(asked)


def test_the_same_device_by_another_name_is_the_same_step(tiny):
    settings = [setting for setting in tiny("tiny_wan") if setting != "device=cpu"]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    assert planned(*settings, "device=auto").path == planned(*settings, f"device={device}").path


def test_a_timed_step_is_sent_where_records_go(tiny, monkeypatch):
    sent = []
    monkeypatch.setattr(step_runner.tracking, "publish", lambda tracking, path: sent.append((tracking.mode, path)))
    path = step_runner.run(planned(*tiny("tiny_wan"), "steps=[dense]", "tracking.mode=offline"))
    assert sent == [("offline", path)]


def test_a_damaged_record_is_set_aside_and_timed_again(tiny, tmp_path):
    settings = [*tiny("tiny_wan"), "steps=[dense]"]
    path = step_runner.run(planned(*settings))
    (path / "run.json").write_text("{")
    with pytest.warns(UserWarning, match="is made again"):
        assert step_runner.run(planned(*settings)) == path
    assert read_run(path).status == "complete"
    assert (tmp_path / "runs" / ".damaged" / f"{path.name}-1").is_dir()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("weights=checkpoint", "weights is 'checkpoint'; it must be one of random"),
        ("steps=[sparse]", "steps is ['sparse']; it must be [dense], [dense,sparse] or [dense,sparse,fixed]"),
        ("steps=[dense,fixed]", "steps is ['dense', 'fixed']"),
        ("steps=[]", "steps is []"),
        ("seconds=-1", "seconds is -1.0; it must be at least 0"),
        ("repeats=0", "repeats is 0; it must be from 1 to 20"),
        ("repeats=21", "repeats is 21"),
        ("temporal_share=1.5", "temporal_share is 1.5; it must be in [0, 1]"),
        ("text_tokens=3", "text_tokens is 3; this model's text stands in no self-attention"),
        ("gpu=h300", "gpu is 'h300'; it must be one of a100"),
        ("method=dense", "method=dense has no sparse step"),
        ("model.geometry=null", "model.geometry is null; experiments.step_latency needs"),
        ("model.pipeline=LTXPipeline", "model.pipeline is 'LTXPipeline'; a step is known of"),
        ("model.width=100", "model.width is 100; this model takes multiples of 16, such as 96"),
        ("method.density=0.0001", "method"),
        ("dense_backend=sdpaa", "dense_backend is 'sdpaa'"),
        ("device=cuda:x", "device is 'cuda:x'"),
        ("model.transformer.num_layers=0", "model.transformer.num_layers is 0; it must be at least 1"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(call, tmp_path, override, words):
    settings = ["model=tiny_wan", "device=cpu", f"runs_dir={tmp_path / 'runs'}"]
    status, out, err = call(*settings, override, command="step_latency")
    assert status == 2 and out == ""
    assert words in err and err.startswith("error: ") and err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_layers_that_do_not_add_up_are_refused_by_name(call, tiny):
    settings = [setting for setting in tiny("hunyuan_video_t2v") if "num_single_layers" not in setting]
    status, _, err = call(*settings, command="step_latency")
    assert status == 2
    assert "model.transformer.num_layers is 2, but model.transformer.diffusers makes 41" in err


@pytest.mark.parametrize(
    ("driver", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "NVIDIA H100 SXM"),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H200", "NVIDIA H200"),
        ("NVIDIA GH200 480GB", None),
        ("NVIDIA H20", "NVIDIA H20"),
        ("NVIDIA A100-SXM4-80GB", "NVIDIA A100"),
        ("NVIDIA GeForce RTX 4090", "NVIDIA GeForce RTX 4090"),
        ("NVIDIA L40S", "NVIDIA L40S"),
        ("Tesla T4", None),
    ],
)
def test_a_drivers_name_finds_the_peak_of_that_gpu_alone(driver, name):
    found = gpu_of_driver(driver)
    assert (found.name if found else None) == name


def test_a_clock_that_is_not_reported_is_left_out():
    assert parse("1755, 2619, 691.25, 61\n") == {
        "sm_clock_mhz": 1755.0,
        "memory_clock_mhz": 2619.0,
        "power_w": 691.25,
        "temperature_c": 61.0,
    }
    assert parse("1755, 2619, [N/A], 61\n") == {
        "sm_clock_mhz": 1755.0,
        "memory_clock_mhz": 2619.0,
        "temperature_c": 61.0,
    }
    assert parse("No devices were found") == {}


def test_a_short_block_is_sampled_once_at_its_end_by_a_program_that_is_told_which_gpu(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\necho "1980, 2619, 350.5, 40"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="0a1b"))
    with GpuClocks(torch.device("cuda")) as clocks:
        pass
    assert clocks.samples == {
        "sm_clock_mhz": [1980.0],
        "memory_clock_mhz": [2619.0],
        "power_w": [350.5],
        "temperature_c": [40.0],
    }
    asked = (tmp_path / "asked").read_text()
    assert "--id=GPU-0a1b --query-gpu=clocks.sm,clocks.mem" in asked
    program.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    with GpuClocks(torch.device("cuda")) as clocks:
        pass
    assert clocks.samples == {}
