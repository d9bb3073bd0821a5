"""Scaled decoding: a fixed rule for large JPEGs, right for every orientation and kind, and nothing else touched."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import ExifTags, Image

from feclip.building import build_images
from feclip.config import DataConfig, JpegDecoding, ValidRegion
from feclip.data import (
    GuardedDecoder,
    ImageError,
    ImageErrorKind,
    InputOptions,
    PreparedImage,
    build_manifest,
    decode_image,
    prepare_image,
)
from feclip.data.decode import MAX_PIXELS, decode_source
from feclip.data.source_image import LEAST_REDUCTION, SourceImage, scale_jpeg, scaling_factor
from feclip.errors import DataError

SIZE = 56
FULL, SCALED = InputOptions(image_size=SIZE), InputOptions(image_size=SIZE, jpeg_decoding="scaled")
CLOSE = 3  # levels of 255: what is left between the two decodings of a smooth picture


def picture(height: int, width: int) -> Image.Image:
    """A smooth picture whose every corner and edge has a colour of its own."""
    y, x = np.linspace(0, 1, height)[:, None], np.linspace(0, 1, width)[None, :]
    planes = [255 * y + 0 * x, 255 * x + 0 * y, 127 + 120 * np.sin(9 * x + 5 * y)]
    return Image.fromarray(np.stack(planes, axis=2).astype(np.uint8))


def saved(image: Image.Image, kind: str = "JPEG", *, orientation: int = 1, **options: object) -> bytes:
    sink, exif = io.BytesIO(), Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    image.save(sink, kind, exif=exif, **({"quality": 95} if kind in {"JPEG", "MPO"} else {}) | options)
    return sink.getvalue()


def both(data: bytes, **changes: str) -> tuple[PreparedImage, PreparedImage]:
    full, scaled = (
        prepare_image(data, uri="a", options=InputOptions(image_size=SIZE, jpeg_decoding=decoding, **changes))
        for decoding in ("full", "scaled")
    )
    return full, scaled


def apart(full: PreparedImage, scaled: PreparedImage) -> int:
    return int(np.abs(full.pixels.astype(np.int16) - scaled.pixels).max())


def decoded_size(data: bytes, options: InputOptions = SCALED) -> tuple[int, int]:
    return options.decode(data, uri="a").image.size


@pytest.mark.parametrize(
    ("source", "content", "factor"),
    [
        ((3000, 4000), (252, 336), 4),
        ((1728, 2304), (252, 336), 2),
        ((864, 1152), (252, 336), 1),
        ((672, 672), (336, 336), 1),
        ((1343, 1344), (336, 336), 1),  # the shorter reduction decides
        ((1344, 1344), (336, 336), 2),
        ((100_000, 100_000), (336, 336), 8),
        ((20, 4000), (2, 336), 4),
        ((3, 4000), (1, 336), 1),
    ],
)
def test_the_factor_leaves_twice_the_input_at_least(
    source: tuple[int, int], content: tuple[int, int], factor: int
) -> None:
    found = scaling_factor(*source, content_height=content[0], content_width=content[1])
    assert found == factor
    if factor > 1:
        assert all(have // factor >= LEAST_REDUCTION * need for have, need in zip(source, content, strict=True))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("shape", [(230, 461), (461, 230), (337, 349)])
@pytest.mark.parametrize("resize", ["letterbox", "squash"])
def test_geometry_is_that_of_full_decoding_in_every_orientation(
    orientation: int, shape: tuple[int, int], resize: str
) -> None:
    data = saved(picture(*shape), orientation=orientation, subsampling=0)
    full, scaled = both(data, resize=resize)
    assert (scaled.height, scaled.width) == (full.height, full.width)
    assert (scaled.valid_box, scaled.valid_mask) == (full.valid_box, full.valid_mask)
    assert apart(full, scaled) <= CLOSE
    if resize == "letterbox":
        assert max(decoded_size(data)) == {461: 116, 349: 175}[max(shape)]  # a quarter, a half, rounded up


def test_a_side_that_the_factor_does_not_divide_is_not_stretched() -> None:
    """Without the box, a step at the far edge of an image of 8 n + 1 pixels would move by most of a reduced pixel."""
    shown = np.zeros((449, 449, 3), np.uint8)
    shown[:, 224:] = 255
    source = SCALED.decode(saved(Image.fromarray(shown), subsampling=0), uri="a")
    assert source.image.size == (113, 113)
    assert source.box == (0, 0, 112.25, 112.25)
    turned = SCALED.decode(saved(Image.fromarray(shown), subsampling=0, orientation=3), uri="a")
    assert turned.box == (0.75, 0.75, 113, 113)


@pytest.mark.parametrize(
    ("mode", "kind", "options"),
    [
        ("RGB", "JPEG", {"progressive": True}),
        ("RGB", "JPEG", {"subsampling": 2}),
        ("L", "JPEG", {}),
        ("L", "JPEG", {"progressive": True}),
        ("CMYK", "JPEG", {}),
        ("RGB", "MPO", {"save_all": True, "append_images": [Image.new("RGB", (400, 300))]}),
    ],
)
def test_every_kind_of_jpeg_is_scaled(mode: str, kind: str, options: dict[str, Any]) -> None:
    data = saved(picture(300, 400).convert(mode), kind, **options)
    assert decoded_size(data) == (200, 150)
    assert decoded_size(data, FULL) == (400, 300)
    assert apart(*both(data)) <= 2 * CLOSE  # chroma that is halved already comes back by another filter


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "BMP"])
def test_what_is_no_jpeg_stays_as_it_is(kind: str) -> None:
    image = picture(300, 400)
    full, scaled = both(saved(image, kind, orientation=6) if kind != "BMP" else saved(image, kind))
    assert np.array_equal(full.pixels, scaled.pixels)


def test_a_jpeg_that_is_not_large_stays_as_it_is() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (4 * SIZE - 1, 4 * SIZE - 1, 3), np.uint8)
    full, scaled = both(saved(Image.fromarray(noise)))
    assert np.array_equal(full.pixels, scaled.pixels)


def test_full_is_the_default_and_sees_every_pixel() -> None:
    data = saved(picture(300, 400))
    assert InputOptions(image_size=SIZE) == FULL
    assert np.array_equal(FULL.decode(data, uri="a").pixels, decode_image(data, uri="a"))


def test_scaled_decoding_is_deterministic_and_the_same_in_the_guarded_process(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (333, 555, 3), np.uint8)
    data = saved(Image.fromarray(noise), orientation=8)
    here = [prepare_image(data, uri="a", options=SCALED) for _ in range(2)]
    with GuardedDecoder(SCALED) as decoder:
        there = decoder.decode(data, uri="a")
    file = tmp_path / "a.jpg"
    file.write_bytes(data)
    table = build_manifest([{"uri": str(file), "label": 0}], root=str(tmp_path), source="here")
    trained = build_images(table, DataConfig(manifest="m.csv", jpeg_decoding=JpegDecoding.scaled), image_size=SIZE)[0]
    assert np.array_equal(here[0].pixels, here[1].pixels)
    assert np.array_equal(here[0].pixels, there.pixels)
    assert (there.width, there.height) == (333, 555)
    assert np.array_equal(here[0].pixels, trained.image.permute(1, 2, 0).numpy())
    assert not np.array_equal(here[0].pixels, prepare_image(data, uri="a", options=FULL).pixels)


def test_a_valid_mask_has_the_size_of_the_file_not_of_what_was_decoded() -> None:
    mask = np.zeros((300, 400), np.uint8)
    mask[:, :200] = 255
    sink = io.BytesIO()
    Image.fromarray(mask).save(sink, "PNG")
    found = []
    for decoding in ("full", "scaled"):
        options = InputOptions(image_size=SIZE, valid_region="mask_uri", jpeg_decoding=decoding)
        found.append(prepare_image(saved(picture(300, 400)), uri="a", options=options, valid_mask=sink.getvalue()))
    assert found[0].valid_box == found[1].valid_box
    assert found[1].width == 400


def test_a_cut_jpeg_is_an_error_and_a_bomb_is_refused_by_its_full_size() -> None:
    data = saved(picture(300, 400))
    with pytest.raises(ImageError) as cut:
        SCALED.decode(data[: len(data) // 2], uri="cut.jpg")
    assert cut.value.kind is ImageErrorKind.truncated
    at = data.index(b"\xff\xc0") + 5
    side = int(MAX_PIXELS**0.5) + 1
    bomb = data[:at] + side.to_bytes(2, "big") * 2 + data[at + 4 :]
    with pytest.raises(ImageError) as large:
        SCALED.decode(bomb, uri="bomb.jpg")
    assert large.value.kind is ImageErrorKind.too_large


def test_options_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(DataError, match=r"data.jpeg_decoding must be one of full, scaled, got 'half'"):
        InputOptions(image_size=SIZE, jpeg_decoding="half")
    with pytest.raises(DataError, match="looks for the border on all pixels"):
        InputOptions(image_size=SIZE, jpeg_decoding="scaled", valid_region="uniform_border")
    with pytest.raises(ValueError, match="looks for the border on all pixels"):
        DataConfig(jpeg_decoding=JpegDecoding.scaled, valid_region=ValidRegion.uniform_border)


def test_a_file_whose_content_covers_one_row_is_not_reduced_away() -> None:
    pixels: npt.NDArray[np.uint8] = np.zeros((9, 2000, 3), np.uint8)
    source = decode_source(saved(Image.fromarray(pixels)), uri="a", fit=lambda *_: (1, SIZE))
    assert (source.height, source.width) == (9, 2000)
    assert source.image.size == (500, 3)


def test_only_a_jpeg_is_scaled() -> None:
    with Image.open(io.BytesIO(saved(picture(300, 400), "PNG"))) as image:
        assert scale_jpeg(image, fit=lambda *_: (10, 10)) is None
    whole = SourceImage.of(np.zeros((4, 6, 3), np.uint8))
    assert (whole.height, whole.width, whole.box) == (4, 6, (0, 0, 6, 4))
