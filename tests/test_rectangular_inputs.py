"""A bundle whose images keep their aspect ratio without padding: scores, maps, memory bank, and what is refused."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from feclip.building import build_model
from feclip.bundle import Bundle, InputOverride, read_bundle, write_bundle
from feclip.bundle.record import sealed
from feclip.config import DataConfig, ExportConfig, FinetuneConfig, ModelConfig, OptimConfig, Resize, ValidRegion
from feclip.data import valid_tokens
from feclip.errors import BundleError, ConfigError
from feclip.export import export
from feclip.prediction import Predictor
from feclip.score_table import build_score_table, recompute_statistics
from feclip.scoring import BankImages, Scorer, build_bank

SIZE, PATCH = 64, 16
MODEL = ModelConfig(backbone="ViT-S-16-alt", pretrained="none", image_size=SIZE, num_taps=2)
SHAPES = ((48, 64), (64, 20), (64, 64), (10, 200), (300, 40), (33, 57), (64, 47), (20, 64), (64, 64))  # (h, w)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def written(folder: Path, **data: object) -> Bundle:
    run = FinetuneConfig(output=str(folder), model=MODEL, data=DataConfig(**data), optim=OptimConfig(epochs=0))
    images = pa.table({"uri": ["/a.png"]})
    write_bundle(str(folder), model=build_model(MODEL, seed=3), config=run, images=images, metrics=[])
    return read_bundle(str(folder))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return written(tmp_path_factory.mktemp("rectangle"), resize=Resize.rectangle)


@pytest.fixture(scope="module")
def letterboxed(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return written(tmp_path_factory.mktemp("letterbox"))


@pytest.fixture(scope="module")
def scorer(bundle: Bundle) -> Scorer:
    return Scorer(bundle, precision="float32", batch_size=3)


def noise(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, height, width]).integers(0, 256, (height, width, 3), dtype=np.uint8)


def prepared(bundle: Bundle, *, color: str = "white") -> tuple[np.ndarray, np.ndarray]:
    """Return pixels and valid pixels of noise of all shapes, as the bundle's images come to its model."""
    options = dataclasses.replace(bundle.input_options, padding_color=color)
    placed = [options.place(noise(*shape, seed=index)) for index, shape in enumerate(SHAPES)]
    return np.stack([pixels for pixels, _ in placed]), np.stack([record.valid_pixels() for _, record in placed])


def test_a_bundle_records_the_patch_and_is_another_model(bundle: Bundle, letterboxed: Bundle) -> None:
    assert (bundle.patch_size, bundle.is_rectangular) == (PATCH, True)
    assert (letterboxed.patch_size, letterboxed.is_rectangular) == (None, False)
    assert bundle.input_options.patch_size == PATCH
    assert bundle.model_id != letterboxed.model_id
    squashed = bundle.with_input(InputOverride(image_size=SIZE, resize="squash"))
    assert not squashed.is_rectangular
    assert squashed.input_options.resize == "squash"


@pytest.mark.parametrize("patch_size", [None, 0, "16", True, 7])
def test_a_record_with_another_patch_is_refused(bundle: Bundle, patch_size: object, tmp_path: Path) -> None:
    record = json.loads((Path(bundle.uri) / "config.json").read_text(encoding="utf-8"))
    if patch_size is None:
        del record["input"]["patch_size"]
    else:
        record["input"]["patch_size"] = patch_size
    (tmp_path / "config.json").write_text(json.dumps(sealed(record)), encoding="utf-8")
    with pytest.raises(BundleError, match=r"config\.json: input"):
        read_bundle(str(tmp_path))
    with pytest.raises(BundleError, match="inputs of 8 px patches, its backbone has 16 px"):
        dataclasses.replace(bundle, patch_size=8).build()


def test_a_square_image_has_the_scores_of_a_letterbox(bundle: Bundle, letterboxed: Bundle) -> None:
    image = noise(90, 90)[None]
    scores = []
    for each in (bundle, letterboxed):
        pixels, record = each.input_options.place(image[0])
        scores.append(Scorer(each, precision="float32").score(pixels[None], record.valid_pixels()[None]))
    for name in ("image_logit", "map_max", "map_topk_mean", "token_map"):
        assert np.array_equal(*(getattr(found, name) for found in scores))


def test_rows_keep_their_order_and_scores_do_not_depend_on_the_batch(bundle: Bundle, scorer: Scorer) -> None:
    pixels, valid = prepared(bundle)
    together = scorer.score(pixels, valid)
    backwards = scorer.score(pixels[::-1], valid[::-1])
    for index in range(len(SHAPES)):
        alone = scorer.score(pixels[index : index + 1], valid[index : index + 1])
        for name in ("image_logit", "map_max", "map_topk_mean", "token_map"):
            found, single = getattr(together, name)[index], getattr(alone, name)[0]
            np.testing.assert_allclose(found, single, rtol=0, atol=4e-3 if name == "token_map" else 2e-3)
            np.testing.assert_allclose(getattr(backwards, name)[-1 - index], single, rtol=0, atol=4e-3)
    assert len(set(together.image_logit.tolist())) == len(SHAPES)


def test_the_rest_of_the_square_is_never_looked_at(bundle: Bundle, scorer: Scorer) -> None:
    white, red = (scorer.score(*prepared(bundle, color=color)) for color in ("white", "255,0,0"))
    assert np.array_equal(white.image_logit, red.image_logit)
    assert np.array_equal(white.token_map, red.token_map, equal_nan=True)


def test_maps_stand_where_the_image_lies_and_their_statistics_can_be_computed_anew(
    bundle: Bundle, scorer: Scorer
) -> None:
    pixels, valid = prepared(bundle)
    scores = scorer.score(pixels, valid)
    tokens = valid_tokens(torch.from_numpy(valid), patch_size=PATCH).numpy()
    assert np.array_equal(np.isfinite(scores.token_map), tokens)
    number = len(SHAPES)
    listing = pa.table({"row_id": range(number), "uri": ["a"] * number, "size": [1] * number, "etag": ["e"] * number})
    rows = []
    for index, row in enumerate(scores.rows()):
        height, width = SHAPES[index]
        record = bundle.input_options.geometry(height, width)
        box = [record.top, record.left, record.height, record.width]
        rows.append({"row_id": index, "sha256": "0", "width": width, "height": height, "valid_box": box} | row)
    table = build_score_table(listing, rows=rows, model_id="m")
    again = recompute_statistics(table, image_size=SIZE)
    for name in ("map_max", "map_topk_mean"):
        assert again[name].to_pylist() == table[name].to_pylist()


def test_a_prediction_is_the_rectangle_alone_and_its_map_lies_on_the_image(bundle: Bundle, tmp_path: Path) -> None:
    image = noise(40, 150)
    Image.fromarray(image).save(tmp_path / "wide.png")
    with Predictor(bundle, precision="float32") as predictor:
        found = predictor.predict(tmp_path / "wide.png")
        model = bundle.build()
    assert found.anomaly_map.shape == (40, 150)
    assert found.overlay().size == (150, 40)
    pixels, record = bundle.input_options.place(image)
    alone = torch.from_numpy(pixels[: record.height, : record.width]).permute(2, 0, 1)[None]
    assert alone.shape == (1, 3, 16, 64)
    with torch.inference_mode():
        output = model(model.normalize(alone))
    assert found.image_logit == pytest.approx(output.image_logit.item(), abs=1e-3)
    np.testing.assert_allclose(found.token_map[:1], output.token_map[0], rtol=0, atol=4e-3)
    assert np.isnan(found.token_map[1:]).all()


def test_the_border_of_an_image_leaves_the_rectangle(tmp_path: Path, bundle: Bundle) -> None:
    """Bars that end where tokens end: the model reads what it would read of the image without them."""
    bordered = written(tmp_path, resize=Resize.rectangle, valid_region=ValidRegion.uniform_border)
    image = noise(64, 32)
    wide = np.full((64, 64, 3), 255, np.uint8)
    wide[:, 16:48] = image
    pixels, record = bordered.input_options.place(wide)
    valid = np.zeros((64, 64), np.bool_)
    valid[:, 16:48] = True
    with_bars = Scorer(bordered, precision="float32").score(pixels[None], record.place(valid)[None])
    pixels, record = bundle.input_options.place(image)
    without = Scorer(bundle, precision="float32").score(pixels[None], record.valid_pixels()[None])
    np.testing.assert_allclose(with_bars.image_logit, without.image_logit, rtol=0, atol=1e-3)
    np.testing.assert_allclose(with_bars.token_map[:, :, 1:3], without.token_map[:, :, :2], rtol=0, atol=4e-3)


def test_a_memory_bank_holds_the_tokens_of_the_rectangles_alone(bundle: Bundle) -> None:
    pixels, valid = prepared(bundle)
    images = BankImages(pixels=pixels, valid_pixels=valid)
    bank = build_bank(bundle, {"": [images]}, group_column=None, request={}, precision="float32")
    num_tokens = int(valid_tokens(torch.from_numpy(valid), patch_size=PATCH).sum())
    assert all(len(rows) == num_tokens for rows in bank.rows.values())
    with_bank = dataclasses.replace(bundle, memory_bank=bank)
    scores = Scorer(with_bank, precision="float32").score(pixels, valid)
    model = bundle.build()
    model.memory_bank = bank.build()
    image = torch.from_numpy(pixels[3:4, :16]).permute(0, 3, 1, 2)
    with torch.inference_mode():
        output = model(model.normalize(image))
    np.testing.assert_allclose(output.token_distances, 0, atol=0.03)  # each token is in the bank
    assert scores.image_logit[3] == pytest.approx(output.image_logit.item(), abs=2e-3)


def test_what_needs_one_shape_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"score\.compile: .*data\.resize=rectangle"):
        Scorer(bundle, compiles=True)
    with pytest.raises(BundleError, match=r"data\.resize=rectangle.* one input shape"):
        export(ExportConfig(bundle=bundle.uri, output=str(tmp_path / "model.pt2"), format="torch"))
    assert not (tmp_path / "model.pt2").exists()
