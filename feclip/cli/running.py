"""Parse a command line, run what it asks for, and say what is wrong in one line.

Exit codes: 0 done, 1 the job could not be done, 2 the command line or a config value is wrong, 130 interrupted.
"""

import argparse
import dataclasses
import difflib
import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from feclip.cli.origins import origin_of
from feclip.config import ENDLESS_TEXT, UNFIT_VALUES, holds_credentials, is_endless, strict_parsing, unfit_reason
from feclip.errors import ConfigError, FeclipError, folded
from feclip.logs import LogConfig, asked_format, configure, say_end, speaks_json

__all__ = ["build_parser", "parse_config", "run_job"]

_Config = TypeVar("_Config")

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
POSITIONAL = "positional"
"""Metadata of a config field, a tuple of texts, that is given without a flag."""

logger = logging.getLogger(__name__)


class _Formatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keep the layout of the examples in the description."""


class _OneLineParser(ArgumentParser):
    """A parser whose errors are one line that names the flag, without the usage of all flags."""

    argv: Sequence[str] = ()

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print ``message`` as one line and exit with the code for a wrong command line."""
        text = _located(str(ex) if ex is not None and not message else message, self.argv)
        say_end(self.prog, f"error: {text}{self._meant(text)} (all flags: {self.prog} --help)")
        raise SystemExit(EXIT_USAGE)

    def _meant(self, message: str) -> str:
        """Return the flag that a misspelt one is closest to, as an addition to the message."""
        unknown = message.partition("unrecognized arguments: ")[2].split(" ")[0].partition("=")[0]
        flags = [flag for flag in self._option_string_actions if not unknown.startswith(f"{flag}.")]
        close = difflib.get_close_matches(unknown, flags, n=1) if unknown else []
        return f"; did you mean {close[0]}?" if close else ""


class _Given(argparse.Action):
    """Set words without a flag where there are any, so that none of them leaves what a file says."""

    def __call__(  # noqa: PLR0917 - argparse's signature
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002 - argparse's signature
        namespace: argparse.Namespace,
        values: Any,  # noqa: ANN401 - argparse's signature
        option_string: str | None = None,  # noqa: ARG002 - argparse's signature
    ) -> None:
        if values:
            setattr(namespace, self.dest, values)


def build_parser(config_class: type[Any], *, prog: str, about: str) -> ArgumentParser:
    """Return the parser of a config's dotted flags and YAML files; made and used within `strict_parsing`.

    Args:
        config_class: One of the job configs of :mod:`feclip.config`.
        prog: Name of the program in messages.
        about: Text above the flags in ``--help``; its layout is kept.
    """
    words = [field for field in dataclasses.fields(config_class) if POSITIONAL in field.metadata]
    usage = " ".join([prog, *(f"{field.name} ..." for field in words), "[flags]"])  # the examples say more than a list
    parser = _OneLineParser(prog=prog, usage=usage, description=about, formatter_class=_Formatter)
    for field in words:
        parser.add_argument(field.name, nargs="*", type=str, default=[], action=_Given, help=field.metadata[POSITIONAL])
    parser.add_argument("--config", action="config", help="YAML file of the fields below; flags after it override it")
    parser.add_class_arguments(config_class, as_group=True, skip={field.name for field in words})
    parser.add_class_arguments(LogConfig, "log")
    _accept_bare_flags(parser)
    return parser


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
        SystemExit: With code 2 after one line on standard error, if a flag or a value is wrong. A value from a file is
            named with its file and line.

    Example:
        >>> from feclip.config import LossConfig
        >>> parse_config(LossConfig, ["--dice_weight", "0.5"], prog="example", about="").dice_weight
        0.5
    """
    return _parsed(config_class, argv, prog=prog, about=about)[0]


def _parsed(
    config_class: type[_Config], argv: Sequence[str] | None, *, prog: str, about: str
) -> tuple[_Config, LogConfig]:
    with strict_parsing():
        parser = build_parser(config_class, prog=prog, about=about)
        assert isinstance(parser, _OneLineParser)
        parser.argv = sys.argv[1:] if argv is None else argv
        _check_words(parser, parser.argv)
        try:
            values = parser.parse_args(list(parser.argv))
            values.pop("config", None)
            config: dict[str, Any] = dict(vars(parser.instantiate(values)))
            log: LogConfig = config.pop("log")
            return config_class(**config), log
        except UNFIT_VALUES as error:
            parser.error(unfit_reason(error))


def _check_words(parser: ArgumentParser, argv: Sequence[str]) -> None:
    """Refuse what must not be repeated, by a message or by --print_config: credentials, and endless references."""
    flag = "the command line"
    for word in argv:
        flag = word.partition("=")[0] if word.startswith("-") else flag
        if holds_credentials(word):
            hint = "they come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
            parser.error(f"{flag} must not hold credentials; {hint}")
        if is_endless(word):
            parser.error(f"{flag}: {ENDLESS_TEXT}.")


def _accept_bare_flags(parser: ArgumentParser) -> None:
    """Let ``--resume`` say ``--resume true``, for every field that is true or false."""
    for action in parser._actions:  # noqa: SLF001 - argparse has no public list of them
        if getattr(action, "_typehint", None) is bool:
            action.nargs, action.const = "?", True


def run_job(
    config_class: type[_Config],
    action: Callable[[_Config], object],
    *,
    prog: str,
    about: str,
    argv: Sequence[str] | None = None,
) -> int:
    """Parse the command line, run ``action`` and return the exit code.

    Errors that a user can mend become one line on standard error; anything else keeps its traceback.
    """
    words = sys.argv[1:] if argv is None else argv
    job = prog.removesuffix(".py").split()[-1]
    configure(LogConfig(format=asked_format(words)), job=job)
    config, log = _parsed(config_class, argv, prog=prog, about=about)
    configure(log, job=job)
    try:
        action(config)
    except ConfigError as error:
        say_end(prog, f"error: {_located(str(error), words)}")
        return EXIT_USAGE
    except FeclipError as error:
        say_end(prog, f"error: {error}")
        return EXIT_FAILED
    except KeyboardInterrupt:
        say_end(prog, "interrupted; submit the same command again to go on")
        return EXIT_INTERRUPTED
    except Exception:
        if not speaks_json():
            raise
        logger.exception("The job met a defect of its own")
        return EXIT_FAILED
    return 0


def _located(message: str, argv: Sequence[str]) -> str:
    """Return a message in one line, with the file and line that set the field of which it speaks."""
    text = folded(message)
    origin = origin_of(text, argv)
    text = text.replace('in "<unicode string>", ', "")  # what the YAML reader calls the file
    return text if origin is None else f"{origin}: {text}"
