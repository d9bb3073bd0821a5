"""One file for a bug report: what the checks found, versions, config, records of a run, and the ends of logs.

Every text passes one `Redactor` on its way in.
"""

import io
import itertools
import json
import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from feclip import __version__
from feclip.config import DoctorConfig, plain
from feclip.data import FileEntry, absolute_uri, is_dir, join_uri, list_files, read_bytes, write_bytes
from feclip.doctor.finding import Finding
from feclip.doctor.installation import installed_versions
from feclip.doctor.redaction import Redactor, shown_environment
from feclip.errors import ConfigError, StorageError

__all__ = ["require_new_place", "write_diagnosis"]

LOG_LINES = 300
"""Lines of the end of each log."""
LOG_BYTES = 256 << 10
"""Bytes of the end of each log that are looked at."""
RECORD_SUFFIXES = (".json", ".md", ".yaml", ".yml")
MAX_RECORD_BYTES = 256 << 10
MAX_RECORDS = 40
MAX_LISTED = 20_000
"""Files of a run that are looked through for its records."""
_ABOUT = """A diagnosis of feclip {version}, made {now}.

    checks.jsonl       what feclip doctor found
    versions.json      every installed distribution
    environment.json   names of environment variables; values of a few harmless ones
    config.json        how feclip doctor was called
    run/, bundle/      records of a run and of a bundle: no image, no score, no tensor
    logs/              the ends of logs

Secrets were taken out: values of other environment variables, credentials in URLs and in files of credentials, and what
follows words like secret, token or password. Names of files, buckets and hosts are still there: look through it before
you hand it on.
"""


def require_new_place(uri: str) -> None:
    """Refuse a folder that already holds something, where old and new files would be mixed.

    Args:
        uri: Where the diagnosis goes.

    Raises:
        ConfigError: If it is such a folder.
        StorageError: If it cannot be looked at.
    """
    if not _is_archive(uri) and is_dir(uri) and next(iter(list_files(uri)), None) is not None:
        msg = f"diagnose is {uri}, a folder that is not empty; name a new one, or a file that ends in .zip."
        raise ConfigError(msg)


def write_diagnosis(uri: str, *, config: DoctorConfig, findings: Sequence[Finding], logs: Iterable[Path] = ()) -> None:
    """Write the diagnosis, a zip file all at once.

    Args:
        uri: File that ends in .zip, or folder; local or ``s3://``.
        config: How the doctor was called; its run, its bundle and its logs go in.
        findings: What the checks found.
        logs: Further logs.

    Raises:
        StorageError: If it cannot be written.
    """
    redact = Redactor(os.environ)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    texts = {
        "README.txt": _ABOUT.format(version=__version__, now=now),
        "checks.jsonl": "".join(f"{finding.json()}\n" for finding in findings),
        "versions.json": _json(installed_versions()),
        "environment.json": _json(shown_environment(os.environ)),
        "config.json": _json(plain(config)),
    }
    if config.bundle is not None:
        texts["bundle/config.json"] = _read(join_uri(absolute_uri(config.bundle), "config.json"))
    if config.run is not None:
        texts |= _records(absolute_uri(config.run))
    named = [*(Path(path) for path in config.logs or ()), *logs]
    texts |= {f"logs/{number:02d}-{path.name}.txt": _end_of(path) for number, path in enumerate(named)}
    contents = {name: redact(text).encode("utf-8", "replace") for name, text in texts.items()}
    if not _is_archive(uri):
        for name, content in contents.items():
            write_bytes(join_uri(uri, name), content)
        return
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    write_bytes(uri, whole.getvalue())


def _is_archive(uri: str) -> bool:
    return uri.lower().endswith(".zip")


def _records(run: str) -> dict[str, str]:
    """Return the small records of a run by their names, and a list of what else is there."""
    try:
        listed = list(itertools.islice(list_files(run), MAX_LISTED))
    except StorageError as error:
        return {"run/unread.txt": str(error)}
    records = list(itertools.islice(_small_records(listed), MAX_RECORDS))
    base = f"{run.rstrip('/')}/"
    taken = {f"run/{entry.uri.removeprefix(base)}": _read(entry.uri) for entry in records}
    cut = f"\nThe list ends after {MAX_LISTED} files.\n" if len(listed) == MAX_LISTED else ""
    lines = (f"{entry.size:12d}  {entry.uri.removeprefix(base)}\n" for entry in listed)
    return taken | {"run/files.txt": "".join(lines) + cut}


def _small_records(listed: Iterable[FileEntry]) -> Iterator[FileEntry]:
    for entry in listed:
        if entry.uri.lower().endswith(RECORD_SUFFIXES) and entry.size <= MAX_RECORD_BYTES:
            yield entry


def _read(uri: str) -> str:
    try:
        return read_bytes(uri, max_bytes=MAX_RECORD_BYTES).decode("utf-8", "replace")
    except StorageError as error:
        return f"{error}\n"


def _end_of(path: Path) -> str:
    """Return the last lines of a file on this machine, or why there are none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - LOG_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines(keepends=True)
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}.\n"
    return f"The end of {path}, {size} bytes.\n\n" + "".join(lines[-LOG_LINES:])


def _json(value: object) -> str:
    return json.dumps(value, indent=1, sort_keys=True) + "\n"
