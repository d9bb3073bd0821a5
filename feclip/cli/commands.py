"""The sub-commands of ``feclip``, as such and as the scripts in ``jobs/``."""

from collections.abc import Sequence

from feclip.cli.running import run_job
from feclip.commands import COMMANDS, about, load

__all__ = ["run_command", "run_script"]


def run_command(name: str, argv: Sequence[str]) -> int:
    """Run a sub-command of ``feclip`` and return the exit code.

    Args:
        name: One of `feclip.commands.COMMANDS`.
        argv: What follows it on the command line.
    """
    return _run(name, argv, prog=f"feclip {name}", text=about(name))


def run_script(name: str) -> int:
    """Run ``jobs/<name>.py`` with the process's own command line and return the exit code.

    Args:
        name: One of `feclip.commands.COMMANDS`.
    """
    return _run(name, None, prog=f"{name}.py", text=about(name, written=f"python jobs/{name}.py"))


def _run(name: str, argv: Sequence[str] | None, *, prog: str, text: str) -> int:
    command = COMMANDS[name]

    def action(config: object) -> None:
        load(command.action)(config)  # after the command line was read: torch and ray take seconds to load

    return run_job(load(command.config), action, prog=prog, about=text, argv=argv)
