"""What an `Engine` says of an image is what our own code says of it: scores, maps, labels, metrics."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from anomalib.data import Folder, ImageBatch, MVTecAD
from anomalib.engine import Engine
from anomalib.metrics import AUROC
from anomalib.post_processing import PostProcessor
from PIL import Image

from feclip.building import build_model
from feclip.bundle import Bundle, read_bundle, write_banked, write_bundle, write_calibrated
from feclip.calibration import CalibrationOptions, StatisticOptions, calibrate
from feclip.config import FinetuneConfig, ModelConfig, Nouns, OptimConfig
from feclip.data import decode_image
from feclip.errors import ConfigError, DataError, RunError
from feclip.integrations.anomalib import FeClip, FeClipEvaluator
from feclip.integrations.anomalib.pre_processor import marked, valid_pixels_of
from feclip.metrics import PixelCounts, image_metrics, pixel_metrics
from feclip.model import pixel_maps
from feclip.prediction import Prediction, Predictor
from feclip.scoring import BankImages, Scorer, build_bank

pytestmark = pytest.mark.slow

CLOSE = {"rtol": 0, "atol": 1e-5}
NUM_NORMALS = 40


def engine(folder: Path) -> Engine:
    return Engine(accelerator="cpu", default_root_dir=folder, enable_progress_bar=False)


def own_predictions(bundle: str, images: list[str], *, batch_size: int = 1) -> list[Prediction]:
    with Predictor.load(bundle, device="cpu", precision="float32", batch_size=batch_size) as predictor:
        return [found for found in predictor.predict_all(images) if isinstance(found, Prediction)]


def input_map(found: Prediction) -> np.ndarray:
    tokens = torch.from_numpy(found.token_map)[None]
    size, sigma = found.options.image_size, found.smoothing_sigma
    return pixel_maps(tokens, image_size=size, smoothing_sigma=sigma)[0].numpy()


def test_photographs_of_many_shapes_have_the_scores_and_maps_of_our_own_path(
    bundle: str, field_images: Path, tmp_path: Path
) -> None:
    model = FeClip.from_bundle(bundle, precision="float32")
    batches = engine(tmp_path).predict(model, data_path=field_images)
    images = [path for batch in batches for path in batch.image_path]
    assert len(images) == 11
    sizes = {Image.open(path).size for path in images}
    assert max(max(size) / min(size) for size in sizes) > 2
    padded = 0
    for batch, own in zip(batches, own_predictions(bundle, images), strict=True):
        np.testing.assert_allclose(batch.pred_score.numpy(), [own.image_logit], **CLOSE)
        valid = valid_pixels_of(batch.image).numpy()
        assert valid.mean() == pytest.approx(min(own.width, own.height) / max(own.width, own.height), abs=0.02)
        padded += bool(np.isnan(own.token_map).any())
        np.testing.assert_allclose(batch.anomaly_map.numpy()[valid], input_map(own)[None][valid], **CLOSE)
        assert batch.pred_label is None, "no thresholds, so nothing is decided"
        assert batch.pred_mask is None
    assert padded, "whole tokens of some are padding"


def test_a_batch_of_anomalibs_own_data_module_is_letterboxed_before_it_is_collated(
    bundle: str, field_images: Path, tmp_path: Path
) -> None:
    model = FeClip.from_bundle(bundle, precision="float32")
    data = Folder(
        "field", root=field_images, normal_dir=".", test_split_mode="from_dir", test_split_ratio=0.6,
        val_split_mode="same_as_test", eval_batch_size=4, num_workers=0, seed=0,
    )  # fmt: skip
    batches = engine(tmp_path).predict(model, datamodule=data)
    assert max(len(batch.image_path) for batch in batches) == 4
    for batch in batches:
        own = own_predictions(bundle, batch.image_path, batch_size=len(batch.image_path))
        np.testing.assert_allclose(batch.pred_score.numpy(), [found.image_logit for found in own], **CLOSE)


@pytest.mark.parametrize("valid_region", ["letterbox", "uniform_border"])
def test_a_border_that_an_image_brings_is_padding_where_the_bundle_says_so(
    valid_region: str, shared_data: Path, tmp_path: Path
) -> None:
    from small_bundle import write_small_bundle  # noqa: PLC0415 - rewritten below

    photograph = next(iter(sorted((shared_data / "mvtec" / "toothbrush" / "test" / "good").glob("*.png"))))
    pixels = decode_image(photograph.read_bytes(), uri=str(photograph))
    bordered = np.full((1200, 1400, 3), 255, np.uint8)
    bordered[88:1112, 188:1212] = pixels
    Image.fromarray(bordered).save(tmp_path / "bordered.png")
    place = write_small_bundle(tmp_path / "bundle", valid_region=valid_region)
    (batch,) = engine(tmp_path).predict(FeClip(place, precision="float32"), data_path=tmp_path / "bordered.png")
    (own,) = own_predictions(place, [str(tmp_path / "bordered.png")])
    np.testing.assert_allclose(batch.pred_score.numpy(), [own.image_logit], **CLOSE)
    share = valid_pixels_of(batch.image).float().mean().item()
    assert share == pytest.approx(0.535 if valid_region == "uniform_border" else 55 / 64, abs=0.02)


def calibrated(bundle: str, folder: Path, *, rule: str, percentile: str = "50", by: str | None = None) -> str:
    plain = read_bundle(bundle)
    logits = np.linspace(-0.5, 0.5, NUM_NORMALS, dtype=np.float32)
    columns = dict.fromkeys(("image_logit", "map_max", "map_topk_mean"), logits)
    table = pa.table({"model_id": [plain.model_id] * NUM_NORMALS, **columns, "line": ["1"] * NUM_NORMALS})
    statistic = StatisticOptions(topk_fraction=0.05, smoothing_sigma=1.5)
    options = CalibrationOptions(percentiles=(percentile,), rule=rule, threshold_by=by)  # type: ignore[arg-type]
    calibration = calibrate([table], model_id=plain.model_id, options=options, statistic_options=statistic)
    images = pa.table({"uri": ["/normal.png"], "sha256": ["1" * 64]})
    write_calibrated(str(folder), bundle=plain, calibration=calibration, images=images)
    return str(folder)


@pytest.mark.parametrize("rule", ["image", "pixel", "either", "both"])
def test_thresholds_of_a_bundle_decide_as_a_scoring_job_does(
    rule: str, bundle: str, field_images: Path, tmp_path: Path
) -> None:
    place = calibrated(bundle, tmp_path / "calibrated", rule=rule)
    model = FeClip(place, precision="float32")
    batches = engine(tmp_path).predict(model, data_path=field_images)
    images = [path for batch in batches for path in batch.image_path]
    own = own_predictions(place, images)
    assert [bool(batch.pred_label) for batch in batches] == [found.label == "anomalous" for found in own]
    for batch, found in zip(batches, own, strict=True):
        np.testing.assert_allclose(batch.pred_score.numpy(), [found.image_logit], **CLOSE)
        assert found.pixel_threshold is not None
        assert model.post_processor.pixel_threshold.item() == pytest.approx(found.pixel_threshold, abs=1e-6)
        inside = valid_pixels_of(batch.image)[0].numpy()
        expected = (input_map(found) > found.pixel_threshold) & inside
        np.testing.assert_array_equal(batch.pred_mask[0].numpy(), expected)
    if rule != "pixel":
        assert model.post_processor.image_threshold.item() == pytest.approx(own[0].thresholds["image_logit"])


def test_validation_leaves_the_thresholds_of_a_bundle_alone_and_finds_them_where_there_are_none(
    bundle: str, shared_data: Path, tmp_path: Path
) -> None:
    data = MVTecAD(shared_data / "mvtec", category="toothbrush", num_workers=0, eval_batch_size=16)
    place = calibrated(bundle, tmp_path / "calibrated", rule="image")
    kept, found = FeClip(place, precision="float32"), FeClip(bundle, precision="float32")
    before = kept.post_processor.image_threshold.item()
    for model in (kept, found):
        engine(tmp_path).validate(model, datamodule=data)
    assert kept.post_processor.image_threshold.item() == before
    own = own_predictions(bundle, [*map(str, data.val_data.samples.image_path)], batch_size=16)
    logits = np.array([item.image_logit for item in own])
    labels = data.val_data.samples.label_index.to_numpy().astype(bool)
    best = max(f1(logits >= cut, labels) for cut in logits)
    threshold = found.post_processor.image_threshold.item()
    assert np.abs(logits - threshold).min() < 1e-5, "a logit of the validation images"
    assert f1(logits >= threshold - 1e-6, labels) == pytest.approx(best)


def f1(predicted: np.ndarray, labels: np.ndarray) -> float:
    return 2 * (predicted & labels).sum() / (predicted.sum() + labels.sum())


def test_metrics_of_engine_test_are_ours_on_logits_and_valid_pixels(
    bundle: str, shared_data: Path, tmp_path: Path
) -> None:
    data = MVTecAD(shared_data / "mvtec", category="toothbrush", num_workers=0, eval_batch_size=8)
    model = FeClip(calibrated(bundle, tmp_path / "calibrated", rule="image"), precision="float32")
    (found,) = engine(tmp_path).test(model, datamodule=data)
    samples = data.test_data.samples
    own = Scorer(read_bundle(bundle), precision="float32", batch_size=8)
    plain = FeClip(bundle, precision="float32")
    pixels, masks = zip(
        *(plain.pre_processor.transform(item.image, item.gt_mask) for item in data.test_data), strict=True
    )
    valid = valid_pixels_of(torch.stack(pixels))
    arrays = (torch.stack(pixels) * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    scores = own.score(np.ascontiguousarray(arrays), valid.numpy())
    expected = image_metrics(torch.from_numpy(scores.image_logit), torch.tensor(samples.label_index.tolist()))
    assert found["image_AUROC"] == pytest.approx(expected["image_auroc"], abs=1e-5)
    maps = pixel_maps(torch.from_numpy(scores.token_map), image_size=own.image_size, smoothing_sigma=1.5)
    counts = PixelCounts.of(maps.masked_fill(~valid, torch.nan), torch.stack(masks).bool())
    assert found["pixel_AUROC"] == pytest.approx(pixel_metrics(counts)["pixel_auroc"], abs=1e-5)
    assert {"image_F1Score", "pixel_F1Score"} <= found.keys()
    pictures = sorted((tmp_path / "FeClip").rglob("images/**/*.png"))
    assert len(pictures) == len(samples)
    assert Image.open(pictures[0]).size == (3 * 1024, 1024)


def test_logits_of_one_batch_within_0_and_1_are_ranked_with_all_others() -> None:
    """What torchmetrics does by itself: it takes that batch for probabilities, and the other one not."""
    images = marked(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.ones(2, 4, 4, dtype=torch.bool))
    ours, theirs = FeClipEvaluator().test_metrics[0], AUROC(fields=["pred_score", "gt_label"], prefix="image_")
    for logits, labels in (([0.1, 0.9], [0, 1]), ([-3.0, 0.95], [0, 0])):
        batch = ImageBatch(image=images, pred_score=torch.tensor(logits), gt_label=torch.tensor(labels))
        ours.update(batch)
        theirs.update(batch)
    assert ours.name == theirs.name == "image_AUROC"
    assert ours.compute().item() == pytest.approx(2 / 3)
    assert theirs.compute().item() == 1.0


def test_anomalibs_own_post_processor_gives_its_0_to_1(bundle: str, shared_data: Path, tmp_path: Path) -> None:
    data = MVTecAD(shared_data / "mvtec", category="toothbrush", num_workers=0, eval_batch_size=16)
    model = FeClip(bundle, precision="float32", post_processor=PostProcessor())
    run = engine(tmp_path)
    run.validate(model, datamodule=data)
    batches = run.predict(model, datamodule=data)
    scores = torch.cat([batch.pred_score for batch in batches])
    assert scores.min() >= 0
    assert scores.max() <= 1
    labels = torch.cat([batch.pred_label for batch in batches])
    assert labels.tolist() == (scores > 0.5).tolist()
    images = [path for batch in batches for path in batch.image_path]
    own = np.array([found.image_logit for found in own_predictions(bundle, images, batch_size=16)])
    assert (np.diff(scores.numpy()[own.argsort()]) >= -1e-5).all(), "in the order of our logits"


def test_without_an_engine_an_image_has_the_same_score_and_label(
    bundle: str, field_images: Path, tmp_path: Path
) -> None:
    place = calibrated(bundle, tmp_path / "calibrated", rule="either")
    model = FeClip(place, precision="float32").eval()
    path = min(field_images.iterdir())
    image = torch.from_numpy(np.asarray(Image.open(path).convert("RGB")).copy()).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        scored = model(image)
    (own,) = own_predictions(place, [str(path)])
    np.testing.assert_allclose(scored.pred_score.numpy(), [own.image_logit], **CLOSE)
    assert bool(scored.pred_label) == (own.label == "anomalous")


def bundle_of(model: FeClip, folder: Path) -> Bundle:
    model.save_bundle(folder)
    return read_bundle(str(folder))


def test_a_bundle_goes_through_the_bridge_unchanged(bundle: str, tmp_path: Path) -> None:
    before, after = read_bundle(bundle), bundle_of(FeClip(bundle), tmp_path / "again")
    assert after.model_id == before.model_id
    assert after.images.select(["uri", "role", "sha256"]) == before.images.select(["uri", "role", "sha256"])


def test_normal_images_of_a_group_join_the_scores_and_such_a_bundle_is_not_trained_further(
    bundle: str, field_images: Path, tmp_path: Path
) -> None:
    plain, chance = read_bundle(bundle), np.random.default_rng(0)
    normals = [
        BankImages(pixels=chance.integers(0, 256, (1, 64, 64, 3), np.uint8), valid_pixels=np.ones((1, 64, 64), bool))
        for _ in range(2)
    ]
    groups = {"a": normals[:1], "b": normals[1:]}
    bank = build_bank(plain, groups, group_column="line", request={}, precision="float32")
    found = pa.table({"uri": ["/x.png", "/y.png"], "sha256": ["1" * 64, "2" * 64]})
    place = str(tmp_path / "banked")
    write_banked(place, bundle=plain, bank=bank, images=found)
    path = tmp_path / "line=b" / "00.jpg"
    path.parent.mkdir()
    path.symlink_to(min(field_images.iterdir()))

    (own,) = own_predictions(place, [str(path)])
    scores = {}
    for group in ("a", "b"):
        (batch,) = engine(tmp_path).predict(FeClip(place, group=group, precision="float32"), data_path=path)
        scores[group] = batch.pred_score.item()
    assert scores["b"] == pytest.approx(own.image_logit, abs=1e-5)
    assert abs(scores["a"] - scores["b"]) > 1e-4
    with pytest.raises(DataError, match="has no line None, only 'a', 'b'; give one as group"):
        FeClip(place)
    with pytest.raises(ConfigError, match="train the bundle that it was made of"):
        FeClip(place, group="a", optim=OptimConfig(epochs=1))
    with pytest.raises(RunError, match="copy the bundle"):
        FeClip(place, group="a").save_bundle(tmp_path / "other")


def test_of_a_bundle_with_nouns_of_groups_one_group_is_used(field_images: Path, tmp_path: Path) -> None:
    named = ModelConfig(backbone="feclip-demo", num_taps=2, nouns=Nouns(("a=wood",)), noun_column="line")
    place = str(tmp_path / "named")
    run = FinetuneConfig(output=place, model=named, optim=OptimConfig(epochs=0))
    images = pa.table({"uri": ["/x.png"], "role": ["trained"], "sha256": ["1" * 64]})
    write_bundle(place, model=build_model(named, seed=3), config=run, images=images, metrics=[])
    scores = {}
    for group in ("a", "b"):
        path = tmp_path / f"line={group}" / "00.jpg"
        path.parent.mkdir()
        path.symlink_to(min(field_images.iterdir()))
        (own,) = own_predictions(place, [str(path)])
        (batch,) = engine(tmp_path).predict(FeClip(place, group=group, precision="float32"), data_path=path)
        scores[group] = batch.pred_score.item()
        assert scores[group] == pytest.approx(own.image_logit, abs=1e-5)
    assert abs(scores["a"] - scores["b"]) > 1e-3
    with pytest.raises(ConfigError, match="calls images by their line: give group, one of a; images of any other"):
        FeClip(place)
    with pytest.raises(ConfigError, match=r"anomalib trains on images of one: give model\.noun"):
        FeClip(model=named)
