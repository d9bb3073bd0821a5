"""Requests to an S3 object store, retried, bounded in time, safe in threads and after a fork.

The client is s3fs's (its event loop runs in a thread of its own, so any thread may call), used below its file
interface: one GET or one PUT for each call, because an exception inside an open file would commit a truncated object.
Endpoint, keys and region come from the standard environment variables, read at each call.
"""

import asyncio
import logging
import mimetypes
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import s3fs
from aiohttp import ClientPayloadError
from botocore.exceptions import BotoCoreError, ClientError
from fsspec.asyn import sync
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_after_delay,
    wait_exponential_jitter,
)

from feclip.data._storage_errors import http_status, is_transient, object_error, plain_reason, too_large
from feclip.errors import StorageError

STORAGE_PATIENCE_VARIABLE = "FECLIP_STORAGE_PATIENCE"
"""Environment variable: seconds for which a request is tried again. Read at each call, as the endpoint is."""
NUM_ATTEMPTS = 4
"""Tries for one request where no patience is set; with the times below, given up in about 20 s."""
RETRY_SECONDS = 20.0
"""Where no patience is set, no further try starts this long after the first one began."""
SECONDS_PER_WARNING = 30.0
"""A process says at most this often that storage keeps it waiting."""
CONNECT_SECONDS = 4.0
"""Longest wait for a connection."""
ANSWER_SECONDS = 15.0
"""Longest wait for an answer, and longest silence within a body."""
LEAST_BYTES_PER_SECOND = 1_000_000
"""Slowest upload that is not given up; a PUT may wait for a server's go-ahead for ever without such a limit."""
PAGE_SIZE = 1000
"""Objects in one answer to a listing; S3's own maximum."""
_NOT_FOUND = 404

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
_next_warning = 0.0
_filesystems: dict[tuple[int, frozenset[tuple[str, str]]], s3fs.S3FileSystem] = {}


class ObjectEntry(NamedTuple):
    """One object of a listing: key, size in bytes, entity tag."""

    key: str
    size: int
    etag: str | None


def split_uri(uri: str) -> tuple[str, str]:
    """Divide an S3 URI in bucket and key.

    Args:
        uri: ``s3://bucket/key``; the key may be empty.

    Returns:
        Bucket and key.

    Raises:
        StorageError: If there is no bucket, or credentials stand in the URI.

    Example:
        >>> split_uri("s3://plant/line=1/a b.png")
        ('plant', 'line=1/a b.png')
    """
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if "@" in bucket:
        msg = "An s3:// URI must not hold credentials; they come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        raise StorageError(msg)
    if not bucket:
        msg = f"{uri} names no bucket; write s3://bucket/key."
        raise StorageError(msg)
    return bucket, key


def retrying() -> Retrying:
    """Return the one policy by which transient failures are tried again."""
    patience = os.environ.get(STORAGE_PATIENCE_VARIABLE)
    short = stop_after_attempt(NUM_ATTEMPTS) | stop_after_delay(RETRY_SECONDS)
    return Retrying(
        stop=short if patience is None else stop_after_delay(float(patience)),
        wait=wait_exponential_jitter(multiplier=0.3, max=3.0, jitter=0.3),
        retry=retry_if_exception(is_transient),
        before_sleep=_warn,
        reraise=True,
    )


def _warn(state: RetryCallState) -> None:
    """Say that storage keeps this process waiting: not at the first hiccups, and not once for each thread."""
    global _next_warning  # noqa: PLW0603 - of the process; a race costs one more line
    if state.attempt_number < NUM_ATTEMPTS or time.monotonic() < _next_warning:
        return
    _next_warning = time.monotonic() + SECONDS_PER_WARNING
    error = state.outcome.exception() if state.outcome else None
    reason = plain_reason(error) if isinstance(error, Exception) else "no reason"
    logger.warning("Storage keeps failing (%s) since %.0f s; trying again", reason, state.seconds_since_start or 0)


def read_object(uri: str, *, max_bytes: int) -> bytes:
    """Read one object whole.

    Args:
        uri: ``s3://bucket/key``.
        max_bytes: Largest object that is read.

    Returns:
        Its bytes.

    Raises:
        StorageError: If it is absent, forbidden, too large, or the store fails.
    """

    async def request(client: Any, bucket: str, key: str) -> bytes:  # noqa: ANN401 - botocore makes its clients at run time
        answer = await asyncio.wait_for(client.get_object(Bucket=bucket, Key=key), ANSWER_SECONDS)
        if answer["ContentLength"] > max_bytes:
            answer["Body"].close()
            raise too_large(uri, num_bytes=answer["ContentLength"], max_bytes=max_bytes)
        try:
            async with answer["Body"] as body:
                data: bytes = await body.read()
        except Exception as error:
            msg = "the body broke off"  # whatever the HTTP library calls it, the cure is to ask again
            raise ConnectionError(msg) from error
        if len(data) != answer["ContentLength"]:
            msg = "the body is shorter than announced"
            raise ConnectionError(msg)
        return data

    return _request(request, uri=uri, action="read")


def write_object(uri: str, data: bytes) -> None:
    """Write one object with exactly one PUT of bytes already in memory, so it is whole or absent.

    Args:
        uri: ``s3://bucket/key``.
        data: The content.

    Raises:
        StorageError: If the store refuses or fails.
    """
    content_type = mimetypes.guess_type(uri.rpartition("/")[2])[0]
    kind = {} if content_type is None else {"ContentType": content_type}  # a browser shows a page that says it is one

    async def request(client: Any, bucket: str, key: str) -> None:  # noqa: ANN401
        limit = ANSWER_SECONDS + len(data) / LEAST_BYTES_PER_SECOND
        await asyncio.wait_for(client.put_object(Bucket=bucket, Key=key, Body=data, **kind), limit)

    _request(request, uri=uri, action="write")


def object_exists(uri: str) -> bool:
    """Tell whether an object stands at exactly this key.

    Args:
        uri: ``s3://bucket/key``.

    Returns:
        False also where the bucket is missing: S3's answer does not tell these apart.

    Raises:
        StorageError: If the store forbids the question or fails.
    """

    async def request(client: Any, bucket: str, key: str) -> bool:  # noqa: ANN401
        try:
            await asyncio.wait_for(client.head_object(Bucket=bucket, Key=key), ANSWER_SECONDS)
        except Exception as error:
            if http_status(error) == _NOT_FOUND:
                return False
            raise
        return True

    return _request(request, uri=uri, action="look up")


def delete_object(uri: str) -> None:
    """Delete one object; an absent one is fine.

    Args:
        uri: ``s3://bucket/key``.

    Raises:
        StorageError: If the store refuses or fails.
    """

    async def request(client: Any, bucket: str, key: str) -> None:  # noqa: ANN401
        try:
            await asyncio.wait_for(client.delete_object(Bucket=bucket, Key=key), ANSWER_SECONDS)
        except Exception as error:
            code = getattr(error, "response", {}).get("Error", {}).get("Code")
            if http_status(error) != _NOT_FOUND or code == "NoSuchBucket":
                raise

    _request(request, uri=uri, action="delete")


def list_objects(uri: str, *, page_size: int | None = None) -> Iterator[ObjectEntry]:
    """Walk through all objects whose key starts with that of a URI, page by page, in the order of their keys.

    Args:
        uri: ``s3://bucket/prefix``.
        page_size: Objects in one answer; None for S3's maximum.

    Yields:
        One entry for each object.

    Raises:
        StorageError: If the bucket is missing or forbidden, or the store fails.
    """
    for page in _pages(uri, MaxKeys=page_size or PAGE_SIZE):
        yield from map(_entry, page.get("Contents", ()))


def list_children(uri: str) -> Iterator[ObjectEntry | str]:
    """Walk through one level of a prefix that ends with a slash, page by page.

    Args:
        uri: ``s3://bucket/prefix/``.

    Yields:
        One entry for each object directly there, and the key of each deeper prefix, which ends with a slash.

    Raises:
        StorageError: As `list_objects`.
    """
    for page in _pages(uri, MaxKeys=PAGE_SIZE, Delimiter="/"):
        yield from map(_entry, page.get("Contents", ()))
        for prefix in page.get("CommonPrefixes", ()):
            yield prefix["Prefix"]


def _pages(uri: str, **options: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401 - botocore's
    token: str | None = None
    while True:

        async def request(client: Any, bucket: str, key: str, *, after: str | None = token) -> dict[str, Any]:  # noqa: ANN401
            more = {"ContinuationToken": after} if after else {}
            listing = client.list_objects_v2(Bucket=bucket, Prefix=key, **options, **more)
            page: dict[str, Any] = await asyncio.wait_for(listing, ANSWER_SECONDS)
            return page

        page = _request(request, uri=uri, action="list")
        yield page
        token = page.get("NextContinuationToken")
        if not page.get("IsTruncated") or not token:
            return


def _entry(item: dict[str, Any]) -> ObjectEntry:
    etag = item.get("ETag")
    return ObjectEntry(item["Key"], int(item["Size"]), etag.strip('"') if etag else None)


def _request(function: Callable[[Any, str, str], Awaitable[_T]], *, uri: str, action: str) -> _T:
    bucket, key = split_uri(uri)

    async def attempt(filesystem: s3fs.S3FileSystem) -> _T:
        client = await filesystem.set_session()
        try:
            return await function(client, bucket, key)
        except ClientPayloadError as error:  # the body of a refusal, which botocore reads itself
            msg = "the answer broke off"
            raise ConnectionError(msg) from error

    def call() -> _T:
        filesystem = _filesystem()
        result: _T = sync(filesystem.loop, attempt, filesystem)
        return result

    try:
        return retrying()(call)
    except StorageError:
        raise
    except (BotoCoreError, ClientError, OSError, ValueError) as error:
        raise object_error(error, uri=uri, action=action) from error


def _filesystem() -> s3fs.S3FileSystem:
    """Return this process's client for the environment as it is now.

    fsspec's own cache would hand out a client with the keys of an older environment, and one for each thread.
    Without a lock two threads may each make a client at first; one of them is dropped, unconnected.
    """
    settings = frozenset((name, value) for name, value in os.environ.items() if name.startswith("AWS_"))
    identity = (os.getpid(), settings)
    filesystem = _filesystems.get(identity)
    if filesystem is None:
        config = {
            "connect_timeout": CONNECT_SECONDS,
            "read_timeout": ANSWER_SECONDS,
            "max_pool_connections": 32,
            "retries": {"total_max_attempts": 1, "mode": "standard"},
        }
        made = s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False, config_kwargs=config)
        filesystem = _filesystems.setdefault(identity, made)
    return filesystem
