"""The values of complete runs, found by what the runs are: plans, timed steps, kernels or videos."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import copy
from typing import Any, NamedTuple

import pandas as pd

from analysis.hardware import column, hardware, is_counted
from analysis.steps import LINEAR_PRECISION, has_fp8_layers, is_compiled, linear_words, step_runs

# Which steps stay dense changes how many of each kind there are, not what one takes.
_NOT_OF_A_STEP = ("first_times_fp",)
PRECISION = "backend.precision"


class Sample(NamedTuple):
    """The median of repetitions: a value, how often, and half of its 95 % interval; None below 3 repetitions."""

    value: float
    n: int
    half_width: float | None

    @property
    def relative(self) -> float | None:
        """Half of the interval as a share of the value."""
        return None if self.half_width is None else self.half_width / self.value


def makes_no_videos(runs: pd.DataFrame) -> pd.Series:
    """Return which runs, failed ones too, are of commands that make none: steps, replays, plans, kernels and rates."""
    is_kernel = runs["model"].eq("kernels") | runs["method"].eq("rates")
    has_own = column(runs, "config.weights").notna() | column(runs, "config.captures.hashes").notna()
    return is_kernel | has_own | is_counted(runs)


class Rows:
    """Complete runs and their values, found by what they are.

    Args:
        measurements: From `analysis.load.measurements`.
        runs: From `analysis.load.runs`.
        compiled: Which timed steps count: those with compiled blocks, or those without.
    """

    def __init__(self, measurements: pd.DataFrame, runs: pd.DataFrame, compiled: bool = False) -> None:
        whole = runs[runs["status"] == "complete"].sort_values("created", kind="stable")
        self._kinds = {
            "plan": whole[is_counted(whole)],
            "step": step_runs(whole).loc[lambda steps: is_compiled(steps) == compiled],
            # A rehearsal on small shapes is no benchmark.
            "kernel": whole[(whole["model"] == "kernels") & (column(whole, "config.size") == "paper")],
        }
        self.compiled = compiled
        # Of each machine, which runs timed steps or kernels on it.
        self.timed = hardware(pd.concat([self._kinds["step"], self._kinds["kernel"]]))
        self._facts = whole.set_index("run_id")
        tokens, layers = column(whole, "config.call.seq_len"), column(whole, "config.model.transformer.num_layers")
        self._sizes = dict(zip(whole["run_id"], zip(tokens, layers, strict=True), strict=True))
        has_prompts = whole["prompts"].map(lambda prompts: isinstance(prompts, list) and len(prompts) > 0).astype(bool)
        self.videos = whole[has_prompts & (whole["model"] != "kernels")]
        self.measurements = measurements[measurements["run_id"].isin(whole["run_id"])]
        places = ["prompt_id", "protocol", "value", "n", "spread"]
        alone = self.measurements[self.measurements[["step", "layer", "head", "frame"]].isna().all(axis=1)]
        alone = alone[alone["status"] == "ok"]
        self._values: dict[tuple[str, str], list[tuple[Any, ...]]] = {}
        for run_id, quantity, *rest in alone[["run_id", "quantity", *places]].itertuples(index=False):
            self._values.setdefault((run_id, quantity), []).append(tuple(rest))

    def on(self, machine: str) -> Rows:
        """Return these rows without the steps and kernels that were timed on another machine."""
        other = copy(self)
        ids = self.timed[machine]
        kept = {kind: self._kinds[kind].loc[lambda runs: runs["run_id"].isin(ids)] for kind in ("step", "kernel")}
        other._kinds = {**self._kinds, **kept}
        return other

    def find(self, kind: str, find: Mapping[str, str]) -> list[str]:
        """Return the ids of the runs of a kind (``plan``, ``step`` or ``kernel``) that fit, the last one last."""
        runs, wanted = self._kinds[kind], dict(find)
        if LINEAR_PRECISION.removeprefix("config.") not in find:
            # With linear layers in 8 bits everything is another one.
            runs = runs[~has_fp8_layers(runs)]
        if kind == "step":
            wanted = {name: text for name, text in find.items() if name not in _NOT_OF_A_STEP}
            if PRECISION not in find:
                # In 8 bits the sparse step is another one.
                runs = runs[~column(runs, f"config.{PRECISION}").isin(["fp8", "fp8_int8", "fp8_qk"])]
        elif kind == "plan":
            # It is counted whatever computes it.
            wanted.pop(PRECISION, None)
        return matching(runs, wanted)

    @property
    def steps(self) -> list[str]:
        """Ids of all timed steps, those in 8 bits too, the last one last."""
        return list(self._kinds["step"]["run_id"])

    def sample(
        self, run_id: str, quantity: str, protocol: str | None = None, prompt: str | None = None
    ) -> Sample | None:
        """Return a value of a run, of one protocol and one prompt where they are named; None where there is none."""
        for prompt_id, of, value, n, spread in self._values.get((run_id, quantity), []):
            if (protocol is None or of == protocol) and (prompt is None or prompt_id == prompt):
                return Sample(float(value), int(n), _half_width(int(n), spread))
        return None

    def size(self, run_id: str) -> tuple[float, float]:
        """Return the tokens of a self-attention call of a timed step, and its model's layers; NaN of another run."""
        tokens, layers = (math.nan if pd.isna(number) else float(number) for number in self._sizes[run_id])
        return tokens, layers

    def fact(self, run_id: str, name: str) -> Any:
        """Return a column of a run of `analysis.load.runs`."""
        return self._facts.at[run_id, name]

    def words(self, run_id: str) -> str:
        """Return what a timed step is of: model, backends, whether its blocks were compiled, layers."""
        names = (self.fact(run_id, name) for name in ("model", "backend", "dense_backend"))
        blocks = "compiled" if self.compiled else "not compiled"
        words = "{}, {} over dense {}, blocks {}, {:g} layers".format(*names, blocks, self.size(run_id)[1])
        return words + linear_words(self._facts.loc[run_id])

    def prompts(self, run_id: str, quantity: str) -> list[str]:
        """Return the prompts that a run has a value of."""
        return list(dict.fromkeys(str(prompt) for prompt, *_ in self._values.get((run_id, quantity), [])))


def matching(runs: pd.DataFrame, find: Mapping[str, str]) -> list[str]:
    """Return the ids of runs whose settings are those of ``find``; a setting that a run has not fits nothing."""
    found = runs
    for name, text in find.items():
        column = name if name in ("model", "method") else f"config.{name if '.' in name else f'method.{name}'}"
        if column not in found:
            return []
        found = found[found[column].map(lambda value, text=text: says(value, text)).astype(bool)]
    return list(found["run_id"])


def _half_width(n: int, spread: Any) -> float | None:
    from scipy.special import stdtrit

    if n < 3 or pd.isna(spread):
        return None
    return float(stdtrit(n - 1, 0.975)) * float(spread) / math.sqrt(n)


def says(value: Any, text: str) -> bool:
    """Return whether a setting has the value that a text names."""
    if isinstance(value, bool):
        return str(value).lower() == text
    if value is None or pd.isna(value):
        return text == "null"
    try:
        return math.isclose(float(value), float(text), rel_tol=1e-9)
    except ValueError:
        return str(value) == text
