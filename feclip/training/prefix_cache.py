"""What is kept of an image once it was seen, so that later epochs neither decode it nor run the blocks before a tap.

    memory   a dictionary of each rank, which meets any image in time, since batches are drawn over all ranks
    disk     <folder>/<digest>/<image>-<mask>.safetensors, shared by the ranks of a machine, and by runs

On disk everything that the content depends on is part of the path: the model's prefix, how an image becomes an input,
the number format, versions, the image and its gt mask by their digests. So what is found is right, whoever wrote it.
"""

import dataclasses
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from feclip import __version__
from feclip.config import OptimConfig, PrefixCache
from feclip.data import LabelledImages, join_uri, write_bytes
from feclip.errors import RunError
from feclip.model import FeClipModel, autocast
from feclip.training.ranks import gathered, ranks_of_machine

__all__ = ["KeptPrefix", "PrefixStore", "free_memory", "open_stores"]

logger = logging.getLogger(__name__)

SCHEMA = 1
DESCRIPTION_FILE = "about.json"
VERSIONED = ("open_clip_torch", "pillow", "torch")
MEMORY = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")
BITS = 8  # pixels of a packed mask in a byte


class KeptPrefix(NamedTuple):
    """One image, with what the loss needs of it; all on the CPU."""

    tokens: torch.Tensor
    """Shape ``(1 + L, D)``, in the number format of the trunk's output."""
    valid_pixels: torch.Tensor
    """Bits of the ``(S, S)`` valid pixels, uint8."""
    gt_mask: torch.Tensor
    """Bits of the ``(S, S)`` gt mask, uint8."""


class PrefixStore(Protocol):
    """Where the images of one data set are kept; called from several threads."""

    def get(self, index: int) -> KeptPrefix | None:
        """Return what is kept of a row, zero-based; None if nothing is."""

    def put(self, index: int, kept: KeptPrefix) -> None:
        """Keep a row."""


class _MemoryStore:
    def __init__(self) -> None:
        self._kept: dict[int, KeptPrefix] = {}

    def get(self, index: int) -> KeptPrefix | None:
        return self._kept.get(index)

    def put(self, index: int, kept: KeptPrefix) -> None:
        self._kept[index] = kept


class _DiskStore:
    """Files of one data set; ``names`` are theirs by row."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self._folder = folder
        self._names = names

    def num_missing(self) -> int:
        """Return how many files have yet to be written."""
        there = {path.name for path in self._folder.iterdir()} if self._folder.is_dir() else set()
        return len(set(self._names) - there)

    def get(self, index: int) -> KeptPrefix | None:
        path = self._folder / self._names[index]
        try:
            return KeptPrefix(**load(path.read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, TypeError) as error:
            logger.warning("%s cannot be read and is computed anew: %s", path, error)
            return None

    def put(self, index: int, kept: KeptPrefix) -> None:
        write_bytes(join_uri(str(self._folder), self._names[index]), save(kept._asdict()))


def open_stores(
    model: FeClipModel, data_sets: Sequence[LabelledImages], *, optim: OptimConfig, device: torch.device
) -> list[PrefixStore | None]:
    """Open the cache that ``optim`` asks for, and state its size before anything is kept. Every rank must call it.

    Returns:
        A store for each data set; None for each where nothing is to be kept.

    Raises:
        RunError: If there is no room for it on some machine, or a digest is unknown that ``disk`` needs; on all ranks.
    """
    if optim.prefix_cache is PrefixCache.none:
        return [None] * len(data_sets)
    tokens = _blank_prefix(model, optim=optim, device=device)
    num_images = sum(map(len, data_sets))
    size = tokens.nbytes + 2 * -(-(model.image_size**2) // BITS)
    said = f"{num_images:,} images x {size / 1e6:.3g} MB = {_gigabytes(num_images * size)}"
    if optim.prefix_cache is PrefixCache.memory:
        sharing = ranks_of_machine(device=device)
        place = "the memory of each worker" + (f", {sharing} of them on a machine" if sharing > 1 else "")
        _announce(f"{said} in {place}", needed=num_images * size * sharing, free=free_memory(), device=device)
        return [_MemoryStore() for _ in data_sets]
    assert optim.prefix_cache_folder is not None  # OptimConfig requires it
    root = Path(optim.prefix_cache_folder)
    stores = [_disk_store(root, model, images, kept_as=tokens.dtype) for images in data_sets if len(images)]
    missing = sum(store.num_missing() for store in stores)
    said = f"{said} in {root}, {num_images - missing:,} of them there already"
    _announce(said, needed=missing * size, free=shutil.disk_usage(root).free, device=device)
    opened = iter(stores)
    return [next(opened) if len(images) else None for images in data_sets]


def free_memory() -> int:
    """Return the bytes that this machine can still give, or the container around this process if that is less."""
    if not MEMORY.exists():  # no Linux: all of it is the best that is known
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    fields = dict(line.split(":") for line in MEMORY.read_text(encoding="ascii").splitlines())
    free = int(fields["MemAvailable"].split()[0]) << 10
    limit = CGROUP / "memory.max"
    if not limit.exists() or (most := limit.read_text(encoding="ascii").strip()) == "max":
        return free
    statistics = dict(line.split() for line in (CGROUP / "memory.stat").read_text(encoding="ascii").splitlines())
    used = int((CGROUP / "memory.current").read_text(encoding="ascii")) - int(statistics["inactive_file"])
    return min(free, int(most) - used)


def _blank_prefix(model: FeClipModel, *, optim: OptimConfig, device: torch.device) -> torch.Tensor:
    """Return the tokens of a blank image ``(1 + L, D)``: their shape and number format are those of every image's."""
    blank = torch.zeros(1, 3, model.image_size, model.image_size, device=device)
    with autocast(optim.precision, device=device):
        return model.prefix(blank)[0]


def _disk_store(root: Path, model: FeClipModel, images: LabelledImages, *, kept_as: torch.dtype) -> _DiskStore:
    names = [images.content_name(index) for index in range(len(images))]
    if None in names:
        msg = (
            "optim.prefix_cache=disk knows images by the digests that the check before training finds, and valid masks "
            "(data.valid_region=mask_uri) have none; take memory or none."
        )
        raise RunError(msg)
    about = {
        "schema": SCHEMA,
        "prefix": model.prefix_digest,
        "input": dataclasses.asdict(images.options),
        "kept_as": str(kept_as),
        "versions": {"feclip": __version__, **{name: version(name) for name in VERSIONED}},
    }
    text = json.dumps(about, indent=1, sort_keys=True) + "\n"
    folder = root / hashlib.sha256(text.encode()).hexdigest()
    write_bytes(join_uri(str(folder), DESCRIPTION_FILE), text.encode())
    return _DiskStore(folder, [f"{name}.safetensors" for name in names])


def _announce(said: str, *, needed: int, free: int, device: torch.device) -> None:
    """Log the size of the cache, or raise on all ranks if the machine of any has no room for it."""
    rooms = gathered(torch.tensor([[needed, free]], dtype=torch.int64, device=device)).tolist()
    needed, free = max(rooms, key=lambda room: room[0] - room[1])
    if needed > free:
        msg = (
            f"The prefix cache does not fit: {said}. That needs {_gigabytes(needed)}, and {_gigabytes(free)} are free; "
            "set optim.prefix_cache to another place or to none."
        )
        raise RunError(msg)
    logger.info("Prefix cache: %s; %s are free.", said, _gigabytes(free))


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.3g} GB"
