"""``ray job submit`` against a cluster that the test starts and ends by handle."""

import json
import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from head_node import RAY, head_node
from job_runner import REPOSITORY

from feclip.bundle import read_bundle
from feclip.cluster.session import JOB_VARIABLE

pytestmark = pytest.mark.cluster


KEYS = {name: secrets.token_hex(16) for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")}


@pytest.fixture(scope="module")
def session() -> Iterator[Path]:
    """Folder of the head's files; a short path, since it holds sockets."""
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def dashboard(ray_env: dict[str, str], session: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the dashboard of a head node on this machine, bound to loopback; yields its URL.

    Its environment holds keys of a storage that no test asks.
    """
    flags = ("--num-cpus", "2", "--temp-dir", str(session))
    with head_node(ray_env | KEYS, tmp_path_factory.mktemp("head"), *flags) as head:
        yield head.dashboard


def submit(address: str, env: dict[str, str], *entrypoint: str) -> "subprocess.CompletedProcess[str]":
    command = [RAY, "job", "submit", "--address", address, "--working-dir", str(REPOSITORY), "--", *entrypoint]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)


def test_a_submitted_job_trains_and_another_scores_what_it_trained(
    dashboard: str,
    session: Path,
    ray_env: dict[str, str],
    small_run: tuple[str, ...],
    small_mvtec: Path,
    tmp_path: Path,
) -> None:
    bundle, scores = tmp_path / "bundle", tmp_path / "scores"
    done = submit(dashboard, ray_env, "python", "jobs/finetune.py", *small_run, "--output", str(bundle))
    assert done.returncode == 0, done.stdout + done.stderr
    assert [record["epoch"] for record in read_bundle(str(bundle)).metrics] == [1, 2]

    flags = ("--bundle", str(bundle), "--archive", str(small_mvtec / "tile" / "test"), "--output", str(scores))
    done = submit(dashboard, ray_env, "jobs/score.py", *flags)  # which is executable
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((scores / "_SUMMARY.json").read_text())
    assert summary["num_scored"] == len(list((small_mvtec / "tile" / "test").rglob("*.png")))

    told = submit(dashboard, ray_env, "python", "-c", f"import os; print(os.environ['{JOB_VARIABLE}'])")
    assert told.returncode == 0, told.stdout + told.stderr  # by this jobs know that a relative path would be lost

    listed = subprocess.run(
        [RAY, "job", "list", "--address", dashboard], env=ray_env, capture_output=True, text=True, check=True
    )
    assert "jobs/score.py" in listed.stdout
    left = [path for folder in (session, tmp_path) for path in folder.rglob("*") if path.is_file()]
    assert any(path.name.startswith("job-driver-") for path in left)
    texts = [listed.stdout.encode(), done.stdout.encode(), *(path.read_bytes() for path in left)]
    assert not [name for name, key in KEYS.items() for text in texts if key.encode() in text]
