"""Our letterbox as a transform of anomalib, and how padding travels through it.

anomalib hands an image from its data set to the model as one float tensor of three channels, without a place for valid
pixels. So padding is marked in the image itself: it is stored 2 below its colour, -2..-1, where an image has 0..1. The
mark survives collating and moving, and the colour, which some paddings of the model see, is not lost.

Shapes: B images, S side of the model input, h x w the source image, all in pixels.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from anomalib.pre_processing import PreProcessor
from torchvision import tv_tensors
from torchvision.transforms.v2 import InterpolationMode, Resize

from feclip.data import InputOptions, uniform_border
from feclip.errors import ConfigError, DataError

__all__ = ["FeClipPreProcessor", "Letterboxed", "marked", "unmarked", "valid_pixels_of"]

_MARK = 2.0
_BELOW_IMAGES = -0.5


def marked(pixels: torch.Tensor, valid_pixels: torch.Tensor) -> torch.Tensor:
    """Return images as anomalib carries them, padding marked.

    Args:
        pixels: RGB ``(..., 3, S, S)``, uint8.
        valid_pixels: Bool ``(..., S, S)``, false on padding.

    Returns:
        Shape ``(..., 3, S, S)``, float32: 0..1, and -2..-1 on padding.
    """
    return pixels.float() / 255 - _MARK * (~valid_pixels).float().unsqueeze(-3)


def valid_pixels_of(images: torch.Tensor) -> torch.Tensor:
    """Return where marked images ``(..., 3, S, S)`` show the scene: bool ``(..., S, S)``, false on padding."""
    return images.select(-3, 0) > _BELOW_IMAGES


def unmarked(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Undo `marked`.

    Example:
        >>> pixels = torch.arange(12, dtype=torch.uint8).reshape(1, 3, 2, 2)
        >>> valid = torch.tensor([[[True, False], [True, True]]])
        >>> back, found = unmarked(marked(pixels, valid))
        >>> bool((back == pixels).all()), found.tolist()
        (True, [[[True, False], [True, True]]])
    """
    valid = valid_pixels_of(images)
    return _bytes_of(images + _MARK * (~valid).float().unsqueeze(-3)), valid


class Letterboxed(Resize):  # type: ignore[misc] # torchvision is not typed
    """Brings images and masks to the model's input as a scoring job does, padding marked; what is there already stays.

    It is a ``Resize`` because anomalib hands those of a pre-processor to its data sets, which then collate images of
    many shapes without stretching them.

    Args:
        options: How an image becomes an input.
    """

    def __init__(self, options: InputOptions) -> None:
        side = options.image_size
        super().__init__((side, side), interpolation=InterpolationMode.BICUBIC)
        self.options = options

    def transform(self, tensor: torch.Tensor, params: Mapping[str, Any]) -> torch.Tensor:
        """Transform one image ``(3, h, w)``, mask ``(h, w)``, or batch of them; images are float32, 0..1.

        Args:
            tensor: A ``Mask`` of torchvision, or an image.
            params: Without effect.

        Raises:
            DataError: If not one valid pixel is left of an image.
        """
        del params
        is_mask = isinstance(tensor, tv_tensors.Mask)
        num_dims = 2 if is_mask else 3
        place = self._placed_mask if is_mask else self._placed
        placed = torch.stack([place(each) for each in tensor.reshape(-1, *tensor.shape[-num_dims:])])
        placed = placed.reshape(*tensor.shape[:-num_dims], *placed.shape[1:]).to(tensor)
        if isinstance(tensor, tv_tensors.TVTensor):
            placed = tv_tensors.wrap(placed, like=tensor)
        return placed

    def _placed(self, image: torch.Tensor) -> torch.Tensor:
        if not bool(valid_pixels_of(image).all()):
            return image  # the data set has placed it
        pixels = _bytes_of(image).permute(1, 2, 0).contiguous().cpu().numpy()
        placed, record = self.options.place(pixels)
        valid = record.valid_pixels()
        if self.options.valid_region == "uniform_border":
            valid = record.place(uniform_border(pixels, padding_color=self.options.padding_color))
            _require_some(valid)
        return marked(torch.from_numpy(placed).permute(2, 0, 1), torch.from_numpy(valid))

    def _placed_mask(self, mask: torch.Tensor) -> torch.Tensor:
        record = self.options.geometry(*mask.shape)
        return torch.from_numpy(record.place(mask.cpu().numpy().astype(np.bool_)))


class FeClipPreProcessor(PreProcessor):  # type: ignore[misc] # anomalib is not typed
    """anomalib's pre-processor with our letterbox; the mean and the deviation of CLIP are the model's own business.

    Args:
        options: How an image becomes an input, as a bundle says it.

    Raises:
        ConfigError: If valid regions come from files, which anomalib's data sets do not know.
    """

    def __init__(self, options: InputOptions) -> None:
        if options.valid_region == "mask_uri":
            msg = (
                "data.valid_region=mask_uri needs a file beside each image, which anomalib's data sets do not hand on."
            )
            raise ConfigError(msg)
        super().__init__(Letterboxed(options))

    @property
    def options(self) -> InputOptions:
        """How an image becomes an input."""
        transform = self.transform
        assert isinstance(transform, Letterboxed)
        return transform.options

    def checkpoint_config(self) -> dict[str, Any]:
        """Return what a Lightning checkpoint keeps, plain data."""
        return {"options": dataclasses.asdict(self.options)}

    def load_checkpoint_config(self, config: dict[str, Any]) -> None:
        """Restore what `checkpoint_config` returned."""
        self.transform = self.export_transform = Letterboxed(InputOptions(**config["options"]))


def _bytes_of(images: torch.Tensor) -> torch.Tensor:
    """Return images 0..1 as uint8; exact for what was read from a file."""
    return (images.as_subclass(torch.Tensor) * 255).round().clamp(0, 255).to(torch.uint8)


def _require_some(valid: npt.NDArray[np.bool_]) -> None:
    if not valid.any():
        msg = f"An image has no valid pixel left at {len(valid)} pixels; its border is taken for padding."
        raise DataError(msg)
