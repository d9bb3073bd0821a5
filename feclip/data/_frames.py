"""Messages between two processes over a socket: a header in JSON and raw bytes, no pickle.

On the wire: lengths of the header and of the body (4 and 8 bytes, big-endian), the header in UTF-8, the body.
"""

import json
import socket
import struct
import time
from typing import Any

from feclip.data.strict_json import parse_json

__all__ = ["ConnectionEndedError", "FrameError", "receive_frame", "send_frame"]

_LENGTHS = struct.Struct("!IQ")
_MAX_HEADER_BYTES = 1 << 20


class ConnectionEndedError(ConnectionError):
    """The other side closed the connection."""


class FrameError(ValueError):
    """What came is no message."""


def send_frame(connection: socket.socket, header: dict[str, Any], body: bytes, *, deadline: float | None) -> None:
    """Send one message.

    Args:
        connection: A stream socket.
        header: JSON values.
        body: Raw bytes, possibly none.
        deadline: Time of `time.monotonic` by which it must be sent; None waits for ever.

    Raises:
        TimeoutError: If the deadline passes.
        OSError: If the other side is gone.
    """
    text = json.dumps(header).encode()
    _await_until(connection, deadline)
    connection.sendall(_LENGTHS.pack(len(text), len(body)) + text)
    if body:  # a send of nothing fails too once the other side, which has read all there is, closes the connection
        _await_until(connection, deadline)
        connection.sendall(body)


def receive_frame(
    connection: socket.socket, *, max_body_bytes: int | None, deadline: float | None
) -> tuple[dict[str, Any], bytearray]:
    """Receive one message.

    Args:
        connection: A stream socket.
        max_body_bytes: Longest body that is believed; None for any.
        deadline: Time of `time.monotonic` by which it must be there; None waits for ever.

    Returns:
        Header and body.

    Raises:
        TimeoutError: If the deadline passes.
        ConnectionEndedError: If the other side ends first.
        FrameError: If what comes is no message.
        OSError: If the connection breaks.
    """
    header_bytes, body_bytes = _LENGTHS.unpack(_receive(connection, _LENGTHS.size, deadline=deadline))
    if header_bytes > _MAX_HEADER_BYTES or (max_body_bytes is not None and body_bytes > max_body_bytes):
        msg = f"a message of {header_bytes} + {body_bytes} bytes is longer than any that is expected"
        raise FrameError(msg)
    text = _receive(connection, header_bytes, deadline=deadline)
    try:
        header = parse_json(text)
    except ValueError as error:
        msg = "the header is no JSON"
        raise FrameError(msg) from error
    if not isinstance(header, dict):
        msg = "the header is no JSON object"
        raise FrameError(msg)
    return header, _receive(connection, body_bytes, deadline=deadline)


def _receive(connection: socket.socket, num_bytes: int, *, deadline: float | None) -> bytearray:
    data = bytearray(num_bytes)
    view, start = memoryview(data), 0
    while start < num_bytes:
        _await_until(connection, deadline)
        received = connection.recv_into(view[start:])
        if not received:
            msg = "the other side has ended"
            raise ConnectionEndedError(msg)
        start += received
    return data


def _await_until(connection: socket.socket, deadline: float | None) -> None:
    """Let the next call on the socket wait until the deadline; a time of 0 would mean not to wait, and not to fail."""
    if deadline is None:
        connection.settimeout(None)
        return
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        msg = "the deadline has passed"
        raise TimeoutError(msg)
    connection.settimeout(remaining)
