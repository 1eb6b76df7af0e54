"""Makes videos in one process, and again in 2 and in 4 forked ones that share each over gloo, and compares.

Last, one of two processes gets an output that is not finite, and each says how it ends.

A program of its own, so that what is forked holds no thread: ``python -m tests.split_videos FOLDER`` prints a line for
each case and number of processes: its name, the number and what differs, or ``equal``.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist

import svg
from experiments.loading import PROJECT
from svg.methods.cached_choice import CachedChoice
from svg.methods.dense import Dense
from svg.methods.one_pattern import OnePattern
from svg.methods.oracle_blocks import OracleBlocks
from svg.methods.random_blocks import RandomBlocks
from svg.methods.random_choice import RandomChoice
from svg.models import adapter_for
from tests.spoiled import Spoiled
from tests.tiny_cogvideox import picture, tiny_cogvideox_pipeline
from tests.tiny_cosmos import tiny_cosmos_pipeline
from tests.tiny_pipelines import (
    generate,
    tiny_hunyuan_video_i2v_pipeline,
    tiny_hunyuan_video_pipeline,
    tiny_wan_pipeline,
)

NUM_HEADS = 4
SIZES = (2, 4)
TILES = {"density": 0.8, "block_size": 2}
SVG = svg.SparseVideoGen(**TILES, num_sampled_rows=5, first_layers_fp=0.5)
# 18 video tokens, of which four processes hold five or four.
WORDS = ["circle", "a red circle moves right and left and right and spins"]


@dataclass(frozen=True)
class Case:
    """A video: how its pipeline is made, what that is asked for, and its method."""

    make: Callable[[], Any]
    method: Any = SVG
    settings: dict[str, Any] = field(default_factory=dict)
    is_split_by_diffusers: bool = False


def with_heads(pipeline: Any) -> Any:
    """Return a pipeline whose transformers have four heads."""
    for name in ("transformer", "transformer_2"):
        part = getattr(pipeline, name, None)
        if part is not None:
            torch.manual_seed(1)
            setattr(pipeline, name, type(part).from_config({**part.config, "num_attention_heads": NUM_HEADS}).eval())
    return pipeline


LARGER = {"height": 64, "width": 96, "num_frames": 17}
CASES = {
    "Wan": Case(tiny_wan_pipeline),
    "Wan's two experts": Case(lambda: tiny_wan_pipeline(boundary_ratio=0.9), CachedChoice(**TILES, every=2)),
    "Wan, random tiles": Case(tiny_wan_pipeline, RandomBlocks(**TILES)),
    # 24 video tokens: of parts of unequal length, diffusers' own gathering is not for gloo.
    "Wan, split by diffusers": Case(
        tiny_wan_pipeline, OnePattern(**TILES, pattern="temporal"), {"width": 64}, is_split_by_diffusers=True
    ),
    "HunyuanVideo": Case(tiny_hunyuan_video_pipeline, RandomChoice(**TILES)),
    "HunyuanVideo, two prompts": Case(tiny_hunyuan_video_pipeline, settings={"prompt": WORDS}),
    "HunyuanVideo from an image": Case(
        tiny_hunyuan_video_i2v_pipeline, replace(SVG, density=0.96), {"image": picture()} | LARGER
    ),
    "CogVideoX": Case(tiny_cogvideox_pipeline, settings=LARGER | {"max_sequence_length": 5}),
    "Cosmos": Case(tiny_cosmos_pipeline, OracleBlocks(**TILES), {"num_frames": 17}),
}
EXAMPLE = re.search(r"```python\n(# split_video.py.*?)```", (PROJECT / "docs/cluster.md").read_text(), re.DOTALL)


class Made(NamedTuple):
    """A video's latents, what its receipt says, and how many tokens this process has projected in a layer."""

    latents: torch.Tensor
    receipt: Any
    num_tokens: int


def video(pipeline: Any, case: Case, group: Any = None) -> Made:
    """Make a case's video, with others where there is a group."""
    statistics = svg.StatisticsSample(layers_apart=1, steps_apart=2, num_rows=7)
    attention, *_ = adapter_for(pipeline).self_attentions(pipeline.transformer)
    seen = []
    hook = attention.to_q.register_forward_hook(lambda module, args, output: seen.append(output.shape[1]))
    with svg.attach(pipeline, case.method, "cpu_gather", parallel=group, statistics=statistics) as run:
        latents = generate(pipeline, **case.settings, output_type="latent")
    hook.remove()
    return Made(latents, run.receipt, max(seen))


def split_by_diffusers(pipeline: Any, size: int) -> None:
    from diffusers import ContextParallelConfig

    with pytest.MonkeyPatch.context() as patch:
        # diffusers counts accelerators to pick a device, and would divide by none.
        patch.setattr(torch.accelerator, "device_count", lambda: 1)
        config = ContextParallelConfig(ulysses_degree=size)
        pipeline.transformer.enable_parallelism(config=config)


def difference(split: Made, whole: Made) -> str:
    """Return what differs between a video that several have made and one process's, or ``equal``."""
    (latents, receipt, num_tokens), (expected, expected_receipt, all_tokens) = split, whole
    if not num_tokens < all_tokens:
        return f"nothing: this process computed all {all_tokens} tokens"
    if not torch.equal(latents, expected):
        return f"latents by {(latents - expected).abs().max():.1e}"
    if not expected_receipt.sparse_calls or len(receipt.calls) != len(expected_receipt.calls):
        return f"{len(receipt.calls)} calls instead of {len(expected_receipt.calls)}"
    for call, other in zip(receipt.calls, expected_receipt.calls, strict=True):
        # A choice that the heads share is told once where one process computes them all.
        choice = [heads * (NUM_HEADS // len(heads)) for heads in other.choice]
        if (call.choice, call.error, call.is_dense) != (choice, other.error, other.is_dense):
            return f"the choice of step {call.step}, layer {call.layer}"
        if (call.density_token, call.density_tile) != pytest.approx((other.density_token, other.density_tile)):
            return f"the density of step {call.step}, layer {call.layer}"
    for call, other in zip(receipt.sampled, expected_receipt.sampled, strict=True):
        for name, value in other.statistics.values.items():
            if not torch.equal(call.statistics.values[name].nan_to_num(-1), value.nan_to_num(-1)):
                return f"the statistic {name} of step {call.step}, layer {call.layer}"
    return "equal"


def example(rank: int, size: int, folder: Path) -> str:
    """Run the documents' example as one of its processes, and return how its video differs from one process's."""
    place = {"RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(folder)}
    os.environ |= {name: str(value) for name, value in place.items()}
    names: dict[str, Any] = {}
    exec(EXAMPLE[1], names)
    with svg.attach(names["pipe"], names["method"]) as run:
        whole = names["generate"]()
    told = [call.choice for call in names["run"].receipt.sparse_calls]
    is_equal = torch.equal(names["video"], whole) and told == [call.choice for call in run.receipt.sparse_calls]
    return "equal" if is_equal else "the video or what its heads chose"


def error_of_all(pipeline: Any, is_spoiled: bool, group: Any) -> str:
    """Return the place that a process names which is one of two, when the last call of a step holds NaN in one."""
    # Two layers and two branches: nothing of this step comes after the fourth call.
    dense = Spoiled(4 if is_spoiled else 0)
    with pytest.raises(ValueError) as caught, svg.attach(pipeline, Dense(), dense_backend=dense, parallel=group):
        generate(pipeline)
    return str(caught.value).split(":")[0]


def child(rank: int, size: int, pipelines: dict[str, Any], expected: dict[str, Any], folder: Path) -> list[str]:
    """Share every case's video with the other processes, and return a line for each."""
    store = dist.FileStore(str(folder / f"store-{size}"), size)
    # Who waits for a process that has ended fails soon.
    dist.init_process_group("gloo", timeout=timedelta(minutes=1), store=store, rank=rank, world_size=size)
    lines = []
    for name, case in CASES.items():
        if case.is_split_by_diffusers:
            split_by_diffusers(pipelines[name], size)
        split = video(pipelines[name], case, dist.group.WORLD)
        lines.append(f"{name}: {size}: {difference(split, expected[name])}")
    if size == 2:
        lines.append(f"not finite: {size}: {error_of_all(pipelines['Wan'], rank == 1, dist.group.WORLD)}")
    dist.destroy_process_group()
    if size == 2:
        lines.append(f"the example: {size}: {example(rank, size, folder)}")
    return lines


def fork(rank: int, size: int, *arguments: Any) -> int:
    """Start a process of a group, which leaves its lines in a file, and return its id."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        (arguments[-1] / f"lines-{size}-{rank}").write_text("\n".join(child(rank, size, *arguments)))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def free_port(folder: Path) -> int:
    """Return the port that the parent found free, for the processes of the example to meet at."""
    return int((folder / "port").read_text())


def main() -> None:
    folder = Path(sys.argv[1])
    with socket.create_server(("127.0.0.1", 0)) as server:
        (folder / "port").write_text(str(server.getsockname()[1]))
    pipelines = {name: with_heads(case.make()) for name, case in CASES.items()}
    expected = {name: video(pipelines[name], case) for name, case in CASES.items()}
    for size in SIZES:
        processes = [fork(rank, size, pipelines, expected, folder) for rank in range(size)]
        for process in processes:
            _, status = os.waitpid(process, 0)
            assert status == 0, f"a process of {size} ended with {os.waitstatus_to_exitcode(status)}"
        said = [(folder / f"lines-{size}-{rank}").read_text() for rank in range(size)]
        print("\n".join(said), flush=True)


if __name__ == "__main__":
    main()
