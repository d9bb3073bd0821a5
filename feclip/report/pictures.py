"""The images of a report: fetched for what is shown alone, each with its heatmap; one that cannot be had says why."""

import functools
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from feclip.calibration import Statistic
from feclip.data import (
    GuardedDecoder,
    InputOptions,
    PreparedImage,
    fetch_and_decode,
    join_uri,
    write_bytes,
)
from feclip.errors import DataError
from feclip.report.opened import ScoredTable
from feclip.report.overlays import HeatScale, encode_overlay, overlay_pixels, source_map
from feclip.score_table import unpack_token_maps, unpack_valid_regions

__all__ = ["IMAGES_FOLDER", "Picture", "map_threshold", "maps_of", "write_pictures"]

logger = logging.getLogger(__name__)

IMAGES_FOLDER = "images"
PHOTO_QUALITY = 85


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What a card shows of one image."""

    photo: str | None = None
    """File beside the page; None where the image cannot be had."""
    overlay: str | None = None
    """File beside the page that lies on the photo; None where the table has no map."""
    width: int = 4
    height: int = 3
    """Of the photo, pixels, or a shape to leave room for."""
    note: str = ""
    """What is wrong, one line."""


def maps_of(table: ScoredTable, rows: pa.Table) -> dict[int, npt.NDArray[np.float32]]:
    """Return by ``row_id`` the maps of some rows as they lie on their images, logits; rows without one are left out."""
    if not {"token_map", "valid_box", "valid_mask", "width", "height"} <= {*rows.column_names}:
        return {}
    options = table.bundle.input_options
    scored = rows.filter(rows["token_map"].is_valid())
    found: dict[int, npt.NDArray[np.float32]] = {}
    for index in range(len(scored)):  # one by one: the valid pixels of all would be large
        row = scored.slice(index, 1)
        row_id, height, width = (row[name][0].as_py() for name in ("row_id", "height", "width"))
        found[row_id] = source_map(
            unpack_token_maps(row)[0],
            geometry=options.geometry(height, width),
            valid_pixels=unpack_valid_regions(row, image_size=options.image_size)[0],
            smoothing_sigma=table.run.statistic_options.smoothing_sigma,
        )
    return found


def map_threshold(table: ScoredTable, group: str | None) -> float | None:
    """Return the threshold of a map's highest pixel, which is that of its pixels; None where there is none."""
    if table.calibration is None:
        return None
    try:
        return table.calibration.threshold(Statistic.map_max, group)
    except DataError:  # too few normals for that statistic
        return None


def write_pictures(
    table: ScoredTable,
    rows: pa.Table,
    *,
    maps: Mapping[int, npt.NDArray[np.float32]],
    scales: Mapping[int, HeatScale],
    output: str,
    image_side: int,
) -> dict[int, Picture]:
    """Fetch images and write them and their heatmaps beside the page.

    Args:
        table: Where they were scored.
        rows: Rows of the table, each once.
        maps: By ``row_id``, as `maps_of` gives them.
        scales: By ``row_id``: the colours of its map.
        output: Folder of the page.
        image_side: Longer side of a photo, pixels.

    Returns:
        By ``row_id`` what to show.

    Raises:
        StorageError: If storage fails, or the page's folder cannot be written.
        RunError: If no decoder can be started.
    """
    digests: dict[int, str | None] = {}
    if "sha256" in rows.column_names:
        digests = dict(zip(rows["row_id"].to_pylist(), rows["sha256"].to_pylist(), strict=True))
    options = InputOptions(image_size=image_side, jpeg_decoding="scaled")
    listed = list(zip(rows["row_id"].to_pylist(), rows["uri"].to_pylist(), strict=True))
    with GuardedDecoder(options) as decoder, ThreadPoolExecutor(table.num_readers) as pool:
        one = functools.partial(_write_one, maps=maps, scales=scales, digests=digests, output=output, decoder=decoder)
        try:
            pictures = list(pool.map(lambda row: one(*row), listed))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return dict(zip((row_id for row_id, _ in listed), pictures, strict=True))


def _write_one(
    row_id: int,
    uri: str,
    *,
    maps: Mapping[int, npt.NDArray[np.float32]],
    scales: Mapping[int, HeatScale],
    digests: Mapping[int, str | None],
    output: str,
    decoder: GuardedDecoder,
) -> Picture:
    values = maps.get(row_id)
    overlay = None
    if values is not None:
        overlay = f"{IMAGES_FOLDER}/{row_id:012d}-map.webp"
        write_bytes(join_uri(output, overlay), encode_overlay(overlay_pixels(values, scales[row_id])))
    fetched = fetch_and_decode(uri, decoder=decoder)
    if not isinstance(fetched.image, PreparedImage):
        shape = (3, 4) if values is None else values.shape
        return Picture(overlay=overlay, width=shape[1], height=shape[0], note=str(fetched.error))
    photo = _photo(fetched.image)
    name = f"{IMAGES_FOLDER}/{row_id:012d}.jpg"
    buffer = BytesIO()
    photo.save(buffer, "JPEG", quality=PHOTO_QUALITY)
    write_bytes(join_uri(output, name), buffer.getvalue())
    known = digests.get(row_id)
    changed = known is not None and known != fetched.sha256
    return Picture(
        photo=name,
        overlay=overlay,
        width=photo.width,
        height=photo.height,
        note="The file has changed since it was scored; the map is of the old one." if changed else "",
    )


def _photo(image: PreparedImage) -> Image.Image:
    """Return the image alone, without the square that decoding put it on, no larger than its source."""
    top, left, height, width = image.valid_box
    photo = Image.fromarray(image.pixels[top : top + height, left : left + width])
    if image.width < photo.width:
        photo = photo.resize((image.width, image.height), Image.Resampling.LANCZOS)
    return photo
