"""One generation, timed: a pipeline under a method and two backends, from explicit noise to uint8 frames."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from experiments.prompting import open_image
from experiments.schema import ModelConfig
from svg.attaching import attach
from svg.cost.clock import Clock, PhaseClock
from svg.cost.memory import peak_gib, reset_peak
from svg.models import adapter_for
from svg.prompts import Prompt
from svg.receipt import Receipt
from svg.schedule import DenseSchedule
from svg.video import to_uint8

PHASES = ("attention", "profiling", "reordering")


@dataclass(frozen=True)
class Generation:
    """What one call of the pipeline gave and took. Times are seconds, those of the statistics left out.

    Args:
        frames: uint8 (frames, height, width, 3); None where nothing was decoded.
        total_s: The whole call: text encoding, denoising, decoding.
        encode_s: Until the first forward of the transformer.
        step_s: Every denoising step.
        decode_s: After the last step.
        spans: Every span of the phases attention, profiling and reordering, in the order of the attention calls, and
            of the statistics, in the order of ``receipt.sampled``.
        peak_gib: Most memory held meanwhile.
        receipt: What ran.
        latents: The transformer's last output, before decoding.
    """

    frames: np.ndarray | None
    total_s: float
    encode_s: float
    step_s: tuple[float, ...]
    decode_s: float
    spans: dict[str, list[float]]
    peak_gib: float
    receipt: Receipt
    latents: torch.Tensor | None = None

    @property
    def denoise_s(self) -> float:
        return sum(self.step_s)

    def timing(self) -> dict[str, Any]:
        """Return the times and calls as plain values, for the store of dense twins."""
        return {
            "total_s": self.total_s,
            "encode_s": self.encode_s,
            "step_s": list(self.step_s),
            "decode_s": self.decode_s,
            "attention_s": self.spans.get("attention", []),
            "calls": [[call.step, call.layer, call.branch, call.backend] for call in self.receipt.calls],
            "forwards": [list(forward) for forward in self.receipt.forwards],
            "peak_gib": self.peak_gib,
        }


@dataclass(frozen=True)
class Generator:
    """A pipeline with the settings that all generations of a run share.

    Args:
        pipeline: Loaded, on the device.
        model: The sampler's settings.
        device: Where it computes.
        compile: Whether the transformer's blocks are compiled, as ``svg.attach`` takes it.
    """

    pipeline: Any
    model: ModelConfig
    device: torch.device
    compile: bool = False

    def __call__(
        self,
        prompt: Prompt,
        seed: int,
        method: Any,
        backend: Any,
        dense_backend: Any,
        *,
        num_inference_steps: int | None = None,
        decodes: bool = True,
        on_step: Callable[[], None] = lambda: None,
        statistics: Any = None,
    ) -> Generation:
        """Generate one video.

        Args:
            prompt: Text, and the image that the video begins from.
            seed: Seed of the initial noise, together with the text, and of what the method draws.
            method, backend, dense_backend: As ``svg.attach`` takes them.
            num_inference_steps: In place of the model's.
            decodes: Whether latents become frames.
            on_step: Called after every denoising step.
            statistics: Measures some attention calls, as ``svg.attach`` takes it.
        """
        clock = Clock(self.device)
        phases = PhaseClock(clock)
        marks: list[Any] = []
        first: list[Any] = []
        last: list[torch.Tensor] = []

        def after_step(pipeline: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
            marks.append(clock.mark())
            last[:] = [values["latents"]]
            on_step()
            return values

        def before_forward(module: torch.nn.Module, args: tuple[Any, ...]) -> None:
            if not first:
                first.append(clock.mark())

        height, width = self.size(prompt)
        settings = {
            "prompt": prompt.text,
            # Only Cosmos has positions in seconds.
            "fps": self.model.fps,
            "height": height,
            "width": width,
            "num_frames": self.model.num_frames,
            "num_inference_steps": num_inference_steps or self.model.num_inference_steps,
            "guidance_scale": self.model.guidance_scale,
            "guidance_scale_2": self.model.guidance_scale_2,
            "generator": noise_generator(prompt.text, seed),
            "callback_on_step_end": after_step,
            "output_type": "pt" if decodes else "latent",
        }
        if self.model.negative_prompt is not None:
            settings["negative_prompt"] = self.model.negative_prompt
        if self.model.max_sequence_length is not None:
            settings["max_sequence_length"] = self.model.max_sequence_length
        if prompt.image is not None:
            image = open_image(prompt)
            # Elsewhere the pipeline itself stretches it.
            settings["image"] = image.resize((width, height)) if self.model.size_from_image else image
        known = inspect.signature(self.pipeline.__call__).parameters
        settings = {name: value for name, value in settings.items() if name in known}
        transformers = adapter_for(self.pipeline).transformers(self.pipeline)
        hooks = [transformer.register_forward_pre_hook(before_forward) for transformer in transformers]
        reset_peak(self.device)
        try:
            with attach(
                self.pipeline,
                method,
                backend,
                dense_backend,
                seed=seed,
                phases=phases,
                statistics=statistics,
                compile=self.compile,
            ) as run:
                clock.wait()
                start = clock.mark()
                video = self._call(settings)
                stop = clock.mark()
                clock.wait()
        finally:
            for hook in hooks:
                hook.remove()
        spans = phases.spans()
        took = [0.0] * len(marks)
        for call, seconds in zip(run.receipt.sampled, spans.get("statistics", ()), strict=True):
            took[call.step] += seconds
        steps = [clock.seconds(a, b) for a, b in pairwise([*first, *marks])]
        return Generation(
            frames=to_uint8(video[0].permute(0, 2, 3, 1)) if decodes else None,
            total_s=clock.seconds(start, stop) - sum(took),
            encode_s=clock.seconds(start, first[0]),
            step_s=tuple(step - sampled for step, sampled in zip(steps, took, strict=True)),
            decode_s=clock.seconds(marks[-1], stop),
            spans=spans,
            peak_gib=peak_gib(self.device),
            receipt=run.receipt,
            latents=last[0],
        )

    def size(self, prompt: Prompt) -> tuple[int, int]:
        """Return height and width of a prompt's video: the model's, or of that area in the shape of its image."""
        if not self.model.size_from_image:
            return self.model.height, self.model.width
        fit = getattr(adapter_for(self.pipeline), "size_for_image", None)
        if fit is None:
            raise ValueError(
                f"model.size_from_image is true, but {type(self.pipeline).__name__} is not known to take videos of any "
                f"shape; set it to false"
            )
        image = open_image(prompt)
        return fit(self.pipeline, self.model.height * self.model.width, image.height, image.width)

    def shape(self, prompt: Prompt) -> tuple[int | str, ...]:
        """Return what decides the shapes of a prompt's tensors: its size, and its text where padding is sliced off."""
        text = (prompt.text,) if getattr(adapter_for(self.pipeline), "slices_text", False) else ()
        return (*self.size(prompt), *text)

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Raise ``ValueError`` if the pipeline does not take the size of a prompt's video, or lacks a second expert."""
        adapter = adapter_for(self.pipeline)
        for height, width in {self.size(prompt) for prompt in prompts}:
            adapter.check_size(self.pipeline, height, width, self.model.num_frames)
        num_experts = len(adapter.transformers(self.pipeline))
        for name in ("guidance_scale_2", "boundary_ratio"):
            if getattr(self.model, name) is not None and num_experts < 2:
                raise ValueError(
                    f"model.{name} is {getattr(self.model, name)}, but the checkpoint has one transformer, not two "
                    f"experts; set it to null, or check model.path"
                )

    def _call(self, settings: dict[str, Any]) -> torch.Tensor:
        try:
            return self.pipeline(**settings).frames
        except (torch.OutOfMemoryError, RuntimeError) as error:
            # A CPU's allocator has no error class of its own.
            if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
                raise
            raise ValueError(
                f"device={self.device} has too little memory for model.height={self.model.height}, "
                f"model.width={self.model.width} and model.num_frames={self.model.num_frames}; make one of them smaller"
            ) from error


def noise_generator(prompt: str, seed: int) -> torch.Generator:
    """Return the CPU generator of the initial noise: of the prompt's text and the seed, wherever the prompt stands."""
    digest = hashlib.sha256(f"{seed}\0{prompt}".encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:7], "big"))


@dataclass(frozen=True)
class FromTheFirstStep:
    """A method without its dense steps, so that a warm-up of one step reaches its sparse path."""

    method: Any

    def dense_schedule(self, num_steps: int, num_layers: int, timesteps: Sequence[float]) -> DenseSchedule:
        return DenseSchedule(0, self.method.dense_schedule(num_steps, num_layers, timesteps).dense_layers)

    def plan(self, inputs: Any, context: Any) -> Any:
        return self.method.plan(inputs, context)
