"""`score.py --plan` as users run it: rates from a sample, and nothing written; no Ray is started."""

from pathlib import Path

import pyarrow as pa
import pytest
from job_runner import Finished, run_here

from feclip.building import build_model
from feclip.bundle import write_bundle
from feclip.config import FinetuneConfig, ModelConfig, OptimConfig
from feclip.demo import FAMILIES, write_archive

NUM_IMAGES = 12


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A bundle with a small random trunk."""
    folder = tmp_path_factory.mktemp("bundle")
    config = ModelConfig(backbone="ViT-S-16-alt", pretrained="none", image_size=64, num_taps=2)
    run = FinetuneConfig(output=str(folder), model=config, optim=OptimConfig(epochs=0))
    images = pa.table({"uri": ["/trained.png"], "role": ["trained"], "sha256": ["0" * 64]})
    write_bundle(str(folder), model=build_model(config, seed=3), config=run, images=images, metrics=[])
    return str(folder)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A few images, and a file that is none."""
    write_archive(tmp_path / "field", seed=1, families=FAMILIES["unseen"][:2], num_images=NUM_IMAGES, defect_fraction=0)
    (tmp_path / "field" / "images" / "broken.png").write_bytes(b"no image")
    return tmp_path / "field" / "images"


def planned(bundle: str, archive: Path, output: Path, *flags: str) -> Finished:
    paths = ("--bundle", bundle, "--archive", str(archive), "--output", str(output))
    return run_here(*paths, "--score.batch_size", "4", *flags, job="score.py")


def test_a_plan_has_a_rate_for_each_stage_and_writes_nothing(bundle: str, archive: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    done = planned(bundle, archive, tmp_path / "out", "--plan", "--planning.price_per_hour", "2")
    assert done.returncode == 0, done.output
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert f"by {NUM_IMAGES} of its images" in done.output
    assert "Model on cpu, batches of 4.\n" in done.output
    assert "1 more could not be read or decoded" in done.output
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.output.splitlines()]
    rates = {row[0]: row[1] for row in cells if len(row) == 3}
    for stage in ("fetch", "decode", "letterbox", "model", "write"):
        assert stage in rates
    assert all(float(rates[stage].replace(",", "")) > 0 for stage in ("fetch", "decode", "letterbox", "write"))
    assert "at 2 an hour" in done.output
    scales = [row for row in cells if row[0] == "one CPU core (measured)" and len(row) == 7]
    assert [row[1] for row in scales] == ["1", "8", "64"]
    assert {row[4] for row in scales} == {"model"}
    assert done.output.count("| GPU (not measured) | ") == 3


def test_a_given_rate_of_a_gpu_is_called_given_and_bounded_by_the_cores(
    bundle: str, archive: Path, tmp_path: Path
) -> None:
    flags = ("--planning.gpu_images_per_second", "1e6", "--planning.cores_per_actor", "2")
    done = planned(bundle, archive, tmp_path / "out", "--plan", *flags)
    assert done.returncode == 0, done.output
    rows = [line for line in done.output.splitlines() if line.startswith("| GPU (given) | ")]
    assert len(rows) == 3
    assert all("| decode |" in row for row in rows)


@pytest.mark.parametrize(
    ("flags", "named", "code"),
    [
        (("--plan", "--planning.price_per_hour", "-1"), "planning.price_per_hour must be at least 0, got -1", 2),
        (("--plan", "--planning.cores_per_actor", "1"), "planning.cores_per_actor must be at least 2, got 1", 2),
        (("--plan", "--score.batch_size", "0"), "score.batch_size must be at least 1, got 0", 2),
        (("--planning.price_per_hour", "2"), "planning is read by --plan alone", 2),
        (("--plan", "--listing.extensions", ".bmp"), "shows no images to measure", 1),
        (("--plan", "--listing.include", "broken.png"), "None of the 1 sampled images can be decoded", 1),
    ],
)
def test_bad_input_is_one_line(
    flags: tuple[str, ...], named: str, code: int, bundle: str, archive: Path, tmp_path: Path
) -> None:
    done = planned(bundle, archive, tmp_path / "out", *flags)
    assert done.returncode == code, done.output
    assert named in done.error_line
    assert not (tmp_path / "out").exists()
