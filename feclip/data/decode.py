"""Encoded bytes to pixels, EXIF rotation applied; damage told in plain words.

Colour rules, the same for training and scoring:
* transparency is composited over white, the usual colour of padding;
* 16-bit grey is divided by 257, so 65535 becomes 255: scaled, never clipped. A camera that stores 12 bits in 16 gives
  dark images; stretch them once, for all images alike, before they come here;
* float images must lie in 0..1; 32-bit integers must fit in 16 bits, as PGM and PNG readers deliver them;
* CMYK becomes RGB by Pillow's plain formula, which knows Adobe's inverted kind; ICC profiles are not applied;
* of several frames the first counts.

A large JPEG may be decoded at a fraction of its size, by the rule of `feclip.data.source_image`, where one asks for it.
"""

import hashlib
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from feclip.data.image_errors import ImageError, ImageErrorKind
from feclip.data.source_image import JpegRegion, SourceImage, scale_jpeg

__all__ = [
    "DAMAGE",
    "IMAGE_SUFFIXES",
    "MAX_FILE_BYTES",
    "MAX_PIXELS",
    "decode_image",
    "decode_mask",
    "decode_source",
    "pixel_digest",
    "sha256",
]

MAX_PIXELS = 89_478_485
"""Largest image that is decoded, in pixels: a quarter of a GiB as RGB, where Pillow begins to warn of a bomb."""
MAX_FILE_BYTES = 512 << 20
"""Largest file that is read: the largest image that is allowed, with three channels of 16 bits, not compressed."""
IMAGE_SUFFIXES = (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Lower-case endings of the files that count as images in a folder layout."""

_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # none that runs another program, as EPS does
_LOSSY = ("AVIF", "JPEG", "MPO", "WEBP")
_WHITE, _BLACK = (255, 255, 255, 255), (0, 0, 0, 255)
_MAX_16_BIT = 65535
_HALF_8_BIT = 127.5
DAMAGE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What Pillow's readers raise for a damaged file or a bomb, apart from running out of memory."""

_Pixels = npt.NDArray[np.uint8]
_Fit = Callable[[int, int], tuple[int, int]]
_T = TypeVar("_T")


def decode_image(data: bytes, *, uri: str) -> _Pixels:
    """Decode one image to RGB as a viewer shows it.

    Args:
        data: The file's bytes.
        uri: Where they came from, for messages.

    Returns:
        Pixels of shape ``(H, W, 3)``, uint8.

    Raises:
        ImageError: If it is empty, no image, damaged, cut short, too large, or of unbounded pixel values.
    """
    return decode_source(data, uri=uri).pixels


def decode_source(data: bytes, *, uri: str, fit: _Fit | None = None) -> SourceImage:
    """Decode one image to RGB as a viewer shows it, a large JPEG perhaps at a reduced size.

    Args:
        data: The file's bytes.
        uri: Where they came from, for messages.
        fit: Tells from the image's height and width, upright, in pixels, the rows and columns that it will cover on
            the model's input: then a JPEG is decoded no larger than the rule of `feclip.data.source_image` wants. None
            decodes every image at its full size.

    Returns:
        The image and its geometry.

    Raises:
        ImageError: As for `decode_image`.
    """
    return _decoded(data, uri=uri, fit=fit, convert=lambda image, region: _source(image, region, uri=uri))


def decode_mask(data: bytes, *, uri: str) -> npt.NDArray[np.bool_]:
    """Decode one gt mask; the brightest channel counts, transparency is normal.

    Masks come as 0/255, as 0/1, or with an index for each kind of defect. If any value passes half of the full range,
    anomalous is what passes half (soft edges and JPEG noise drop out); otherwise everything above 0 is. A palette's
    colours above black are always anomalous; noise near 0 of a format that may lose detail (JPEG, WebP) never is.

    Args:
        data: The file's bytes.
        uri: Where they came from, for messages.

    Returns:
        Mask of shape ``(H, W)``, true where anomalous.

    Raises:
        ImageError: As for `decode_image`.
    """
    return _decoded(data, uri=uri, fit=None, convert=lambda image, _: _mask(image, uri=uri))


def pixel_digest(image: _Pixels | npt.NDArray[np.bool_]) -> str:
    """Return a digest of what an image or a mask shows, the same for a PNG and a lossless copy in another format.

    Args:
        image: Decoded pixels of shape ``(H, W, 3)``, or a mask of shape ``(H, W)``.

    Returns:
        SHA-256 over shape and pixels, in hexadecimal.

    Example:
        >>> black = np.zeros((2, 3, 3), np.uint8)
        >>> pixel_digest(black) == pixel_digest(black.reshape(3, 2, 3))
        False
    """
    digest = hashlib.sha256(repr(image.shape).encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


def sha256(data: bytes) -> str:
    """Return the digest of a file's bytes.

    Args:
        data: The bytes.

    Returns:
        SHA-256 in hexadecimal.

    Example:
        >>> sha256(b"")[:8]
        'e3b0c442'
    """
    return hashlib.sha256(data).hexdigest()


def _decoded(data: bytes, *, uri: str, fit: _Fit | None, convert: Callable[[Image.Image, JpegRegion | None], _T]) -> _T:
    if not data:
        msg = f"Cannot decode {uri}: the file is empty."
        raise ImageError(msg, kind=ImageErrorKind.empty)
    try:
        with Image.open(BytesIO(data), formats=_FORMATS) as image:
            _check_size(image, uri=uri)
            if image.format == "PNG":
                _check_png(data)
            region = None if fit is None else scale_jpeg(image, fit=fit)
            image.load()
            ImageOps.exif_transpose(image, in_place=True)  # a copy of a large image takes a third of its decoding
            return convert(image, region)
    except ImageError:
        raise
    except DAMAGE as error:
        kind, reason = _plain_reason(error)
        msg = f"Cannot decode {uri}: {reason}."
        raise ImageError(msg, kind=kind) from error


def _check_size(image: Image.Image, *, uri: str) -> None:
    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width} x {image.height}"
        msg = f"Cannot decode {uri}: {size} pixels are more than the {MAX_PIXELS} that are allowed."
        raise ImageError(msg, kind=ImageErrorKind.too_large)


def _check_png(data: bytes) -> None:
    """Check the sums that a PNG carries: some flipped bits would otherwise show other pixels without a word."""
    with Image.open(BytesIO(data), formats=("PNG",)) as image:
        image.verify()


def _plain_reason(error: Exception) -> tuple[ImageErrorKind, str]:
    text = " ".join(str(error).split())
    if isinstance(error, UnidentifiedImageError):
        known = ", ".join(_FORMATS)
        reason = f"the content is no image in a known format ({known}), whatever the name says"
        return ImageErrorKind.not_an_image, reason
    if isinstance(error, Image.DecompressionBombError):
        return ImageErrorKind.too_large, f"the image is larger than the {MAX_PIXELS} pixels that are allowed"
    if any(word in text.lower() for word in ("truncated", "unexpected end", "not enough data", "too short")):
        return ImageErrorKind.truncated, "the file is cut short"
    detail = text.rstrip(".") or type(error).__name__
    return ImageErrorKind.damaged, f"the file is damaged or of a kind that cannot be read ({detail})"


def _source(image: Image.Image, region: JpegRegion | None, *, uri: str) -> SourceImage:
    if _is_deep(image):
        grey = np.rint(_deep_values(image, uri=uri) * 255).astype(np.uint8)
        return SourceImage.of(np.repeat(grey[:, :, None], 3, axis=2))
    return SourceImage.of(_composited(image, background=_WHITE), region=region)


def _mask(image: Image.Image, *, uri: str) -> npt.NDArray[np.bool_]:
    lossy = image.format in _LOSSY or "jpeg" in str(image.info.get("compression", ""))  # a TIFF can hold a JPEG
    if _is_deep(image):
        values = _deep_values(image, uri=uri) * 255
    else:
        values = np.asarray(_composited(image, background=_BLACK)).max(axis=2).astype(np.float32)
    above_half: npt.NDArray[np.bool_] = values > _HALF_8_BIT
    if lossy or (above_half.any() and image.mode != "P"):
        return above_half
    any_value: npt.NDArray[np.bool_] = values > 0
    return any_value


def _composited(image: Image.Image, *, background: tuple[int, int, int, int]) -> Image.Image:
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, background), layer).convert("RGB")


def _is_deep(image: Image.Image) -> bool:
    return image.mode in {"F", "I"} or image.mode.startswith("I;")


def _deep_values(image: Image.Image, *, uri: str) -> npt.NDArray[np.float32]:
    """Return a 16-bit, 32-bit or float grey image as shares of its full range, shape ``(H, W)``, 0..1."""
    values: npt.NDArray[Any] = np.asarray(image)
    full = 1 if image.mode == "F" else _MAX_16_BIT
    if not bool(np.all((values >= 0) & (values <= full))):  # false for NaN as well
        kind = "floating-point" if image.mode == "F" else "32-bit integer"
        msg = f"Cannot decode {uri}: {kind} pixels must lie in 0..{full}; save the image with 8 or 16 bits."
        raise ImageError(msg, kind=ImageErrorKind.unsupported)
    return (values / np.float32(full)).astype(np.float32)
