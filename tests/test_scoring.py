"""Scores of images: the same from the stored map, whatever the padding, the batch and the company."""

import dataclasses
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from odd_files import encoded
from scipy.ndimage import gaussian_filter

from feclip.building import build_model
from feclip.bundle import Bundle, read_bundle, write_bundle
from feclip.config import FinetuneConfig, ModelConfig, OptimConfig, PaddingMode
from feclip.data import letterbox
from feclip.data.fetch import FetchedImage
from feclip.data.image_errors import ImageError, ImageErrorKind
from feclip.data.prepare import InputOptions, PreparedImage, prepare_image
from feclip.data.valid_region import ValidBox, pack_valid_pixels, unpack_valid_pixels
from feclip.errors import BundleError, ConfigError, RunError
from feclip.model import FeClipModel, upsample
from feclip.model.map_statistics import map_statistics, num_top_pixels, pixel_maps
from feclip.score_table import (
    SCORE_SCHEMA,
    build_score_table,
    recompute_statistics,
    unpack_token_maps,
    unpack_valid_regions,
)
from feclip.scoring import CPU_BATCH_SIZE, Scorer, Scores, StartUp

SIZE = 64
MODEL = ModelConfig(
    backbone="ViT-S-16-alt", pretrained="none", image_size=SIZE, num_taps=2, padding=PaddingMode.attention
)
SHAPES = ((48, 64), (64, 20), (64, 64), (10, 200), (300, 40), (33, 57), (64, 47))  # (h, w) of the source images


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def written(folder: Path, model: FeClipModel, config: ModelConfig) -> Bundle:
    images = pa.table({"uri": ["/a.png"]})
    run = FinetuneConfig(output=str(folder), model=config, optim=OptimConfig(epochs=0))
    write_bundle(str(folder), model=model, config=run, images=images, metrics=[])
    return read_bundle(str(folder))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return written(tmp_path_factory.mktemp("bundle"), build_model(MODEL, seed=3), MODEL)


@pytest.fixture(scope="module")
def scorer(bundle: Bundle) -> Scorer:
    return Scorer(bundle, precision="float32", batch_size=3)


def prepared(
    number: int = len(SHAPES), *, shapes: tuple[tuple[int, int], ...] = SHAPES, color: str = "white"
) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels ``(N, S, S, 3)`` and valid pixels ``(N, S, S)`` of noise in letterboxes of many shapes."""
    random = np.random.default_rng(0)
    pixels, valid = [], []
    for index in range(number):
        height, width = shapes[index % len(shapes)]
        image = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        square, record = letterbox(image, image_size=SIZE, padding_color=color)
        pixels.append(square)
        valid.append(record.valid_pixels())
    return np.stack(pixels), np.stack(valid)


def listing(row_ids: list[int], **partitions: list[str]) -> pa.Table:
    uris = [f"s3://plant/{row_id}.png" for row_id in row_ids]
    sizes = [1000 + row_id for row_id in row_ids]
    return pa.table({"row_id": row_ids, "uri": uris, "size": sizes, "etag": ["e"] * len(row_ids), **partitions})


def fetched(pixels: np.ndarray, valid: np.ndarray) -> FetchedImage:
    box, bits = pack_valid_pixels(valid)
    image = PreparedImage(pixels=pixels, width=5, height=6, valid_box=box, valid_mask=bits)
    return FetchedImage(sha256="0" * 64, image=image, error=None)


def table_of(scorer: Scorer, pixels: np.ndarray, valid: np.ndarray) -> pa.Table:
    scores = scorer.score(pixels, valid)
    rows = [
        {"row_id": index} | fetched(pixels[index], valid[index]).columns() | row
        for index, row in enumerate(scores.rows())
    ]
    return build_score_table(listing(list(range(len(rows)))), rows=rows, model_id="m")


def holes(valid: np.ndarray) -> np.ndarray:
    """Cut a corner and a hole out of each valid region, as a mask of valid pixels may."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    return valid & (rows + columns > 40) & ~((rows % 32 < 6) & (columns % 32 < 6))


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize(("topk_fraction", "smoothing_sigma"), [(0.01, 0.0), (0.3, 0.0), (0.01, 2.5), (1.0, 40.0)])
def test_statistics_recomputed_from_a_stored_table_equal_the_stored_ones_exactly(
    topk_fraction: float, smoothing_sigma: float, cut: bool, bundle: Bundle, tmp_path: Path
) -> None:
    options = {"topk_fraction": topk_fraction, "smoothing_sigma": smoothing_sigma}
    scorer = Scorer(bundle, precision="float32", batch_size=3, **options)
    pixels, valid = prepared(7)
    if cut:
        valid = holes(valid)
        pixels, valid = pixels[valid.any(axis=(1, 2))], valid[valid.any(axis=(1, 2))]
    pq.write_table(table_of(scorer, pixels, valid), tmp_path / "scores.parquet")
    stored = pq.read_table(tmp_path / "scores.parquet")
    again = recompute_statistics(stored, image_size=SIZE, **options)
    for name in ("map_max", "map_topk_mean"):
        assert again[name].to_pylist() == stored[name].to_pylist()
    single = [recompute_statistics(stored.slice(index, 1), image_size=SIZE, **options) for index in range(len(stored))]
    assert pa.concat_tables(single).combine_chunks().equals(again.combine_chunks())
    assert np.array_equal(unpack_valid_regions(stored, image_size=SIZE), valid)


@pytest.mark.gpu
def test_a_gpu_computes_the_same_bits() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    maps, valid = token_maps(32)
    for sigma in (0.0, 4.0):
        here = map_statistics(maps, valid, topk_fraction=0.05, smoothing_sigma=sigma)
        there = map_statistics(maps.cuda(), valid.cuda(), topk_fraction=0.05, smoothing_sigma=sigma)
        assert torch.equal(here.map_max, there.map_max.cpu())
        assert torch.equal(here.map_topk_mean, there.map_topk_mean.cpu())


def token_maps(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random float16 token maps ``(N, 4, 4)``, NaN on padding, and their valid pixels."""
    _, valid = prepared(number)
    tokens = torch.from_numpy(valid).reshape(number, 4, 16, 4, 16).any(dim=4).any(dim=2)
    maps = torch.randn(number, 4, 4, generator=torch.Generator().manual_seed(1)) * 10
    return torch.where(tokens, maps, torch.nan).half(), torch.from_numpy(valid)


def test_maps_are_what_the_model_draws() -> None:
    maps = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0)).half()
    assert torch.allclose(pixel_maps(maps, image_size=SIZE), upsample(maps, (SIZE, SIZE)), atol=1e-5)
    assert torch.equal(
        pixel_maps(torch.full((1, 4, 4), 3.1).half(), image_size=SIZE).unique().half(), maps.new_tensor([3.1])
    )


@pytest.mark.parametrize("sigma", [0.3, 1.0, 4.0, 30.0])
def test_smoothing_is_a_gaussian(sigma: float) -> None:
    maps = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0)).half()
    plain = pixel_maps(maps, image_size=SIZE)
    smooth = pixel_maps(maps, image_size=SIZE, smoothing_sigma=sigma)
    expected = [gaussian_filter(image.double().numpy(), sigma, mode="nearest", truncate=4.0) for image in plain]
    assert np.allclose(smooth.numpy(), expected, atol=1e-5)


def test_statistics_are_those_of_a_plain_loop() -> None:
    maps, valid = token_maps(7)
    found = map_statistics(maps, valid, topk_fraction=0.07)
    for index, image in enumerate(pixel_maps(maps, image_size=SIZE)):
        values = np.sort(image[valid[index]].double().numpy())[::-1]
        count = max(1, math.ceil(7 * len(values) / 100))
        assert found.map_max[index] == values[0]
        assert found.map_topk_mean[index] == np.float32(values[:count].mean())


def test_statistics_of_an_image_do_not_depend_on_its_company() -> None:
    maps, valid = token_maps(7)
    together = map_statistics(maps, valid, topk_fraction=0.3)
    for index in range(7):
        alone = map_statistics(maps[index : index + 1], valid[index : index + 1], topk_fraction=0.3)
        assert alone.map_max == together.map_max[index]
        assert alone.map_topk_mean == together.map_topk_mean[index]


def test_the_share_is_an_exact_decimal() -> None:
    assert [num_top_pixels(100, topk_fraction=share) for share in (0.07, 0.01, 0.29, 1.0)] == [7, 1, 29, 100]
    assert num_top_pixels(3, topk_fraction=0.01) == 1
    for share in (0.0, 1.01, math.nan):
        with pytest.raises(ValueError, match="topk_fraction must be above 0 and at most 1"):
            num_top_pixels(3, topk_fraction=share)


@pytest.mark.parametrize("sigma", [0.0, 3.0])
def test_the_maximum_never_lies_on_padding(sigma: float) -> None:
    """Not even where the map rises towards padding, so that what is filled in there is the highest."""
    valid = np.zeros((1, SIZE, SIZE), np.bool_)
    valid[:, 20:36] = True  # padding begins within the tokens of rows 1 and 2, before the middle of the latter
    maps = torch.full((1, 4, 4), torch.nan).half()
    maps[:, 1], maps[:, 2] = 0.0, torch.tensor([1.0, 2.0, 3.0, 9.0]).half()
    image = pixel_maps(maps, image_size=SIZE, smoothing_sigma=sigma)
    found = map_statistics(maps, torch.from_numpy(valid), topk_fraction=0.5, smoothing_sigma=sigma)
    assert found.map_max[0] == image[0][valid[0]].max()
    assert found.map_max[0] < image.max()
    assert not image.isnan().any()


def test_arguments_of_another_type_are_refused() -> None:
    maps, valid = token_maps(2)
    with pytest.raises(ValueError, match=r"token_maps must be torch\.float16"):
        map_statistics(maps.float(), valid)
    with pytest.raises(ValueError, match=r"valid_pixels must be bool of shape \(2, S, S\)"):
        map_statistics(maps, valid[:1])
    with pytest.raises(ValueError, match="valid_pixels must be true somewhere in each image"):
        map_statistics(maps, torch.zeros_like(valid))
    with pytest.raises(ValueError, match="smoothing_sigma must be at least 0"):
        map_statistics(maps, valid, smoothing_sigma=-1.0)


def test_scores_are_the_models(bundle: Bundle, scorer: Scorer) -> None:
    pixels, valid = prepared()
    scores = scorer.score(pixels, valid)
    model = bundle.build()
    tokens = torch.from_numpy(valid).reshape(-1, 4, 16, 4, 16).any(dim=4).any(dim=2)
    with torch.no_grad():
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        output = model(model.normalize(images, torch.from_numpy(valid)), tokens)
    assert np.allclose(scores.image_logit, output.image_logit, atol=1e-5)
    assert np.allclose(scores.image_score, output.image_score, atol=1e-6)
    assert np.allclose(scores.token_map, output.token_map, rtol=1e-3, atol=1e-3, equal_nan=True)
    assert np.array_equal(np.isnan(scores.token_map), ~tokens.numpy())
    drawn = torch.logit(output.anomaly_map.double()).masked_fill(~torch.from_numpy(valid), -torch.inf)
    assert np.allclose(scores.map_max, drawn.flatten(1).amax(dim=1), rtol=2e-3, atol=2e-3)


def difference(one: Scores, other: Scores) -> dict[str, float]:
    fields = [field.name for field in dataclasses.fields(Scores)]
    return {
        name: float(np.nanmax(np.abs(getattr(one, name).astype(np.float64) - getattr(other, name)))) for name in fields
    }


def test_padding_colour_changes_no_score_when_attention_is_masked(scorer: Scorer) -> None:
    """To 1e-5, also where a token shows both image and padding."""
    white, valid = prepared(color="white")
    blue, _ = prepared(color="12,0,255")
    assert (white != blue).any()
    one, other = scorer.score(white, valid), scorer.score(blue, valid)
    found = difference(one, other)
    assert found["image_logit"] < 1e-5
    assert max(found["token_map"], found["map_max"], found["map_topk_mean"]) <= 1e-5 + rounding(one)


@pytest.mark.parametrize(("height", "width"), [(32, 64), (64, 20)])
def test_a_white_border_that_the_image_brings_is_treated_as_our_padding(
    height: int, width: int, scorer: Scorer
) -> None:
    """Whether the camera's software padded it to a square, or we do."""
    picture = np.random.default_rng(2).integers(0, 200, (height, width, 3), dtype=np.uint8)
    bordered = np.full((SIZE, SIZE, 3), 255, np.uint8)
    top, left = (SIZE - height) // 2, (SIZE - width) // 2
    bordered[top : top + height, left : left + width] = picture
    ours = prepare_image(encoded(picture), uri="a.png", options=InputOptions(image_size=SIZE))
    options = InputOptions(image_size=SIZE, valid_region="uniform_border")
    theirs = prepare_image(encoded(bordered), uri="b.png", options=options)
    assert theirs.valid_box == ours.valid_box != (0, 0, SIZE, SIZE)
    scores = [scorer.score(image.pixels[None], image.valid_pixels()[None]) for image in (ours, theirs)]
    assert difference(*scores) == dict.fromkeys(difference(*scores), 0.0)


def rounding(scores: Scores) -> float:
    """Return the step of float16 at the largest value: two float32 maps 1e-5 apart may be stored that far apart."""
    return 2.0**-10 * float(np.nanmax(np.abs(scores.token_map)))


def test_batches_and_company_change_scores_by_rounding_alone(bundle: Bundle, scorer: Scorer) -> None:
    pixels, valid = prepared()
    whole = scorer.score(pixels, valid)
    for batch_size in (1, 2, 16):
        found = difference(whole, Scorer(bundle, precision="float32", batch_size=batch_size).score(pixels, valid))
        assert found["image_logit"] < 1e-5
        assert max(found["token_map"], found["map_max"], found["map_topk_mean"]) <= 1e-5 + rounding(whole)
    order = np.random.default_rng(1).permutation(len(pixels))
    shuffled = scorer.score(pixels[order], valid[order])
    assert np.abs(shuffled.image_logit - whole.image_logit[order]).max() < 1e-5
    again = scorer.score(pixels, valid)
    assert all(
        np.array_equal(getattr(again, name), getattr(whole, name), equal_nan=True) for name in difference(whole, again)
    )


def test_batches_are_as_large_as_asked_and_no_larger_than_what_comes(bundle: Bundle, scorer: Scorer) -> None:
    assert Scorer(bundle).batch_size == CPU_BATCH_SIZE
    assert Scorer(bundle, batch_size=64, max_batch_size=5).batch_size == 5
    assert scorer.start_up == StartUp(device="cpu", batch_size=3, compiled=False, warm_up_seconds=0.0)


def test_threads_that_share_a_scorer_take_turns(scorer: Scorer) -> None:
    pixels, valid = prepared()
    alone = scorer.score(pixels, valid)
    with ThreadPoolExecutor(3) as pool:
        for scores in pool.map(lambda _: scorer.score(pixels, valid), range(3)):
            assert difference(scores, alone) == dict.fromkeys(difference(scores, alone), 0.0)


def test_no_images_give_no_scores_and_views_are_taken_as_they_are(scorer: Scorer) -> None:
    pixels, valid = prepared(2)
    empty = scorer.score(pixels[:0], valid[:0])
    assert list(empty.rows()) == []
    assert empty.token_map.shape == (0, 4, 4)
    pixels.flags.writeable = valid.flags.writeable = False  # as Ray hands them out
    assert len(scorer.score(pixels, valid).image_logit) == 2


def test_what_cannot_be_scored_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    for name, value in {
        "batch_size": 0,
        "smoothing_sigma": math.inf,
        "topk_fraction": 2.0,
        "precision": "int8",
    }.items():
        options: dict[str, Any] = {name: value}
        with pytest.raises(ConfigError, match=rf"^score\.{name} must be"):
            Scorer(bundle, **options)
    cold = dataclasses.replace(bundle, model=dataclasses.replace(MODEL, temperature=1e-6))
    with pytest.raises(BundleError, match="temperature"):
        Scorer(cold)
    model = build_model(MODEL, seed=3)
    with torch.no_grad():
        model.patch_head.weight.fill_(3e38)
    broken = Scorer(written(tmp_path, model, MODEL), precision="float32")
    with pytest.raises(RunError, match=r"is not finite; score with precision float32"):
        broken.score(*prepared(1))


def test_a_bundle_says_how_its_images_become_inputs(bundle: Bundle) -> None:
    assert bundle.input_options == InputOptions(image_size=SIZE)


def error_row(row_id: int) -> dict[str, Any]:
    error = ImageError("Cannot decode a.png: the file is empty.", kind=ImageErrorKind.empty)
    return {"row_id": row_id} | FetchedImage(sha256=None, image=None, error=error).columns()


@pytest.fixture(scope="module")
def score_rows(scorer: Scorer) -> list[dict[str, Any]]:
    pixels, valid = prepared(3)
    rows = list(scorer.score(pixels, valid).rows())
    return [
        {"row_id": 10 + index} | fetched(pixels[index], valid[index]).columns() | row for index, row in enumerate(rows)
    ]


def test_the_table_of_a_slice_is_its_listing_with_scores_or_errors(score_rows: list[dict[str, Any]]) -> None:
    given = listing([10, 11, 12, 13], line=["1", "1", "2", "2"])
    table = build_score_table(given, rows=[error_row(13), *reversed(score_rows)], model_id="abc")
    assert table.schema.equals(pa.schema([*SCORE_SCHEMA, pa.field("line", pa.string())]))
    assert table["row_id"].to_pylist() == [10, 11, 12, 13]
    assert table["line"].to_pylist() == ["1", "1", "2", "2"]
    assert table["size"].to_pylist() == [1010, 1011, 1012, 1013]
    assert set(table["model_id"].to_pylist()) == {"abc"}
    last = table.to_pylist()[3]
    assert (last["error_kind"], last["image_logit"], last["token_map"]) == ("empty", None, None)
    assert table["error"].null_count == 3
    assert unpack_token_maps(table).shape == (3, 4, 4)
    statistics = recompute_statistics(table, image_size=SIZE)
    assert statistics["map_max"].to_pylist() == table["map_max"].to_pylist()
    assert statistics["map_topk_mean"].to_pylist()[3] is None


def test_a_slice_of_errors_and_an_empty_one_have_tables() -> None:
    table = build_score_table(listing([5]), rows=[error_row(5)], model_id="abc")
    assert table.schema.equals(SCORE_SCHEMA)
    assert recompute_statistics(table, image_size=SIZE)["map_max"].to_pylist() == [None]
    assert unpack_valid_regions(table, image_size=SIZE).shape == (0, SIZE, SIZE)
    assert len(build_score_table(listing([5]).slice(0, 0), rows=[], model_id="abc")) == 0


def test_a_slice_without_exactly_its_rows_is_refused(score_rows: list[dict[str, Any]]) -> None:
    given = listing([10, 11, 12])
    for rows, named in (
        (score_rows[:2], r"missing \[12\]"),
        ([*score_rows, error_row(13)], r"unknown \[13\]"),
        ([*score_rows, error_row(12)], "1 twice"),
    ):
        with pytest.raises(RunError, match=named):
            build_score_table(given, rows=rows, model_id="abc")
    with pytest.raises(RunError, match="is not written"):
        build_score_table(listing([10, 10]), rows=[score_rows[0]], model_id="abc")


def test_a_row_has_scores_or_an_error_and_nothing_else(score_rows: list[dict[str, Any]]) -> None:
    given = listing([10])
    for row in (
        {"row_id": 10},
        score_rows[0] | {"error": "e", "error_kind": "empty"},
        score_rows[0] | {"map_max": None},
        score_rows[0] | {"guess": 1},
        error_row(10) | {"image_logit": 1.0},
    ):
        with pytest.raises(RunError, match="Row 10 must hold either scores or an error"):
            build_score_table(given, rows=[row], model_id="abc")


def test_valid_pixels_come_back_from_a_few_bytes() -> None:
    random = np.random.default_rng(0)
    for valid in (*prepared()[1], *holes(prepared()[1]), random.random((SIZE, SIZE)) > 0.5):
        if valid.any():
            box, bits = pack_valid_pixels(valid)
            assert np.array_equal(unpack_valid_pixels(box, bits, image_size=SIZE), valid)
    assert pack_valid_pixels(prepared()[1][0])[1] is None
    with pytest.raises(ValueError, match="valid_pixels must be true somewhere"):
        pack_valid_pixels(np.zeros((2, 2), np.bool_))
    for box in ((0, 0, 65, 1), (-1, 0, 2, 2), (0, 0, 0, 1)):
        with pytest.raises(ValueError, match="must lie on an input of 64 x 64"):
            unpack_valid_pixels(box, None, image_size=SIZE)
    for bits in (b"noise", pack_valid_pixels(holes(np.ones((SIZE, SIZE), np.bool_)))[1]):
        with pytest.raises(ValueError, match="does not hold the 3 x 3 bits"):
            unpack_valid_pixels(ValidBox(0, 0, 3, 3), bits, image_size=SIZE)
