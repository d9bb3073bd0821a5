"""Who works on an output now: one submission at a time, told to be alive, also where storage has no conditional writes.

    <output>/_held-<token>.json     the claim: host, process, when it began
    <output>/_held-<token>.beat     its sign of life: a number that grows while its owner lives

Each submission writes a claim under a name of its own, then lists the claims, and withdraws its own if another one
stands whose owner lives. Of two that write before either lists, both see both: at most one goes on, whatever the order
(docs/adr/0025). A claim is written once, so that an owner on whom it was taken away cannot bring it back with a sign of
life. What the output belongs to (config, listing, images) is read and written inside, by one at a time.
"""

import json
import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from feclip.data import (
    MAX_JSON_BYTES,
    StorageMissingError,
    delete,
    exists,
    join_uri,
    list_children,
    parse_json,
    read_bytes,
    write_bytes,
)
from feclip.errors import FeclipError, RunError, StorageError

__all__ = ["holding"]

logger = logging.getLogger(__name__)

PREFIX = "_held-"
CLAIM = ".json"
BEAT = ".beat"
BEAT_SECONDS = 10.0
"""Between two signs of life."""
SILENT_SECONDS = 60.0
"""Without a sign of life for so long, by the clock of who waits, an owner that cannot be looked up counts as dead."""
POLL_SECONDS = 2.0
"""Between two looks at the claim of such an owner."""
LOST = signal.SIGUSR2
"""What interrupts the main thread: SIGINT is ignored in whatever a shell started in the background."""


@contextmanager
def holding(output: str) -> Iterator[None]:
    """Hold an output for the time of a ``with`` block.

    A claim of a process that ended without withdrawing it is cleared away: at once where that process ran on this
    machine, else after `SILENT_SECONDS` without a sign of life.

    Args:
        output: Local folder or ``s3://`` prefix.

    Raises:
        RunError: If another submission that lives holds it, or, at the end, if this one was taken for dead meanwhile.
        StorageError: If storage fails.
    """
    hold = _Hold(output)
    hold.write()
    try:
        with hold.told_alive():
            hold.require_alone()
            yield
    finally:
        hold.withdraw()


class _Hold:
    """One submission's claim on an output."""

    def __init__(self, output: str) -> None:
        self._output = output
        self._uri = join_uri(output, f"{PREFIX}{secrets.token_hex(8)}{CLAIM}")
        self._beats = 0
        self._lost = False

    def write(self) -> None:
        """Write the claim."""
        write_bytes(self._uri, (json.dumps(asdict(_Owner.here()), indent=1) + "\n").encode())

    def require_alone(self) -> None:
        """Clear away claims of the dead.

        Raises:
            RunError: If another claim stands whose owner lives.
        """
        for uri in [uri for uri in _claims(self._output) if uri != self._uri]:
            owner = _living_owner(uri)
            if owner is not None:
                msg = (
                    f"{self._output} is held by another submission ({owner}); submit again when that one has ended, or "
                    "choose another output."
                )
                raise RunError(msg)
            delete(uri)
            delete(_beat_of(uri))

    @contextmanager
    def told_alive(self) -> Iterator[None]:
        """Give signs of life from a thread; the main thread is interrupted if the claim is taken away."""
        ended = threading.Event()
        main = threading.get_ident()
        is_main = threading.current_thread() is threading.main_thread()

        def beat() -> None:
            while not ended.wait(BEAT_SECONDS):
                with suppress(StorageError):  # nobody can take the claim away either
                    self._lost = not exists(self._uri)
                    if self._lost:
                        break
                    self._beats += 1
                    write_bytes(_beat_of(self._uri), f"{self._beats}\n".encode())
            if self._lost and is_main and not ended.is_set():
                signal.pthread_kill(main, LOST)

        before = signal.signal(LOST, signal.default_int_handler) if is_main else None
        thread = threading.Thread(target=beat, name="feclip-holding", daemon=True)
        thread.start()
        try:
            yield
        except (FeclipError, KeyboardInterrupt):
            if not self._lost:
                raise
        finally:
            ended.set()
            thread.join()
            if is_main:
                signal.signal(LOST, signal.SIG_DFL if before is None else before)
        if self._lost:
            msg = (
                f"{self._output} was taken over by another submission, since this one gave no sign of life for "
                f"{SILENT_SECONDS:g} s; this one stops."
            )
            raise RunError(msg)

    def withdraw(self) -> None:
        """Delete the claim and its sign of life; where that fails, they stay as those of a dead process."""
        try:
            delete(self._uri)
            if self._beats:
                delete(_beat_of(self._uri))
        except StorageError as error:
            logger.warning("The claim of this submission stays until the next one clears it away: %s", error)


@dataclass(frozen=True, kw_only=True)
class _Owner:
    """The process that holds an output."""

    machine: str
    """What tells one table of processes from all others; empty where there is no ``/proc``."""
    process: int
    process_began: str | None
    """Clock ticks after the boot, since numbers of processes are used again."""
    host: str
    since: str

    @classmethod
    def here(cls) -> Self:
        """Return this process."""
        return cls(
            machine=_machine(),
            process=os.getpid(),
            process_began=_began(os.getpid()),
            host=socket.gethostname(),
            since=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}, since {self.since}"


def _claims(output: str) -> list[str]:
    names = [(entry.uri, entry.uri.rpartition("/")[2]) for entry in list_children(output)]
    return [uri for uri, name in names if name.startswith(PREFIX) and name.endswith(CLAIM)]


def _beat_of(claim: str) -> str:
    return claim.removesuffix(CLAIM) + BEAT


def _living_owner(uri: str) -> str | None:
    """Return in words who stands behind a claim; None if nobody does any more."""
    claim = _content(uri)
    if claim is None:
        return None
    owner = _parsed(claim)
    if owner is not None and owner.machine and owner.machine == _machine():
        began = _began(owner.process)
        return None if began is None or began != owner.process_began else str(owner)
    shown = "of an unknown owner" if owner is None else str(owner)
    logger.info("Another claim stands (%s); waiting %g s for a sign of life", shown, SILENT_SECONDS)
    before = _content(_beat_of(uri))
    give_up = time.monotonic() + SILENT_SECONDS
    while time.monotonic() < give_up:
        time.sleep(POLL_SECONDS)
        if not exists(uri):
            return None
        if _content(_beat_of(uri)) != before:
            return shown
    return None


def _content(uri: str) -> bytes | None:
    try:
        return read_bytes(uri, max_bytes=MAX_JSON_BYTES)
    except StorageMissingError:
        return None


def _parsed(content: bytes) -> _Owner | None:
    """Return the owner that a claim names; None where it cannot be understood, so that its changes alone count."""
    try:
        record = parse_json(content)
        return _Owner(
            machine=str(record["machine"]),
            process=int(record["process"]),
            process_began=record["process_began"],
            host=str(record["host"])[:100],
            since=str(record["since"])[:40],
        )
    except (ValueError, TypeError, KeyError):
        return None


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"  # containers of one machine have tables of their own
    except OSError:
        return ""


def _began(process: int) -> str | None:
    """Return when a process of this machine began, in clock ticks after the boot; None if it does not run."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    state, began = fields[0], fields[19]  # fields 3 and 22 of proc_pid_stat(5)
    return None if state in {"Z", "X"} else began
