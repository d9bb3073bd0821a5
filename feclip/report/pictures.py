"""The images of a report: fetched for what is shown alone, each with its heatmap; one that cannot be had says why."""

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

__all__ = ["IMAGES_FOLDER", "Picture", "has_maps", "map_of", "map_threshold", "write_pictures"]

IMAGES_FOLDER = "images"
PHOTO_QUALITY = 85
CHANGED = "The file has changed since it was scored; the map is of the old one."


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


def has_maps(rows: pa.Table) -> bool:
    """Tell whether a table kept what a map is drawn from."""
    return {"token_map", "valid_box", "valid_mask", "width", "height"} <= {*rows.column_names}


def map_of(table: ScoredTable, row: pa.Table) -> npt.NDArray[np.float32] | None:
    """Return the map of one row as it lies on its image, logits, `source_map`'s shape; None where it has none."""
    if not has_maps(row) or not row["token_map"][0].is_valid:
        return None
    options = table.bundle.input_options
    return source_map(
        unpack_token_maps(row)[0],
        geometry=options.geometry(row["height"][0].as_py(), row["width"][0].as_py()),
        valid_pixels=unpack_valid_regions(row, image_size=options.image_size)[0],
        smoothing_sigma=table.run.statistic_options.smoothing_sigma,
    )


def map_threshold(table: ScoredTable, group: str | None) -> float | None:
    """Return the threshold of a map's highest pixel, which is that of its pixels; None where there is none."""
    if table.calibration is None:
        return None
    try:
        return table.calibration.threshold(Statistic.map_max, group)
    except DataError:  # too few normals for that statistic
        return None


def write_pictures(
    table: ScoredTable, rows: pa.Table, *, scales: Mapping[int, HeatScale], output: str, image_side: int
) -> dict[int, Picture]:
    """Fetch images and write them and their heatmaps beside the page.

    Args:
        table: Where they were scored.
        rows: Rows of the table, each once.
        scales: By ``row_id``: the colours of its map.
        output: Folder of the page.
        image_side: Longer side of a photo, pixels.

    Returns:
        By ``row_id`` what to show.

    Raises:
        StorageError: If storage fails, or the page's folder cannot be written.
        RunError: If no decoder can be started.
    """
    options = InputOptions(image_size=image_side, jpeg_decoding="scaled")
    row_ids = rows["row_id"].to_pylist()
    with GuardedDecoder(options) as decoder, ThreadPoolExecutor(table.num_readers) as pool:

        def write(index: int) -> Picture:
            scale = scales.get(row_ids[index])
            return _write_one(table, rows.slice(index, 1), scale=scale, output=output, decoder=decoder)

        try:
            pictures = list(pool.map(write, range(len(rows))))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return dict(zip(row_ids, pictures, strict=True))


def _write_one(
    table: ScoredTable, row: pa.Table, *, scale: HeatScale | None, output: str, decoder: GuardedDecoder
) -> Picture:
    row_id = row["row_id"][0].as_py()
    values = None if scale is None else map_of(table, row)
    overlay = None
    if values is not None and scale is not None:
        overlay = f"{IMAGES_FOLDER}/{row_id:012d}-map.webp"
        write_bytes(join_uri(output, overlay), encode_overlay(overlay_pixels(values, scale)))
    fetched = fetch_and_decode(row["uri"][0].as_py(), decoder=decoder)
    if not isinstance(fetched.image, PreparedImage):
        height, width = (3, 4) if values is None else values.shape
        return Picture(overlay=overlay, width=width, height=height, note=str(fetched.error))
    photo = _photo(fetched.image)
    name = f"{IMAGES_FOLDER}/{row_id:012d}.jpg"
    buffer = BytesIO()
    photo.save(buffer, "JPEG", quality=PHOTO_QUALITY)
    write_bytes(join_uri(output, name), buffer.getvalue())
    known = row["sha256"][0].as_py() if "sha256" in row.column_names else None
    return Picture(
        photo=name,
        overlay=overlay,
        width=photo.width,
        height=photo.height,
        note=CHANGED if known not in {None, fetched.sha256} else "",
    )


def _photo(image: PreparedImage) -> Image.Image:
    """Return the image alone, without the square that decoding put it on, no larger than its source."""
    top, left, height, width = image.valid_box
    photo = Image.fromarray(image.pixels[top : top + height, left : left + width])
    if image.width < photo.width:
        photo = photo.resize((image.width, image.height), Image.Resampling.LANCZOS)
    return photo
