"""Labelled images as the model takes them: read, decoded, brought to the square input, in threads ahead of their use.

Shapes: B images, S side of the model input in pixels.
"""

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feclip.data.decode import MAX_FILE_BYTES, decode_mask
from feclip.data.letterbox import uniform_border
from feclip.data.prepare import InputOptions
from feclip.data.source_image import SourceImage
from feclip.data.storage import read_bytes
from feclip.errors import DataError

if TYPE_CHECKING:
    import torch  # processes that list, decode or look do without: it is large and slow to load (docs/adr/0020)

__all__ = [
    "Batch",
    "LabelledImages",
    "Sample",
    "collate",
    "prefetched",
    "prefetched_batches",
    "read_image_mask",
    "read_valid_mask",
]

BATCHES_AHEAD = 2
"""Batches that are read before they are asked for."""

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image on the model's input."""

    image: "torch.Tensor"
    """Shape ``(3, S, S)``, uint8, RGB."""
    valid_pixels: "torch.Tensor"
    """Shape ``(S, S)``, bool; false on padding."""
    label: int
    """gt label: 0 normal, 1 anomalous."""
    gt_mask: "torch.Tensor"
    """Shape ``(S, S)``, bool, true where anomalous; all false where nothing is, or nothing is known."""
    has_mask: bool
    """Whether the gt mask is known; the mask of a normal image can be known to be empty."""
    index: int
    """Row of the table, zero-based."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Samples stacked."""

    images: "torch.Tensor"
    """Shape ``(B, 3, S, S)``, uint8, RGB."""
    valid_pixels: "torch.Tensor"
    """Shape ``(B, S, S)``, bool."""
    labels: "torch.Tensor"
    """gt labels of shape ``(B,)``, float32."""
    gt_masks: "torch.Tensor"
    """Shape ``(B, S, S)``, bool."""
    has_mask: "torch.Tensor"
    """Shape ``(B,)``, bool."""
    index: "torch.Tensor"
    """Rows of the table, shape ``(B,)``, int64, zero-based."""

    def to(self, device: "torch.device | str") -> "Batch":
        """Return the batch on a device.

        Args:
            device: Where it goes.
        """
        return Batch(
            images=self.images.to(device),
            valid_pixels=self.valid_pixels.to(device),
            labels=self.labels.to(device),
            gt_masks=self.gt_masks.to(device),
            has_mask=self.has_mask.to(device),
            index=self.index.to(device),
        )


class LabelledImages:
    """The images of a manifest, or of a part of one, each read and decoded when it is asked for.

    Args:
        table: Manifest rows; every label must be known.
        image_size: Side S of the model input, pixels.
        resize: ``letterbox`` keeps the aspect ratio and pads, ``squash`` does not, ``rectangle`` keeps it without
            padding.
        patch_size: Side of the model's patches, pixels, which a ``rectangle`` needs.
        padding_color: white, black, mean, or r,g,b; the colour of our padding, and of a border looked for.
        valid_region: ``letterbox``: only our own padding is invalid; ``uniform_border``: also a border of the padding
            colour that the image brings; ``mask_uri``: also what the file in the column ``valid_mask_uri`` excludes.
        jpeg_decoding: ``full``, or ``scaled`` to decode large JPEGs at a fraction of their size.

    Attributes:
        table: As given.
        options: How an image becomes an input.
        category_index: Shape ``(N,)``, int64: the category of each row, counted from zero in the order of their names.
        labels: gt labels of shape ``(N,)``, float32.
        has_mask: Shape ``(N,)``, bool: whether the gt mask is known.

    Raises:
        DataError: If an option is unknown, a label is missing, or a file that an option needs is not named.
    """

    def __init__(
        self,
        table: pa.Table,
        *,
        image_size: int,
        resize: str,
        padding_color: str,
        valid_region: str,
        jpeg_decoding: str = "full",
        patch_size: int | None = None,
    ) -> None:
        import torch  # noqa: PLC0415 - see docs/adr/0020

        self.options = InputOptions(
            image_size=image_size,
            resize=resize,
            patch_size=patch_size,
            padding_color=padding_color,
            valid_region=valid_region,
            jpeg_decoding=jpeg_decoding,
        )
        self.table = table
        names = ("uri", "label", "mask_uri", "has_mask", "valid_mask_uri")
        self._uris, labels, self._mask_uris, has_mask, self._valid_mask_uris = (
            table[name].to_pylist() for name in names
        )
        categories = table["category"].to_pylist()
        numbers = {name: number for number, name in enumerate(sorted({name or "" for name in categories}))}
        self.category_index = torch.tensor([numbers[name or ""] for name in categories], dtype=torch.int64)
        for uri, label, valid_mask_uri in zip(self._uris, labels, self._valid_mask_uris, strict=True):
            if label is None:
                msg = f"{uri} has no label in the manifest; it must be 0 (normal) or 1 (anomalous)."
                raise DataError(msg)
            if valid_region == "mask_uri" and valid_mask_uri is None:
                msg = f"{uri} has no valid_mask_uri in the manifest, which data.valid_region=mask_uri needs."
                raise DataError(msg)
        self.labels = torch.tensor(labels, dtype=torch.float32)
        self.has_mask = torch.tensor(has_mask, dtype=torch.bool)
        unknown = [None] * len(table)
        self._digests, self._mask_digests = (
            table[name].to_pylist() if name in table.column_names else unknown for name in ("sha256", "mask_digest")
        )

    def __len__(self) -> int:
        return len(self._uris)

    def __getitem__(self, index: int) -> Sample:
        """Read one image with its masks.

        Args:
            index: Row of the table, zero-based.

        Raises:
            DataError: If a file cannot be decoded, or a mask does not fit its image.
            StorageError: If a file cannot be read.
        """
        import torch  # noqa: PLC0415 - see docs/adr/0020

        uri = self._uris[index]
        image = self.options.decode(read_bytes(uri, max_bytes=MAX_FILE_BYTES), uri=uri)
        shape = image.height, image.width
        pixels, record = self.options.place(image)
        mask_uri = self._mask_uris[index]
        if mask_uri is None:
            gt_mask = np.zeros(pixels.shape[:2], np.bool_)
        else:
            mask = read_image_mask(mask_uri, image_uri=uri, image_shape=shape, label=int(self.labels[index]))
            gt_mask = record.place(mask)
        source_valid = self._source_valid(index, image)
        valid = record.valid_pixels() if source_valid is None else record.place(source_valid)
        return Sample(
            image=torch.from_numpy(pixels).permute(2, 0, 1),
            valid_pixels=torch.from_numpy(valid),
            label=int(self.labels[index]),
            gt_mask=torch.from_numpy(gt_mask),
            has_mask=bool(self.has_mask[index]),
            index=index,
        )

    def content_name(self, index: int) -> str | None:
        """Return a name that two rows share only if their samples are alike under the same options, labels aside.

        It is made of the digests that `inspect_rows` found, so nothing is read.

        Args:
            index: Row of the table, zero-based.

        Returns:
            Digests of the image and its gt mask; None where one is unknown, as that of a valid mask always is.
        """
        image, mask = self._digests[index], self._mask_digests[index]
        unknown_mask = mask is None and self._mask_uris[index] is not None
        if image is None or unknown_mask or self.options.valid_region == "mask_uri":
            return None
        return f"{image}-{mask or 'unmasked'}"

    def _source_valid(self, index: int, image: SourceImage) -> npt.NDArray[np.bool_] | None:
        """Return where the source file shows the scene, shape ``(h, w)``; None for everywhere."""
        if self.options.valid_region == "uniform_border":
            return uniform_border(image.pixels, padding_color=self.options.padding_color)
        if self.options.valid_region == "mask_uri":
            shape = image.height, image.width
            return read_valid_mask(self._valid_mask_uris[index], image_uri=self._uris[index], image_shape=shape)
        return None


def read_image_mask(
    mask_uri: str, *, image_uri: str, image_shape: tuple[int, ...], label: int | None
) -> npt.NDArray[np.bool_]:
    """Read a mask and check that it fits its image.

    Args:
        mask_uri: The mask.
        image_uri: Its image, for messages.
        image_shape: The decoded image's shape, ``(h, w, ...)``.
        label: gt label that a gt mask must agree with; None for other masks.

    Returns:
        Shape ``(h, w)``.

    Raises:
        DataError: If it cannot be decoded, has another size, or contradicts the label.
        StorageError: If it cannot be read.
    """
    mask = decode_mask(read_bytes(mask_uri, max_bytes=MAX_FILE_BYTES), uri=mask_uri)
    if mask.shape != image_shape[:2]:
        sizes = (
            f"{mask.shape[1]} x {mask.shape[0]} pixels, its image {image_uri} has {image_shape[1]} x {image_shape[0]}"
        )
        msg = f"The mask {mask_uri} has {sizes}; they must be equal."
        raise DataError(msg)
    if label is not None and bool(mask.any()) != bool(label):
        rule = "anomalous, but its mask marks nothing" if label else "normal, but its mask marks something"
        msg = f"{image_uri} is labelled {rule}: {mask_uri}; mend the label or the mask."
        raise DataError(msg)
    return mask


def read_valid_mask(mask_uri: str, *, image_uri: str, image_shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """Read the file that tells where an image shows the scene.

    Args:
        mask_uri: The file; what is white in it is valid.
        image_uri: Its image, for messages.
        image_shape: The decoded image's shape, ``(h, w, ...)``.

    Returns:
        Shape ``(h, w)``, somewhere true.

    Raises:
        DataError: If it cannot be decoded, has another size, or marks nothing as valid.
        StorageError: If it cannot be read.
    """
    valid = read_image_mask(mask_uri, image_uri=image_uri, image_shape=image_shape, label=None)
    if not valid.any():
        msg = f"The valid mask {mask_uri} of {image_uri} marks nothing as valid; white is where the image counts."
        raise DataError(msg)
    return valid


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples of one size.

    Args:
        samples: At least one.

    Returns:
        The batch, in the order of the samples.
    """
    import torch  # noqa: PLC0415 - see docs/adr/0020

    return Batch(
        images=torch.stack([sample.image for sample in samples]),
        valid_pixels=torch.stack([sample.valid_pixels for sample in samples]),
        labels=torch.tensor([sample.label for sample in samples], dtype=torch.float32),
        gt_masks=torch.stack([sample.gt_mask for sample in samples]),
        has_mask=torch.tensor([sample.has_mask for sample in samples], dtype=torch.bool),
        index=torch.tensor([sample.index for sample in samples], dtype=torch.int64),
    )


def prefetched_batches(
    dataset: LabelledImages, index_batches: Iterable[Sequence[int]], *, num_threads: int
) -> Iterator[Batch]:
    """Iterate over batches that threads decode ahead of the consumer, as `prefetched` says.

    Args:
        dataset: Where the samples come from.
        index_batches: Rows of each batch; read a few batches ahead.
        num_threads: Threads that read and decode, at least 1.

    Yields:
        One batch for each sequence of indices.

    Raises:
        FeclipError: What reading a sample raised, on the consumer's thread, when its batch is asked for.
    """
    with closing(prefetched(dataset.__getitem__, index_batches, num_threads=num_threads)) as found:
        for samples in found:
            yield collate(samples)


def prefetched(
    read: Callable[[int], _T], index_batches: Iterable[Sequence[int]], *, num_threads: int
) -> Generator[list[_T], None, None]:
    """Iterate over lists of what threads read ahead of the consumer.

    Threads, not processes: Pillow releases the interpreter while it decodes, and nothing need survive a fork.
    Batches come in the order of the indices whatever thread is first. Closing the iterator ends its threads.

    Args:
        read: Called with each index on some thread.
        index_batches: Indices of each batch; read a few batches ahead.
        num_threads: Threads that read, at least 1.

    Yields:
        What ``read`` returned for each index of a batch, in order.

    Raises:
        FeclipError: What ``read`` raised, on the consumer's thread, when its batch is asked for.
    """
    remaining = iter(index_batches)
    executor = ThreadPoolExecutor(num_threads, thread_name_prefix="feclip-decode")

    def submitted(number: int) -> Iterator[list[Future[_T]]]:
        for indices in itertools.islice(remaining, number):
            yield [executor.submit(read, index) for index in indices]

    try:
        waiting = deque(submitted(BATCHES_AHEAD))
        while waiting:
            futures = waiting.popleft()
            waiting.extend(submitted(1))
            yield [future.result() for future in futures]
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
