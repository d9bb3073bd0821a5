"""JPEGs decoded where the model is: nvJPEG on a GPU, which needs no core, by way of torchcodec.

    undecoded_jpeg(data)  in the task that reads the file: the header alone, as plain Python reads it
    GpuDecoder.decode     on the device of the model: many files in one call, then resized and padded there

The pixels are not those of Pillow to the last bit: the same bicubic filter rounds some of them to a level beside, and
nvJPEG has an inverse transform of its own. What is no plain JPEG, and what nvJPEG cannot read, is for the guarded
decoder, which also names what is wrong with it.

Shapes: N images, S side of the model input, h x w a source image, all in pixels.
"""

import importlib.util
import io
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from feclip.data.decode import DAMAGE, MAX_PIXELS
from feclip.data.letterbox import parse_padding_color
from feclip.data.prepare import InputOptions
from feclip.data.source_image import upright
from feclip.data.valid_region import ValidBox
from feclip.errors import ConfigError

if TYPE_CHECKING:
    import torch

__all__ = ["GpuDecoder", "SourceSize", "UndecodedJpeg", "require_gpu_decoding", "undecoded_jpeg"]

BATCH_PIXELS = 64_000_000
"""Most source pixels that one call decodes: 192 MB as RGB on the device, and four times that as float while resized."""
_MODES = ("L", "RGB")


class SourceSize(NamedTuple):
    """Size of a source image, upright."""

    height: int
    """Pixels h."""
    width: int
    """Pixels w."""


def require_gpu_decoding(options: InputOptions) -> None:
    """Refuse inputs whose valid pixels or whose size of decoding a GPU's decoder cannot give.

    Raises:
        ConfigError: If they are of another kind than a plain letterbox or squash, or torchcodec is not installed.
    """
    if (options.valid_region, options.jpeg_decoding) != ("letterbox", "full"):
        msg = (
            "score.jpeg_decoder=nvjpeg needs a bundle with data.valid_region=letterbox and data.jpeg_decoding=full, "
            f"this one has {options.valid_region} and {options.jpeg_decoding}: take score.jpeg_decoder=pillow."
        )
        raise ConfigError(msg)
    if importlib.util.find_spec("torchcodec") is None:
        msg = "score.jpeg_decoder=nvjpeg needs torchcodec, which is not installed: pip install 'feclip[nvjpeg]'."
        raise ConfigError(msg)


@dataclass(frozen=True, kw_only=True, eq=False)
class UndecodedJpeg:
    """One image as its file, with what the header tells; the like of a `PreparedImage`."""

    data: bytes
    """The file's bytes."""
    width: int
    """Source pixels w, upright."""
    height: int
    """Source pixels h, upright."""
    valid_box: ValidBox
    """Where it will lie on the input."""
    valid_mask: ClassVar[None] = None
    """All of the box is valid."""


def undecoded_jpeg(data: bytes, *, options: InputOptions) -> UndecodedJpeg | None:
    """Tell from the header whether a file is a JPEG that a GPU may decode: one picture, grey or colour, not too large.

    Args:
        data: The file's bytes.
        options: How it becomes an input.

    Returns:
        What the header tells; None for the guarded decoder, which also tells what is wrong.
    """
    with suppress(*DAMAGE), Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        if image.format == "JPEG" and image.mode in _MODES and image.width * image.height <= MAX_PIXELS:
            width, height = upright(image.size, image.getexif().get(ExifTags.Base.Orientation, 1))
            record = options.geometry(height, width)
            box = ValidBox(record.top, record.left, record.height, record.width)
            return UndecodedJpeg(data=data, width=width, height=height, valid_box=box)
    return None


class GpuDecoder:
    """Decodes JPEGs on the device of the model and brings them to its input.

    Args:
        options: How an image becomes an input, as `require_gpu_decoding` lets it pass.
        device: A GPU; on the CPU, torchcodec decodes by libjpeg-turbo.
    """

    def __init__(self, options: InputOptions, *, device: "torch.device | str") -> None:
        import torch  # noqa: PLC0415 - see docs/adr/0020

        require_gpu_decoding(options)
        self.options = options
        self._device = torch.device(device)
        color = parse_padding_color(options.padding_color)
        self._color = torch.tensor(color, dtype=torch.uint8, device=self._device).view(3, 1, 1)

    def decode(self, files: Sequence[bytes], sizes: Sequence[SourceSize]) -> list[npt.NDArray[np.uint8] | None]:
        """Decode files and place them on the input.

        Args:
            files: JPEGs that `undecoded_jpeg` let pass.
            sizes: The size that each has by its header.

        Returns:
            Pixels ``(S, S, 3)`` of each, or None where it could not be decoded or is of another size than its header.
        """
        import torch  # noqa: PLC0415 - see docs/adr/0020

        placed: list[torch.Tensor | None] = []
        for start, stop in _groups(sizes):
            placed += [
                None if image is None or tuple(image.shape[1:]) != size else self._place(image)
                for image, size in zip(self._decode(files[start:stop]), sizes[start:stop], strict=True)
            ]
        there = [image for image in placed if image is not None]
        pixels = iter(torch.stack(there).cpu().numpy() if there else ())  # one wait for the device
        return [None if image is None else next(pixels) for image in placed]

    def _decode(self, files: Sequence[bytes]) -> "list[torch.Tensor | None]":
        """Return RGB ``(3, h, w)`` of each; a batch with a bad file gives nothing, so its files go one by one then."""
        from torchcodec.decoders import decode_jpeg  # noqa: PLC0415 - as above

        try:
            return list(decode_jpeg(list(files), mode="RGB", device=self._device))
        except RuntimeError:
            return [None] if len(files) == 1 else [image for file in files for image in self._decode([file])]

    def _place(self, image: "torch.Tensor") -> "torch.Tensor":
        """Resize an image ``(3, h, w)`` and pad it; returns ``(S, S, 3)``, uint8, on the device."""
        from torch.nn import functional  # noqa: PLC0415 - as above

        record = self.options.geometry(image.shape[1], image.shape[2])
        resized = image[None].float()
        for size in ((image.shape[1], record.width), (record.height, record.width)):  # rounded in between, as by Pillow
            resized = functional.interpolate(resized, size, mode="bicubic", antialias=True).round_().clamp_(0, 255)
        canvas = self._color.repeat(1, record.image_size, record.image_size)
        rows, columns = record.content()
        canvas[:, rows, columns] = resized[0].to(canvas.dtype)
        return canvas.permute(1, 2, 0).contiguous()


def _groups(sizes: Sequence[SourceSize]) -> Iterator[tuple[int, int]]:
    """Yield the starts and ends of runs of images that are decoded together."""
    start = pixels = 0
    for index, size in enumerate(sizes):
        pixels += size.height * size.width
        if index > start and pixels > BATCH_PIXELS:
            yield start, index
            start, pixels = index, size.height * size.width
    if start < len(sizes):
        yield start, len(sizes)
