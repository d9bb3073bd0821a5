"""The console script ``feclip``: finds the sub-command, and loads no more than that one needs."""

import difflib
import sys
from collections.abc import Sequence

from feclip import __doc__ as about_feclip
from feclip import __version__
from feclip.commands import COMMANDS, summary

__all__ = ["main"]

EXIT_USAGE = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``feclip`` and return the exit code.

    Args:
        argv: Arguments after the program's name; None takes the process's own.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    first = words[0] if words else "--help"
    if first in COMMANDS:
        from feclip.cli import run_command  # noqa: PLC0415 - see docs/adr/0020

        return run_command(first, words[1:])
    if first in {"-h", "--help"}:
        sys.stdout.write(_overview())
        return 0
    if first == "--version":
        sys.stdout.write(f"feclip {__version__}\n")
        return 0
    if first == "--print_shtab":
        return _print_completion(words[1:])
    close = difflib.get_close_matches(first, COMMANDS, n=1)
    meant = f"did you mean {close[0]}?" if close else f"one of {', '.join(COMMANDS)}."
    return _refuse(f"no command {first!r}; {meant}")


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:{width}}  {summary(name)}" for name in COMMANDS)
    return (
        f"usage: feclip COMMAND [flags]\n\n{about_feclip}\n\ncommands:\n{lines}\n\n"
        "feclip COMMAND --help              examples and every flag of a command\n"
        "feclip --version                   the version\n"
        "feclip --print_shtab bash          completion for a shell, bash or zsh\n"
    )


def _print_completion(words: Sequence[str]) -> int:
    from feclip.cli.completion import SHELLS, completion_script  # noqa: PLC0415 - see docs/adr/0020

    if len(words) != 1 or words[0] not in SHELLS:
        return _refuse(f"--print_shtab takes one shell, {' or '.join(SHELLS)}.")
    sys.stdout.write(completion_script(words[0]))
    return 0


def _refuse(message: str) -> int:
    sys.stderr.write(f"feclip: error: {message} (all commands: feclip --help)\n")
    return EXIT_USAGE


if __name__ == "__main__":
    sys.exit(main())
