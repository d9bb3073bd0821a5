"""The head dies while a job scores: the job ends, and submitted again on another cluster it goes on."""

import os
import random
import signal
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from job_runner import JobRunner, members, ray_environment
from machines import num_slices
from small_archive import NUM_SLICES, OPTIONS, is_the_same, table_of

pytestmark = [pytest.mark.cluster, pytest.mark.chaos]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3))])
def test_a_job_whose_head_dies_ends_in_one_line_and_goes_on_when_submitted_again(
    seed: int, bundle: str, archive: Path, tmp_path: Path, saw: Callable[..., None]
) -> None:
    """The head is the machine with Ray's control service; with it die its raylet and all workers on it."""
    moment = random.Random(f"head {seed}").randrange(1, NUM_SLICES - 3)  # noqa: S311
    mark = f"FECLIP_TEST={uuid.uuid4()}"
    patience = {"RAY_gcs_rpc_server_reconnect_timeout_s": "5"}  # of the driver, for a head that may come back
    runner = JobRunner(env=ray_environment(tmp_path) | patience | dict([mark.split("=")]), cwd=tmp_path)
    flags = ("--bundle", bundle, "--archive", str(archive), "--output", "run", *OPTIONS)
    with runner.start(*flags, job="score.py") as process:
        give_up = time.monotonic() + 240
        while num_slices(tmp_path / "run") < moment:
            assert process.poll() is None
            assert time.monotonic() < give_up
            time.sleep(0.02)
        for pid, _ in members(mark):
            if pid != process.pid:
                os.kill(pid, signal.SIGKILL)
        struck = time.monotonic()
        output, _ = process.communicate(timeout=300)
    print(f"ended {time.monotonic() - struck:.1f} s after the head, exit status {process.returncode}\n{output}")  # noqa: T201
    assert process.returncode == 1, output
    assert "score.py: error: " in output
    standing = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").glob("scores/*/slice-*")}
    assert len(standing) >= moment
    done = runner(*flags, job="score.py")
    assert done.returncode == 0, done.output
    assert all(path.stat().st_mtime_ns == when for path, when in standing.items())
    table = table_of(str(tmp_path / "run"))
    alone = runner(*flags[:4], "--output", "alone", *OPTIONS, job="score.py")
    assert alone.returncode == 0, alone.output
    expected: pa.Table = table_of(str(tmp_path / "alone"))
    is_the_same(str(tmp_path / "run"), expected)
    rows = table["row_id"].to_pylist()
    saw(
        "score: head", f"after {moment} of {NUM_SLICES} slices", seed=seed,
        lost=len(expected) - len(set(rows)), twice=len(rows) - len(set(rows)),
    )  # fmt: skip
