"""Scripts that complete commands and flags in a shell."""

import contextlib
import io
from typing import get_args

import shtab
from jsonargparse import ArgumentParser

from feclip import __version__
from feclip.cli.running import build_parser
from feclip.commands import COMMANDS, load, summary
from feclip.config import strict_parsing

__all__ = ["SHELLS", "completion_script"]

SHELLS = ("bash", "zsh")


def completion_script(shell: str) -> str:
    """Return the script for a shell, with every command, flag and word of a choice.

    Args:
        shell: One of `SHELLS`.
    """
    with strict_parsing():
        return _script(shell)


def _script(shell: str) -> str:
    parser = ArgumentParser(prog="feclip")
    commands = parser.add_subcommands(required=False)
    for name, command in COMMANDS.items():
        flags = build_parser(load(command.config), prog=name, about="")
        for action in flags._actions:  # noqa: SLF001 - argparse has no public list of them
            if str in (kind := getattr(action, "_typehint", None), *get_args(kind)) or not action.option_strings:
                action.complete = shtab.FILE  # type: ignore[attr-defined] # where shtab looks for it
        commands.add_subcommand(name, flags, help=summary(name))
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--print_shtab", choices=SHELLS)
    with contextlib.redirect_stderr(io.StringIO()):
        script: str = parser.get_completion_script(f"shtab-{shell}")
    return script
