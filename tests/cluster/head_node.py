"""Head nodes for the tests: each on free ports of loopback, in a process group of its own, ended by handle."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

RAY = str(Path(sys.executable).parent / "ray")


@dataclass(frozen=True, kw_only=True)
class Head:
    """Where a running head node answers."""

    gcs: str
    """``host:port``, for ``RAY_ADDRESS``."""
    dashboard: str
    """URL of the job server."""
    log: Path


def free_port(*, above: int) -> int:
    """Return the first free port above one; Ray gives 10002-19999 to its workers, so these lie below."""
    for port in range(above + 1, 10000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError


@contextlib.contextmanager
def head_node(
    env: dict[str, str], folder: Path, *flags: str, ip: str = "127.0.0.1", port: int | None = None
) -> Iterator[Head]:
    """Start a head node, wait until its job server answers on loopback, and end it with all that it started."""
    port = free_port(above=8300) if port is None else port
    dashboard_port = free_port(above=port)
    agent_port = free_port(above=dashboard_port)  # its usual one belongs to whichever cluster came first
    head = Head(gcs=f"{ip}:{port}", dashboard=f"http://127.0.0.1:{dashboard_port}", log=folder / "head.log")
    with head.log.open("w") as log:
        process = subprocess.Popen(
            [
                RAY, "start", "--head", "--block", "--node-ip-address", ip, "--port", str(port),
                "--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard_port),
                "--dashboard-agent-listen-port", str(agent_port), *flags,
            ],
            env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        for _ in range(20):
            listed = subprocess.run(
                [RAY, "job", "list", "--address", head.dashboard], env=env, capture_output=True, check=False
            )
            if listed.returncode == 0:
                break
            assert process.poll() is None, head.log.read_text()
            time.sleep(1)
        else:
            pytest.fail(f"the cluster does not answer: {listed.stderr.decode()}\n{head.log.read_text()}")
        yield head
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=60)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
