"""The way in from the command line: Hydra composes the settings, and what a user can cause ends in one line."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from experiments import help, schema
from experiments.schema import Config
from svg.results import RecordError, RunBusy, RunExists

# Lines of Hydra's messages that help nobody who only set a value.
_NOISE = (
    "Config search path:",
    "full_key:",
    "object_type=",
    "reference_type=",
    "provider=",
    "Set the environment",
    "See https://",
    "To append to your config",
)
CONF = Path(__file__).resolve().parent.parent / "conf"
# Groups of which nothing is picked where nothing is said; a plus before them, Hydra's way to add one, is optional.
OVERLAYS = ("experiment", "case", "launcher")
# What a job of a sweep says, before the run's folder, that left its run to the process that is writing it.
BUSY = "busy: "
# What a sweep is called: its experiment and a hash of its jobs.
SWEEP_NAME = re.compile(r"[A-Za-z0-9_]+-[0-9a-f]{8}")
_ADDED = tuple(f"+{group}=" for group in OVERLAYS)
USER_ERRORS = (ValueError, RecordError, HydraException, OmegaConfBaseException, OSError)


def command(
    task: Callable[[Any, Any], None],
    settings: type[Config] = Config,
    config_name: str = "config",
    refused: Callable[[DictConfig, Any, Exception], None] | None = None,
    sweep: Callable[..., Any] | None = None,
) -> Callable[[], None]:
    """Make a command of a function of (settings, names): errors become one line and exit status 2.

    Args:
        task: What the command does.
        settings: Schema of its settings.
        config_name: File in ``conf/`` with its settings.
        refused: Told of a sweep's job (settings, names, error) whose settings break a rule of their schema.
        sweep: What runs the jobs of a sweep, as ``experiments.sweeping.sweep`` does; None: Hydra, one after another.
    """
    schema.register()

    @wraps(task)
    def job(config: DictConfig) -> str | None:
        names = _names()
        try:
            given = _checked(config, names, refused)
            if given.dry_run and sweep is None:
                raise ValueError("dry_run is true, and only experiments.compare has a dry run; set it to false")
            task(given, names)
        except USER_ERRORS as error:
            if names.is_sweep and isinstance(error, RunBusy):
                return f"{BUSY}{error.path}"
            if names.is_sweep and isinstance(error, RunExists):
                # Another process has made it since this one looked.
                print(error, flush=True)
                return None
            if process.pid != os.getpid() or process.wants_traceback:
                raise
            # Kept from Hydra, which would print lines of its own.
            fail(error, names.overrides if names.is_sweep else ())
        return None

    # Where Hydra's sweeper finds it.
    job.sweep = sweep  # type: ignore[attr-defined]
    main = hydra.main(config_path=str(CONF), config_name=config_name, version_base="1.3")(job)

    def run() -> None:
        if {"-h", "--help"} & set(sys.argv[1:]):
            module = sys.modules[task.__module__]
            summary = (module.__doc__ or "").split(":")[0] + "."
            print(help.text(f"experiments.{Path(str(module.__file__)).stem}", summary, CONF, config_name), end="")
            return
        schema.register(settings)
        process.pid, process.failures = os.getpid(), 0
        process.wants_traceback = os.environ.get("SVG_TRACEBACK", "0") not in ("", "0")
        # Hydra then raises instead of printing several lines of its own.
        os.environ["HYDRA_FULL_ERROR"] = "1"
        # Hydra wants its own options before the settings.
        words = [word.removeprefix("+") if word.startswith(_ADDED) else word for word in sys.argv[1:]]
        sys.argv[1:] = sorted(words, key=lambda word: word not in ("-m", "--multirun"))
        try:
            main()
        except USER_ERRORS as error:
            if process.wants_traceback:
                raise
            _say(one_line(error))
            sys.exit(2)
        except KeyboardInterrupt:
            _say("interrupted; finished runs are kept, the same command goes on")
            sys.exit(130)
        if process.failures:
            sys.exit(2)

    return run


@dataclass
class _Process:
    """The process that the command started; a parallel launcher's workers are others, and hand their errors back."""

    pid: int = 0
    failures: int = 0
    wants_traceback: bool = False


process = _Process()


def _checked(config: DictConfig, names: Any, refused: Callable[[DictConfig, Any, Exception], None] | None) -> Config:
    try:
        return typed(config)
    except USER_ERRORS as error:
        if refused is not None and names.is_sweep:
            refused(config, names, error)
        raise


def typed(config: DictConfig) -> Config:
    """Return composed settings as a checked object.

    Raises:
        ValueError: If a value is out of its range, or a setting was added that there is not.
        OmegaConfBaseException: If one is missing or of the wrong type.
    """
    settings = OmegaConf.to_object(config)
    assert isinstance(settings, Config), "config.yaml begins with the schema"
    _check_names(settings)
    return settings


def _check_names(settings: Any, place: str = "") -> None:
    """Raise ``ValueError`` for a setting that is in no schema; a plus before it lets Hydra add any."""
    known = [field.name for field in fields(settings)]
    for name, value in vars(settings).items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {place}{near[0]}?" if near else f"known here are {', '.join(sorted(known))}"
            raise ValueError(f"{place}{name} is no setting; {hint}")
        if is_dataclass(value):
            _check_names(value, f"{place}{name}.")


def one_line(error: BaseException) -> str:
    """Return an error's message in one line, without what only Hydra's authors need."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ConfigKeyError | ConfigAttributeError):
        cause = cause.__cause__ or cause.__context__
    if cause is not None and cause.key is not None:
        known = [str(name) for name in cause.parent_node or ()]
        place = cause.full_key or str(cause.key)
        near = difflib.get_close_matches(str(cause.key), known, 1)
        group = place.rpartition(".")[0]
        hint = (
            f"did you mean {group}{'.' if group else ''}{near[0]}?"
            if near
            else f"known here are {', '.join(sorted(known)) or 'none'}"
        )
        return f"{place} is no setting; {hint}"
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        if group == "hydra/launcher":
            installed = ", ".join(error.options)
            return f"{group}={name} is not installed; there are {installed}; `make setup-cluster` adds Slurm's"
        return f"{group}={name} is not in conf/{group}; known are {', '.join(error.options)}"
    if isinstance(error, OverrideParseException):
        return f"{error.override!r} cannot be read: {_words(error)}; write SETTING=VALUE, a list as SETTING=[A,B]"
    said = _words(error)
    # Hydra names the setting, and only its cause the rule.
    if said.startswith("Error merging override ") and isinstance(error.__cause__, OmegaConfBaseException):
        said = f"{said.removeprefix('Error merging override ')}: {_words(error.__cause__)}"
    return said or type(error).__name__


def _words(error: BaseException) -> str:
    """Return the lines of a message that help, as one."""
    lines = [line.strip() for line in str(error).splitlines()]
    lines = [line for line in lines if not line.startswith((*_NOISE, "Error parsing override"))]
    return " ".join(" ".join(lines).split())


def _names() -> Any:
    hydra_config = HydraConfig.get()
    is_sweep = hydra_config.mode == RunMode.MULTIRUN
    # experiments.sweeping gives the jobs of a sweep its name; without it, they are called as the command.
    sweep = hydra_config.job.name if is_sweep and SWEEP_NAME.fullmatch(hydra_config.job.name) else None
    return names_of(hydra_config.runtime.choices, list(hydra_config.overrides.task), is_sweep, sweep)


def names_of(choices: Any, overrides: list[str], is_sweep: bool, sweep: str | None = None) -> Any:
    """Return the ``identity.Names`` of a job from the files that Hydra picked."""
    from experiments.identity import Names

    return Names(
        model=choices["model"],
        method=choices["method"],
        overrides=overrides,
        experiment=choices.get("experiment"),
        is_sweep=is_sweep,
        sweep=sweep,
    )


def fail(error: BaseException, overrides: Sequence[str] = ()) -> None:
    """Say in one line that something failed, such as the job of these overrides, and let the command end with 2."""
    process.failures += 1
    _say(": ".join([*filter(None, [" ".join(overrides)]), one_line(error)]))


def _say(message: str) -> None:
    print(f"error: {message}", file=sys.stderr, flush=True)
