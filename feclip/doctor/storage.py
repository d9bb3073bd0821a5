"""A file's way to storage and back."""

import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from feclip.data import absolute_uri, check_writable, delete, exists, is_local, join_uri, read_bytes, write_bytes
from feclip.doctor.finding import Finding, failed, ok, warning

__all__ = ["check_storage"]

PROBE_BYTES = 1 << 20
LEAST_FREE = 2 << 30
"""Bytes; a checkpoint of the paper's adapters takes 0.2 GB, a score table 1.5 KB for each image."""


def check_storage(uri: str, *, where: str) -> Iterator[Finding]:
    """Write a file, read it back, look it up and delete it.

    Args:
        uri: Folder or ``s3://`` prefix, which need not exist yet.
        where: Who does it, for the message.

    Raises:
        StorageError: If a step fails.
    """
    check_writable(uri)
    probe = join_uri(uri, f".feclip-doctor-{secrets.token_hex(8)}")
    content = secrets.token_bytes(PROBE_BYTES)
    started = time.perf_counter()
    write_bytes(probe, content)
    try:
        written = time.perf_counter()
        found = read_bytes(probe)
        read = time.perf_counter()
        listed = exists(probe)
    finally:
        delete(probe)
    if found != content or not listed or exists(probe):
        told = f"{uri}, {where}: a file of {PROBE_BYTES} bytes did not come back as it was written, or was not deleted"
        yield failed("storage", told, advice="do not trust this storage; look for a cache or a proxy before it")
        return
    speed = f"1 MiB written in {written - started:.3f} s, read in {read - written:.3f} s"
    yield ok("storage", f"{uri}, {where}: {speed}, deleted")
    if is_local(uri):
        free = shutil.disk_usage(Path(absolute_uri(uri))).free
        if free < LEAST_FREE:
            told = f"{free / (1 << 30):.1f} GiB are free at {uri}, {where}"
            yield warning("storage", told, advice="make room before a long run")
