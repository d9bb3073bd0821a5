"""What a job says: lines for people, or JSON objects for machines that name the run; here and on every worker.

The settings of a process stand in one environment variable, which the driver hands to its workers, so that a line of a
decoding task names the same run as a line of the driver.
"""

import json
import logging
import os
import secrets
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from itertools import pairwise
from typing import Any

from tqdm import tqdm

__all__ = [
    "LOG_VARIABLE",
    "JsonFormatter",
    "LogConfig",
    "LogFormat",
    "LogLevel",
    "LogSettings",
    "asked_format",
    "bind",
    "bound",
    "configure",
    "configure_worker",
    "context",
    "fields",
    "say_end",
    "settings",
    "speaks_json",
]

LOG_VARIABLE = "FECLIP_LOG"
RUN_VARIABLE = "FECLIP_RUN_ID"
"""Where whoever starts a job may name it; otherwise its lines bear a name by chance."""
TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
PACKAGE = "feclip"


class LogFormat(StrEnum):
    """How a line looks."""

    text = "text"
    json = "json"


class LogLevel(StrEnum):
    """What is worth a line."""

    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """What a job says while it works."""

    format: LogFormat = LogFormat.text
    """text for people, or json: an object a line with time, level, run, job, host and pid, on the workers too."""
    level: LogLevel = LogLevel.info
    """Least level that is said; warning and error are quiet: no progress, no bars."""
    every: float = 30.0
    """Seconds between two lines of progress; on a terminal, with format text, a bar takes their place."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "format", LogFormat(self.format))
        object.__setattr__(self, "level", LogLevel(self.level))
        if not self.every >= 0:
            msg = f"log.every must be at least 0 seconds, got {self.every}."
            raise ValueError(msg)

    @property
    def is_quiet(self) -> bool:
        """Whether warnings and errors alone are said."""
        return self.level in {LogLevel.warning, LogLevel.error}


@dataclass(frozen=True, kw_only=True)
class LogSettings:
    """What all lines of a job have in common."""

    config: LogConfig = field(default_factory=LogConfig)
    run: str
    """Name of this submission of the job."""
    job: str
    """Kind of the job: score, finetune; empty where the library is called directly."""

    def environment(self) -> dict[str, str]:
        """Return what makes these the settings of a process."""
        return {LOG_VARIABLE: json.dumps(asdict(self))}


def settings() -> LogSettings:
    """Return the settings of this process, which are settled now if nothing settled them before."""
    text = os.environ.get(LOG_VARIABLE)
    if text is None:
        found = LogSettings(run=_run_name(), job="")
        os.environ.update(found.environment())
        return found
    known = json.loads(text)
    config = known.pop("config")
    return LogSettings(config=LogConfig(**config), **known)


def _run_name() -> str:
    return os.environ.get(RUN_VARIABLE) or secrets.token_hex(6)


_of_process: dict[str, Any] = {}
_bound: ContextVar[Mapping[str, Any]] = ContextVar("bound", default={})  # noqa: B039 - nobody writes to it


def bound() -> Mapping[str, Any]:
    """Return what lines of this thread say beside their message: slice, rank, trial."""
    return {**_of_process, **_bound.get()}


def bind(names: Mapping[str, Any]) -> None:
    """Let the lines of this thread say what those of another did, as the initializer of a pool of threads."""
    _bound.set(names)


@contextmanager
def context(**names: object) -> Iterator[None]:
    """Let lines within a ``with`` block say what they are about.

    Example:
        >>> with context(slice=3):
        ...     bound()
        {'slice': 3}
    """
    token = _bound.set({**_bound.get(), **names})
    try:
        yield
    finally:
        _bound.reset(token)


def fields(**values: object) -> dict[str, dict[str, object]]:
    """Return the ``extra`` of a log call that adds values to a JSON line.

    Example:
        >>> fields(done=3)
        {'fields': {'done': 3}}
    """
    return {"fields": values}


class JsonFormatter(logging.Formatter):
    """A record as one JSON object on one line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; what cannot be told in JSON is told as text."""
        common = settings()
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "run": common.run,
            "job": common.job,
            "host": socket.gethostname(),
            "pid": record.process,
            **bound(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class _WorkerText(logging.Formatter):
    """The message alone, as Ray says whose it is; a trial's after its number."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return f"trial {bound()['trial']}: {text}" if "trial" in bound() else text


class _Handler(logging.Handler):
    """Standard error, beside bars that may be drawn on it."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if sys.stderr.isatty():
                tqdm.write(self.format(record), file=sys.stderr)
            else:
                sys.stderr.write(self.format(record) + "\n")
        except Exception:  # noqa: BLE001 - as the standard library's handlers do
            self.handleError(record)


def asked_format(argv: Sequence[str]) -> LogFormat:
    """Return the format that a command line asks for, before it is known whether the rest of it is right.

    Example:
        >>> asked_format(["--log.format=json", "--no_such_flag"]).value
        'json'
    """
    pairs = {*pairwise(argv), *((name, value) for name, _, value in (flag.partition("=") for flag in argv))}
    return LogFormat.json if ("--log.format", "json") in pairs else LogFormat.text


def configure(config: LogConfig, *, job: str) -> None:
    """Settle how this process and its workers talk; handlers that another program set up are left alone.

    Args:
        config: What the user wants.
        job: Kind of the job.
    """
    os.environ.update(LogSettings(config=config, run=_run_name(), job=job).environment())
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Handler)]:
        root.removeHandler(handler)
    if not root.handlers:
        root.addHandler(_handler(config, text=logging.Formatter(TEXT)))
    root.setLevel(max(logging.WARNING, _number(config.level)))
    logging.getLogger(PACKAGE).setLevel(_number(config.level))
    if config.format is LogFormat.json:
        logging.captureWarnings(True)


def configure_worker(*, speaks: bool = False, **names: object) -> None:
    """Settle how a worker talks, by the settings that the driver handed to it.

    Args:
        speaks: Whether it says what the level asks for; others say warnings and errors alone.
        **names: What all its lines say beside their message: rank, trial.
    """
    config = settings().config
    _of_process.clear()
    _of_process.update(names)
    root = logging.getLogger()
    root.handlers[:] = [_handler(config, text=_WorkerText())]
    least = max(logging.WARNING, _number(config.level))
    root.setLevel(least)
    logging.getLogger(PACKAGE).setLevel(_number(config.level) if speaks else least)


def _handler(config: LogConfig, *, text: logging.Formatter) -> logging.Handler:
    handler = _Handler()
    handler.setFormatter(JsonFormatter() if config.format is LogFormat.json else text)
    return handler


def speaks_json() -> bool:
    """Return whether lines are JSON."""
    return settings().config.format is LogFormat.json


def _number(level: LogLevel) -> int:
    return logging.getLevelNamesMapping()[level.upper()]


def say_end(prog: str, text: str) -> None:
    """Say in one line why a command ends before its work is done; in JSON as an error.

    Args:
        prog: The program.
        text: Why; white space is folded.
    """
    line = " ".join(text.split())
    if speaks_json():
        record = logging.LogRecord(PACKAGE, logging.ERROR, "", 0, line.removeprefix("error: "), None, None)
        record.fields = {"prog": prog}
        line = JsonFormatter().format(record)
    else:
        line = f"{prog}: {line}"
    sys.stderr.write(f"{line}\n")
