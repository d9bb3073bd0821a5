"""The scoring job as users run it: every image once, whatever fails."""

import json
import os
import random
import shutil
import signal
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from job_runner import Finished, JobRunner, members, run_here
from s3_server import serving
from small_archive import BAD_FILES, KINDS, NUM_OBJECTS, NUM_SLICES, OPTIONS, is_the_same, names, table_of
from small_bundle import SIZE

from feclip.bundle import read_bundle
from feclip.data import decode_image, letterbox
from feclip.scoring import Scorer

pytestmark = pytest.mark.cluster


FLOAT16_STEP = 2**-10  # relative; batches of another size round otherwise, and a stored map may fall to the next step


def test_every_object_is_a_row_with_its_score_or_its_error(
    scored: tuple[str, Finished], bundle: str, archive: Path
) -> None:
    output, done = scored
    table = table_of(output)
    assert sorted(names(table)) == sorted(str(path.relative_to(archive)) for path in archive.rglob("*.*"))
    errors = {row["uri"].removeprefix(f"{archive}/"): row["error_kind"] for row in table.to_pylist() if row["error"]}
    assert errors == KINDS
    assert set(table["line"].to_pylist()) == {"0", "1"}
    num_scored = NUM_OBJECTS - len(BAD_FILES)
    assert f"{NUM_OBJECTS} images, {num_scored} scored" in done.output
    assert "Model on cpu, batches of 8\n" in done.output
    assert len(json.loads((Path(output) / "_SUMMARY.json").read_text())["actors"]) == 1
    scorer = Scorer(read_bundle(bundle), precision="float32")
    good = table.filter(pa.compute.is_valid(table["image_logit"])).to_pylist()
    for start in range(0, len(good), 16):
        rows = good[start : start + 16]
        images = [decode_image(Path(row["uri"]).read_bytes(), uri=row["uri"]) for row in rows]
        placed = [letterbox(image, image_size=SIZE, padding_color="white") for image in images]
        pixels = np.stack([pixels for pixels, _ in placed])
        scores = scorer.score(pixels, np.stack([record.valid_pixels() for _, record in placed]))
        for column, rtol in (("image_logit", 0), ("map_max", FLOAT16_STEP), ("map_topk_mean", FLOAT16_STEP)):
            np.testing.assert_allclose([row[column] for row in rows], getattr(scores, column), rtol=rtol, atol=1e-5)


def test_a_finished_run_does_nothing_and_another_is_refused(
    scored: tuple[str, Finished], bundle: str, archive: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output, _ = scored
    before = {path: path.stat().st_mtime_ns for path in Path(output).rglob("*.*")}
    flags = ("--bundle", bundle, "--output", output, *OPTIONS)
    again = run_here(*flags, "--archive", str(archive), "--score.batch_size", "4", job="score.py")
    assert again.returncode == 0, again.output
    assert "nothing to do" in caplog.text
    for other, named in (
        (("--archive", str(archive), "--score.topk_fraction", "0.5"), "options.topk_fraction was 0.01, now 0.5"),
        (("--archive", str(archive.parent)), f"source.archive was '{archive}', now '{archive.parent}'"),
        (("--archive", str(archive), "--listing.exclude", "*.png"), "source.exclude was None, now ['*.png']"),
    ):
        done = run_here(*flags, *other, job="score.py")
        assert done.returncode == 1
        assert named in done.error_line
    strict = run_here(*flags, "--archive", str(archive), "--score.max_error_rate", "0.01", job="score.py")
    assert strict.returncode == 1
    assert f"{len(BAD_FILES)} of {NUM_OBJECTS} images have no score" in strict.error_line
    assert before == {path: path.stat().st_mtime_ns for path in Path(output).rglob("*.*")}


def kill_one(mark: str, *, title: str, after_seconds: float) -> None:
    """Kill a worker of a job by the title that Ray gives it, some time after the first one was seen."""
    deadline, first_seen = time.monotonic() + 240, None
    while time.monotonic() < deadline:
        found = [pid for pid, name in members(mark) if name.startswith(title)]
        if found:
            first_seen = first_seen or time.monotonic()
            if time.monotonic() >= first_seen + after_seconds:
                os.kill(found[0], signal.SIGKILL)
                return
        time.sleep(0.005)
    pytest.fail(f"no process {title}: {sorted(name[:60] for _, name in members(mark))}")


def wait_for_slices(folder: Path, number: int, *, alive: Callable[[], bool]) -> None:
    """Wait until so many slices are published."""
    deadline = time.monotonic() + 240
    while len(list(folder.glob("scores/*/slice-*.parquet"))) < number:
        assert time.monotonic() < deadline
        assert alive()
        time.sleep(0.02)


def matrix(*faults: str, seeds: int) -> list[object]:
    """Return one seeded moment of each fault; the others, and the kill of a whole job, are marked slow."""
    return [
        pytest.param(fault, seed, marks=[pytest.mark.slow] if seed or fault == "job" else [], id=f"{fault}-{seed}")
        for fault in faults
        for seed in range(seeds)
    ]


RECORDED = {
    "driver": "score: driver",
    "decoding worker": "score: decoding",
    "scoring actor": "score: actor",
    "comes back": "score: back",
    "stays away": "score: away",
}


@pytest.mark.parametrize(("fault", "seed"), matrix("driver", "job", "decoding worker", "scoring actor", seeds=5))
def test_a_kill_at_any_moment_loses_and_doubles_nothing(
    fault: str,
    seed: int,
    scored: tuple[str, Finished],
    bundle: str,
    archive: Path,
    ray_env: dict[str, str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    saw: Callable[..., None],
) -> None:
    chance = random.Random(f"{fault} {seed}")  # noqa: S311
    moment = chance.randrange(NUM_SLICES - 2)  # slices that stand before the kill
    mark = f"FECLIP_TEST={uuid.uuid4()}"
    runner = JobRunner(env=ray_env | dict([mark.split("=")]), cwd=tmp_path)
    flags = ("--bundle", bundle, "--archive", str(archive), "--output", "run", *OPTIONS)
    with runner.start(*flags, job="score.py") as process:
        if fault == "decoding worker":  # decoding runs ahead of what is published
            kill_one(mark, title="ray::Map(_fetch)", after_seconds=chance.uniform(0, 1))
        else:
            wait_for_slices(tmp_path / "run", moment, alive=lambda: process.poll() is None)
        if fault == "scoring actor":
            kill_one(mark, title="ray::MapWorker", after_seconds=0)
        if fault == "driver":
            process.kill()  # its workers write on for a while, beside the next submission
        elif fault == "job":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            output, _ = process.communicate(timeout=300)
            assert process.returncode == 0, output
    if fault in {"driver", "job"}:
        standing = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").glob("scores/*/slice-*")}
        done = runner(*flags, job="score.py")
        assert done.returncode == 0, done.output
        if fault == "job":
            assert all(path.stat().st_mtime_ns == when for path, when in standing.items())  # only what was missing
    is_the_same(str(tmp_path / "run"), table_of(scored[0]))
    again = run_here(*flags[:5], str(tmp_path / "run"), *OPTIONS, job="score.py")
    assert again.returncode == 0, again.output
    assert "nothing to do" in caplog.text
    if fault in RECORDED:
        saw(RECORDED[fault], f"after {moment} of {NUM_SLICES} slices", seed=seed)


@pytest.mark.storage
@pytest.mark.parametrize(("fault", "seed"), matrix("comes back", "stays away", seeds=3))
def test_a_storage_server_that_dies(
    fault: str,
    seed: int,
    scored: tuple[str, Finished],
    bundle: str,
    archive: Path,
    ray_env: dict[str, str],
    tmp_path: Path,
    saw: Callable[..., None],
) -> None:
    """Archive and output lie in a bucket; the server is killed at a seeded moment."""
    moment = random.Random(f"{fault} {seed}").randrange(1, NUM_SLICES - 3)  # noqa: S311
    home = tmp_path / "s3"
    shutil.copytree(archive, home / "buckets" / "plant" / "images")
    (home / "buckets" / "scores").mkdir()
    patience = "120" if fault == "comes back" else "2"
    with serving(home) as server:
        port = int(server.endpoint.rpartition(":")[2])
        runner = JobRunner(env=ray_env | server.env, cwd=tmp_path)
        flags = ("--bundle", bundle, "--archive", "s3://plant/images", "--output", "s3://scores/run", *OPTIONS)
        process = runner.start(*flags, "--cluster.storage_patience", patience, job="score.py")
        with process:
            run = home / "buckets" / "scores" / "run"
            wait_for_slices(run, moment, alive=lambda: process.poll() is None)
            server.process.kill()
            server.process.wait()
            if fault == "comes back":
                time.sleep(30 if seed else 5)  # seconds away
            else:
                output, _ = process.communicate(timeout=300)
                assert process.returncode == 1, output
                assert "stay open since storage fails" in output or "storage at" in output
                assert not (run / "_SUMMARY.json").exists()
            with serving(home, port=port):
                if fault == "comes back":
                    output, _ = process.communicate(timeout=300)
                    assert process.returncode == 0, output
                else:
                    done = runner(*flags, job="score.py")
                    assert done.returncode == 0, done.output
    table = table_of(str(run))
    expected = table_of(scored[0])
    etags = table["etag"].to_pylist()
    assert all(etags)
    is_the_same(str(run), expected)
    saw(RECORDED[fault], f"after {moment} of {NUM_SLICES} slices", seed=seed)
