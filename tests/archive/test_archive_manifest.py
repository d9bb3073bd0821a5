"""Manifests of archives that are not what they must be: one line that names the row; and names of any bytes."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feclip.archive import Source, list_part, plan_parts
from feclip.data import GuardedDecoder, ImageErrorKind, InputOptions, fetch_and_decode, read_bytes
from feclip.errors import DataError


def listed(source: Source) -> list[dict[str, object]]:
    return [row for part in plan_parts(source) for block in list_part(part, source) for row in block.table.to_pylist()]


def refused(path: Path) -> str:
    with pytest.raises(DataError) as error:
        listed(Source(archive=None, manifest=str(path)))
    message = str(error.value)
    assert "\n" not in message
    assert str(path) in message
    return message


@pytest.mark.parametrize(
    ("column", "values", "named"),
    [
        ("size", [1, -5], "row 2: size must be a number of bytes, got '-5'"),
        ("size", ["1", "1_0"], "row 2: size must be a number of bytes, got '1_0'"),
        ("size", [str(2**63), "1"], f"row 1: size must be a number of bytes, got '{2**63}'"),
        ("size", [[1], [2]], "row 1: size must be text, got list"),
        ("note", [{"a": 1}, None], "row 1: note must be text, got dict"),
        ("uri", [b"a.png", b"b.png"], "row 1: uri must be text, got bytes"),
        ("uri", [7, 8], "row 1: uri must be text, got int"),
    ],
)
def test_a_value_that_cannot_be_is_named_by_its_row(
    column: str, values: list[object], named: str, tmp_path: Path
) -> None:
    path = tmp_path / "images.parquet"
    columns = {"uri": ["a.png", "b.png"], column: values}
    pq.write_table(pa.table({name: pa.array(found) for name, found in columns.items()}), path)
    assert named in refused(path)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('uri,"note\n', "its heading"),
        ('uri,note\na.png,x\nb.png,"y"z\n', "row 2"),
        ("uri,uri\na.png,b.png\n", "column 'uri' stands twice"),
        ("uri,sha256,source_sha256\na.png,1,2\n", "'sha256' and 'source_sha256' would be one"),
    ],
)
def test_a_csv_that_cannot_be_is_named(text: str, named: str, tmp_path: Path) -> None:
    path = tmp_path / "images.csv"
    path.write_text(text)
    assert named in refused(path)


def test_a_damaged_row_group_is_named(tmp_path: Path) -> None:
    path = tmp_path / "images.parquet"
    pq.write_table(pa.table({"uri": [f"{number}.png" for number in range(9000)]}), path, row_group_size=3000)
    content = bytearray(path.read_bytes())
    content[8:200] = bytes(192)
    path.write_bytes(content)
    assert "row group 0" in refused(path)


def test_a_local_name_of_any_bytes_is_listed_and_read(tmp_path: Path) -> None:
    name = os.fsdecode(b"gr\xfcn.png")
    (tmp_path / name).write_bytes(b"content")
    (row,) = listed(Source(archive=str(tmp_path), manifest=None))
    assert read_bytes(str(row["uri"])) == b"content"


@pytest.mark.parametrize("uri", ["gs://b/a.png", "http://h/a.png", "s3:///a.png", "s3://key:word@b/a.png"])
def test_a_name_that_no_storage_has_is_an_error_of_that_image(uri: str) -> None:
    with GuardedDecoder(InputOptions(image_size=8)) as decoder:
        found = fetch_and_decode(uri, decoder=decoder)
    assert found.error is not None
    assert found.error.kind is ImageErrorKind.unreadable_name
    assert "word" not in str(found.error)
