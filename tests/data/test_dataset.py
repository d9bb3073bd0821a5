"""Samples, batches and the look at every image before training."""

import io
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from feclip.data import (
    INSPECTION_SCHEMA,
    LabelledImages,
    Sample,
    assign_splits,
    build_manifest,
    collate,
    inspect_rows,
    join_uri,
    overlap_check,
    pixel_digest,
    prefetched_batches,
    read_mvtec,
    sha256,
    write_bytes,
)
from feclip.errors import DataError, StorageError

OPTIONS: dict[str, Any] = {
    "image_size": 32,
    "resize": "letterbox",
    "padding_color": "white",
    "valid_region": "letterbox",
}
Write = Callable[..., bytes]


def picture(width: int, height: int, value: int = 60) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def box(width: int, height: int, *, left: int, right: int) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    mask[:, left:right] = 255
    return mask


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.storage)])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else request.getfixturevalue("s3_bucket")


@pytest.fixture
def write(root: str) -> Write:
    """Write an array as an image file below the root; return its bytes."""

    def make(name: str, array: np.ndarray, kind: str = "PNG") -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, kind)
        write_bytes(join_uri(root, name), buffer.getvalue())
        return buffer.getvalue()

    return make


@pytest.fixture
def table(root: str, write: Write) -> pa.Table:
    """A wide anomalous image with its mask, a normal one, and an anomalous one of a category without masks."""
    write("a.png", picture(64, 32))
    write("a_mask.png", box(64, 32, left=0, right=16))
    write("b.png", picture(32, 32, 200))
    write("c.png", picture(16, 48, 100))
    rows = [
        {"path": "a.png", "label": 1, "mask_path": "a_mask.png", "category": "x"},
        {"path": "b.png", "label": 0, "category": "x"},
        {"path": "c.png", "label": 1, "category": "y"},
    ]
    return build_manifest(rows, root=root, source="test")


def test_samples_hold_what_their_rows_say(table: pa.Table) -> None:
    dataset = LabelledImages(table, **OPTIONS)
    first, second, third = (dataset[index] for index in range(len(dataset)))
    assert first.image.shape == (3, 32, 32)
    assert first.image.dtype == torch.uint8
    assert first.valid_pixels.dtype == first.gt_mask.dtype == torch.bool
    assert [sample.label for sample in (first, second, third)] == [1, 0, 1]
    assert [sample.has_mask for sample in (first, second, third)] == [True, True, False]
    assert [sample.index for sample in (first, second, third)] == [0, 1, 2]
    assert first.valid_pixels.nonzero()[:, 0].unique().tolist() == list(range(8, 24))
    assert (first.image[:, first.valid_pixels] == 60).all()
    assert (first.image[:, ~first.valid_pixels] == 255).all()
    truth = torch.zeros(32, 32, dtype=torch.bool)
    truth[8:24, :8] = True
    assert torch.equal(first.gt_mask, truth)
    assert not second.gt_mask.any()
    assert not third.gt_mask.any()
    assert third.valid_pixels.sum() == 32 * 11


def test_squash_has_no_padding(table: pa.Table) -> None:
    sample = LabelledImages(table, **OPTIONS | {"resize": "squash"})[0]
    assert sample.valid_pixels.all()
    assert sample.gt_mask[:, :8].all()
    assert not sample.gt_mask[:, 8:].any()


def test_a_batch_stacks_and_moves(table: pa.Table) -> None:
    dataset = LabelledImages(table, **OPTIONS)
    batch = collate([dataset[2], dataset[0]]).to("cpu")
    assert batch.images.shape == (2, 3, 32, 32)
    assert batch.gt_masks.shape == batch.valid_pixels.shape == (2, 32, 32)
    assert batch.labels.dtype == torch.float32
    assert batch.has_mask.tolist() == [False, True]
    assert batch.index.tolist() == [2, 0]
    assert torch.equal(batch.images[1], dataset[0].image)


def test_regions_that_files_bring_or_tell_are_invalid(root: str, write: Write) -> None:
    write("a.png", np.pad(picture(40, 20), ((10, 10), (0, 0), (0, 0)), constant_values=255))
    write("valid.png", box(40, 40, left=20, right=40))
    rows = [{"path": "a.png", "label": 0, "valid_mask_path": "valid.png"}]
    manifest = build_manifest(rows, root=root, source="test")
    valid = {
        region: LabelledImages(manifest, **OPTIONS | {"valid_region": region})[0].valid_pixels
        for region in ("letterbox", "uniform_border", "mask_uri")
    }
    assert valid["letterbox"].all()
    assert torch.equal(valid["uniform_border"], valid["letterbox"] & (torch.arange(32)[:, None] - 15.5).abs().lt(8))
    assert torch.equal(valid["mask_uri"], valid["letterbox"] & torch.arange(32).ge(16))


def test_what_an_option_needs_must_be_there(table: pa.Table, root: str) -> None:
    with pytest.raises(
        DataError, match=r"data.valid_region must be one of letterbox, uniform_border, mask_uri, got 'auto'"
    ):
        LabelledImages(table, **OPTIONS | {"valid_region": "auto"})
    with pytest.raises(DataError, match=r"data\.resize must be one of"):
        LabelledImages(table, **OPTIONS | {"resize": "crop"})
    with pytest.raises(DataError, match="padding_color must be"):
        LabelledImages(table, **OPTIONS | {"padding_color": "pink"})
    with pytest.raises(DataError, match=r"a\.png has no valid_mask_uri"):
        LabelledImages(table, **OPTIONS | {"valid_region": "mask_uri"})
    with pytest.raises(DataError, match=r"a\.png has no label"):
        LabelledImages(build_manifest([{"path": "a.png"}], root=root, source="test"), **OPTIONS)


BAD_MASKS = [
    (box(64, 30, left=0, right=9), 1, r"a_mask\.png has 64 x 30 pixels, its image .*a\.png has 64 x 32; they must"),
    (box(64, 32, left=0, right=0), 1, "labelled anomalous, but its mask marks nothing"),
    (box(64, 32, left=0, right=9), 0, "labelled normal, but its mask marks something"),
]


@pytest.mark.parametrize(("mask", "label", "message"), BAD_MASKS)
def test_a_mask_that_does_not_fit_is_an_error(
    root: str, write: Write, mask: np.ndarray, label: int, message: str
) -> None:
    write("a.png", picture(64, 32))
    write("a_mask.png", mask)
    rows = [{"path": "a.png", "label": label, "mask_path": "a_mask.png"}]
    manifest = build_manifest(rows, root=root, source="test")
    with pytest.raises(DataError, match=message):
        LabelledImages(manifest, **OPTIONS)[0]
    errors = inspect_rows(manifest, num_threads=1)["error"].to_pylist()
    with pytest.raises(DataError, match=message):
        raise DataError(errors[0])


def test_inspection_fills_digests_and_sizes(table: pa.Table, write: Write, root: str) -> None:
    checked = inspect_rows(table, num_threads=2)
    assert set(INSPECTION_SCHEMA.names) <= set(checked.column_names)
    assert checked.column_names.count("sha256") == 1
    assert checked["error"].to_pylist() == [None] * 3
    assert checked["width"].to_pylist() == [64, 32, 16]
    assert checked["height"].to_pylist() == [32, 32, 48]
    assert checked["sha256"][0].as_py() == sha256(write("a.png", picture(64, 32)))
    assert checked["pixel_digest"][0].as_py() == pixel_digest(picture(64, 32))
    assert checked["mask_digest"].is_null().to_pylist() == [uri is None for uri in table["mask_uri"].to_pylist()]
    assert inspect_rows(checked, num_threads=2).equals(checked)

    write("copy.tif", picture(64, 32), "TIFF")
    copies = inspect_rows(build_manifest([{"path": "copy.tif"}], root=root, source="test"), num_threads=1)
    [found] = overlap_check(copies, checked).to_pylist()
    assert (found["other_uri"], found["reason"]) == (join_uri(root, "a.png"), "pixel_digest")


def test_inspection_tells_every_problem_in_its_row(table: pa.Table, root: str, write: Write) -> None:
    data = write("b.png", picture(32, 32))
    write_bytes(join_uri(root, "b.png"), data[:-30])
    rows = [
        {"path": "a.png", "label": 1, "mask_path": "gone_mask.png"},
        {"path": "b.png"},
        {"path": "gone.png"},
        {"path": "c.png", "sha256": "0" * 64},
    ]
    checked = inspect_rows(build_manifest(rows, root=root, source="test"), num_threads=3)
    messages = checked["error"].to_pylist()
    expected = [
        r"gone_mask.png.*does not exist",
        r"Cannot decode .*b\.png",
        r"gone\.png.*does not exist",
        "its sha256 differs",
    ]
    for message, pattern in zip(messages, expected, strict=True):
        assert "\n" not in message
        with pytest.raises(DataError, match=pattern):
            raise DataError(message)
    assert checked["pixel_digest"].to_pylist()[1:3] == [None, None]
    assert table.num_rows == 3


@pytest.mark.storage
def test_storage_that_fails_ends_an_inspection_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"ENDPOINT_URL": "http://127.0.0.1:9", "ACCESS_KEY_ID": "k", "SECRET_ACCESS_KEY": "s"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    manifest = build_manifest([{"path": f"{i}.png"} for i in range(200)], root="s3://plant", source="test")
    started = time.monotonic()
    with pytest.raises(StorageError, match="no connection"):
        inspect_rows(manifest, num_threads=4)
    assert time.monotonic() - started < 30


class Numbers(Dataset[Sample]):
    """Samples that hold their index; some are slow, one is broken."""

    def __init__(self, *, broken: int = -1) -> None:
        self.broken = broken
        self.asked: list[int] = []

    def __getitem__(self, index: int) -> Sample:
        self.asked.append(index)
        time.sleep(0.02 * (index % 3))
        if index == self.broken:
            msg = "image 7 is broken"
            raise DataError(msg)
        empty = torch.zeros(2, 2, dtype=torch.bool)
        image = torch.full((3, 2, 2), index, dtype=torch.uint8)
        return Sample(image=image, valid_pixels=empty, label=0, gt_mask=empty, has_mask=True, index=index)


def decoding_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("feclip-decode")]


def test_batches_come_in_order_and_only_a_few_ahead() -> None:
    dataset, given = Numbers(), []

    def batches() -> Iterator[list[int]]:
        for start in range(0, 40, 4):
            given.append(start)
            yield list(range(start, start + 4))

    found = []
    for batch in prefetched_batches(dataset, batches(), num_threads=4):
        found += batch.index.tolist()
        assert len(given) * 4 - len(found) <= 2 * 4
    assert found == list(range(40))
    assert decoding_threads() == []


def test_an_error_surfaces_on_the_consumer_and_threads_end() -> None:
    batches = prefetched_batches(Numbers(broken=7), [[0, 1], [6, 7], [8, 9]], num_threads=2)
    assert next(batches).index.tolist() == [0, 1]
    with pytest.raises(DataError, match="image 7 is broken"):
        next(batches)
    assert decoding_threads() == []


def test_closing_early_ends_the_threads() -> None:
    dataset = Numbers()
    batches = prefetched_batches(dataset, ([i] for i in range(1000)), num_threads=3)
    next(batches)
    assert decoding_threads()
    batches.close()
    assert decoding_threads() == []
    assert len(dataset.asked) < 10


def test_the_real_photographs_become_batches(shared_data: Path) -> None:
    table = assign_splits(
        read_mvtec(str(shared_data / "mvtec"), categories=["grid"]), protocol="a", fractions=(0.6, 0.2, 0.2), seed=0
    )
    train = table.filter(pa.compute.field("split") == "train")
    dataset = LabelledImages(train, **OPTIONS | {"image_size": 112})
    batches = list(prefetched_batches(dataset, [range(7), range(7, 14)], num_threads=2))
    assert torch.cat([batch.labels for batch in batches]).tolist() == train["label"].to_pylist()
    for batch in batches:
        assert torch.equal(batch.gt_masks.flatten(1).any(dim=1), batch.labels.bool())
        assert batch.has_mask.all()
        assert batch.valid_pixels.all()
