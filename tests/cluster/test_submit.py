"""``ray job submit`` against a cluster that the test starts and ends by handle."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from job_runner import REPOSITORY

from feclip.bundle import read_bundle

pytestmark = pytest.mark.cluster

RAY = str(Path(sys.executable).parent / "ray")


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


@pytest.fixture(scope="module")
def dashboard(ray_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the dashboard of a head node on this machine, bound to loopback; yields its URL."""
    port = free_port(above=8300)
    dashboard_port = free_port(above=port)
    address = f"http://127.0.0.1:{dashboard_port}"
    log = (tmp_path_factory.mktemp("head") / "head.log").open("w")
    head = subprocess.Popen(
        [
            RAY, "start", "--head", "--block", "--num-cpus", "2", "--node-ip-address", "127.0.0.1",
            "--port", str(port), "--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard_port),
        ],
        env=ray_env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        for _ in range(20):
            listed = subprocess.run(
                [RAY, "job", "list", "--address", address], env=ray_env, capture_output=True, check=False
            )
            if listed.returncode == 0:
                break
            assert head.poll() is None, Path(log.name).read_text()
            time.sleep(1)
        else:
            pytest.fail(f"the cluster does not answer: {listed.stderr.decode()}\n{Path(log.name).read_text()}")
        yield address
    finally:
        head.send_signal(signal.SIGTERM)
        try:
            head.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(head.pid, signal.SIGKILL)
            head.wait()
        log.close()


def submit(address: str, env: dict[str, str], *entrypoint: str) -> "subprocess.CompletedProcess[str]":
    command = [RAY, "job", "submit", "--address", address, "--working-dir", str(REPOSITORY), "--", *entrypoint]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)


def test_a_submitted_job_trains_and_another_scores_what_it_trained(
    dashboard: str, ray_env: dict[str, str], small_run: tuple[str, ...], small_mvtec: Path, tmp_path: Path
) -> None:
    bundle, scores = tmp_path / "bundle", tmp_path / "scores"
    done = submit(dashboard, ray_env, "python", "jobs/finetune.py", *small_run, "--output", str(bundle))
    assert done.returncode == 0, done.stdout + done.stderr
    assert [record["epoch"] for record in read_bundle(str(bundle)).metrics] == [1, 2]

    flags = ("--bundle", str(bundle), "--archive", str(small_mvtec / "tile" / "test"), "--output", str(scores))
    done = submit(dashboard, ray_env, "python", "jobs/score.py", *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((scores / "_SUMMARY.json").read_text())
    assert summary["num_scored"] == len(list((small_mvtec / "tile" / "test").rglob("*.png")))


def test_the_job_is_executable_and_refuses_relative_paths(
    dashboard: str, ray_env: dict[str, str], small_run: tuple[str, ...]
) -> None:
    done = submit(dashboard, ray_env, "jobs/finetune.py", *small_run, "--output", "runs/lost")
    assert done.returncode != 0
    assert "output is the relative path 'runs/lost'" in done.stdout + done.stderr
