"""What workers and Ray say, as the driver hands it on where lines are JSON: each line an object, and none changed."""

import json
import logging
import sys
from typing import Any

from ray._private.ray_logging import global_worker_stdstream_dispatcher  # public is only a prefix before every line

from feclip.logs import JsonFormatter

__all__ = ["forward_json"]

RAY_HANDLER = "ray_print_logs"
"""What ``ray.init`` adds and ``ray.shutdown`` removes: its name is kept, so that it removes ours."""


def forward_json() -> None:
    """Take over from Ray, after ``ray.init``, what prints the lines of workers; and make Ray's own lines JSON."""
    for handler in logging.getLogger("ray").handlers:
        handler.setFormatter(JsonFormatter())
    global_worker_stdstream_dispatcher.remove_handler(RAY_HANDLER)
    global_worker_stdstream_dispatcher.add_handler(RAY_HANDLER, _print_lines)


def _print_lines(batch: dict[str, Any]) -> None:
    for line in batch["lines"]:
        if line.strip():
            sys.stderr.write(f"{_as_json(line, batch=batch)}\n")


def _as_json(line: str, *, batch: dict[str, Any]) -> str:
    """Return a line of ours as it is, and what others say as the message of one.

    Args:
        line: As it stands in the log of a process.
        batch: Where Ray found it: ``pid``, ``ip``, ``actor_name``, ``task_name``, ``is_err``.
    """
    try:
        told = json.loads(line)
    except ValueError:
        told = None
    if isinstance(told, dict) and "logger" in told:
        return line
    name = batch.get("actor_name") or batch.get("task_name") or "worker"
    record = logging.LogRecord(f"ray.{name}", logging.INFO, "", 0, line, None, None)
    record.fields = {"pid": batch.get("pid"), "host": batch.get("ip")}
    return JsonFormatter().format(record)
