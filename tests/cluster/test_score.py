"""The scoring job as users run it: every image once, whatever fails; thresholds and decisions from its table."""

import json
import os
import random
import shutil
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from job_runner import Finished, JobRunner, run_here
from odd_files import BAD, GOOD
from PIL import Image
from s3_server import serving

from feclip.archive import find_run
from feclip.building import build_model
from feclip.bundle import read_bundle, write_bundle
from feclip.config import FinetuneConfig, ModelConfig, OptimConfig
from feclip.data import decode_image, letterbox
from feclip.demo import FAMILIES, write_archive
from feclip.scoring import Scorer

pytestmark = pytest.mark.cluster

SIZE = 64
NUM_IMAGES = 72
SCALE = 6  # pictures of about 2 megapixels, so that decoding lasts long enough to be met by a kill
SLOW_FILE = "20000_pixels_wide_4000_high"  # seconds to decode; tests of the decoder have it
ODD_FILES = {f"line=0/date=2024-01/{name} é.png": data for name, (data, _, _) in GOOD.items() if name != SLOW_FILE}
BAD_FILES = {f"line=1/date=2024-02/{name} of 100%.png": data for name, (data, _) in BAD.items()}
KINDS = {f"line=1/date=2024-02/{name} of 100%.png": kind.value for name, (_, kind) in BAD.items()}
NUM_OBJECTS = NUM_IMAGES + len(ODD_FILES) + len(BAD_FILES)
OPTIONS = ("--score.slice_size", "8", "--score.precision", "float32", "--score.max_error_rate", "0.2")
NUM_SLICES = -(-NUM_OBJECTS // 8)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A bundle with a small random trunk."""
    folder = tmp_path_factory.mktemp("bundle")
    config = ModelConfig(backbone="ViT-S-16-alt", pretrained="none", image_size=SIZE, num_taps=2)
    run = FinetuneConfig(output=str(folder), model=config, optim=OptimConfig(epochs=0))
    images = pa.table({"uri": ["/trained.png"], "role": ["trained"], "sha256": ["0" * 64]})
    write_bundle(str(folder), model=build_model(config, seed=3), config=run, images=images, metrics=[])
    return str(folder)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated field images under line=/date=, odd files that are images, and files that are none."""
    root = tmp_path_factory.mktemp("archive") / "field"
    write_archive(root, seed=4, families=FAMILIES["unseen"][:2], num_images=NUM_IMAGES, defect_fraction=0.2)
    for path in sorted((root / "images").rglob("*.jpg")):
        with Image.open(path) as image:
            image.resize((image.width * SCALE, image.height * SCALE)).save(path, quality=90)
    for name, content in (ODD_FILES | BAD_FILES).items():
        (root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "images" / name).write_bytes(content)
    return root / "images"


@pytest.fixture(scope="module")
def scored(
    ray_env: dict[str, str], bundle: str, archive: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Finished]:
    """Output and log of one run on local files that nothing disturbed."""
    cwd = tmp_path_factory.mktemp("scored")
    runner = JobRunner(env=ray_env, cwd=cwd)
    done = runner("--bundle", bundle, "--archive", str(archive), "--output", "run", *OPTIONS, job="score.py")
    assert done.returncode == 0, done.output
    return str(cwd / "run"), done


def table_of(output: str) -> pa.Table:
    """Return the score table of an output on this machine, by row."""
    run = find_run(output)
    assert run is not None
    table = ds.dataset(run.scores_folder, format="parquet").to_table()
    return table.sort_by("row_id")


def names(table: pa.Table) -> list[str]:
    """Return the paths of a table's images below their archive."""
    return [f"line={uri.partition('/line=')[2]}" for uri in table["uri"].to_pylist()]


def is_the_same(output: str, expected: pa.Table) -> None:
    """Check keys, errors and scores of a whole output against those of an unbroken run."""
    table = table_of(output)
    assert names(table) == names(expected)
    for column in ("row_id", "size", "sha256", "error_kind", "line", "date", "width", "height", "valid_box"):
        assert table[column].to_pylist() == expected[column].to_pylist(), column
    for column in ("image_logit", "map_max", "map_topk_mean"):
        found, wanted = (np.array(part[column].to_pylist(), float) for part in (table, expected))
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5, err_msg=column)
    summary = json.loads((Path(output) / "_SUMMARY.json").read_text())
    assert summary["num_images"] == len(table) == NUM_OBJECTS
    actor = {"device": "cpu", "batch_size": 8, "compiled": False, "warm_up_seconds": 0.0}
    assert all(found == actor for found in summary["actors"])  # one for each actor that had anything to do


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
        for column in ("image_logit", "map_max", "map_topk_mean"):
            np.testing.assert_allclose([row[column] for row in rows], getattr(scores, column), rtol=0, atol=1e-5)


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


def test_normals_give_thresholds_and_decisions_need_no_image(
    scored: tuple[str, Finished], bundle: str, archive: Path, run_job: JobRunner, tmp_path: Path
) -> None:
    output, _ = scored
    flags = ("--bundle", bundle, "--normals", output, "--output", "calibrated", "--calibrate.percentiles", "90,80")
    done = run_job(*flags, "--calibrate.threshold_by", "line", job="calibrate.py")
    assert done.returncode == 0, done.output
    calibrated = read_bundle(str(tmp_path / "calibrated"))
    calibration = calibrated.calibration
    assert calibration is not None
    assert calibrated.model_id == read_bundle(bundle).model_id
    table = table_of(output)
    for line in ("0", "1"):
        scores = table.filter(pa.compute.field("line") == line)["image_logit"].drop_null().to_numpy()
        assert calibration.threshold("image_logit", line) == np.quantile(scores, 0.9, method="inverted_cdf")
        assert f"line={line}: image_logit > " in done.output
    roles = calibrated.images["role"].to_pylist()
    assert roles.count("calibrated") == NUM_OBJECTS - len(BAD_FILES)
    assert f"{len(BAD_FILES)} normals have no score" in done.output

    copy = shutil.copytree(output, tmp_path / "copy")
    claim = next((copy / "_run").glob("*.json"))
    moved = archive.rename(archive.with_name("away"))  # so that no image can be read
    try:
        decided = run_job("--bundle", "calibrated", "--scores", "copy", "--rule", "both", job="decide.py")
    finally:
        moved.rename(archive)
    assert decided.returncode == 0, decided.output
    folder = next((copy / "decisions").iterdir())
    decisions = ds.dataset(folder, format="parquet").to_table().sort_by("row_id")
    assert decisions["row_id"].to_pylist() == table["row_id"].to_pylist()
    labels = decisions["pred_label"]
    assert labels.null_count == len(BAD_FILES)
    assert f"{pa.compute.sum(labels).as_py()} anomalous" in decided.output
    assert claim.exists()


def test_images_that_the_bundle_knows_do_not_calibrate_it(
    scored: tuple[str, Finished], bundle: str, run_job: JobRunner, tmp_path: Path
) -> None:
    """Calibrating twice on the same normals: the second time they stand in the bundle."""
    output, _ = scored
    few = ("--calibrate.percentiles", "90")
    first = run_job("--bundle", bundle, "--normals", output, "--output", "one", *few, job="calibrate.py")
    assert first.returncode == 0, first.output
    second = run_job("--bundle", "one", "--normals", output, "--output", "two", *few, job="calibrate.py")
    assert second.returncode == 1
    num_scored = NUM_OBJECTS - len(BAD_FILES)
    assert f"{num_scored} of {num_scored} normals trained, selected or calibrated" in second.error_line
    assert not (tmp_path / "two" / "config.json").exists()
    scarce = run_job("--bundle", bundle, "--normals", output, "--output", "three", job="calibrate.py")
    assert scarce.returncode == 1
    assert f"{num_scored} normal images, and percentile 99.5 (percentile) needs 200" in scarce.error_line


def test_images_with_errors_are_scored_once_more_when_asked(
    scored: tuple[str, Finished], bundle: str, archive: Path, run_job: JobRunner, tmp_path: Path
) -> None:
    shutil.copytree(scored[0], tmp_path / "run")
    mended = next(name for name, kind in KINDS.items() if kind == "empty")
    (archive / mended).write_bytes(GOOD["png"][0])
    try:
        flags = ("--bundle", bundle, "--archive", str(archive), "--output", "run", *OPTIONS)
        done = run_job(*flags, "--retry_errors", "true", job="score.py")
    finally:
        (archive / mended).write_bytes(BAD_FILES[mended])
    assert done.returncode == 0, done.output
    before, after = (table_of(output).to_pylist() for output in (scored[0], str(tmp_path / "run")))
    changed = [now for old, now in zip(before, after, strict=True) if old["error_kind"] != now["error_kind"]]
    assert [row["uri"] for row in changed] == [f"{archive}/{mended}"]
    assert changed[0]["error"] is None
    assert changed[0]["image_logit"] is not None
    for old, now in zip(before, after, strict=True):
        if old["image_logit"] is not None:
            assert now["image_logit"] == pytest.approx(old["image_logit"], abs=1e-5)


def members(mark: str) -> Iterator[tuple[int, str]]:
    """Yield pid and title of every process whose environment holds a mark."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if mark.encode() in (folder / "environ").read_bytes():
                    yield int(folder.name), (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue


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
