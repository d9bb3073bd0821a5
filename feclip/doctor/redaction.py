"""Secrets taken out of texts that are meant for others.

What is taken out: the values of environment variables, but for a list of harmless ones and for paths; what files of
credentials of this user hold; credentials in URLs; what follows a word like secret, token or password; keys of AWS,
also in signed URLs; private keys. The home folder becomes ``~``.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

__all__ = ["Redactor", "shown_environment"]

REMOVED = "(removed)"
SHOWN_VARIABLES = frozenset(
    {
        "AWS_CA_BUNDLE",
        "AWS_DEFAULT_REGION",
        "AWS_EC2_METADATA_DISABLED",
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_S3",
        "AWS_REGION",
        "AWS_REQUEST_CHECKSUM_CALCULATION",
        "CUDA_HOME",
        "CUDA_VISIBLE_DEVICES",
        "FECLIP_CLUSTER_LIMITS",
        "FECLIP_STORAGE_PATIENCE",
        "HF_HUB_OFFLINE",
        "LANG",
        "LC_ALL",
        "LD_LIBRARY_PATH",
        "MKL_NUM_THREADS",
        "NVIDIA_VISIBLE_DEVICES",
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "PATH",
        "PYTHONPATH",
        "RAY_ADDRESS",
        "RAY_AUTH_MODE",
        "RAY_TMPDIR",
        "SHELL",
        "TERM",
        "TZ",
        "VIRTUAL_ENV",
    }
)
"""Variables of the environment whose values help and give nothing away."""

_SECRET_NAME = re.compile(r"key|secret|token|passw|credential|auth|signature|cookie|private", re.IGNORECASE)
_CREDENTIAL_FILES = (
    ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
    ("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token"),
)
_USERINFO = re.compile(r"(?<=://)([^/\s'\"@]+)@")
_LEAST_SECRET = 5
"""Characters; a shorter value would be found in every second word."""
_LEAST_VALUE = 8
_NO_SECRETS = frozenset({"false", "False", "FALSE"})
"""Values of settings whose names sound secret (TOKENIZERS_PARALLELISM)."""
_PATTERNS = (
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), REMOVED),
    (_USERINFO, f"{REMOVED}@"),
    (re.compile(r"\b(AKIA|ASIA)[A-Z0-9]{16}\b"), REMOVED),
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}"), rf"\1 {REMOVED}"),
    (re.compile(r"(?i)(X-Amz-(?:Signature|Credential|Security-Token)=)[^&\s\"']+"), rf"\1{REMOVED}"),
    (
        re.compile(
            r"(?i)([\w.-]*(?:secret|token|passw(?:or)?d|credential|api[_-]?key|access[_-]?key|private[_-]?key)[\w.-]*"
            r"[\"']?\s*[=:]\s*[\"']?+)(?!null\b|None\b|\((?:removed|set)\))[^\s\"',;&}\]]+"
        ),
        rf"\1{REMOVED}",
    ),
)


class Redactor:
    """Takes secrets out of texts.

    Args:
        environ: The environment whose values are secrets, as far as they are not harmless.

    Example:
        >>> hide = Redactor({"MY_PASSWORD": "tulip", "SHELL": "/bin/sh"})
        >>> hide("s3 at https://me:rose@host:9000 with tulip")
        's3 at https://(removed)@host:9000 with (removed)'
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        forms = {form for secret in _secrets(environ) for form in _forms(secret)}
        self._known = sorted(forms, key=len, reverse=True)
        home = environ.get("HOME", "")
        self._home = home if len(home) > 1 else None

    def __call__(self, text: str) -> str:
        """Return a text without secrets."""
        for secret in self._known:
            text = text.replace(secret, REMOVED)
        for pattern, replacement in _PATTERNS:
            text = pattern.sub(replacement, text)
        return text if self._home is None else re.sub(rf"{re.escape(self._home)}(?=[/\s\"':]|$)", "~", text)


def shown_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the names of an environment, with the values of the harmless variables alone.

    Example:
        >>> shown_environment({"LANG": "C", "USER": "me"})
        {'LANG': 'C', 'USER': '(set)'}
    """
    return {name: value if name in SHOWN_VARIABLES else "(set)" for name, value in sorted(environ.items())}


def _secrets(environ: Mapping[str, str]) -> Iterator[str]:
    for name, value in environ.items():
        for userinfo in _USERINFO.findall(value):
            yield from (part for part in userinfo.split(":") if len(part) >= _LEAST_SECRET)
        if name in SHOWN_VARIABLES or value in _NO_SECRETS:
            continue
        is_named = _SECRET_NAME.search(name) is not None and len(value) >= _LEAST_SECRET and not _is_there(value)
        if is_named or (len(value) >= _LEAST_VALUE and "/" not in value):
            yield value
    for variable, usual in _CREDENTIAL_FILES:
        path = Path(environ.get(variable) or usual).expanduser()
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            continue
        values = (line.partition("=")[2].strip() or line.strip() for line in lines)
        yield from (value for value in values if len(value) >= _LEAST_VALUE and not value.startswith("["))


def _is_there(value: str) -> bool:
    """Tell whether a value is the path of something, as that of a file that holds a secret."""
    try:
        return Path(value).exists()
    except (OSError, ValueError):
        return False


def _forms(secret: str) -> Iterator[str]:
    """Yield a secret as it is, and as URLs and JSON write it."""
    yield secret
    yield quote(secret)
    yield quote(secret, safe="")
    yield json.dumps(secret)[1:-1]
