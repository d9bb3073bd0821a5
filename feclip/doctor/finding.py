"""What one check found: ok, or what to do."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum

from feclip.errors import FeclipError, folded

__all__ = ["Finding", "Status", "failed", "guarded", "ok", "warning"]


class Status(StrEnum):
    """How a check ended."""

    ok = "ok"
    warning = "warning"
    """Jobs run, but not as well, or not as one might think."""
    failed = "failed"
    """A job that needs this cannot run."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check found.

    Example:
        >>> warning("padding", "is grey", advice="make it white").text()
        'warning  padding         is grey: make it white'
    """

    check: str
    """What was looked at, in a word or two."""
    status: Status
    message: str
    """What was seen, in one line."""
    advice: str = ""
    """What to do about it; empty where nothing is to be done, or the message says it."""

    def text(self) -> str:
        """Return it as a line for people."""
        advice = f": {self.advice}" if self.advice else ""
        return f"{self.status:7}  {self.check:14}  {self.message}{advice}"

    def json(self) -> str:
        """Return it as a line of JSON."""
        return json.dumps(asdict(self))


def ok(check: str, message: str) -> Finding:
    """Return that a check found nothing wrong."""
    return Finding(check=check, status=Status.ok, message=message)


def warning(check: str, message: str, *, advice: str) -> Finding:
    """Return that a check found what may surprise."""
    return Finding(check=check, status=Status.warning, message=message, advice=advice)


def failed(check: str, message: str, *, advice: str = "") -> Finding:
    """Return that a check found what stops a job."""
    return Finding(check=check, status=Status.failed, message=message, advice=advice)


def guarded(check: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Yield what some checks find; an error of any kind is a finding, so that the checks after it still run.

    Args:
        check: What is looked at, for an error.
        look: The checks.
    """
    try:
        yield from look()
    except FeclipError as error:
        yield failed(check, folded(str(error)))
    except ImportError as error:
        yield failed(check, f"cannot be loaded: {folded(str(error))}", advice="install it anew, with make env")
    except Exception as error:  # noqa: BLE001 - a doctor that dies of what it finds is of no use
        told = f"{type(error).__name__}: {folded(str(error))}"
        yield failed(
            check, told, advice="this is a defect of feclip or of a library; report it with --diagnose out.zip"
        )
