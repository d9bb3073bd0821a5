"""From a command line to a config, and from an error to an exit code: what every command and every job shares."""

from feclip.cli.commands import run_command, run_script
from feclip.cli.running import parse_config, run_job

__all__ = ["parse_config", "run_command", "run_job", "run_script"]
