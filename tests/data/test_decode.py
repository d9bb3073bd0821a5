"""Every kind of image file shows what a viewer shows; every damaged one is told in one line."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from feclip.data import MAX_PIXELS, decode_image, decode_mask, pixel_digest
from feclip.errors import DataError

RAMP = np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 6)
COLORS = np.stack([RAMP, RAMP[::-1], 255 - RAMP], axis=2)  # (4, 6, 3), no symmetry
ORIENTATIONS = {  # EXIF value: how the stored pixels become upright
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).transpose(1, 0, 2),
    8: np.rot90,
}


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG", **options: Any) -> bytes:  # noqa: ANN401
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def shown(data: bytes) -> np.ndarray:
    image = decode_image(data, uri="a.png")
    assert image.dtype == np.uint8
    assert image.shape[2] == 3
    return image


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_rgb_and_grey_are_unchanged(kind: str) -> None:
    assert np.array_equal(shown(encoded(COLORS, kind)), COLORS)
    assert np.array_equal(shown(encoded(RAMP, kind)), np.stack([RAMP] * 3, axis=2))


def test_bilevel_is_black_and_white() -> None:
    assert np.array_equal(shown(encoded(Image.fromarray(RAMP > 100)))[..., 0], np.where(RAMP > 100, 255, 0))


def test_transparency_is_white() -> None:
    alpha = np.full((4, 6), 255, np.uint8)
    alpha[0], alpha[1] = 0, 128
    image = shown(encoded(np.dstack([COLORS, alpha])))
    assert (image[0] == 255).all()
    assert np.array_equal(image[2:], COLORS[2:])
    half = (COLORS[1].astype(float) * 128 + 255 * 127) / 255
    assert np.abs(image[1] - half).max() <= 1
    grey = shown(encoded(Image.fromarray(np.dstack([RAMP, alpha]), "LA")))
    assert (grey[0] == 255).all()
    assert (grey[3] == RAMP[3, :, None]).all()


def test_palette_with_a_transparent_colour() -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 200, 0, 0, 0, 0, 200])
    image.putdata([0, 1, 2])
    assert shown(encoded(image)).tolist() == [[[10, 20, 30], [200, 0, 0], [0, 0, 200]]]
    assert shown(encoded(image, transparency=1)).tolist() == [[[10, 20, 30], [255, 255, 255], [0, 0, 200]]]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_not_clipped(kind: str) -> None:
    deep = np.array([[0, 128, 129, 257], [32768, 40000, 65406, 65535]], np.uint16)
    grey = shown(encoded(deep, kind))
    assert grey[..., 0].tolist() == [[0, 0, 1, 1], [128, 156, 254, 255]]
    assert np.ptp(grey, axis=2).max() == 0


def test_integers_and_floats_must_have_a_known_range() -> None:
    assert shown(encoded(np.array([[0.0, 0.5, 1.0]], np.float32), "TIFF"))[0, :, 0].tolist() == [0, 128, 255]
    assert shown(encoded(np.array([[0, 65535]], np.int32), "TIFF"))[0, :, 0].tolist() == [0, 255]
    for values in (np.array([[0.0, 200.0]], np.float32), np.array([[0.0, np.nan]], np.float32)):
        with pytest.raises(DataError, match=r"floating-point pixels must lie in 0\.\.1;"):
            decode_image(encoded(values, "TIFF"), uri="a.tif")
    with pytest.raises(DataError, match=r"32-bit integer pixels must lie in 0\.\.65535"):
        decode_image(encoded(np.array([[0, 70000]], np.int32), "TIFF"), uri="a.tif")


def test_cmyk_of_adobe_and_of_others() -> None:
    solid = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    for kind in ("JPEG", "TIFF"):  # Pillow writes CMYK JPEGs as Adobe does, inverted, and plain TIFFs
        pixels = shown(encoded(solid, kind)).astype(int)
        assert np.abs(pixels - [0, 255, 255]).max() <= 3
    assert b"Adobe" in encoded(solid, "JPEG")


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_exif_rotation_is_applied_once(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    image = shown(encoded(COLORS, kind, exif=exif, **options))
    assert np.array_equal(image, ORIENTATIONS[orientation](COLORS))


def test_exif_rotation_of_a_photograph() -> None:
    tall = np.zeros((32, 16, 3), np.uint8)
    tall[:16] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    image = shown(encoded(tall, "JPEG", exif=exif))
    assert image.shape == (16, 32, 3)
    assert image[:, 24:].min() > 240  # what was stored on top stands on the right
    mask = decode_mask(encoded(tall, "JPEG", exif=exif), uri="a.jpg")
    assert mask[:, 16:].all()
    assert not mask[:, :16].any()


def test_first_frame_counts() -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    assert shown(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))[0, 0].tolist() == [255, 0, 0]


def test_icc_profile_changes_nothing() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(shown(encoded(COLORS, icc_profile=profile)), COLORS)


def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0x10]) + data[middle + 1 :]


DAMAGED = {
    "empty": (b"", "the file is empty"),
    "text": (b"<html>404 Not Found</html>", "no image in a known format"),
    "png_head": (encoded(noise())[:30], "damaged|cut short|known format"),
    "png_half": (encoded(noise())[:6000], "cut short"),
    "png_bit": (flipped(encoded(noise())), "damaged"),
    "png_bit_of_a_pixel": (flipped(encoded(noise(), compress_level=0)), "damaged"),  # it would decode, to other pixels
    "jpeg_half": (encoded(noise(), "JPEG")[:2000], "cut short"),
    "jpeg_head": (encoded(noise(), "JPEG")[:3], "known format|damaged|cut short"),
    "tiff_half": (encoded(noise(), "TIFF")[:6000], "damaged|cut short|known format"),
    "webp_half": (encoded(noise(), "WEBP")[:900], "damaged|cut short|known format"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "known format"),
}


@pytest.mark.parametrize("case", DAMAGED)
@pytest.mark.parametrize("decode", [decode_image, decode_mask])
def test_damage_is_one_line_that_names_the_file(case: str, decode: Any) -> None:  # noqa: ANN401
    data, reason = DAMAGED[case]
    with pytest.raises(DataError, match=rf"^Cannot decode s3://plant/b\.png: .*({reason})") as error:
        decode(data, uri="s3://plant/b.png")
    assert "\n" not in str(error.value)
    assert "BytesIO" not in str(error.value)


def test_every_cut_of_a_file_is_an_error_or_whole() -> None:
    """No cut length may decode to other pixels, or raise anything else."""
    for kind in ("PNG", "JPEG", "BMP", "GIF"):
        data = encoded(COLORS, kind)
        whole = shown(data)
        for length in range(len(data)):
            try:
                image = decode_image(data[:length], uri="cut")
            except DataError:
                continue
            assert np.array_equal(image, whole), (kind, length)


@pytest.mark.parametrize("compress_level", [0, 9])
def test_no_flipped_bit_of_a_png_shows_other_pixels(compress_level: int) -> None:
    data = encoded(COLORS, compress_level=compress_level)
    for position in range(len(data)):
        changed = data[:position] + bytes([data[position] ^ (1 << position % 8)]) + data[position + 1 :]
        try:
            image = decode_image(changed, uri="flipped")
        except DataError:
            continue
        assert np.array_equal(image, COLORS), position


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [9_500, 100_000])  # above our limit, and above Pillow's own
def test_a_bomb_is_refused_before_it_is_decoded(side: int) -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    data = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )
    with pytest.raises(DataError, match=str(MAX_PIXELS)):
        decode_image(data, uri="bomb.png")


@pytest.mark.parametrize("value", [255, 1, 3])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_masks_of_any_convention(value: int, kind: str) -> None:
    truth = RAMP > 100
    assert np.array_equal(decode_mask(encoded(np.where(truth, value, 0).astype(np.uint8), kind), uri="m"), truth)


def test_masks_in_colour_sixteen_bits_and_one_bit() -> None:
    truth = RAMP > 100
    red = np.zeros((4, 6, 3), np.uint8)
    red[truth] = (200, 0, 0)
    layer = np.dstack([np.full_like(red, 255), np.where(truth, 255, 0).astype(np.uint8)])
    for mask in (red, layer, truth, np.where(truth, 65535, 0).astype(np.uint16), truth.astype(np.uint16)):
        assert np.array_equal(decode_mask(encoded(mask), uri="m"), truth)
    palette = Image.fromarray(np.where(truth, 1 + (RAMP > 150), 0).astype(np.uint8), "P")
    palette.putpalette([0, 0, 0, 20, 0, 0, 255, 255, 255])
    assert np.array_equal(decode_mask(encoded(palette), uri="m"), truth)


def test_soft_edges_and_jpeg_noise_are_no_defect() -> None:
    soft = np.array([[0, 20, 127, 128, 255]], np.uint8)
    assert decode_mask(encoded(soft), uri="m").tolist() == [[False, False, False, True, True]]
    truth = np.zeros((48, 48), np.uint8)
    truth[13:30, 11:33] = 255
    assert np.array_equal(decode_mask(encoded(truth, "JPEG", quality=75), uri="m"), truth > 0)
    assert not decode_mask(encoded(np.full((16, 16), 3, np.uint8), "JPEG"), uri="m").any()


def test_pixel_digest_follows_the_pixels_not_the_file() -> None:
    png, tiff = encoded(COLORS), encoded(COLORS, "TIFF")
    assert pixel_digest(shown(png)) == pixel_digest(shown(tiff))
    changed = COLORS.copy()
    changed[0, 0, 0] ^= 1
    assert pixel_digest(changed) != pixel_digest(COLORS)
    assert pixel_digest(np.asfortranarray(COLORS)) == pixel_digest(COLORS)
