"""Files that an archive may hold: odd ones that are images all the same, and ones that are none."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from feclip.data import ImageErrorKind

COLOR = (200, 80, 40)


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG", **options: Any) -> bytes:  # noqa: ANN401
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def solid(width: int = 20, height: int = 10) -> Image.Image:
    return Image.new("RGB", (width, height), COLOR)


def noise(side: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, *, pixels: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0x10]) + data[middle + 1 :]


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(solid(20, 10), "JPEG", exif=exif)


def palette(**options: Any) -> bytes:  # noqa: ANN401
    image = Image.new("P", (20, 10), 1)
    image.putpalette([0, 0, 0, *COLOR])
    return encoded(image, **options)


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
WHITE = (255, 255, 255)
GOOD: dict[str, tuple[bytes, tuple[int, int], tuple[int, int, int]]] = {  # bytes, upright (width, height), colour
    "png": (encoded(solid()), (20, 10), COLOR),
    "jpeg": (encoded(solid(), "JPEG"), (20, 10), COLOR),
    "progressive_jpeg": (encoded(solid(), "JPEG", progressive=True), (20, 10), COLOR),
    "webp": (encoded(solid(), "WEBP", lossless=True), (20, 10), COLOR),
    "tiff_of_one_strip_in_lzw": (encoded(solid(), "TIFF", compression="tiff_lzw"), (20, 10), COLOR),
    "bmp": (encoded(solid(), "BMP"), (20, 10), COLOR),
    "one_pixel": (encoded(solid(1, 1)), (1, 1), COLOR),
    "one_pixel_wide": (encoded(solid(1, 300)), (1, 300), COLOR),
    "20000_pixels_wide": (encoded(solid(20_000, 3)), (20_000, 3), COLOR),
    "20000_pixels_high": (encoded(solid(3, 20_000)), (3, 20_000), COLOR),
    "20000_pixels_wide_4000_high": (png(20_000, 4000, pixels=bytes(20_001 * 4000)), (20_000, 4000), (0, 0, 0)),
    "cmyk_jpeg": (encoded(Image.new("CMYK", (20, 10), (255, 0, 0, 0)), "JPEG"), (20, 10), (0, 255, 255)),
    "sixteen_bit_grey": (encoded(np.full((10, 20), 32896, np.uint16)), (20, 10), (128, 128, 128)),
    "one_bit": (encoded(Image.new("1", (20, 10), 1)), (20, 10), WHITE),
    "palette": (palette(), (20, 10), COLOR),
    "palette_with_transparency": (palette(transparency=1), (20, 10), WHITE),
    "transparent": (encoded(Image.new("RGBA", (20, 10), (*COLOR, 0))), (20, 10), WHITE),
    "exif_rotation": (rotated(), (10, 20), COLOR),
    "animated_gif": (
        encoded(palette_frames := solid(), "GIF", save_all=True, append_images=[solid()]),
        (20, 10),
        COLOR,
    ),
    "animated_webp": (
        encoded(palette_frames, "WEBP", save_all=True, append_images=[Image.new("RGB", (20, 10))], lossless=True),
        (20, 10),
        COLOR,
    ),
    "icc_profile": (encoded(solid(), icc_profile=SRGB), (20, 10), COLOR),
    "corrupt_icc_profile": (encoded(solid(), icc_profile=b"\xff" * 200), (20, 10), COLOR),
    "corrupt_icc_profile_in_jpeg": (encoded(solid(), "JPEG", icc_profile=SRGB[:99]), (20, 10), COLOR),
    "corrupt_exif": (encoded(solid(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f"), (20, 10), COLOR),
    "bytes_after_the_end": (encoded(solid()) + b"more" * 99, (20, 10), COLOR),
    "wrong_suffix": (encoded(solid(), "BMP"), (20, 10), COLOR),
}
KIND = ImageErrorKind
BAD: dict[str, tuple[bytes, ImageErrorKind]] = {
    "empty": (b"", KIND.empty),
    "one_byte": (b"\xff", KIND.not_an_image),
    "zeros": (bytes(4096), KIND.not_an_image),
    "text": (b"<html>404 Not Found</html>", KIND.not_an_image),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", KIND.not_an_image),
    "pdf": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", KIND.not_an_image),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", KIND.not_an_image),
    "zip": (b"PK\x03\x04" + bytes(60), KIND.not_an_image),
    "truncated_png": (encoded(noise())[:6000], KIND.truncated),
    "truncated_jpeg": (encoded(noise(), "JPEG")[:2000], KIND.truncated),
    "png_of_a_head": (encoded(noise())[:20], KIND.truncated),
    "png_of_a_wrong_sum": (flipped(encoded(noise(), compress_level=0)), KIND.damaged),
    "gif_cut_in_its_frame": (encoded(noise()[..., 0], "GIF")[:2000], KIND.truncated),
    "bomb_by_side": (png(20_000, 20_000, pixels=bytes(9)), KIND.too_large),
    "bomb_by_compression": (png(60_000, 60_000, pixels=bytes(10_000_000)), KIND.too_large),
    "floats": (encoded(np.full((4, 4), 300.0, np.float32), "TIFF"), KIND.unsupported),
    "not_numbers": (encoded(np.full((4, 4), np.nan, np.float32), "TIFF"), KIND.unsupported),
    "thirty_two_bits": (encoded(np.full((4, 4), 70_000, np.int32), "TIFF"), KIND.unsupported),
}
