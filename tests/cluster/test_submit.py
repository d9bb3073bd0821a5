"""``ray job submit`` against a cluster that the test starts and ends by handle."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from head_node import RAY, head_node
from job_runner import REPOSITORY

from feclip.bundle import read_bundle

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def dashboard(ray_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the dashboard of a head node on this machine, bound to loopback; yields its URL."""
    with head_node(ray_env, tmp_path_factory.mktemp("head"), "--num-cpus", "2") as head:
        yield head.dashboard


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
