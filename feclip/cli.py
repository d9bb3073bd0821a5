"""From a command line to a config, and from an error to an exit code: what every job shares.

Exit codes: 0 done, 1 the job could not be done, 2 the command line or a config value is wrong, 130 interrupted.
"""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

from jsonargparse import ArgumentParser, DefaultHelpFormatter, set_parsing_settings

from feclip.errors import ConfigError, FeclipError
from feclip.logs import LogConfig, asked_format, configure, say_end, speaks_json

__all__ = ["parse_config", "run_job"]

_Config = TypeVar("_Config")

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it

logger = logging.getLogger(__name__)


class _Formatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keep the layout of the examples in the description."""


class _OneLineParser(ArgumentParser):
    """A parser whose errors are one line that names the flag, without the usage of all flags."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print ``message`` as one line and exit with the code for a wrong command line."""
        text = str(ex) if ex is not None and not message else message
        say_end(self.prog, f"error: {text} (all flags: {self.prog} --help)")
        raise SystemExit(EXIT_USAGE)


def parse_config(config_class: type[_Config], argv: Sequence[str] | None = None, *, prog: str, about: str) -> _Config:
    """Parse dotted flags and YAML files into ``config_class``.

    Args:
        config_class: One of the job configs of :mod:`feclip.config`.
        argv: Arguments after the program's name; None takes the process's own.
        prog: Name of the program in messages.
        about: Text above the flags in ``--help``; its layout is kept.

    Returns:
        The config; later flags and files override earlier ones.

    Raises:
        SystemExit: With code 2 after one line on standard error, if a flag or a value is wrong.

    Example:
        >>> from feclip.config import LossConfig
        >>> parse_config(LossConfig, ["--dice_weight", "0.5"], prog="example", about="").dice_weight
        0.5
    """
    return _parsed(config_class, argv, prog=prog, about=about)[0]


def _parsed(
    config_class: type[_Config], argv: Sequence[str] | None, *, prog: str, about: str
) -> tuple[_Config, LogConfig]:
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = _OneLineParser(prog=prog, description=about, formatter_class=_Formatter)
    parser.add_argument("--config", action="config", help="YAML file of the fields below; flags after it override it")
    parser.add_class_arguments(config_class, as_group=True)
    parser.add_class_arguments(LogConfig, "log")
    _accept_bare_flags(parser)
    values = parser.parse_args(argv)
    values.pop("config", None)
    try:
        config: dict[str, Any] = dict(vars(parser.instantiate(values)))
        log: LogConfig = config.pop("log")
        return config_class(**config), log
    except ValueError as error:
        parser.error(str(error))


def _accept_bare_flags(parser: ArgumentParser) -> None:
    """Let ``--resume`` say ``--resume true``, for every field that is true or false."""
    for action in parser._actions:  # noqa: SLF001 - argparse has no public list of them
        if getattr(action, "_typehint", None) is bool:
            action.nargs, action.const = "?", True


def run_job(config_class: type[_Config], action: Callable[[_Config], object], *, prog: str, about: str) -> int:
    """Parse the command line, run ``action`` and return the exit code.

    Errors that a user can mend become one line on standard error; anything else keeps its traceback.
    """
    job = prog.removesuffix(".py").split()[-1]
    configure(LogConfig(format=asked_format(sys.argv[1:])), job=job)
    config, log = _parsed(config_class, None, prog=prog, about=about)
    configure(log, job=job)
    try:
        action(config)
    except FeclipError as error:
        say_end(prog, f"error: {error}")
        return EXIT_USAGE if isinstance(error, ConfigError) else EXIT_FAILED
    except KeyboardInterrupt:
        say_end(prog, "interrupted; submit the same command again to go on")
        return EXIT_INTERRUPTED
    except Exception:
        if not speaks_json():
            raise
        logger.exception("The job met a defect of its own")
        return EXIT_FAILED
    return 0
