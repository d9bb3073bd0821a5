"""A cluster of several machines that tests of a module share, and storage behind a proxy that can fail."""

import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pyarrow as pa
import pytest
from fault_proxy import FaultProxy
from job_runner import run_here
from machines import SETTINGS, Machines
from s3_server import S3Server
from small_archive import OPTIONS, is_the_same, table_of, write_small_archive


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated field images, odd files that are images, and files that are none."""
    return write_small_archive(tmp_path_factory.mktemp("archive") / "field")


@pytest.fixture(scope="session")
def proxy(s3_server: S3Server) -> Iterator[FaultProxy]:
    """What stands between all S3 clients of these tests and the server."""
    with FaultProxy(s3_server.endpoint).serving() as serving:
        yield serving


@pytest.fixture(scope="module")
def cluster(proxy: FaultProxy, s3_server: S3Server) -> Iterator[Machines]:
    """A cluster of a head and two machines, shared by the tests of a module."""
    environment = SETTINGS | s3_server.env | {"AWS_ENDPOINT_URL": proxy.endpoint}
    with mock.patch.dict(os.environ, environment):
        machines = Machines(environment)
        try:
            yield machines
        finally:
            machines.shutdown()


@pytest.fixture
def machines(cluster: Machines) -> Machines:
    """The cluster, with two machines that nothing befell."""
    cluster.bring()
    return cluster


@pytest.fixture(scope="module")
def scored(cluster: Machines, bundle: str, archive: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The output of a scoring job that nothing disturbed."""
    cluster.bring()
    output = str(tmp_path_factory.mktemp("scored") / "run")
    done = run_here("--bundle", bundle, "--archive", str(archive), "--output", output, *OPTIONS, job="score.py")
    assert done.returncode == 0, done.output
    return output


@pytest.fixture(scope="module")
def expected(scored: str) -> pa.Table:
    """The score table of a job that nothing disturbed."""
    return table_of(scored)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mount a file system in memory of a given size, such as ``160k``; it ends with the test."""
    folder = tmp_path / "disk"

    def mount(size: str) -> Path:
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
        if mounted.returncode:
            folder.rmdir()
            pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
        return folder

    yield mount
    if folder.exists():
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def lost_and_twice(expected: pa.Table) -> Callable[[str], dict[str, int]]:
    """Hold an output against the undisturbed table; returns how many rows are missing and doubled, which is none."""

    def compare(output: str) -> dict[str, int]:
        found = Counter(table_of(output)["row_id"].to_pylist())
        counts = {
            "lost": sum(row not in found for row in expected["row_id"].to_pylist()),
            "twice": sum(number - 1 for number in found.values()),
        }
        assert counts == {"lost": 0, "twice": 0}
        is_the_same(output, expected)
        return counts

    return compare
