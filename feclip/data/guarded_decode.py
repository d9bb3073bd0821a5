"""Images of an archive, decoded so that no file can end, stop or fill the process that asked.

Decoding runs in one long-lived child process. A native crash, a hang, a decompression bomb or a lack of memory ends
that child at worst: the file gets a named error, the next file a new child. A child that was lost is tried once more
on the same file before the file is blamed: the system may have killed it for reasons of its own.

Shapes: S side of the model input, pixels.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np

from feclip.data._frames import receive_frame, send_frame
from feclip.data.image_errors import ImageError, ImageErrorKind
from feclip.data.prepare import InputOptions, PreparedImage
from feclip.data.stopwatch import Stopwatch
from feclip.data.valid_region import ValidBox
from feclip.errors import RunError, one_line

__all__ = ["DECODE_SECONDS", "MEMORY_BYTES", "GuardedDecoder"]

DECODE_SECONDS = 60.0
"""Longest time for one image; the largest that are allowed take 6 to 9 s on a slow core."""
MEMORY_BYTES = 3 << 30
"""Most memory (address space) that decoding may take; the largest images that are allowed take up to 1.9 GiB."""
NUM_ATTEMPTS = 2
"""Tries for a file whose child was lost."""
START_SECONDS = 120.0
"""Longest wait for a new child, which needs a quarter of a second where nothing else runs."""
END_SECONDS = 5.0
"""Longest wait for a killed child to be gone; one that sleeps in the kernel goes when it wakes."""
_CHILD = (sys.executable, "-P", str(Path(__file__).with_name("_decoding_process.py")))
_LOST = (ImageErrorKind.crashed, ImageErrorKind.timed_out, ImageErrorKind.out_of_memory)


class GuardedDecoder:
    """Decodes images in a child process, which is started when first needed and again after each loss.

    Several threads may share one; they take turns. `close`, the end of the object, of the interpreter or of this
    process end the child.

    Args:
        options: How an image becomes an input.
        seconds: Longest time for one image.
        memory_bytes: Most memory that decoding may take, beyond the child's own 100 MB of address space.
        command: The child's program; tests replace it.

    Attributes:
        stopwatch: Seconds of its images: ``fetch`` of all readers, and ``decode`` and ``letterbox`` of the child.

    Example:
        >>> with GuardedDecoder(InputOptions(image_size=8)) as decoder:
        ...     image = decoder.decode(b"P5 2 1 255 ab", uri="a.pgm")
        >>> image.pixels.shape, image.valid_box
        ((8, 8, 3), ValidBox(top=2, left=0, height=4, width=8))
    """

    def __init__(
        self,
        options: InputOptions,
        *,
        seconds: float = DECODE_SECONDS,
        memory_bytes: int = MEMORY_BYTES,
        command: Sequence[str] = _CHILD,
    ) -> None:
        self.options = options
        self.stopwatch = Stopwatch()
        self._seconds = seconds
        self._memory_bytes = memory_bytes
        self._command = [*command, json.dumps(asdict(options)), str(memory_bytes), str(seconds)]
        self._child: _Child | None = None
        self._lock = threading.Lock()

    @property
    def pid(self) -> int | None:
        """The child's process id, None while there is none."""
        child = self._child
        return None if child is None else child.process.pid

    def decode(
        self, data: bytes, *, uri: str, valid_mask: bytes | None = None, valid_mask_uri: str | None = None
    ) -> PreparedImage:
        """Decode one image and bring it to the model's input.

        Args:
            data: The file's bytes.
            uri: Where they came from, for messages.
            valid_mask: Bytes of the file that tells its valid pixels, if the options want one.
            valid_mask_uri: Where these came from.

        Returns:
            Pixels, source size and valid pixels.

        Raises:
            ImageError: If it cannot be decoded, in time and in memory; its kind says why, its text is one line.
            RunError: If the child cannot be started at all, which is no fault of the image.
        """
        mask_uri = (valid_mask_uri or f"the valid mask of {uri}") if valid_mask else None
        request = {"uri": uri, "image_bytes": len(data), "valid_mask_uri": mask_uri}
        body = data + valid_mask if valid_mask else data
        with self._lock:
            for _ in range(NUM_ATTEMPTS - 1):
                with suppress(_LostChildError):
                    return self._ask(request, body)
            try:
                return self._ask(request, body)
            except _LostChildError as lost:
                msg = f"Cannot decode {uri}: {lost}."
                raise ImageError(msg, kind=lost.kind) from lost

    def close(self) -> None:
        """End the child, if there is one; a later `decode` starts another."""
        with self._lock:
            self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, request: dict[str, Any], body: bytes) -> PreparedImage:
        if self._child is None:
            self._child = _Child(self._command)
        started = time.perf_counter()
        letterbox_seconds = 0.0
        deadline = time.monotonic() + self._seconds
        size = self.options.image_size
        longest = 4 * size * size + 1024  # three bytes a pixel, at most one bit more for its validity, compressed
        try:
            send_frame(self._child.connection, request, body, deadline=deadline)
            reply, pixels = receive_frame(self._child.connection, max_body_bytes=longest, deadline=deadline)
            if "kind" not in reply:
                letterbox_seconds = float(reply["letterbox_seconds"])
                return _prepared(reply, pixels, image_size=size)
            kind = ImageErrorKind(reply["kind"])
        except TimeoutError as error:
            self._end()
            raise self._lost(ImageErrorKind.timed_out) from error
        except OSError as error:
            status = self._end(wait_seconds=END_SECONDS)
            kind = ImageErrorKind.timed_out if status == -signal.SIGALRM else ImageErrorKind.crashed
            raise self._lost(kind, how=_how_it_ended(status)) from error
        except (LookupError, TypeError, ValueError) as error:
            self._end()
            raise self._lost(ImageErrorKind.crashed, how="its answer is no answer") from error
        except BaseException:
            self._end()  # an answer that is still to come would be taken for the next image's
            raise
        finally:
            self.stopwatch.add("decode", time.perf_counter() - started - letterbox_seconds)
            self.stopwatch.add("letterbox", letterbox_seconds)
        if kind in _LOST:
            self._end()  # what it holds in memory is in doubt
            raise self._lost(kind, how=reply["error"])
        raise ImageError(reply["error"], kind=kind)

    def _lost(self, kind: ImageErrorKind, *, how: str = "") -> "_LostChildError":
        reasons = {
            ImageErrorKind.timed_out: f"decoding did not end within {self._seconds:g} s",
            ImageErrorKind.out_of_memory: f"decoding needs more than the {self._memory_bytes >> 20} MiB it may take",
        }
        return _LostChildError(reasons.get(kind, f"the decoder crashed on it ({how})"), kind=kind)

    def _end(self, *, wait_seconds: float = 0.0) -> int | None:
        """End the child, which gets some time to end of itself, so that its exit status tells what befell it.

        Returns:
            Its exit status, negative for a signal; None where that is not to be had.
        """
        child, self._child = self._child, None
        if child is None:
            return None
        with suppress(subprocess.TimeoutExpired):
            child.process.wait(wait_seconds)
        child.end()
        status: int | None = child.process.returncode
        return status


class _LostChildError(Exception):
    """The child died, or cannot be trusted further."""

    def __init__(self, message: str, *, kind: ImageErrorKind) -> None:
        super().__init__(message)
        self.kind = kind


class _Child:
    """A running child and the connection to it."""

    def __init__(self, command: Sequence[str]) -> None:
        self.connection, theirs = socket.socketpair()
        with theirs, tempfile.TemporaryFile() as complaints:
            try:
                self.process: subprocess.Popen[bytes] = subprocess.Popen(  # noqa: S603 - our own program, or a test's
                    list(command),
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=complaints,
                    env=_child_environment(),
                )
            except OSError as error:
                self.connection.close()
                msg = f"The decoding process cannot start: {error}."
                raise RunError(msg) from error
            self.end = weakref.finalize(self, _end_process, self.process, self.connection)
            theirs.close()  # so that its end is the end of the connection
            try:
                receive_frame(self.connection, max_body_bytes=0, deadline=time.monotonic() + START_SECONDS)
            except OSError as error:
                self.end()
                msg = f"The decoding process cannot start: {_last_line(complaints) or 'it ended without a word'}."
                raise RunError(msg) from error
            except BaseException:
                self.end()
                raise


def _prepared(reply: dict[str, Any], body: bytearray, *, image_size: int) -> PreparedImage:
    pixels = np.frombuffer(body, np.uint8, image_size * image_size * 3).reshape(image_size, image_size, 3)
    return PreparedImage(
        pixels=pixels,
        width=int(reply["width"]),
        height=int(reply["height"]),
        valid_box=ValidBox(*reply["valid_box"]),
        valid_mask=bytes(body[pixels.size :]) if reply["has_mask"] else None,
    )


def _child_environment() -> dict[str, str]:
    """Return this process's environment without secrets of storage, with our code on the path, for one thread."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    ours = str(Path(__file__).resolve().parents[2])
    kept["PYTHONPATH"] = os.pathsep.join(part for part in (ours, kept.get("PYTHONPATH")) if part)
    return kept | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def _end_process(process: "subprocess.Popen[bytes]", connection: socket.socket) -> None:
    connection.close()
    process.kill()
    with suppress(subprocess.TimeoutExpired):
        process.wait(END_SECONDS)


def _how_it_ended(status: int | None) -> str:
    if status is None or status >= 0:
        return f"exit status {status}" if status is not None else "it does not answer"
    with suppress(ValueError):
        return signal.Signals(-status).name
    return f"signal {-status}"


def _last_line(file: IO[bytes]) -> str:
    file.seek(0)
    lines = file.read().decode(errors="replace").split("\n")
    return one_line(next((line.strip() for line in reversed(lines) if line.strip()), "")).rstrip(".")
