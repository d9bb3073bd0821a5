"""Real Ray clusters for the tests: each is started by a test, on ports of its own, and ended by handle."""

import os
import secrets
import sys
from pathlib import Path

import pytest
from job_runner import SMALL_RUN, Bucket, Finished, JobRunner


@pytest.fixture(scope="session")
def ray_env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment in which Ray keeps to itself: own token path, no address, patience on a busy machine."""
    token = tmp_path_factory.mktemp("ray-home") / "auth_token"
    token.write_text(secrets.token_hex(32))
    env = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "AWS_"))}
    return env | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}",  # `python` of a job is this environment's
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",
        "RAY_worker_niceness": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DEDUP_LOGS": "0",
    }


@pytest.fixture(scope="session")
def small_run(small_mvtec: Path) -> tuple[str, ...]:
    """Flags of a run of seconds: few images, a small trunk, two workers."""
    return ("--data.root", str(small_mvtec), "--optim.epochs", "2", "--cluster.num_workers", "2", *SMALL_RUN)


@pytest.fixture
def run_job(ray_env: dict[str, str], tmp_path: Path) -> JobRunner:
    """Run jobs on a local Ray that each job starts and ends by itself."""
    return JobRunner(env=ray_env, cwd=tmp_path)


@pytest.fixture
def bucket(request: pytest.FixtureRequest, s3_bucket: str) -> Bucket:
    """A fresh bucket on the test's S3 server."""
    server = request.getfixturevalue("s3_server")
    return Bucket(uri=s3_bucket, path=server.directory / s3_bucket.removeprefix("s3://"), env=server.env)


@pytest.fixture(scope="session")
def unbroken(
    ray_env: dict[str, str], small_run: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Finished]:
    """Output and log of one run that nothing disturbed."""
    cwd = tmp_path_factory.mktemp("unbroken")
    done = JobRunner(env=ray_env, cwd=cwd)(*small_run, "--data.protocol", "b", "--output", "runs/first")
    assert done.returncode == 0, done.output
    return cwd / "runs" / "first", done
