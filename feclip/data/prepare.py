"""From the bytes of one image to what the model reads: upright, square, uint8, with its valid pixels.

Shapes: S side of the model input, h x w the source image, all in pixels.

Needs Pillow and numpy only, and no storage: it is what the decoding process of `guarded_decode` runs, and what a plain
loop may call in its own process. `LabelledImages` places its images by the same
`InputOptions`.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from feclip.data.decode import decode_mask, decode_source
from feclip.data.image_errors import ImageError, ImageErrorKind
from feclip.data.letterbox import Letterbox, letterbox, parse_padding_color, rectangle, squash, uniform_border
from feclip.data.source_image import SourceImage
from feclip.data.stopwatch import Stopwatch
from feclip.data.valid_region import ValidBox, pack_valid_pixels, unpack_valid_pixels
from feclip.errors import DataError

__all__ = ["InputOptions", "PreparedImage", "prepare_image"]

_RESIZES = ("letterbox", "squash", "rectangle")
_VALID_REGIONS = ("letterbox", "uniform_border", "mask_uri")
_JPEG_DECODINGS = ("full", "scaled")


@dataclass(frozen=True, kw_only=True)
class InputOptions:
    """How an image becomes an input; a bundle records them, since they change scores.

    Raises:
        DataError: If an option is unknown.
    """

    image_size: int
    """Side S of the model input, pixels."""
    resize: str = "letterbox"
    """``letterbox`` keeps the aspect ratio and pads, ``squash`` does not, ``rectangle`` keeps it without padding."""
    patch_size: int | None = None
    """Side of the model's patches, pixels; a ``rectangle`` needs it, for others it is without effect."""
    padding_color: str = "white"
    """white, black, mean, or r,g,b: the colour of our padding, and of a border looked for."""
    valid_region: str = "letterbox"
    """``letterbox``: only our own padding is invalid; ``uniform_border``: also a border of the padding colour that the
    image brings; ``mask_uri``: also what a file beside the image excludes."""
    jpeg_decoding: str = "full"
    """``full`` decodes every pixel; ``scaled`` decodes a JPEG at 1/2, 1/4 or 1/8 of its sides as long as twice the
    pixels that it covers on the input are left, by the rule of `feclip.data.source_image`."""

    def __post_init__(self) -> None:
        parse_padding_color(self.padding_color)
        choices = (("resize", _RESIZES), ("valid_region", _VALID_REGIONS), ("jpeg_decoding", _JPEG_DECODINGS))
        for name, known in choices:
            if getattr(self, name) not in known:
                msg = f"data.{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}."
                raise DataError(msg)
        if self.jpeg_decoding == "scaled" and self.valid_region == "uniform_border":
            msg = "data.valid_region=uniform_border looks for the border on all pixels: take data.jpeg_decoding=full."
            raise DataError(msg)
        if self.resize == "rectangle" and (not self.patch_size or self.image_size % self.patch_size):
            msg = (
                f"data.resize=rectangle needs a patch_size that divides the {self.image_size} pixels of the model's "
                f"input, got {self.patch_size}."
            )
            raise DataError(msg)
        if self.image_size < 1:
            msg = f"image_size must be at least 1 pixel, got {self.image_size}."
            raise DataError(msg)

    def decode(self, data: bytes, *, uri: str) -> SourceImage:
        """Decode one image as `place` wants it.

        Args:
            data: The file's bytes.
            uri: Where they came from, for messages.

        Raises:
            ImageError: If it cannot be decoded.
        """

        def fit(height: int, width: int) -> tuple[int, int]:
            record = self.geometry(height, width)
            return record.height, record.width

        return decode_source(data, uri=uri, fit=fit if self.jpeg_decoding == "scaled" else None)

    def place(self, image: npt.NDArray[np.uint8] | SourceImage) -> tuple[npt.NDArray[np.uint8], Letterbox]:
        """Bring a decoded image to the model's input.

        Args:
            image: What `decode` returned, or RGB pixels of shape ``(h, w, 3)``.

        Returns:
            Pixels, shape ``(S, S, 3)``, and where on them the image lies.
        """
        if self.resize == "squash":
            return squash(image, image_size=self.image_size)
        if self.resize == "rectangle":
            assert self.patch_size is not None  # checked at the start
            return rectangle(
                image, image_size=self.image_size, patch_size=self.patch_size, padding_color=self.padding_color
            )
        return letterbox(image, image_size=self.image_size, padding_color=self.padding_color)

    def geometry(self, height: int, width: int) -> Letterbox:
        """Return where an image of this size lies on the model's input, for what must go the same way as it did.

        Args:
            height: Source pixels h.
            width: Source pixels w.
        """
        if self.resize == "rectangle":
            assert self.patch_size is not None  # checked at the start
            return Letterbox.rectangle(height, width, image_size=self.image_size, patch_size=self.patch_size)
        kind = Letterbox.squashed if self.resize == "squash" else Letterbox.fitted
        return kind(height, width, image_size=self.image_size)


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedImage:
    """One image as the model reads it."""

    pixels: npt.NDArray[np.uint8]
    """Shape ``(S, S, 3)``, RGB."""
    width: int
    """Source pixels w, upright."""
    height: int
    """Source pixels h, upright."""
    valid_box: ValidBox
    """Smallest rectangle on the input that holds all valid pixels."""
    valid_mask: bytes | None
    """The rectangle's bits, as `pack_valid_pixels` writes them; None where all of it is valid."""

    def valid_pixels(self) -> npt.NDArray[np.bool_]:
        """Return where the input shows the scene, shape ``(S, S)``; false on padding."""
        return unpack_valid_pixels(self.valid_box, self.valid_mask, image_size=len(self.pixels))


def prepare_image(
    data: bytes,
    *,
    uri: str,
    options: InputOptions,
    valid_mask: bytes | None = None,
    valid_mask_uri: str | None = None,
    stopwatch: Stopwatch | None = None,
) -> PreparedImage:
    """Decode one image and bring it to the model's input.

    Args:
        data: The file's bytes.
        uri: Where they came from, for messages.
        options: How it becomes an input.
        valid_mask: Bytes of the file that tells where the image shows the scene, white where it counts; read if
            ``options.valid_region`` is ``mask_uri``.
        valid_mask_uri: Where these came from, for messages.
        stopwatch: Gets the seconds of ``letterbox``.

    Returns:
        Pixels, source size and valid pixels.

    Raises:
        ImageError: If the image or its mask cannot be decoded, or the mask does not fit.
    """
    source = options.decode(data, uri=uri)
    with (stopwatch or Stopwatch()).time("letterbox"):
        pixels, record = options.place(source)
    valid = record.valid_pixels()
    if options.valid_region == "uniform_border":
        valid = record.place(uniform_border(source.pixels, padding_color=options.padding_color))
    elif options.valid_region == "mask_uri":
        shape = source.height, source.width
        valid = record.place(_decode_valid_mask(valid_mask, uri=valid_mask_uri, image_uri=uri, shape=shape))
    if not valid.any():
        msg = f"Cannot use {uri}: of its valid region not one pixel is left at {options.image_size} pixels."
        raise ImageError(msg, kind=ImageErrorKind.unfit_mask)
    box, bits = pack_valid_pixels(valid)
    return PreparedImage(pixels=pixels, width=source.width, height=source.height, valid_box=box, valid_mask=bits)


def _decode_valid_mask(
    data: bytes | None, *, uri: str | None, image_uri: str, shape: tuple[int, ...]
) -> npt.NDArray[np.bool_]:
    kind = ImageErrorKind.unfit_mask
    if data is None:
        msg = f"Cannot use {image_uri}: it has no valid_mask_uri, which data.valid_region=mask_uri needs."
        raise ImageError(msg, kind=kind)
    try:
        mask = decode_mask(data, uri=uri or f"the valid mask of {image_uri}")
    except ImageError as error:
        raise ImageError(str(error), kind=kind) from error
    if mask.shape != shape:
        sizes = f"{mask.shape[1]} x {mask.shape[0]} pixels, its image {image_uri} has {shape[1]} x {shape[0]}"
        msg = f"The valid mask {uri} has {sizes}; they must be equal."
        raise ImageError(msg, kind=kind)
    if not mask.any():
        msg = f"The valid mask {uri} of {image_uri} marks nothing as valid; white is where the image counts."
        raise ImageError(msg, kind=kind)
    return mask
