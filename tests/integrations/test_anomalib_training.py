"""Training by an `Engine` is our training: the same splits, steps and bundle; and what it leaves is gone on from."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch, MVTecAD
from anomalib.engine import Engine
from small_bundle import write_small_bundle

from feclip.building import build_images, build_model, read_labelled
from feclip.bundle import read_bundle
from feclip.config import (
    DataConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    PrefixCache,
    Protocol,
    Resize,
    Shares,
    ValidRegion,
)
from feclip.data import Split, sha256
from feclip.errors import BundleError, ConfigError, DataError, FeclipError, RunError
from feclip.integrations.anomalib import FeClip, LabelledMVTec
from feclip.prediction import Prediction, Predictor
from feclip.training import fit

pytestmark = pytest.mark.slow

MODEL = ModelConfig(backbone="ViT-S-16-alt", pretrained="none", image_size=64, num_taps=2)
EPOCHS = 2
SHARES = (0.5, 0.25, 0.25)


def engine(folder: Path) -> Engine:
    return Engine(accelerator="cpu", default_root_dir=folder, enable_progress_bar=False)


def optim(**fields: object) -> OptimConfig:
    return OptimConfig(**{"epochs": EPOCHS, "precision": "float32", **fields})  # type: ignore[arg-type]


def test_steps_are_those_of_our_own_training(small_mvtec: Path, tmp_path: Path) -> None:
    """One batch an epoch, so that the order of the images changes nothing but the last bits."""
    loss = LossConfig(class_weight=0.5, focal_weight=2, focal_gamma=1.5)
    data = DataConfig(root=str(small_mvtec))
    table = read_labelled(data, seed=0)
    rows = table.filter(table["split"].to_numpy(zero_copy_only=False) == "train")
    model = build_model(MODEL, seed=4)
    images = build_images(rows, data, image_size=64)
    common = {"seed": 4, "device": torch.device("cpu"), "num_threads": 1, "state": None, "on_epoch": lambda _: None}
    nothing = build_images(rows.slice(0, 0), data, image_size=64)
    settings = optim(batch_size=64, grad_clip=0.5, weight_decay=0.01)
    state = fit(model, train=images, held_out=nothing, loss=loss, optim=settings, **common)  # type: ignore[arg-type]

    bridged = FeClip(model=MODEL, loss=loss, optim=settings, seed=4, visualizer=False)
    engine(tmp_path).fit(bridged, datamodule=LabelledMVTec(small_mvtec, train_batch_size=64))
    found = bridged.model.feclip.trainable_state_dict()
    assert found.keys() == state.trained.keys()
    start = build_model(MODEL, seed=4).trainable_state_dict()
    assert any((found[name] - start[name]).abs().max() > 1e-4 for name in found), "something was learned"
    for name, tensor in state.trained.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-5)
    for own, theirs in zip(state.metrics, bridged.epoch_metrics, strict=True):
        assert own == pytest.approx(theirs, abs=1e-5)


@pytest.fixture(scope="module")
def trained(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[FeClip, Path]:
    """A model trained on a part of real photographs of two categories, and the folder of its run."""
    folder = tmp_path_factory.mktemp("trained")
    model = FeClip(model=MODEL, optim=optim())
    data = LabelledMVTec(
        shared_data / "mvtec", categories=["hazelnut_toy", "toothbrush"], protocol="b", fractions=SHARES, seed=3
    )
    engine(folder).fit(model, datamodule=data)
    model.save_bundle(folder / "bundle")
    return model, folder


def test_a_part_is_held_out_as_in_our_own_jobs_and_the_bundle_says_which(
    trained: tuple[FeClip, Path], shared_data: Path
) -> None:
    model, folder = trained
    bundle = read_bundle(str(folder / "bundle"))
    config = DataConfig(
        root=str((shared_data / "mvtec").resolve()),
        categories=("hazelnut_toy", "toothbrush"),  # type: ignore[arg-type]
        protocol=Protocol.b,
        fractions=Shares(SHARES),
    )
    own = read_labelled(config, seed=3).to_pylist()
    expected = {
        role: {row["uri"] for row in own if row["split"] == split}
        for role, split in (("trained", Split.TRAIN), ("selected", Split.HELD_OUT))
    }
    assert all(expected.values())
    for role, uris in expected.items():
        assert {row["uri"] for row in bundle.images.to_pylist() if row["role"] == role} == uris
    row = bundle.images.to_pylist()[0]
    assert row["sha256"] == sha256(Path(row["uri"]).read_bytes())
    assert row["pixel_digest"]
    assert row["thumbnail"]
    assert bundle.training["data"]["protocol"] == "b"
    assert bundle.training["data"]["root"] == config.root
    assert bundle.training["optim"]["epochs"] == EPOCHS == len(bundle.metrics)
    assert bundle.metrics[1]["loss"] < bundle.metrics[0]["loss"]
    assert {"image_AUROC", "pixel_AUROC"} <= bundle.metrics[0].keys()
    assert bundle.model_id == json.loads((folder / "bundle" / "config.json").read_text())["model_id"]
    assert not model.post_processor.image_threshold.isnan(), "found on what is held out"


def test_what_it_saved_scores_alike_here_and_there(
    trained: tuple[FeClip, Path], shared_data: Path, tmp_path: Path
) -> None:
    model, folder = trained
    data = LabelledMVTec(
        shared_data / "mvtec", categories=["toothbrush"], protocol="b", fractions=SHARES, seed=3, eval_batch_size=1
    )
    (found,) = engine(tmp_path).test(model, datamodule=data)
    assert {"image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_F1Score"} == found.keys()
    again = FeClip.from_bundle(folder / "bundle", precision="float32")
    first, second = (engine(tmp_path).predict(each, datamodule=data) for each in (model, again))
    images = [path for batch in first for path in batch.image_path]
    with Predictor.load(folder / "bundle", device="cpu", precision="float32", batch_size=1) as predictor:
        own = [item.image_logit for item in predictor.predict_all(images) if isinstance(item, Prediction)]
    for batches in (first, second):
        np.testing.assert_allclose([batch.pred_score.item() for batch in batches], own, rtol=0, atol=1e-5)
    pictures = sorted(path.relative_to(tmp_path).parts[-4:] for path in tmp_path.rglob("images/**/*.png"))
    assert [picture[0] for picture in pictures] == ["toothbrush"] * len(pictures), "categories have folders"
    assert len(pictures) >= len(images)


def test_a_checkpoint_holds_no_frozen_weight_and_is_gone_on_from(
    trained: tuple[FeClip, Path], shared_data: Path, tmp_path: Path
) -> None:
    model, folder = trained
    (checkpoint,) = folder.rglob("*.ckpt")
    names = torch.load(checkpoint, weights_only=True)["state_dict"].keys()
    assert any(".taps." in name for name in names)
    assert not any(".visual." in name for name in names)
    again = FeClip.load_from_checkpoint(checkpoint)
    assert again.epoch_metrics == model.epoch_metrics
    assert again.model_config == model.model_config
    assert again.post_processor.image_threshold == model.post_processor.image_threshold
    assert again.pre_processor.options == model.pre_processor.options
    assert again.save_bundle(tmp_path / "again") == read_bundle(str(folder / "bundle")).model_id
    assert read_bundle(str(tmp_path / "again")).images == read_bundle(str(folder / "bundle")).images

    longer = FeClip(model=MODEL, optim=optim(epochs=EPOCHS + 1), visualizer=False)
    data = LabelledMVTec(
        shared_data / "mvtec", categories=["hazelnut_toy", "toothbrush"], protocol="b", fractions=SHARES, seed=3
    )
    engine(tmp_path).fit(longer, datamodule=data, ckpt_path=checkpoint)
    assert [record["epoch"] for record in longer.epoch_metrics] == [1, 2, 3]
    other = FeClip(model=ModelConfig(**{**vars(MODEL), "init_seed": 1}), optim=optim())
    with pytest.raises(BundleError, match="was trained on a backbone with digest"):
        engine(tmp_path).test(other, datamodule=data, ckpt_path=checkpoint)


def test_all_test_images_train_and_what_trained_before_stays_on_record(
    bundle: str, small_mvtec: Path, shared_data: Path, tmp_path: Path
) -> None:
    model = FeClip(bundle, optim=optim(epochs=1))
    run, data = engine(tmp_path), LabelledMVTec(small_mvtec, categories=["tile"])
    run.fit(model, datamodule=data)
    model.save_bundle(tmp_path / "further")
    written = read_bundle(str(tmp_path / "further"))
    assert written.model_id != read_bundle(bundle).model_id
    names = [(row["role"], Path(row["uri"]).name) for row in written.images.to_pylist()]
    assert names[0] == ("trained", "trained.png"), "of the bundle that it went on from"
    assert len(names) == 1 + 14
    with pytest.raises(ConfigError, match="take protocol b, or other data"):
        run.test(model, datamodule=data)
    (found,) = run.test(model, datamodule=MVTecAD(shared_data / "mvtec", category="toothbrush", num_workers=0))
    assert found.keys() == {"image_AUROC", "pixel_AUROC"}, "nothing was held out, so there is no threshold, and no F1"


@pytest.mark.parametrize(
    ("ask", "kind", "words"),
    [
        (lambda place: FeClip(place, model=MODEL), ConfigError, "give the bundle, or model and data"),
        (lambda place: FeClip(f"{place}/none"), BundleError, "holds no bundle"),
        (lambda place: FeClip(place, precision="float64"), ConfigError, "precision"),
        (lambda _: FeClip(model={"backbones": "x"}), ConfigError, "ModelConfig"),
        (
            lambda _: FeClip(model=MODEL, data=DataConfig(valid_region=ValidRegion.mask_uri)),
            ConfigError,
            "valid_region=mask_uri",
        ),
        (
            lambda _: FeClip(model=MODEL, data=DataConfig(resize=Resize.rectangle)),
            ConfigError,
            "data.resize=rectangle",
        ),
        (
            lambda _: FeClip(model=MODEL, optim=OptimConfig(prefix_cache=PrefixCache.memory)),
            ConfigError,
            "prefix_cache=memory",
        ),
        (lambda _: FeClip(model=MODEL, optim=OptimConfig(patience=2)), ConfigError, "optim.patience belongs"),
        (lambda place: FeClip(place).save_bundle(place), RunError, "holds a bundle; choose another place"),
        (lambda place: FeClip(place).to_onnx("out"), RunError, "save_bundle"),
        (lambda _: LabelledMVTec("s3://plant/mvtec"), ConfigError, "must be a local folder"),
        (lambda _: LabelledMVTec("/data/mvtec", protocol="c"), ConfigError, "protocol must be a"),
        (lambda _: LabelledMVTec("/no/such/folder").setup(), FeclipError, "/no/such/folder"),
    ],
)
def test_what_the_bridge_does_not_do_is_one_line(ask: object, kind: type[FeclipError], words: str, bundle: str) -> None:
    with pytest.raises(kind, match=words) as failure:
        ask(bundle)  # type: ignore[operator]
    assert "\n" not in str(failure.value)


def test_images_without_labels_and_losses_that_are_no_number_end_training(bundle: str) -> None:
    model = FeClip(bundle, optim=optim())
    images = torch.zeros(1, 3, 64, 64)
    with pytest.raises(ConfigError, match="have no gt_label"):
        model.training_step(ImageBatch(image=images))
    assert model.training_step(ImageBatch(image=images, gt_label=torch.tensor([1]))).isfinite(), "a label is enough"
    with torch.no_grad():
        model.model.feclip.patch_head.weight.fill_(torch.nan)
    with pytest.raises(RunError, match="The loss became nan"):
        model.training_step(ImageBatch(image=images, gt_label=torch.tensor([1])))


def test_groups_are_chosen_and_an_unknown_one_is_named(bundle: str, tmp_path: Path) -> None:
    from test_anomalib_scores import calibrated  # noqa: PLC0415 - beside what it is used for

    place = calibrated(bundle, tmp_path / "grouped", rule="image", by="line")
    assert FeClip(place, group="1").post_processor.image_threshold.item() < 0.5
    with pytest.raises(DataError, match="calibration never saw line '2', only '1'"):
        FeClip(place, group="2")
    with pytest.raises(DataError, match="only '1'"):
        FeClip(place)


def test_the_small_bundle_of_these_tests_is_read_with_its_own_options(tmp_path: Path) -> None:
    place = write_small_bundle(tmp_path, valid_region="uniform_border")
    assert FeClip(place).pre_processor.options.valid_region == "uniform_border"
