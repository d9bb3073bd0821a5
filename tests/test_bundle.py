"""The bundle: what is written is read back, and anything missing, mixed or out of range is named."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from feclip.building import build_model
from feclip.bundle import (
    IMAGE_COLUMNS,
    InputOverride,
    Lineage,
    read_bundle,
    write_bundle,
    write_calibrated,
    write_tuned,
)
from feclip.bundle.record import sealed
from feclip.calibration import CalibrationOptions, Statistic, calibrate
from feclip.config import DataConfig, FinetuneConfig, JpegDecoding, ModelConfig, OptimConfig, ScoringConfig
from feclip.errors import BundleError
from feclip.model import FeClipModel

MODEL = ModelConfig(backbone="ViT-S-32-alt", pretrained="none", image_size=64, num_taps=2, noun="screw")
IMAGES = pa.table({"uri": ["/a.png"], "role": ["trained"], "split": ["train"], "sha256": ["0" * 64]})
METRICS = [{"epoch": 1, "loss": 1.5}]


@pytest.fixture(scope="module")
def model() -> FeClipModel:
    return build_model(MODEL, seed=3)


@pytest.fixture(scope="module")
def written(model: FeClipModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "whole"
    config = FinetuneConfig(output=str(folder), model=MODEL, optim=OptimConfig(epochs=0))
    write_bundle(str(folder), model=model, config=config, images=IMAGES, metrics=METRICS)
    return folder


@pytest.fixture
def copy(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "copy"))


def test_what_is_written_is_read_back_and_scores_alike(written: Path, model: FeClipModel) -> None:
    bundle = read_bundle(str(written))
    assert bundle.model == MODEL
    assert bundle.metrics == METRICS
    assert bundle.images.select(IMAGES.column_names).equals(IMAGES)
    assert set(IMAGE_COLUMNS.names) <= set(bundle.images.column_names)  # what was not given is null
    assert bundle.images["thumbnail"].null_count == 1
    assert bundle.input == {
        "resize": "letterbox",
        "padding_color": "white",
        "valid_region": "letterbox",
        "jpeg_decoding": "full",
    }
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(bundle.build()(images).image_logit, model.eval()(images).image_logit)
    assert set(bundle.adapters) == set(model.trainable_state_dict())


def edited(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        change(config)
        (folder / "config.json").write_text(json.dumps(sealed(config)))

    return damage


def another_recipe(folder: Path) -> None:
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"epochs": 0', '"epochs": 9'))


def without_nouns(folder: Path) -> None:
    """As feclip wrote bundles of schema 4."""

    def change(config: dict[str, Any]) -> None:
        config["schema"] = 4
        for name in ("learned_vectors", "nouns", "noun_column", "prompts"):
            del config["model"][name]

    edited(change)(folder)


def without_digest(folder: Path) -> None:
    """As feclip wrote bundles of schema 3."""
    without_nouns(folder)
    config = json.loads((folder / "config.json").read_text())
    del config["record_sha256"]
    (folder / "config.json").write_text(json.dumps(config | {"schema": 3}))


def other_adapters(folder: Path) -> None:
    tensors = load_file(folder / "adapters.safetensors")
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, folder / "adapters.safetensors")


def without_thumbnails(folder: Path) -> None:
    where = folder / "images.parquet"
    pq.write_table(pq.read_table(where).drop_columns(["thumbnail"]), where)
    digest = hashlib.sha256(where.read_bytes()).hexdigest()
    edited(lambda config: config["files"].update({"images.parquet": digest}))(folder)


DAMAGES = {
    "holds no bundle": lambda folder: (folder / "config.json").unlink(),
    "metrics.json is missing": lambda folder: (folder / "metrics.json").unlink(),
    "adapters.safetensors is not the file": other_adapters,
    "was changed: record_sha256": another_recipe,
    "is no JSON": lambda folder: (folder / "config.json").write_text("{"),
    "must hold a JSON object": lambda folder: (folder / "config.json").write_text("[]"),
    "images.parquet has no column thumbnail": without_thumbnails,
    "has schema 1; this feclip": edited(lambda config: config.update(schema=1)),
    "has schema 2; this feclip": edited(lambda config: config.update(schema=2)),
    "missing fields ['record_sha256']": lambda folder: (
        without_digest(folder),
        (folder / "config.json").write_text((folder / "config.json").read_text().replace('"schema": 3', '"schema": 4')),
    ),
    "training must be a JSON object": edited(lambda config: config.update(training=[])),
    "optim.batch_size must be at least 1": edited(lambda config: config["training"]["optim"].update(batch_size=0)),
    "model.image_size must be at least 1 and at most 4096": edited(
        lambda config: config["model"].update(image_size=2**40)
    ),
    "no class_path": edited(lambda config: config["training"].update(data={"class_path": "os.system"})),
    "prompts are not those of model.noun": edited(lambda config: config.update(prompts=["one"])),
    "tap_blocks must be ascending": edited(lambda config: config.update(tap_blocks=[3, 2])),
    "padding_color must be white": edited(lambda config: config["input"].update(padding_color="\u0000")),
    "backbone_digest must be a sha256": edited(lambda config: config.update(backbone_digest="../x")),
    "has schema 99": edited(lambda config: config.update(schema=99)),
    "unknown fields ['extra']": edited(lambda config: config.update(extra=1)),
    "missing fields ['prompts']": edited(lambda config: config.pop("prompts")),
    "missing fields ['noun']": edited(lambda config: config["model"].pop("noun")),
    "model.temperature must be above 0": edited(lambda config: config["model"].update(temperature=-1.0)),
    "num_taps": edited(lambda config: config["model"].update(num_taps="many")),
    "model_id is not the digest": edited(lambda config: config["input"].update(resize="squash")),
}


@pytest.mark.parametrize("older", [without_nouns, without_digest])
def test_a_bundle_of_an_older_schema_is_read_and_written_again(
    older: Callable[[Path], None], written: Path, copy: Path, tmp_path: Path
) -> None:
    older(copy)
    before, now = read_bundle(str(copy)), read_bundle(str(written))
    assert (before.model, before.model_id, before.training) == (now.model, now.model_id, now.training)
    lineage = Lineage(parent="/runs/first", parent_id="a" * 64, epoch=1, before={"image_auroc": 0.5}, domains=())
    write_tuned(str(tmp_path / "tuned"), tuned=before, lineage=lineage, images=before.images)
    again = read_bundle(str(tmp_path / "tuned"))
    assert (again.model, again.model_id) == (now.model, now.model_id)


def test_an_older_schema_has_no_nouns(copy: Path) -> None:
    edited(lambda config: config.update(schema=4))(copy)
    with pytest.raises(BundleError, match=r"unknown fields \['learned_vectors', 'noun_column', 'nouns', 'prompts'\]"):
        read_bundle(str(copy))


def test_another_decoding_is_another_model(model: FeClipModel, written: Path, tmp_path: Path) -> None:
    """So neither thresholds nor a resumed run can meet scores of the other decoding: both go by the model's id."""
    config = FinetuneConfig(
        output=str(tmp_path),
        model=MODEL,
        optim=OptimConfig(epochs=0),
        data=DataConfig(jpeg_decoding=JpegDecoding.scaled),
    )
    write_bundle(str(tmp_path), model=model, config=config, images=IMAGES, metrics=METRICS)
    full, scaled = read_bundle(str(written)), read_bundle(str(tmp_path))
    assert scaled.input_options.jpeg_decoding == "scaled"
    assert scaled.model_id != full.model_id
    kept = scaled.with_input(InputOverride(image_size=96, resize="squash"))
    assert kept.input["jpeg_decoding"] == "scaled"


def test_a_tuned_bundle_keeps_its_lineage_also_when_it_is_calibrated(written: Path, tmp_path: Path) -> None:
    whole = read_bundle(str(written))
    lineage = Lineage(parent="/runs/first", parent_id="a" * 64, epoch=1, before={"image_auroc": 0.5}, domains=())
    images = pa.concat_tables([whole.images, whole.images])
    write_tuned(str(tmp_path / "tuned"), tuned=whole, lineage=lineage, images=images)
    tuned = read_bundle(str(tmp_path / "tuned"))
    assert (tuned.lineage, tuned.model_id, tuned.images.num_rows) == (lineage, whole.model_id, 2)
    normals = pa.table({"uri": ["/n.png"], "sha256": ["1" * 64]})
    scores = pa.table({name: pa.array(np.arange(200, dtype=np.float32)) for name in Statistic})
    scores = scores.append_column("model_id", pa.array([tuned.model_id] * 200))
    calibration = calibrate(
        [scores],
        model_id=tuned.model_id,
        options=CalibrationOptions(),
        statistic_options=ScoringConfig().statistic_options,
    )
    write_calibrated(str(tmp_path / "calibrated"), bundle=tuned, calibration=calibration, images=normals)
    calibrated = read_bundle(str(tmp_path / "calibrated"))
    assert (calibrated.lineage, calibrated.calibration) == (lineage, calibration)
    shutil.copy(written / "adapters.safetensors", tmp_path / "tuned" / "lineage.json")
    with pytest.raises(BundleError, match=r"lineage.json is not the file that config.json names"):
        read_bundle(str(tmp_path / "tuned"))


@pytest.mark.parametrize("named", DAMAGES)
def test_a_damaged_bundle_is_one_error_that_names_the_damage(named: str, copy: Path) -> None:
    DAMAGES[named](copy)
    with pytest.raises(BundleError) as error:
        read_bundle(str(copy))
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def test_another_backbone_is_refused(copy: Path) -> None:
    edited(lambda config: config["model"].update(init_seed=9))(copy)
    with pytest.raises(BundleError, match="was trained on a backbone with digest"):
        read_bundle(str(copy)).build()


def test_the_model_id_follows_what_changes_a_score(written: Path, model: FeClipModel, tmp_path: Path) -> None:
    def model_id(name: str, config: FinetuneConfig) -> str:
        return write_bundle(str(tmp_path / name), model=model, config=config, images=IMAGES, metrics=[])

    same = FinetuneConfig(output="elsewhere", seed=5, model=MODEL, optim=OptimConfig(epochs=0))
    assert model_id("same", same) == read_bundle(str(written)).model_id
    other = ModelConfig(backbone="ViT-S-32-alt", pretrained="none", image_size=64, num_taps=2, noun="grid")
    assert model_id("other", FinetuneConfig(output="x", model=other, optim=OptimConfig(epochs=0))) != model_id(
        "again", same
    )


def test_another_input_is_another_model_without_thresholds(tmp_path: Path) -> None:
    config = ModelConfig(backbone="feclip-demo", num_taps=2).settled()
    run = FinetuneConfig(output=str(tmp_path), model=config, optim=OptimConfig(epochs=0))
    write_bundle(str(tmp_path), model=build_model(config, seed=3), config=run, images=IMAGES, metrics=[])
    bundle = read_bundle(str(tmp_path))
    assert bundle.with_input(InputOverride(image_size=112, resize="letterbox")) is bundle
    squashed = bundle.with_input(InputOverride(image_size=112, resize="squash"))
    larger = bundle.with_input(InputOverride(image_size=168, resize="squash"))
    assert len({bundle.model_id, squashed.model_id, larger.model_id}) == 3
    again = larger.with_input(InputOverride(image_size=112, resize="letterbox"))
    assert again.model_id not in {bundle.model_id, larger.model_id}  # it came another way; the id is only ever new
    model = larger.build()
    assert (model.image_size, model.token_grid, larger.calibration) == (168, (21, 21), None)
    assert torch.equal(model.patch_head.weight, bundle.build().patch_head.weight)


def test_random_weights_have_one_size(written: Path) -> None:
    other = read_bundle(str(written)).with_input(InputOverride(image_size=96, resize="squash"))
    with pytest.raises(BundleError, match="has other weights at 96 px than at 64 px"):
        other.build()
