"""A small archive of field images with odd and bad files among them, and what its score table is compared by."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from odd_files import BAD, GOOD
from PIL import Image

from feclip.archive import find_run
from feclip.data import join_uri, list_children, read_bytes
from feclip.demo import FAMILIES, write_archive

NUM_IMAGES = 72
SCALE = 6  # pictures of about 2 megapixels, so that decoding lasts long enough to be met by a kill
SLOW_FILE = "20000_pixels_wide_4000_high"  # seconds to decode; tests of the decoder have it
ODD_FILES = {f"line=0/date=2024-01/{name} é.png": data for name, (data, _, _) in GOOD.items() if name != SLOW_FILE}
BAD_FILES = {f"line=1/date=2024-02/{name} of 100%.png": data for name, (data, _) in BAD.items()}
KINDS = {f"line=1/date=2024-02/{name} of 100%.png": kind.value for name, (_, kind) in BAD.items()}
NUM_OBJECTS = NUM_IMAGES + len(ODD_FILES) + len(BAD_FILES)
OPTIONS = ("--score.slice_size", "8", "--score.precision", "float32", "--score.max_error_rate", "0.2")
NUM_SLICES = -(-NUM_OBJECTS // 8)


def write_small_archive(root: Path) -> Path:
    """Write field images, odd files that are images and files that are none; return the folder of the images."""
    write_archive(root, seed=4, families=FAMILIES["unseen"][:2], num_images=NUM_IMAGES, defect_fraction=0.2)
    for path in sorted((root / "images").rglob("*.jpg")):
        with Image.open(path) as image:
            image.resize((image.width * SCALE, image.height * SCALE)).save(path, quality=90)
    for name, content in (ODD_FILES | BAD_FILES).items():
        (root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "images" / name).write_bytes(content)
    return root / "images"


def table_of(output: str) -> pa.Table:
    """Return the score table of an output as its files hold it, by row."""
    run = find_run(output)
    assert run is not None
    files = [entry.uri for entry in list_children(run.scores_folder)]
    table = pa.concat_tables([pq.read_table(pa.BufferReader(read_bytes(uri))) for uri in files])
    return table.sort_by("row_id")


def names(table: pa.Table) -> list[str]:
    """Return the paths of a table's images below their archive."""
    return [f"line={uri.partition('/line=')[2]}" for uri in table["uri"].to_pylist()]


def is_the_same(output: str, expected: pa.Table) -> None:
    """Check keys, errors and scores of a whole output against those of an unbroken run."""
    table = table_of(output)
    assert names(table) == names(expected)
    for column in ("row_id", "size", "sha256", "error_kind", "line", "date", "width", "height", "valid_box"):
        assert table[column].to_pylist() == expected[column].to_pylist(), column
    for column in ("image_logit", "map_max", "map_topk_mean"):
        found, wanted = (np.array(part[column].to_pylist(), float) for part in (table, expected))
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5, err_msg=column)
    summary = json.loads(read_bytes(join_uri(output, "_SUMMARY.json")))
    assert summary["num_images"] == len(table) == NUM_OBJECTS
    actor = {"device": "cpu", "batch_size": 8, "compiled": False, "warm_up_seconds": 0.0}
    assert all(found == actor for found in summary["actors"])  # one for each actor that had anything to do
