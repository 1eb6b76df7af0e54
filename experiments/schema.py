"""The typed settings of every experiment: a misspelt key or a value out of range is refused wherever it was written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

DTYPES = ("float32", "bfloat16", "float16")
LINEAR_PRECISIONS = ("bf16", "fp8")
TRACKING_MODES = ("off", "offline", "online")
TEXT_PLACES = ("none", "first", "last")
GUIDANCES = ("two_forwards", "batched", "embedded")
STEPS = ("dense", "sparse", "fixed")
# Of a step: more say nothing new.
MOST_REPEATS = 20
GRIDS = ("unipc_flow", "flow_match", "trailing", "edm")


@dataclass
class GeometryConfig:
    """How a video becomes tokens, for what is worked out before anything is loaded."""

    # Height and width of a token: the autoencoder's factor times the patch.
    pixels_per_token: int = MISSING
    # What the pipeline wants height and width to be multiples of.
    size_multiple: int = 16
    # n frames make (n - 1) / frames_per_latent + 1 latent frames.
    frames_per_latent: int = MISSING
    # Patch in time; the last one is filled up.
    latents_per_token: int = 1
    # Where text stands in self-attention; "none": it has a cross-attention.
    text: str = "none"
    # Of an image, in self-attention beside the text's.
    image_tokens: int = 0
    # Of a prompt's, the end of its template, which the pipeline cuts off before the transformer.
    cut_text_tokens: int = 0

    def __post_init__(self) -> None:
        for name in ("pixels_per_token", "size_multiple", "frames_per_latent", "latents_per_token"):
            _at_least(f"model.geometry.{name}", getattr(self, name), 1)
        _one_of("model.geometry.text", self.text, TEXT_PLACES)
        _at_least("model.geometry.image_tokens", self.image_tokens, 0)
        _at_least("model.geometry.cut_text_tokens", self.cut_text_tokens, 0)


@dataclass
class TransformerConfig:
    """The transformer's sizes, and how the sampler calls it, for what is worked out before anything is loaded."""

    # Self-attention calls of one forward.
    num_layers: int = MISSING
    num_heads: int = MISSING
    head_dim: int = MISSING
    # Width of the feed-forward network's hidden layer.
    ffn_dim: int = MISSING
    # Channels of a text token in cross-attention; null: text stands in self-attention.
    cross_dim: int | None = None
    # Tokens of an image in cross-attention, beside the text's.
    num_image_tokens: int = 0
    # How the unconditional prediction is made; "embedded": there is none.
    guidance: str = "two_forwards"
    # Which grid of timesteps the scheduler makes; see svg.timesteps.
    timesteps: str = "unipc_flow"
    # Whether the pipeline hands timesteps on in model.dtype.
    rounds_timesteps: bool = False
    # The checkpoint's own, where model.flow_shift is null.
    flow_shift: float = 1.0
    # Further settings of its class in diffusers, where they are not the class's own defaults.
    diffusers: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("num_layers", "num_heads", "head_dim", "ffn_dim"):
            _at_least(f"model.transformer.{name}", getattr(self, name), 1)
        if self.cross_dim is not None:
            _at_least("model.transformer.cross_dim", self.cross_dim, 1)
        _at_least("model.transformer.num_image_tokens", self.num_image_tokens, 0)
        _one_of("model.transformer.guidance", self.guidance, GUIDANCES)
        _one_of("model.transformer.timesteps", self.timesteps, GRIDS)
        _in_range("model.transformer.flow_shift", self.flow_shift, 0, 100)


@dataclass
class ModelConfig:
    """Which pipeline generates, and the sampler's settings."""

    # Class of the pipeline in diffusers.
    pipeline: str = MISSING
    path: str = MISSING
    revision: str | None = None
    dtype: str = "float32"
    vae_dtype: str | None = None
    # Of the linear layers that every video token goes through; "bf16": dtype, whatever that is.
    linear_precision: str = "bf16"
    num_inference_steps: int = MISSING
    height: int = MISSING
    width: int = MISSING
    num_frames: int = MISSING
    fps: float = 16.0
    # True: height x width is an area, and the prompt's image gives its shape.
    size_from_image: bool = False
    guidance_scale: float = MISSING
    # Of the second of two experts; null: as guidance_scale.
    guidance_scale_2: float | None = None
    # Share of the timesteps below which the second expert denoises; null: the checkpoint's.
    boundary_ratio: float | None = None
    # Null: the pipeline's own.
    negative_prompt: str | None = ""
    max_sequence_length: int | None = None
    flow_shift: float | None = None
    # Whether the autoencoder works tile by tile.
    vae_tiling: bool = False
    # Whether prompts and frames are checked, where the pipeline has a guardrail; null: where its package is installed.
    guardrail: bool | None = None
    # What a method's setting is where the method leaves it null.
    method_defaults: dict[str, Any] = field(default_factory=dict)
    # What svg_upstream needs to know of the model family.
    upstream: dict[str, Any] = field(default_factory=dict)
    # What experiments.plan needs to know; a run finds both in the checkpoint.
    geometry: GeometryConfig | None = None
    transformer: TransformerConfig | None = None

    def __post_init__(self) -> None:
        for name in ("num_inference_steps", "height", "width", "num_frames"):
            _at_least(f"model.{name}", getattr(self, name), 1)
        if self.max_sequence_length is not None:
            _at_least("model.max_sequence_length", self.max_sequence_length, 1)
        _in_range("model.fps", self.fps, 0, 1000)
        _at_least("model.guidance_scale", self.guidance_scale, 0)
        if self.guidance_scale_2 is not None:
            _at_least("model.guidance_scale_2", self.guidance_scale_2, 0)
        if self.boundary_ratio is not None:
            _in_range("model.boundary_ratio", self.boundary_ratio, 0, 1)
        if self.flow_shift is not None:
            _in_range("model.flow_shift", self.flow_shift, 0, 100)
        _one_of("model.dtype", self.dtype, DTYPES)
        _one_of("model.vae_dtype", self.vae_dtype, (None, *DTYPES))
        _one_of("model.linear_precision", self.linear_precision, LINEAR_PRECISIONS)


@dataclass
class PromptsConfig:
    """Which prompts: texts, with images where they belong, or a file or folder, which then takes their place."""

    texts: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    path: str | None = None
    # Of a list of VBench.
    dimension: str | None = None
    image_folder: str | None = None


@dataclass
class QualityConfig:
    """How a sparse video is compared with its dense twin."""

    metrics: list[str] = field(default_factory=lambda: ["psnr", "ssim", "lpips_alex", "lpips_vgg", "vmaf"])
    protocols: list[str] = field(default_factory=lambda: ["standard"])
    lpips_trunk_dir: str | None = None


@dataclass
class StatisticsConfig:
    """In which attention calls it is measured where the heads look; see svg.statistics_sample."""

    sparse: bool = True
    dense: bool = False
    layers_apart: int = 8
    steps_apart: int = 10
    num_rows: int = 256

    def __post_init__(self) -> None:
        for name in ("layers_apart", "steps_apart", "num_rows"):
            _at_least(f"statistics.{name}", getattr(self, name), 1)


@dataclass
class TrackingConfig:
    """Where a finished record is copied to."""

    mode: str = "off"
    project: str = "sparse-videogen"
    entity: str | None = None
    dir: str | None = None
    # Null: the sweep that made a run, or its experiment.
    group: str | None = None
    # Whether wandb watches the machine while a run is made.
    system_metrics: bool = False

    def __post_init__(self) -> None:
        _one_of("tracking.mode", self.mode, TRACKING_MODES)


@dataclass
class Config:
    """All settings of one run."""

    model: ModelConfig = MISSING
    # The class `_target_` and its fields; checked against the class itself, so that a new method needs no line here.
    method: dict[str, Any] = field(default_factory=dict)
    # A backend's name and its fields, checked in the same way.
    backend: dict[str, Any] = field(default_factory=dict)
    dense_backend: str = "auto"
    prompts: PromptsConfig = field(default_factory=PromptsConfig)
    quality: QualityConfig = field(default_factory=QualityConfig)
    statistics: StatisticsConfig = field(default_factory=StatisticsConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    compile: bool = False
    seed: int = 0
    seeds: list[int] = field(default_factory=lambda: [0])
    device: str = "auto"
    threads: int | None = None
    runs_dir: str = "runs"
    store_dir: str | None = None
    cache_dir: str | None = None
    run_id: str | None = None
    overwrite: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        if not self.seeds:
            raise ValueError("seeds is empty; give at least one, such as seeds=[0]")
        for seed in self.seeds:
            if not 0 <= seed < 2**63:
                raise ValueError(f"seeds holds {seed}; a seed must be in [0, 2**63)")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds is {self.seeds}; no seed may stand in it twice")
        if self.threads is not None:
            _at_least("threads", self.threads, 1)


@dataclass
class PlanConfig(Config):
    """All settings of experiments.plan."""

    gpu: str = "h200"
    format: str = "table"
    record: bool = False
    text_tokens: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _one_of("format", self.format, ("table", "json"))
        if self.text_tokens is not None:
            _at_least("text_tokens", self.text_tokens, 0)


@dataclass
class RatesConfig(Config):
    """All settings of experiments.rates."""

    text_tokens: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.text_tokens is not None:
            _at_least("text_tokens", self.text_tokens, 0)


@dataclass
class StepConfig(Config):
    """All settings of experiments.step_latency."""

    weights: str = "random"
    steps: list[str] = field(default_factory=lambda: list(STEPS))
    seconds: float = 10.0
    repeats: int = 1
    operators: bool = False
    temporal_share: float = 2 / 3
    text_tokens: int | None = None
    gpu: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        _one_of("weights", self.weights, ("random",))
        if self.steps not in [list(STEPS[:count]) for count in (1, 2, 3)]:
            raise ValueError(f"steps is {self.steps}; it must be [dense], [dense,sparse] or [dense,sparse,fixed]")
        _at_least("seconds", self.seconds, 0)
        if not 1 <= self.repeats <= MOST_REPEATS:
            raise ValueError(f"repeats is {self.repeats}; it must be from 1 to {MOST_REPEATS}")
        if not 0 <= self.temporal_share <= 1:
            raise ValueError(f"temporal_share is {self.temporal_share}; it must be in [0, 1]")
        if self.text_tokens is not None:
            _at_least("text_tokens", self.text_tokens, 0)


@dataclass
class SelectionConfig:
    """Which attention calls are captured, and which of their heads; null is all of them."""

    steps: list[int] | None = None
    layers: list[int] | None = None
    branches: list[str] | None = None
    heads: list[int] | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "layers", "branches", "heads"):
            chosen = getattr(self, name)
            if chosen is None:
                continue
            if not chosen or len(set(chosen)) != len(chosen):
                raise ValueError(f"capture.{name} is {chosen}; it must hold at least one, each once, or be null")
            for index in chosen:
                if isinstance(index, int):
                    _at_least(f"capture.{name}", index, 0)


@dataclass
class CaptureConfig(Config):
    """All settings of experiments.capture."""

    capture: SelectionConfig = field(default_factory=SelectionConfig)
    captures_dir: str = "captures"


@dataclass
class ReplayConfig(Config):
    """All settings of experiments.replay."""

    captures: str = MISSING
    num_rows: int | None = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_rows is not None:
            _at_least("num_rows", self.num_rows, 1)


@dataclass
class HeadPatternsConfig(Config):
    """All settings of experiments.head_patterns."""

    run: str | None = None
    output: str | None = None


@dataclass
class VideoConfig(StepConfig):
    """All settings of experiments.video_latency."""

    whole: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if "sparse" not in self.steps:
            raise ValueError(f"steps is {self.steps}; a video has sparse steps: [dense,sparse] or [dense,sparse,fixed]")


def register(settings: type[Config] = Config) -> None:
    """Put the schema of a command where Hydra finds it; ``conf/config.yaml`` begins with it."""
    ConfigStore.instance().store(name="schema", node=settings)


def _at_least(name: str, value: float, least: float) -> None:
    if value < least:
        raise ValueError(f"{name} is {value}; it must be at least {least}")


def _in_range(name: str, value: float, above: float, most: float) -> None:
    if not above < value <= most:
        raise ValueError(f"{name} is {value}; it must be greater than {above} and at most {most}")


def _one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        words = ", ".join("null" if choice is None else str(choice) for choice in allowed)
        raise ValueError(f"{name} is {value!r}; it must be one of {words}")
