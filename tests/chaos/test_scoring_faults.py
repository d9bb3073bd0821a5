"""Scoring and calibration while machines die, disks fill, storage fails and images kill decoders: the same results."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from fault_proxy import FLAKY, SLOW, FaultProxy
from job_runner import JobRunner, members, ray_environment, run_here
from machines import ACTOR, DECODER, Machines, Strike, num_slices
from small_archive import NUM_SLICES, OPTIONS, names, table_of

from feclip.bundle import read_bundle
from feclip.cli import parse_config
from feclip.cluster import calibrate as calibrating
from feclip.cluster.score import score
from feclip.config import ScoreConfig
from feclip.data import join_uri, write_bytes
from feclip.errors import RunError

pytestmark = [pytest.mark.cluster, pytest.mark.chaos]

Compare = Callable[[str], dict[str, int]]
Saw = Callable[..., None]


def flags(bundle: str, archive: str | Path, output: str | Path) -> tuple[str, ...]:
    return ("--bundle", bundle, "--archive", str(archive), "--output", str(output), *OPTIONS)


def moments(fault: str, *, before: int, seeds: int = 5) -> list[object]:
    """Return one seeded moment of a fault, and more that are marked slow: slices that stand when it strikes."""
    return [
        pytest.param(
            seed,
            random.Random(f"{fault} {seed}").randrange(1, before),  # noqa: S311
            marks=[pytest.mark.slow] if seed else [],
            id=f"seed{seed}",
        )
        for seed in range(seeds)
    ]


@pytest.mark.parametrize(("seed", "moment"), moments("node", before=NUM_SLICES - 3))
def test_a_node_that_dies_loses_and_doubles_nothing(
    seed: int,
    moment: int,
    machines: Machines,
    bundle: str,
    archive: Path,
    tmp_path: Path,
    lost_and_twice: Compare,
    saw: Saw,
) -> None:
    output = tmp_path / "run"
    with Strike(
        when=lambda: num_slices(output) >= moment,
        do=lambda: machines.kill(machines.running(ACTOR)),
        written=lambda: num_slices(output),
        then=machines.add,
    ) as strike:
        done = run_here(*flags(bundle, archive, output), job="score.py")
    assert done.returncode == 0, done.output
    counts = lost_and_twice(str(output))
    saw("score: node", f"after {moment} of {NUM_SLICES} slices", seconds=strike.seconds, seed=seed, **counts)


@pytest.mark.parametrize(("seed", "moment"), moments("spot", before=4))
def test_a_spot_machine_that_is_taken_away_loses_and_doubles_nothing(
    seed: int,
    moment: int,
    machines: Machines,
    bundle: str,
    archive: Path,
    tmp_path: Path,
    lost_and_twice: Compare,
    saw: Saw,
) -> None:
    """The notice is Ray's drain for preemption; a second later the machine is gone, and none replaces it."""
    output = tmp_path / "run"
    standing: list[int] = []

    def take_away() -> None:
        machines.drain(machines.running(ACTOR), seconds=1)
        standing.append(num_slices(output))

    with Strike(when=lambda: num_slices(output) >= moment, do=take_away, written=lambda: num_slices(output)) as strike:
        done = run_here(*flags(bundle, archive, output), job="score.py")
    assert done.returncode == 0, done.output
    assert standing[0] < NUM_SLICES, "the job had ended when the machine went"
    counts = lost_and_twice(str(output))
    saw("score: spot", f"after {moment} of {NUM_SLICES} slices", seconds=strike.seconds, seed=seed, **counts)


@pytest.mark.storage
@pytest.mark.parametrize("fault", ["flaky", "slow"])
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3, 4))])
def test_storage_that_is_flaky_or_slow_loses_and_doubles_nothing(
    fault: str,
    seed: int,
    machines: Machines,
    proxy: FaultProxy,
    bundle: str,
    archive: Path,
    s3_bucket: str,
    monkeypatch: pytest.MonkeyPatch,
    lost_and_twice: Compare,
    saw: Saw,
) -> None:
    """Latency, 500 and 503, resets before and after a request is done, cut bodies."""
    assert machines
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    for path in sorted(path for path in archive.rglob("*") if path.is_file()):
        write_bytes(join_uri(s3_bucket, "images", str(path.relative_to(archive))), path.read_bytes())
    output = f"{s3_bucket}/run"
    shares = FLAKY if fault == "flaky" else SLOW
    with proxy.faults(shares, seed=seed):
        done = run_here(*flags(bundle, f"{s3_bucket}/images", output), job="score.py")
    assert done.returncode == 0, done.output
    assert all(proxy.counts[kind] for kind in shares), proxy.counts
    struck = proxy.counts.total() - proxy.counts["none"]
    saw(f"score: {fault}", f"{struck} of {proxy.counts.total()} requests", seed=seed, **lost_and_twice(output))


def test_a_full_disk_ends_the_job_in_one_line_and_more_room_lets_it_go_on(
    machines: Machines,
    bundle: str,
    archive: Path,
    scored: str,
    small_disk: Callable[[str], Path],
    lost_and_twice: Compare,
    saw: Saw,
) -> None:
    assert machines
    needed = sum(-(-path.stat().st_size // 4096) * 4 for path in Path(scored).rglob("*") if path.is_file())
    disk = small_disk(f"{needed * 6 // 10}k")
    output = disk / "run"
    full = run_here(*flags(bundle, archive, output), job="score.py")
    assert full.returncode == 1, full.output
    assert "No space left on device" in full.error_line
    assert not (output / "_SUMMARY.json").exists()
    assert not [path for path in disk.rglob("*") if path.name.endswith(".tmp") or "_held-" in path.name]
    standing = num_slices(output)
    assert 0 < standing < NUM_SLICES
    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
    done = run_here(*flags(bundle, archive, output), job="score.py")
    assert done.returncode == 0, done.output
    saw("score: disk", f"after {standing} of {NUM_SLICES} slices", **lost_and_twice(str(output)))


def test_a_second_job_on_an_output_stops_and_the_first_is_not_disturbed(
    machines: Machines, bundle: str, archive: Path, tmp_path: Path, lost_and_twice: Compare, saw: Saw
) -> None:
    assert machines
    output = tmp_path / "run"
    given = (*flags(bundle, archive, output), "--retry_errors", "true")
    config = parse_config(ScoreConfig, given, prog="score.py", about="")

    def start_another() -> None:
        with pytest.raises(RunError, match=r"is held by another submission \(process \d+ on "):
            score(config)

    with Strike(when=lambda: num_slices(output) >= 3, do=start_another, written=lambda: num_slices(output)):
        done = run_here(*flags(bundle, archive, output), job="score.py")
    assert done.returncode == 0, done.output
    saw("score: second", f"after 3 of {NUM_SLICES} slices", **lost_and_twice(str(output)))


POISON = {"segfault": "crashed", "abort": "crashed", "kill": "crashed", "exit": "crashed"}


def test_images_that_kill_their_decoder_are_rows_and_all_others_are_as_ever(
    machines: Machines, bundle: str, archive: Path, expected: pa.Table, tmp_path: Path, saw: Saw
) -> None:
    """The decoders of this machine are real ones in which some files segfault, abort, are killed or exit."""
    poisoned = Path(shutil.copytree(archive, tmp_path / "images"))
    for deed in POISON:
        (poisoned / "line=0" / "date=2024-01" / f"{deed}.png").write_bytes(deed.encode() + b" ")
    machines.bring(0)
    machines.add(
        PYTHONPATH=os.pathsep.join([str(Path(__file__).parent / "poisoned"), os.environ.get("PYTHONPATH", "")])
    )
    machines.add(
        PYTHONPATH=os.pathsep.join([str(Path(__file__).parent / "poisoned"), os.environ.get("PYTHONPATH", "")])
    )
    try:
        done = run_here(*flags(bundle, poisoned, tmp_path / "run"), job="score.py")
    finally:
        machines.bring(0)
    assert done.returncode == 0, done.output
    table = table_of(str(tmp_path / "run"))
    assert table["row_id"].to_pylist() == list(range(len(expected) + len(POISON)))
    rows = dict(zip(names(table), table.to_pylist(), strict=True))
    found = {Path(name).stem: row["error_kind"] for name, row in rows.items() if Path(name).stem in POISON}
    assert found == POISON
    for name, wanted in zip(names(expected), expected.to_pylist(), strict=True):
        assert rows[name]["error_kind"] == wanted["error_kind"], name
        if wanted["image_logit"] is not None:
            np.testing.assert_allclose(rows[name]["image_logit"], wanted["image_logit"], rtol=0, atol=1e-5)
    saw("score: poison", f"{len(POISON)} of {len(table)} images")


HOG = "import sys, time; held = bytearray(int(sys.argv[1])); held[::4096] = b'x' * len(held[::4096]); time.sleep(600)"
ROOM_BYTES = 1_500_000_000
"""More than what the job takes on the machine, so that the hog alone fills it."""


def memory_bytes() -> tuple[int, int]:
    """Return how much memory this machine has, and how much of it is to be had."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total, available = (int(lines[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    return total, available


@pytest.mark.slow
def test_a_machine_without_memory_loses_and_doubles_nothing(
    machines: Machines, bundle: str, archive: Path, tmp_path: Path, lost_and_twice: Compare, saw: Saw
) -> None:
    """Ray's own memory monitor ends workers of one machine, whose limit is a little above what is taken now."""
    machines.bring(1)
    total, available = memory_bytes()
    share = (total - available + ROOM_BYTES) / total
    node = machines.add(RAY_memory_usage_threshold=f"{share:.4f}", RAY_memory_monitor_refresh_ms="100")
    output = tmp_path / "run"
    before = machines.num_memory_kills()

    def fill_memory() -> None:
        with subprocess.Popen([sys.executable, "-c", HOG, str(2 * ROOM_BYTES)]) as hog:
            give_up = time.monotonic() + 60
            while machines.num_memory_kills() == before and time.monotonic() < give_up:
                time.sleep(0.05)
            hog.kill()

    with Strike(
        when=lambda: machines.runs(node, DECODER),
        do=fill_memory,
        written=lambda: num_slices(output),
    ) as strike:
        done = run_here(*flags(bundle, archive, output), job="score.py")
    machines.kill(node)
    assert done.returncode == 0, done.output
    assert machines.num_memory_kills() > before
    saw("score: memory", "when its first image is decoded", seconds=strike.seconds, **lost_and_twice(str(output)))


@pytest.mark.parametrize(("seed", "moment"), moments("head", before=NUM_SLICES - 3))
def test_a_job_whose_head_dies_ends_with_a_line_and_goes_on_when_submitted_again(
    seed: int, moment: int, bundle: str, archive: Path, tmp_path: Path, lost_and_twice: Compare, saw: Saw
) -> None:
    """The job's own cluster: the head is the machine with Ray's control service, and all workers are on it."""
    mark = f"FECLIP_TEST={uuid.uuid4()}"
    patience = {"RAY_gcs_rpc_server_reconnect_timeout_s": "30"}  # of the driver, for a head that may come back
    runner = JobRunner(env=ray_environment() | patience | dict([mark.split("=")]), cwd=tmp_path)
    given = flags(bundle, archive, "run")
    with runner.start(*given, job="score.py") as process:
        give_up = time.monotonic() + 240
        while num_slices(tmp_path / "run") < moment:
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < give_up
            time.sleep(0.02)
        for pid, _ in members(mark):
            if pid != process.pid:
                os.kill(pid, signal.SIGKILL)
        output, _ = process.communicate(timeout=300)
    assert process.returncode == 1, output
    assert output.count("does not answer. Unless it comes back, Ray ends this job; then submit the same command") == 1
    standing = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").glob("scores/*/slice-*")}
    assert moment <= len(standing) < NUM_SLICES
    done = runner(*given, job="score.py")
    assert done.returncode == 0, done.output
    assert all(path.stat().st_mtime_ns == when for path, when in standing.items())
    counts = lost_and_twice(str(tmp_path / "run"))
    saw("score: head", f"after {moment} of {NUM_SLICES} slices", seed=seed, **counts)


def test_thresholds_are_the_same_to_the_last_bit_when_a_node_dies(
    machines: Machines, bundle: str, scored: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saw: Saw
) -> None:
    """A machine dies between the first pass over the scores and the second."""
    given = ("--bundle", bundle, "--normals", scored, "--calibrate.percentiles", "90,80", "--calibrate.threshold_by")
    alone = run_here(*given, "line", "--output", str(tmp_path / "alone"), job="calibrate.py")
    assert alone.returncode == 0, alone.output
    plan_query, killed = calibrating.plan_query, []

    def die_first(*arguments: object) -> object:
        node = machines.running("ray::")
        machines.kill(node)
        killed.append(node)
        return plan_query(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(calibrating, "plan_query", die_first)
    done = run_here(*given, "line", "--output", str(tmp_path / "run"), job="calibrate.py")
    assert done.returncode == 0, done.output
    assert len(killed) == 1
    found, wanted = (read_bundle(str(tmp_path / name)).calibration for name in ("run", "alone"))
    assert found is not None
    assert wanted is not None
    assert found.calibration_id == wanted.calibration_id
    saw("calibrate: node", "after 1 of 3 passes over the scores")
