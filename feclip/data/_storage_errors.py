"""What a failing file system or object store means, in one line for the user.

Three kinds, since callers act differently on them: a file that is not there, a file that may not be touched, and
storage that does not work. The first two concern one file; the third ends a job. No message repeats a key, a secret or
a server's text.
"""

import errno
import os
from pathlib import Path
from urllib.parse import urlsplit

import botocore.exceptions
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ReadTimeoutError,
    ResponseStreamingError,
)
from botocore.parsers import ResponseParserError

from feclip.errors import StorageError

_TRANSIENT_TYPES = (
    botocore.exceptions.ConnectionError,
    HTTPClientError,
    IncompleteReadError,
    ResponseStreamingError,
    ResponseParserError,
    ConnectionError,
    TimeoutError,
)
_TRANSIENT_ERRNOS = frozenset(
    {errno.EAGAIN, errno.ESTALE, errno.ETIMEDOUT}
)  # network file systems answer these at times
_TRANSIENT_CODES = frozenset(
    {"OperationAborted", "RequestThrottled", "RequestTimeout", "SlowDown", "Throttling", "ThrottlingException"}
)
_CREDENTIAL_CODES = frozenset(
    {"ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "RequestTimeTooSkewed", "SignatureDoesNotMatch"}
)
_CREDENTIAL_HINT = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
_HTTP_FORBIDDEN = 403
_HTTP_NOT_FOUND = 404
_HTTP_TOO_MANY = 429
_HTTP_SERVER_ERROR = 500


class StorageMissingError(StorageError):
    """The file or object does not exist; the storage itself answered."""


class StorageForbiddenError(StorageError):
    """The file or object may not be touched with the rights in use; the storage itself answered."""


class StorageTooLargeError(StorageError):
    """The file or object is larger than what may be read of it; nothing was."""


def too_large(uri: object, *, num_bytes: int, max_bytes: int) -> StorageTooLargeError:
    """Return the error of a file that is larger than what may be read."""
    return StorageTooLargeError(f"Cannot read {uri}: {num_bytes} bytes are more than the {max_bytes} that are allowed.")


def endpoint_name() -> str:
    """Name the object store in use, without any credentials that its URL may carry.

    Returns:
        The endpoint's URL from the environment, or words for the default one.
    """
    url = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if not url:
        return "the default S3 endpoint (AWS_ENDPOINT_URL is not set)"
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.netloc else url.rpartition("@")[2]


def http_status(error: BaseException) -> int | None:
    """Return the HTTP status an object store answered with.

    Args:
        error: What the client raised.

    Returns:
        The status, or None where the error is not an answer of the store.
    """
    if not isinstance(error, ClientError):
        return None
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _error_code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", "unknown"))


def is_transient(error: BaseException) -> bool:
    """Tell whether the same request may succeed a moment later.

    Args:
        error: What the file system or the client raised.

    Returns:
        True for lost connections, timeouts, cut bodies, throttling and 5xx answers.

    Example:
        >>> is_transient(ConnectionResetError()), is_transient(PermissionError())
        (True, False)
    """
    if isinstance(error, ClientError):
        status = http_status(error) or 0
        return status >= _HTTP_SERVER_ERROR or status == _HTTP_TOO_MANY or _error_code(error) in _TRANSIENT_CODES
    if isinstance(error, OSError) and error.errno in _TRANSIENT_ERRNOS:
        return True
    return isinstance(error, _TRANSIENT_TYPES)


def object_error(error: Exception, *, uri: str, action: str) -> StorageError:
    """Say in one line what an object store's failure means.

    Args:
        error: What the client raised, after its retries.
        uri: The object, or the prefix, that was asked for.
        action: What was tried, as a verb: ``read``, ``write``, ``list``, ``delete``, ``look up``.

    Returns:
        The error to raise.
    """
    endpoint = endpoint_name()
    if is_transient(error):
        return StorageError(f"Cannot {action} {uri}: storage at {endpoint} keeps failing ({plain_reason(error)}).")
    if isinstance(error, ClientError):
        return _refusal(error, uri=uri, action=action, endpoint=endpoint)
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return StorageError(f"Cannot {action} {uri}: no complete credentials for {endpoint}; {_CREDENTIAL_HINT}.")
    if isinstance(error, ParamValidationError):
        return StorageError(f"Cannot {action} {uri}: this is no legal bucket or key; write s3://bucket/key.")
    if isinstance(error, ValueError):
        return StorageError(f"Cannot {action} {uri}: the endpoint {endpoint} is no URL; write http(s)://host:port.")
    return StorageError(f"Cannot {action} {uri} at {endpoint} ({type(error).__name__}).")


def plain_reason(error: Exception) -> str:
    """Say in a few words what made a request fail that may succeed later."""
    if isinstance(error, ClientError):
        return f"HTTP {http_status(error)}"
    if isinstance(error, EndpointConnectionError | ConnectTimeoutError):
        return "no connection; check AWS_ENDPOINT_URL and the network"
    if isinstance(error, TimeoutError | ReadTimeoutError):
        return "no answer in time"
    return "the connection broke off"


def _refusal(error: ClientError, *, uri: str, action: str, endpoint: str) -> StorageError:
    code, status = _error_code(error), http_status(error)
    if code == "NoSuchBucket":
        bucket = uri.removeprefix("s3://").partition("/")[0]
        return StorageError(f"Cannot {action} {uri}: there is no bucket {bucket!r} at {endpoint}; create it first.")
    if status == _HTTP_NOT_FOUND:
        return StorageMissingError(f"Cannot {action} {uri}: it does not exist at {endpoint}.")
    if code in _CREDENTIAL_CODES:
        return StorageError(f"Cannot {action} {uri}: {endpoint} refused the credentials ({code}); {_CREDENTIAL_HINT}.")
    if status == _HTTP_FORBIDDEN:
        return StorageForbiddenError(
            f"Cannot {action} {uri}: {endpoint} answered 403, forbidden; the credentials in use lack the right to it."
        )
    return StorageError(f"Cannot {action} {uri}: {endpoint} refused the request ({code}, HTTP {status}).")


def local_error(error: OSError, *, path: Path, action: str) -> StorageError:
    """Say in one line what a file system's failure means.

    Args:
        error: What the operating system raised.
        path: The file or folder that was asked for.
        action: What was tried, as a verb.

    Returns:
        The error to raise.
    """
    blocking = next((parent for parent in path.parents if parent.is_file()), None)
    if blocking is not None:
        return StorageError(f"Cannot {action} {path}: {blocking} is a file, and a file cannot hold others.")
    if isinstance(error, FileNotFoundError):
        return StorageMissingError(f"Cannot {action} {path}: it does not exist.")
    if isinstance(error, IsADirectoryError):
        return StorageError(f"Cannot {action} {path}: it is a folder where a file is expected.")
    if isinstance(error, PermissionError):
        return StorageForbiddenError(f"Cannot {action} {path}: permission denied for this user.")
    return StorageError(f"Cannot {action} {path}: {error.strerror or type(error).__name__}.")
