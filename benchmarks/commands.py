"""The command line of a study: one function, one command."""

import logging
import sys
from collections.abc import Callable, Sequence

from jsonargparse import auto_cli

from feclip.errors import FeclipError


def run_commands(commands: Sequence[Callable[..., None]], *, logger: logging.Logger) -> int:
    """Run the command that the arguments name; an error is one line. Returns the exit code.

    Args:
        commands: Functions with annotated parameters and a docstring.
        logger: Of the study; it carries the study's name and speaks of its progress.
    """
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", stream=sys.stderr)
    logger.setLevel(logging.INFO)
    try:
        auto_cli([*commands], prog=f"{logger.name}.py", allow_abbrev=False)
    except FeclipError as error:
        logger.error("error: %s", error)  # noqa: TRY400 - one line for the user
        return 1
    return 0
