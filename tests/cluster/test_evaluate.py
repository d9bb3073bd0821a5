"""The evaluation job: its numbers are those of plain arithmetic in one process, and no trained image slips through."""

import csv
import dataclasses
import io
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from job_runner import Bucket, JobRunner, run_here
from PIL import Image

from feclip.building import build_model, read_labelled
from feclip.bundle import read_bundle, write_bundle, write_calibrated
from feclip.calibration import CalibrationOptions, Percentiles, StatisticOptions, calibrate
from feclip.cluster.evaluate import evaluate
from feclip.config import (
    DataConfig,
    EvaluateConfig,
    EvaluatedSplit,
    EvaluationDataConfig,
    FinetuneConfig,
    ModelConfig,
    Names,
    OptimConfig,
    Precision,
    Protocol,
    ScoringConfig,
)
from feclip.data import LabelledImages, Split, inspect_rows
from feclip.errors import DataError, RunError
from feclip.metrics import PixelCounts, image_metrics, pixel_metrics
from feclip.model import pixel_maps
from feclip.scoring import Scorer, Scores

pytestmark = pytest.mark.cluster

SIZE = 112
SCORING = ScoringConfig(precision=Precision.float32)
ROLES = {Split.TRAIN.value: "trained", Split.HELD_OUT.value: "selected"}


@pytest.fixture(scope="module")
def bundle(small_mvtec: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A bundle that says of itself that it trained under protocol b on the small set."""
    return made(tmp_path_factory.mktemp("bundles") / "0", small_mvtec, adapters=3)


def made(folder: Path, root: Path, *, adapters: int) -> str:
    """Write a bundle whose adapters come from a seed, and whose images are those of train and held_out."""
    data = DataConfig(root=str(root), protocol=Protocol.b)
    model = ModelConfig(backbone="feclip-demo", num_taps=2)
    config = FinetuneConfig(output=str(folder), data=data, model=model, optim=OptimConfig(epochs=0))
    table = read_labelled(data, seed=config.seed)
    used = inspect_rows(table.filter(pc.field("split").isin(list(ROLES))), num_threads=2).drop_columns(["error"])
    roles = pa.array([ROLES[split] for split in used["split"].to_pylist()])
    images = used.append_column("role", roles)
    write_bundle(str(folder), model=build_model(model, seed=adapters), config=config, images=images, metrics=[])
    return str(folder)


def judged(output: Path, bundle: str, *, root: str | None = None, **fields: object) -> Path:
    """Run one evaluation on the cluster of this module."""
    data = fields.pop("data", None) or EvaluationDataConfig(root=root)
    names = Names(bundle.split(","))
    evaluate(EvaluateConfig(bundle=names, data=data, output=str(output), score=SCORING, **fields))  # type: ignore[arg-type]
    return output


def numbers(folder: Path, *, bundle: str | None = None) -> dict[tuple[str | None, str], float]:
    """Return the values of a result by category (None for the mean) and metric."""
    rows = pq.read_table(folder / "metrics.parquet").to_pylist()
    return {(row["category"], row["metric"]): row["value"] for row in rows if row["bundle"] == bundle}


def scored_by_hand(bundle: str, table: pa.Table, *, sigma: float = 0.0) -> tuple[Scores, LabelledImages, np.ndarray]:
    """Score images in this process, without a score table; also their maps, NaN where nothing counts."""
    read = read_bundle(bundle)
    images = LabelledImages(table, image_size=SIZE, **read.input)
    samples = [images[index] for index in range(len(images))]
    pixels = np.stack([sample.image.permute(1, 2, 0).numpy() for sample in samples])
    valid = np.stack([sample.valid_pixels.numpy() for sample in samples])
    scores = Scorer(read, precision="float32").score(pixels, valid)
    maps = pixel_maps(torch.from_numpy(scores.token_map), image_size=SIZE, smoothing_sigma=sigma).numpy()
    maps[~valid] = np.nan
    return scores, images, maps


def test_what_cannot_be_judged_is_one_line_with_its_exit_code(bundle: str, small_mvtec: Path, tmp_path: Path) -> None:
    normals = tmp_path / "normals.csv"
    normals.write_text("path,label\na.png,0\nb.png,0\n")
    for flags, code, message in (
        (("--data.manifest", str(normals)), 1, "all 2 images are normal; AUROC needs normal and anomalous"),
        (("--data.root", str(small_mvtec), "--data.categories", "screw"), 1, "no images of category screw; available"),
        (("--data.root", str(small_mvtec), "--preset", "community-518"), 2, "cannot take: model: image_size"),
        (("--data.root", str(small_mvtec), "--preset", "community"), 2, "preset must be one of feclip, community-518"),
        (("--data.root", str(small_mvtec), "--dataset", "visa"), 1, "capsule, tile is no category of VisA"),
        (("--data.root", str(tmp_path / "nowhere")), 1, "does not exist or is no folder"),
        (("--split", "report"), 2, "data.root or data.manifest is required"),
        (("--data.root", str(small_mvtec), "--split", "calibration"), 2, "calibration"),
    ):
        done = run_here("--bundle", bundle, *flags, job="evaluate.py")
        assert (done.returncode, message in done.error_line) == (code, True), done.output
    assert not (Path(bundle) / "evaluations").exists()


@pytest.mark.usefixtures("local_ray")
def test_the_command_leaves_its_result_beside_the_bundle(
    bundle: str, small_mvtec: Path, caplog: pytest.LogCaptureFixture
) -> None:
    done = run_here("--bundle", bundle, "--data.root", str(small_mvtec), "--split", "report", job="evaluate.py")
    assert done.returncode == 0, done.output
    (folder,) = (Path(bundle) / "evaluations").iterdir()
    assert "## Images" in caplog.text
    assert f"Evaluation written to {folder}" in caplog.text
    text = (folder / "metrics.md").read_text()
    assert "split: report, as protocol b divides the images" in text
    assert "letterbox to 112 px" in text
    table = pq.read_table(folder / "metrics.parquet")
    assert set(table["trained_images"].to_pylist()) == {False}
    assert set(table["split"].to_pylist()) == {"report"}


@pytest.mark.usefixtures("local_ray")
def test_the_numbers_are_those_of_plain_arithmetic(bundle: str, small_mvtec: Path, tmp_path: Path) -> None:
    folder = judged(tmp_path / "out", bundle, root=str(small_mvtec), split=EvaluatedSplit.report)
    found = numbers(folder, bundle=bundle)
    table = read_labelled(DataConfig(root=str(small_mvtec), protocol=Protocol.b), seed=0)
    table = table.filter(pc.field("split") == "report")
    means: dict[str, list[float]] = {}
    for category in ("capsule", "tile"):
        rows = table.filter(pc.field("category") == category)
        scores, images, maps = scored_by_hand(bundle, rows)
        labels = np.array(rows["label"].to_pylist(), bool)
        masks = np.stack([images[index].gt_mask.numpy() for index in range(len(images))])
        expected = image_metrics(scores.image_logit, labels, fprs=(0.01, 0.001))
        expected |= pixel_metrics(PixelCounts.of(maps, masks))
        assert len(expected) == 11
        for name, value in expected.items():
            assert found[category, name] == pytest.approx(value, abs=1e-6), (category, name)
            means.setdefault(name, []).append(value)
    for name, values in means.items():
        assert found[None, name] == pytest.approx(np.mean(values), abs=1e-6), name
    rows = pq.read_table(folder / "metrics.parquet").to_pylist()
    intervals = [row for row in rows if row["low"] is not None]
    assert {row["metric"] for row in intervals} >= {"image_auroc", "pixel_auroc", "aupro"}
    assert all(row["low"] <= row["high"] for row in intervals)


@pytest.mark.usefixtures("local_ray")
def test_labels_alone_with_thresholds_and_trained_images_that_are_allowed(
    bundle: str, small_mvtec: Path, tmp_path: Path
) -> None:
    table = read_labelled(DataConfig(root=str(small_mvtec)), seed=0)
    tested = table.filter(pc.field("subset") == "test")
    scores, _, _ = scored_by_hand(bundle, tested)
    labels = np.array(tested["label"].to_pylist(), bool)
    read = read_bundle(bundle)
    normal = {name: getattr(scores, name)[~labels] for name in ("image_logit", "map_max", "map_topk_mean")}
    calibration = calibrate(
        [pa.table({**normal, "model_id": [read.model_id] * int((~labels).sum())})],
        model_id=read.model_id,
        options=CalibrationOptions(percentiles=Percentiles(("80",)), force=True),
        statistic_options=StatisticOptions(topk_fraction=0.01, smoothing_sigma=0.0),
    )
    calibrated = str(tmp_path / "calibrated")
    write_calibrated(calibrated, bundle=read, calibration=calibration, images=pa.table({"uri": ["x"], "sha256": ["0"]}))
    manifest = tmp_path / "labels.csv"
    with manifest.open("w", newline="") as file:
        csv.writer(file).writerows(
            [("path", "label"), *zip(tested["path"].to_pylist(), labels.astype(int), strict=True)]
        )
    data = EvaluationDataConfig(manifest=str(manifest), root=str(small_mvtec))
    with pytest.raises(
        DataError, match=r"of 28 images trained, selected or calibrated .* is the file .*allow_trained_images"
    ):
        judged(tmp_path / "refused", calibrated, data=data)
    assert not [path for path in (tmp_path / "refused").rglob("*") if path.is_file()]
    folder = judged(tmp_path / "out", calibrated, data=data, allow_trained_images=True)
    found = numbers(folder, bundle=calibrated)
    for name, value in image_metrics(scores.image_logit, labels, fprs=(0.01, 0.001)).items():
        assert found["all", name] == pytest.approx(value, abs=1e-6), name
    assert not [name for _, name in found if name.startswith(("pixel", "aupro"))]
    called = scores.image_logit > calibration.threshold("image_logit")
    counts = {"tp": (labels & called), "fn": (labels & ~called), "fp": (~labels & called), "tn": (~labels & ~called)}
    assert {name: found["all", f"decided_{name}"] for name in counts} == {n: v.sum() for n, v in counts.items()}
    rows = pq.read_table(folder / "metrics.parquet")
    assert set(rows["trained_images"].to_pylist()) == {True}
    text = (folder / "metrics.md").read_text()
    assert "no mask is known" in text
    assert all("†" in line for line in text.splitlines() if line.startswith(("## ", "| all")))


@pytest.mark.usefixtures("local_ray")
def test_a_trained_picture_is_known_in_another_file_and_others_are_not(
    bundle: str, small_mvtec: Path, tmp_path: Path
) -> None:
    table = read_labelled(DataConfig(root=str(small_mvtec), protocol=Protocol.b), seed=0)
    report = table.filter(pc.field("split") == "report")
    trained = table.filter(pc.field("split") == "train").slice(0, 1).to_pylist()[0]
    rows = [(row["uri"], row["label"]) for row in report.to_pylist()]
    sink = io.BytesIO()
    with Image.open(trained["uri"]) as image:
        image.convert("RGB").save(sink, "JPEG", quality=80)
    (tmp_path / "innocent.jpg").write_bytes(sink.getvalue())
    manifest = tmp_path / "labels.csv"
    with manifest.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *rows, ("innocent.jpg", trained["label"])])
    with pytest.raises(DataError) as raised:
        judged(tmp_path / "out", bundle, data=EvaluationDataConfig(manifest=str(manifest)))
    told = str(raised.value)
    assert told.startswith(f"1 of {len(rows) + 1} images trained, selected or calibrated {bundle}")
    assert f"innocent.jpg is the picture of {trained['uri']}, saved anew (trained)" in told
    assert "\n" not in told


@pytest.mark.usefixtures("local_ray")
def test_masks_missing_for_some_and_a_damaged_image(bundle: str, small_mvtec: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(small_mvtec, tmp_path / "set"))
    for mask in sorted(root.glob("*/ground_truth/*/*0*.png"))[::2]:
        mask.unlink()
    table = read_labelled(DataConfig(root=str(small_mvtec), protocol=Protocol.b), seed=0)
    anomalous = table.filter((pc.field("split") == "report") & (pc.field("label") == 1))
    left = [path for path in anomalous["path"].to_pylist() if mask_of(root, path).exists()]
    assert 0 < len(left) < len(anomalous)
    folder = judged(tmp_path / "out", bundle, root=str(root), split=EvaluatedSplit.report)
    text = (folder / "metrics.md").read_text()
    assert f"{len(anomalous)} images are anomalous, and {len(anomalous) - len(left)} of them have no mask" in text
    pixel = [row for row in pq.read_table(folder / "metrics.parquet").to_pylist() if row["metric"] == "pixel_auroc"]
    assert sum(row["num_anomalous"] for row in pixel if row["category"]) == len(left)
    damaged = root / anomalous["path"][0].as_py()
    damaged.write_bytes(damaged.read_bytes()[:200])
    with pytest.raises(DataError, match=r"1 of \d+ images cannot be judged on: Cannot decode .*cut short"):
        judged(tmp_path / "again", bundle, root=str(root), split=EvaluatedSplit.report)


def mask_of(root: Path, path: str) -> Path:
    category, _, defect_type, name = path.split("/")
    return root / category / "ground_truth" / defect_type / f"{Path(name).stem}_mask.png"


@pytest.mark.usefixtures("local_ray")
def test_seeds_of_one_recipe_have_a_mean_and_what_is_scored_stays_scored(
    bundle: str, small_mvtec: Path, tmp_path: Path
) -> None:
    other = made(tmp_path / "1", small_mvtec, adapters=4)
    both = f"{bundle},{other}"
    folder = judged(tmp_path / "out", both, root=str(small_mvtec), split=EvaluatedSplit.report)
    first, second, joint = numbers(folder, bundle=bundle), numbers(folder, bundle=other), numbers(folder)
    assert first != second
    for key, value in joint.items():
        assert value == pytest.approx((first[key] + second[key]) / 2)
    rows = pq.read_table(folder / "metrics.parquet").to_pylist()
    (row,) = [row for row in rows if (row["bundle"], row["category"], row["metric"]) == (None, None, "aupro")]
    assert row["deviation"] == pytest.approx(abs(first[None, "aupro"] - second[None, "aupro"]) / 2**0.5)
    slices = {path: path.stat().st_mtime_ns for path in folder.rglob("slice-*.parquet")}
    (folder / "metrics.parquet").unlink()
    again = judged(tmp_path / "out", both, root=str(small_mvtec), split=EvaluatedSplit.report)
    assert numbers(again) == joint
    assert slices == {path: path.stat().st_mtime_ns for path in folder.rglob("slice-*.parquet")}
    config = dataclasses.replace(SCORING, topk_fraction=0.5)
    with pytest.raises(RunError, match=r"belongs to another evaluation: .*topk_fraction was 0\.01, now 0\.5"):
        evaluate(
            EvaluateConfig(
                bundle=Names((bundle,)),
                data=EvaluationDataConfig(root=str(small_mvtec)),
                split=EvaluatedSplit.report,
                output=str(folder),
                score=config,
            )
        )


@pytest.mark.storage
def test_bundle_images_masks_and_result_may_all_lie_in_object_storage(
    ray_env: dict[str, str], bucket: Bucket, small_mvtec: Path, tmp_path: Path
) -> None:
    shutil.copytree(small_mvtec, bucket.path / "set")
    made(bucket.path / "bundle", small_mvtec, adapters=3)
    runner = JobRunner(env=ray_env | bucket.env, cwd=tmp_path)
    done = runner(
        "--bundle", f"{bucket.uri}/bundle", "--data.root", f"{bucket.uri}/set", "--split", "report",
        "--score.precision", "float32", job="evaluate.py",
    )  # fmt: skip
    assert done.returncode == 0, done.output
    (folder,) = (bucket.path / "bundle" / "evaluations").iterdir()
    text = (folder / "metrics.md").read_text()
    assert f"`{bucket.uri}/set`" in text
    assert "## Pixels" in text
