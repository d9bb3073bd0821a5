"""Pictures that were saved anew are known again; different ones of aligned parts are not taken for one."""

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from PIL import Image

from feclip.data import (
    SAME_PICTURE,
    THUMBNAIL_BYTES,
    decode_image,
    find_known,
    inspect_rows,
    nearest_thumbnails,
    read_layout,
    thumbnail,
)

RNG = np.random.default_rng(3)
Pixels = npt.NDArray[np.uint8]


def stored(image: Pixels) -> Pixels:
    return np.frombuffer(thumbnail(image), np.uint8)


def saved(image: Pixels, *, scale: float = 1.0, quality: int | None = None) -> bytes:
    """Return the picture as another file: a PNG, or a JPEG of a quality."""
    picture = Image.fromarray(image)
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC)
    sink = io.BytesIO()
    if quality is None:
        picture.save(sink, "PNG")
    else:
        picture.save(sink, "JPEG", quality=quality)
    return sink.getvalue()


def rows_of(folder: Path, images: dict[str, bytes], *, role: str = "trained") -> pa.Table:
    """Return the inspected rows of some files, as a bundle has them."""
    for name, data in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    nothing = pa.array([None] * len(images), pa.string())
    table = pa.table({"uri": [str(folder / name) for name in images], "sha256": nothing, "mask_uri": nothing})
    table = table.append_column("valid_mask_uri", nothing).append_column("label", nothing)
    checked = inspect_rows(table, num_threads=2)
    assert checked["error"].null_count == len(images)
    return checked.append_column("role", pa.array([role] * len(images)))


def test_nearest_is_that_of_plain_arithmetic() -> None:
    first, second = (RNG.integers(0, 256, (number, THUMBNAIL_BYTES), np.uint8) for number in (5, 9))
    index, distances = nearest_thumbnails(first, second)
    plain = np.sqrt(np.square(first[:, None].astype(float) - second[None]).mean(axis=2))
    np.testing.assert_array_equal(index, plain.argmin(axis=1))
    np.testing.assert_allclose(distances, plain.min(axis=1), rtol=1e-12)
    assert nearest_thumbnails(first, first)[1].max() == 0


def test_each_way_to_know_an_image_again(tmp_path: Path) -> None:
    smooth = np.asarray(Image.fromarray(RNG.integers(0, 256, (9, 12, 3), np.uint8)).resize((300, 200)))
    other = np.asarray(Image.fromarray(RNG.integers(0, 256, (9, 12, 3), np.uint8)).resize((300, 200)))
    bitmap = io.BytesIO()
    Image.fromarray(smooth).save(bitmap, "BMP")
    known = rows_of(tmp_path, {"known.png": saved(smooth)}, role="selected")
    files = {
        "same.png": saved(smooth),
        "same.bmp": bitmap.getvalue(),
        "same.jpg": saved(smooth, quality=40),
        "half.png": saved(smooth, scale=0.5),
        "other.png": saved(other),
    }
    found = find_known(rows_of(tmp_path / "judged", files), known).to_pylist()
    assert [(Path(row["uri"]).name, row["reason"]) for row in found] == [
        ("same.png", "sha256"),
        ("same.bmp", "pixel_digest"),
        ("same.jpg", "thumbnail"),
        ("half.png", "thumbnail"),
    ]
    assert {row["role"] for row in found} == {"selected"}
    assert {row["other_uri"] for row in found} == {str(tmp_path / "known.png")}
    unknown = known.slice(0, 0)
    assert find_known(rows_of(tmp_path / "judged", files), unknown).num_rows == 0


def test_even_surfaces_differ_by_too_little_to_be_told(tmp_path: Path) -> None:
    even = [(128 + RNG.normal(0, 6, (240, 240, 1)).repeat(3, axis=2)).astype(np.uint8) for _ in range(2)]
    assert nearest_thumbnails(stored(even[0])[None], stored(even[1])[None])[1][0] < SAME_PICTURE
    known, judged = (rows_of(tmp_path / str(number), {"a.png": saved(image)}) for number, image in enumerate(even))
    assert find_known(judged, known).num_rows == 0


def test_generated_pictures_are_known_again_as_jpeg_and_not_taken_for_one(small_mvtec: Path) -> None:
    uris = read_layout(str(small_mvtec))["uri"].to_pylist()
    images = [decode_image(Path(uri).read_bytes(), uri=uri) for uri in uris]
    table = np.stack([stored(image) for image in images])
    copies = np.stack([stored(decode_image(saved(image, quality=75), uri="copy.jpg")) for image in images])
    index, distances = nearest_thumbnails(copies, table)
    np.testing.assert_array_equal(index, np.arange(len(images)))
    assert distances.max() <= SAME_PICTURE
    for number, row in enumerate(table):
        assert nearest_thumbnails(row[None], np.delete(table, number, axis=0))[1][0] > 2 * SAME_PICTURE


@pytest.mark.parametrize("category", ["toothbrush", "grid", "hazelnut_toy"])
def test_photographs_of_aligned_parts_are_told_apart_and_their_copies_known(shared_data: Path, category: str) -> None:
    uris = read_layout(str(shared_data / "mvtec"), categories=[category])["uri"].to_pylist()
    images = [decode_image(Path(uri).read_bytes(), uri=uri) for uri in uris]
    table = np.stack([stored(image) for image in images])
    for number, row in enumerate(table):
        assert nearest_thumbnails(row[None], np.delete(table, number, axis=0))[1][0] > SAME_PICTURE * 1.5
    for number, image in enumerate(images[:4]):
        for scale, quality in ((1.0, 30), (0.5, 50), (2.0, None)):
            copy = stored(decode_image(saved(image, scale=scale, quality=quality), uri="copy"))
            assert nearest_thumbnails(copy[None], table[number : number + 1])[1][0] <= SAME_PICTURE / 1.5
