"""Say what it means when the head of the cluster is gone: Ray ends the driver then, with no word for users."""

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import ray

__all__ = ["watched_head"]

logger = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
"""Between two looks, and the longest wait for an answer."""
LOOKS_IN_VAIN = 2
"""One after another, before a word is said. Ray itself waits 60 s (`RAY_gcs_rpc_server_reconnect_timeout_s`)."""


@contextmanager
def watched_head() -> Iterator[None]:
    """Look within a ``with`` block whether the head answers; log a line when it does not, and when it does again."""
    address = ray.get_runtime_context().gcs_address
    ended = threading.Event()
    thread = threading.Thread(target=_watch, args=(address, ended), name="feclip-head", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()


def _watch(address: str, ended: threading.Event) -> None:
    in_vain = 0
    while not ended.wait(LOOK_SECONDS):
        if _answers(address):
            if in_vain >= LOOKS_IN_VAIN:
                logger.warning("The head of the cluster (%s) answers again.", address)
            in_vain = 0
            continue
        in_vain += 1
        if in_vain == LOOKS_IN_VAIN and not ended.is_set():
            logger.error(
                "The head of the cluster (%s) does not answer. Unless it comes back, Ray ends this job; then submit "
                "the same command again on a cluster that works: what is written stays.",
                address,
            )


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=LOOK_SECONDS):
            return True
    except OSError:
        return False
