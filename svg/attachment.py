"""Run a diffusion transformer's self-attention through a method and a backend inside a with block, then restore it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any, Protocol, TypeGuard

import torch

from svg.context import AttentionContext
from svg.finite import FiniteWatch
from svg.layout import TokenLayout
from svg.operations import TorchOperations
from svg.plan import AttentionInputs, AttentionPlan
from svg.receipt import Receipt, SampledCall
from svg.schedule import DenseSchedule


class Method(Protocol):
    """What a sparse method must have; someone else's needs no base class of ours."""

    def plan(self, inputs: AttentionInputs, context: AttentionContext) -> AttentionPlan: ...

    def dense_schedule(self, num_steps: int, num_layers: int, timesteps: Sequence[float]) -> DenseSchedule: ...


class Backend(Protocol):
    """What computes a plan; inputs and output are in the plan's order."""

    name: str

    def check(self, query: torch.Tensor, plan: AttentionPlan) -> None: ...

    def __call__(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, plan: AttentionPlan
    ) -> torch.Tensor: ...


class OrderingBackend(Backend, Protocol):
    """A backend that, where ``orders_keys`` is true, can be handed keys and values in the original order."""

    @property
    def orders_keys(self) -> bool: ...

    def attend_unordered(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, plan: AttentionPlan
    ) -> torch.Tensor: ...


def orders_keys(backend: Backend) -> TypeGuard[OrderingBackend]:
    """Return whether a backend puts keys and values in the plan's order itself."""
    return getattr(backend, "orders_keys", False)


class ModelAdapter(Protocol):
    """What a model family tells the attachment about itself.

    Where one forward holds several branches, ``item_branches(pipeline, inputs)`` names each batch item's;
    ``repeated_blocks`` names classes of blocks to compile beside those that the transformer's class names. A
    transformer whose tokens several devices can share has ``blocks(transformer)`` and ``token_arguments``, for
    ``svg.parallel.Ulysses.split``. ``video_layers`` are patterns of the names of the linear layers through which every
    video token goes: those that are worth computing in 8 bits.
    """

    branches: tuple[str, ...]

    def transformers(self, pipeline: Any) -> list[torch.nn.Module]: ...

    def self_attentions(self, transformer: torch.nn.Module) -> list[Any]: ...

    def layout(self, transformer: torch.nn.Module, inputs: dict[str, Any]) -> TokenLayout: ...

    def processor(self, attend: Callable[[AttentionInputs], torch.Tensor], stock: Any) -> Any: ...


class Phases(Protocol):
    """A clock that is told which phase of a call runs."""

    def phase(self, name: str) -> AbstractContextManager[None]: ...


class Statistics(Protocol):
    """What measures some of the calls beside what they compute, such as ``svg.statistics_sample.StatisticsSample``.

    Where ``joins_heads`` is true, what ``measure`` returns has ``on_host()`` and ``join(others)``, and processes that
    share the heads can put it together.
    """

    def covers(self, context: AttentionContext) -> bool: ...

    def measure(self, inputs: AttentionInputs, plan: AttentionPlan, context: AttentionContext) -> Any: ...


class Parallel(Protocol):
    """What splits a generation over processes, such as ``svg.parallel.Ulysses``."""

    rank: int
    size: int

    def split(self, adapter: Any, transformer: Any, layout: Callable[[], Any]) -> list[Callable[[], None]]: ...

    def to_heads(self, inputs: AttentionInputs, layout: TokenLayout) -> AttentionInputs: ...

    def to_tokens(self, output: torch.Tensor, layout: TokenLayout) -> torch.Tensor: ...

    def gather(self, thing: Any) -> list[Any]: ...


class NoPhases:
    """The clock that measures nothing."""

    def phase(self, name: str) -> AbstractContextManager[None]:
        return nullcontext()


@dataclass
class StepClock:
    """Which step and branch a forward belongs to: a changed timestep is the next step, a repeated one the next branch.

    Values are compared for equality only. A new timestep schedule starts a new generation.
    """

    branches: tuple[str, ...]
    timesteps: list[float] = field(default_factory=list)
    step: int = -1
    branch_index: int = 0
    _schedule: Any = None
    timestep: float | None = None

    def advance(self, timestep: float, schedule: Any) -> bool:
        """Count one forward; return whether it opens a new generation."""
        is_new = schedule is not self._schedule
        if is_new:
            timesteps = schedule.tolist() if isinstance(schedule, torch.Tensor) else [float(one) for one in schedule]
            twice = next((one for one, other in pairwise(timesteps) if one == other), None)
            if twice is not None:
                raise ValueError(
                    f"model.num_inference_steps is {len(timesteps)}: two steps in a row have the timestep {twice:g} "
                    f"and cannot be told apart; take fewer steps"
                )
            self._schedule, self.timestep, self.step, self.timesteps = schedule, None, -1, timesteps
        if timestep == self.timestep:
            self.branch_index += 1
        else:
            self.timestep, self.branch_index, self.step = timestep, 0, self.step + 1
        if self.step >= len(self.timesteps):
            raise RuntimeError(
                f"forward {self.step + 1} of a schedule of {len(self.timesteps)} steps: the pipeline calls its "
                f"transformer in a way this version does not know"
            )
        return is_new

    @property
    def branch(self) -> str:
        if self.branch_index < len(self.branches):
            return self.branches[self.branch_index]
        return f"branch{self.branch_index}"


@dataclass(frozen=True, eq=False)
class _Layer:
    """One layer's attention: it decides, counts and records. A compiled block comes to it by ``svg.sites``."""

    attachment: Attachment
    transformer: int
    layer: int
    num_layers: int

    @torch.compiler.disable(
        reason="svg.attach decides attention anew at every step: call it from a processor that derives from "
        "svg.models._processor.SelfAttention, or compile with fullgraph=False"
    )
    def __call__(self, inputs: AttentionInputs) -> torch.Tensor:
        parallel, layout = self.attachment.parallel, self.attachment._layout
        place = self.transformer, self.layer, self.num_layers
        if parallel is None or layout is None:
            return self.attachment._attend(inputs, *place)
        return parallel.to_tokens(self.attachment._attend(parallel.to_heads(inputs, layout), *place), layout)


class Attachment:
    """A method and two backends on one pipeline, while the with block lasts.

    Args:
        pipeline: A diffusers pipeline with a scheduler.
        adapter: The pipeline's model family.
        method: Decides each sparse call.
        backend: Computes sparse plans.
        dense_backend: Computes the dense steps and layers; the dense twin's backend, or quality measures its rounding.
        seed: Seed of what the method draws.
        phases: A clock told of the phases "profiling", "reordering", "attention" and "statistics".
        strict: Raise where a backend refuses a plan, and where the output of one in 8 bits is not finite, at the step's
            end. If False the call runs dense and the receipt says so, and what is not finite stays that.
        operations: What the method computes with; None is plain torch.
        statistics: Measures some calls, for the receipt's ``sampled``; None measures none.
        compile: Compile the transformers' repeated blocks meanwhile: True, or options of ``torch.compile``.
        parallel: Splits tokens and heads over processes. Then the receipt tells of this one's heads until the with
            block ends, and of all heads after it. None: this process computes all.

    Raises:
        ValueError: If ``compile`` is neither, or is asked for together with ``parallel``.
    """

    def __init__(
        self,
        pipeline: Any,
        adapter: ModelAdapter,
        method: Method,
        backend: Backend,
        dense_backend: Backend,
        *,
        seed: int = 0,
        phases: Phases | None = None,
        strict: bool = True,
        operations: TorchOperations | None = None,
        statistics: Statistics | None = None,
        compile: bool | Mapping[str, Any] = False,
        parallel: Parallel | None = None,
    ) -> None:
        self.pipeline, self.adapter, self.method = pipeline, adapter, method
        self.backend, self.dense_backend = backend, dense_backend
        self.seed, self.strict = seed, strict
        self.operations = operations if operations is not None else TorchOperations()
        self.phases = phases if phases is not None else NoPhases()
        self.statistics, self.parallel = statistics, parallel
        self.compile_options = _options_of(compile)
        if parallel is not None and self.compile_options is not None:
            raise ValueError("parallel and compile are both given; a compiled block cannot exchange tokens: take one")
        if parallel is not None and statistics is not None and not getattr(statistics, "joins_heads", False):
            raise ValueError(
                f"parallel is given, and statistics is a {type(statistics).__name__}, of which processes that share "
                f"the heads cannot put together what each has measured; leave one of them out"
            )
        self.receipt = Receipt()
        self._clock = StepClock(adapter.branches)
        self._finite = FiniteWatch(None if parallel is None else parallel.gather)
        self._timestep: tuple[torch.Tensor | None, float] = (None, 0.0)
        self._layout: TokenLayout | None = None
        self._schedule = DenseSchedule(0, 0)
        self._state: dict[tuple[int, int, str], dict[str, Any]] = {}
        self._item_branches: tuple[str, ...] = ()
        self._undo: list[Callable[[], None]] = []

    def __enter__(self) -> Attachment:
        if self._undo:
            raise ValueError("this svg.attach is in use: its with block was entered twice; make another one")
        try:
            for index, transformer in enumerate(self.adapter.transformers(self.pipeline)):
                self._install(index, transformer)
        except BaseException:
            self._restore()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        self._restore()
        if kind is None:
            self._finite.check()
        if self.parallel is not None and kind is None:
            self.receipt.join(self.parallel.gather(self.receipt.on_host()))

    def _install(self, index: int, transformer: torch.nn.Module) -> None:
        modules = self.adapter.self_attentions(transformer)

        def before_forward(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = kwargs["timestep"] if "timestep" in kwargs else args[1]
            # The pipeline's own value first: the transformer's may be rounded until two steps look like one.
            timestep = getattr(self.pipeline, "current_timestep", None)
            timestep = given if timestep is None else timestep
            inputs = kwargs | {"hidden_states": kwargs.get("hidden_states", *args[:1])}
            value = self._read(timestep)
            if value != self._clock.timestep:
                self._finite.check()
            if self._clock.advance(value, self.pipeline.scheduler.timesteps):
                later = getattr(self.adapter, "timestep_dtype", None)
                dtype = given.dtype if later is None else later(module, inputs)
                self._start_generation(len(modules), inputs, dtype)
            self._layout = self.adapter.layout(module, inputs)
            self.receipt.forwards.append((self._clock.step, self._clock.branch, len(modules)))

        handle = transformer.register_forward_pre_hook(before_forward, with_kwargs=True)
        self._undo.append(handle.remove)
        if self.parallel is not None:
            self._undo += self.parallel.split(self.adapter, transformer, lambda: self._layout)
        for layer, module in enumerate(modules):
            stock = module.processor
            attend = _Layer(self, index, layer, len(modules))
            processor = self.adapter.processor(attend, stock)
            if type(stock) is type(processor):
                raise ValueError("this pipeline is under another svg.attach; leave that with block first")
            if self.parallel is None and getattr(stock, "_parallel_config", None) is not None:
                raise ValueError(
                    "diffusers' context parallelism is on for this pipeline; give its processes to svg.attach, too: "
                    "parallel=torch.distributed.group.WORLD"
                )
            module.set_processor(processor)
            self._undo.append(partial(module.set_processor, stock))
            if hasattr(processor, "open"):
                self._undo.append(processor.open(module))
        if self.compile_options is not None:
            # It loads a compiler, which nothing else here needs.
            from svg.compiling import compile_blocks

            more = getattr(self.adapter, "repeated_blocks", ())
            self._undo.append(compile_blocks(transformer, more, self.compile_options))

    def _read(self, timestep: torch.Tensor) -> float:
        """Return a timestep's value; waits for the device once a step, whose branches are handed the same tensor."""
        if timestep is not self._timestep[0]:
            self._timestep = timestep, float(timestep.flatten()[-1])
        return self._timestep[1]

    def _restore(self) -> None:
        while self._undo:
            self._undo.pop()()
        self._state.clear()
        self._timestep = (None, 0.0)

    def _start_generation(self, num_layers: int, inputs: dict[str, Any], dtype: torch.dtype) -> None:
        self._state.clear()
        item_branches = getattr(self.adapter, "item_branches", None)
        self._item_branches = () if item_branches is None else item_branches(self.pipeline, inputs)
        num_steps = len(self._clock.timesteps)
        # A method is told what the transformer is given, rounding included, as the reference code's thresholds are.
        timesteps = torch.tensor(self._clock.timesteps, dtype=torch.float64).to(dtype).tolist()
        self._schedule = self.method.dense_schedule(num_steps, num_layers, timesteps)
        self.receipt = Receipt(
            self._schedule.dense_steps, self._schedule.dense_layers, num_steps, num_layers, timesteps
        )

    def _attend(self, inputs: AttentionInputs, transformer: int, layer: int, num_layers: int) -> torch.Tensor:
        assert self._layout is not None
        self._layout.check(inputs.seq_len)
        inputs.operations = self.operations
        clock = self._clock
        context = AttentionContext(
            layout=self._layout,
            layer=layer,
            num_layers=num_layers,
            step=clock.step,
            num_steps=len(clock.timesteps),
            branch=clock.branch,
            seed=self.seed,
            state=self._state.setdefault((transformer, layer, clock.branch), {}),
        )
        if self.parallel is not None:
            context.head_offset = self.parallel.rank * inputs.num_heads
            context.num_heads = self.parallel.size * inputs.num_heads
        plan, backend, fallback = AttentionPlan.dense(inputs.key_lengths), self.dense_backend, None
        if not self._schedule.is_dense(clock.step, layer):
            # Needed either way, and once: outside of the phase, profiling is charged for its own work only.
            inputs.key()
            with self.phases.phase("profiling"):
                plan = self.method.plan(inputs, context)
            if not plan.is_dense:
                backend = self.backend
        try:
            # Keys are in the queries' shape and type, which alone are looked at.
            backend.check(inputs.key(), plan)
        except ValueError as refusal:
            if self.strict or plan.is_dense:
                raise
            plan, backend, fallback = AttentionPlan.dense(inputs.key_lengths), self.dense_backend, str(refusal)
        if self.statistics is not None and self.statistics.covers(context):
            with self.phases.phase("statistics"):
                measured = self.statistics.measure(inputs, plan, context)
            self.receipt.sampled.append(
                SampledCall(context.step, context.layer, context.branch, measured, self._item_branches, transformer)
            )
        attend: Callable[..., torch.Tensor] = backend
        if not plan.is_reordered:
            query, key, value = inputs.query(), inputs.key(), inputs.value()
        elif orders_keys(backend):
            with self.phases.phase("reordering"):
                query = self.operations.arrange_query(plan, inputs)
            key, value, attend = inputs.key(), inputs.value(), backend.attend_unordered
        else:
            with self.phases.phase("reordering"):
                query, key, value = self.operations.arrange_inputs(plan, inputs)
        with self.phases.phase("attention"):
            output = attend(query, key, value, plan)
            if self.strict and getattr(backend, "precision", "bf16") != "bf16":
                self._finite.note(backend.name, context, output)
        if plan.is_reordered:
            with self.phases.phase("reordering"):
                output = self.operations.restore(plan, output)
        # Heads that share their choice are told one by one, so that every head has its own, those of all processes too.
        plan = replace(plan, assignment=plan.assignment.expand(-1, inputs.num_heads))
        self.receipt.record(context, backend.name, plan, fallback, self._item_branches)
        return output


def _options_of(compile: bool | Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the options of ``torch.compile`` that are asked for; None: nothing is compiled."""
    if isinstance(compile, bool):
        return {} if compile else None
    if not isinstance(compile, Mapping):
        raise ValueError(f"compile is {compile!r}; it must be True, False or a dict of options of torch.compile")
    return dict(compile)
