"""Real Ray clusters for the tests: each is started by a test, on ports of its own, and ended by handle."""

import os
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
import ray
from job_runner import SMALL_RUN, Bucket, Finished, JobRunner, ray_environment
from small_archive import OPTIONS, write_small_archive


@pytest.fixture(scope="session")
def ray_env() -> dict[str, str]:
    """Environment in which Ray keeps to itself: no address, patience on a busy machine."""
    return ray_environment()


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
    """Output and log, in JSON, of one run that nothing disturbed."""
    cwd = tmp_path_factory.mktemp("unbroken")
    flags = (*small_run, "--data.protocol", "b", "--output", "runs/first")
    done = JobRunner(env=ray_env, cwd=cwd)(*flags, "--log.format", "json", "--log.every", "0")
    assert done.returncode == 0, done.output
    return cwd / "runs" / "first", done


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated field images under line=/date=, odd files that are images, and files that are none."""
    return write_small_archive(tmp_path_factory.mktemp("archive") / "field")


@pytest.fixture(scope="session")
def scored(
    ray_env: dict[str, str], bundle: str, archive: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Finished]:
    """Output and log of one run on local files that nothing disturbed."""
    cwd = tmp_path_factory.mktemp("scored")
    runner = JobRunner(env=ray_env, cwd=cwd)
    done = runner("--bundle", bundle, "--archive", str(archive), "--output", "run", *OPTIONS, job="score.py")
    assert done.returncode == 0, done.output
    return str(cwd / "run"), done


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """A cluster that tests of a module share, in this process, on loopback and without a job server."""
    settings = {"RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    with mock.patch.dict(os.environ, settings):
        ray.init(
            address="local",
            num_cpus=4,
            include_dashboard=False,
            logging_level="WARNING",
            _node_ip_address="127.0.0.1",
        )
        yield
        ray.shutdown()
