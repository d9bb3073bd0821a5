"""Which images a command line names, and where their overlays go."""

import os
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import NamedTuple
from urllib.parse import quote

from feclip.archive import Source, list_part, plan_parts
from feclip.config import ListingConfig
from feclip.data import absolute_uri, is_dir, join_uri
from feclip.errors import ConfigError, DataError
from feclip.prediction.prediction import OVERLAY_SUFFIXES
from feclip.prediction.predictor import NamedImage, named_image

__all__ = ["Inputs", "PlacedImage"]


class PlacedImage(NamedTuple):
    """An image, and where its overlay goes."""

    image: NamedImage
    overlay: str | None
    """None where none is wanted."""


class Inputs:
    """The images that some files and folders hold; a folder is listed as they are asked for, never as a whole.

    Args:
        places: Files and folders, local or ``s3://``.
        listing: Which files of a folder are images.
        save: File for the overlay of one image, or folder for those of several; None for none.

    Raises:
        ConfigError: If overlays would meet each other or the images, or have no known kind.
        StorageError: If a place cannot be looked up.
    """

    def __init__(self, places: Sequence[str], *, listing: ListingConfig, save: str | None) -> None:
        self._places = [(place, is_dir(place)) for place in places]
        self._listing = listing
        self._save = save
        ((_, is_folder), *others) = self._places
        is_one = not is_folder and not others
        self._saves_file = save is not None and is_one and not (save.endswith("/") or is_dir(save))
        if save is not None:
            self._check_save(save)

    def __iter__(self) -> Iterator[PlacedImage]:
        """Yield the images, those of a folder in the order of their names.

        Raises:
            DataError: If a folder holds no image.
            StorageError: If it cannot be listed.
        """
        for place, is_folder in self._places:
            if not is_folder:
                yield PlacedImage(named_image(place), self._overlay(_name(place)))
                continue
            above = () if len(self._places) == 1 else (_name(place),)
            num_images = 0
            for image, path in self._listed(place):
                num_images += 1
                yield PlacedImage(image, self._overlay(*above, path))
            if not num_images:
                kinds = ", ".join(self._listing.extensions)
                msg = f"{place} holds no image (listing.extensions are {kinds})."
                raise DataError(msg)

    def _listed(self, folder: str) -> Iterator[tuple[NamedImage, str]]:
        """Yield the images of a folder, and their paths below it."""
        source = Source(archive=absolute_uri(folder), manifest=None, listing=self._listing)
        root = f"{source.archive}".rstrip("/") + "/"
        for part in plan_parts(source):
            for block in list_part(part, source):
                for row in block.table.to_pylist():
                    image = NamedImage(uri=row["uri"], columns=row, size=row["size"])
                    yield image, row["uri"].removeprefix(root).removeprefix(f"file://{quote(os.fsencode(root))}")

    def _overlay(self, *parts: str) -> str | None:
        if self._save is None or self._saves_file:
            return self._save
        return join_uri(self._save, *parts) + ".png"

    def _check_save(self, save: str) -> None:
        target = absolute_uri(save).rstrip("/")
        for place, is_folder in self._places:
            source = absolute_uri(place).rstrip("/")
            if target == source or (is_folder and target.startswith(f"{source}/")):
                msg = f"save is {save}, where the images are; overlays need another place."
                raise ConfigError(msg)
        if self._saves_file:
            if PurePath(save).suffix.lower() not in OVERLAY_SUFFIXES:
                msg = f"save must end in {', '.join(OVERLAY_SUFFIXES)}, or in a slash for a folder; got {save}."
                raise ConfigError(msg)
            return
        by_name: dict[str, str] = {}
        for index, (place, _) in enumerate(self._places):
            other = by_name.setdefault(_name(place), place)
            if len(by_name) <= index:
                msg = f"{other} and {place} have one name, and so would their overlays in {save}; predict them apart."
                raise ConfigError(msg)


def _name(place: str) -> str:
    return PurePath(absolute_uri(place)).name
