"""The process that decodes the images of an archive, one after another; `guarded_decode` starts it.

    python -P .../feclip/data/_decoding_process.py <options, JSON> <memory, bytes> <time for one image, seconds>

It is a script, run by its path, and enters ``feclip.data`` without that package's ``__init__``, which loads torch and
the clients of object storage: 30 MB and a quarter of a second instead of 600 MB and four seconds.

Requests come and answers go over the socket that is its standard input; it ends when that closes. A timer of the
system ends it if one image takes much too long, so a hang outlives its parent by that at most.
"""

import json
import os
import resource
import signal
import socket
import sys
import types
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    _package = types.ModuleType("feclip.data")
    _package.__path__ = [str(Path(__file__).parent)]
    sys.modules["feclip.data"] = _package

from feclip.data._frames import receive_frame, send_frame
from feclip.data.image_errors import ImageError, ImageErrorKind
from feclip.data.prepare import InputOptions, prepare_image
from feclip.data.stopwatch import Stopwatch

GRACE_SECONDS = 10.0
"""How long after its time for one image the process ends itself: its parent, if it lives, has ended it before."""
_STDERR = 2


def main() -> None:
    """Serve until the parent closes the connection."""
    options = InputOptions(**json.loads(sys.argv[1]))
    memory_bytes, seconds = int(sys.argv[2]), float(sys.argv[3])
    connection = socket.socket(fileno=0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer; it then closes the connection
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limit_memory(memory_bytes)
    send_frame(connection, {"ready": True}, b"", deadline=None)
    os.dup2(os.open(os.devnull, os.O_WRONLY), _STDERR)  # libtiff prints a warning for each odd tag
    while True:
        try:
            request, body = receive_frame(connection, max_body_bytes=None, deadline=None)
        except OSError:
            return
        signal.setitimer(signal.ITIMER_REAL, seconds + GRACE_SECONDS)
        reply, pixels = answer(request, bytes(body), options=options)
        signal.setitimer(signal.ITIMER_REAL, 0)
        try:
            send_frame(connection, reply, pixels, deadline=None)
        except OSError:
            return


def limit_memory(num_bytes: int) -> None:
    """Let this process take so much address space beyond what it has now; a request for more fails at once.

    Args:
        num_bytes: Bytes.
    """
    statm = Path("/proc/self/statm")  # where there is none, the whole process gets this much
    own = int(statm.read_text().split()[0]) * resource.getpagesize() if statm.exists() else 0
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = own + num_bytes if hard == resource.RLIM_INFINITY else min(own + num_bytes, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def answer(request: dict[str, Any], body: bytes, *, options: InputOptions) -> tuple[dict[str, Any], bytes]:
    """Decode what a request holds.

    Args:
        request: ``uri``; ``image_bytes``, how much of the body is the image; ``valid_mask_uri``, None where the rest
            of the body is no mask.
        body: The image's bytes, then those of its valid mask.
        options: How an image becomes an input.

    Returns:
        Header and body of the reply: the prepared image, its pixels first, then its valid mask if it has one; or
        ``kind`` and ``error``.
    """
    uri, size, mask_uri = request["uri"], request["image_bytes"], request["valid_mask_uri"]
    mask = None if mask_uri is None else body[size:]
    stopwatch = Stopwatch()
    try:
        image = prepare_image(
            body[:size], uri=uri, options=options, valid_mask=mask, valid_mask_uri=mask_uri, stopwatch=stopwatch
        )
    except ImageError as error:
        return {"kind": error.kind, "error": str(error)}, b""
    except MemoryError:
        return {"kind": ImageErrorKind.out_of_memory, "error": ""}, b""
    except Exception as error:  # noqa: BLE001 - whatever a reader raises, it is this file's: the next one is decoded
        return {"kind": ImageErrorKind.crashed, "error": type(error).__name__}, b""
    reply = {
        "width": image.width,
        "height": image.height,
        "valid_box": list(image.valid_box),
        "has_mask": image.valid_mask is not None,
        "letterbox_seconds": stopwatch.take()["letterbox"],
    }
    return reply, image.pixels.tobytes() + (image.valid_mask or b"")


if __name__ == "__main__":
    main()
