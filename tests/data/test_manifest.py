"""Manifests: what is read, and what is refused with the row that is wrong."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feclip.data import MANIFEST_SCHEMA, join_uri, read_manifest, write_bytes
from feclip.errors import DataError, StorageError


def read_csv(tmp_path: Path, text: str, *, root: str | None = None) -> pa.Table:
    uri = str(tmp_path / "labels.csv")
    write_bytes(uri, text.encode())
    return read_manifest(uri, root=root)


def test_relative_paths_labels_and_partitions(tmp_path: Path) -> None:
    table = read_csv(tmp_path, "\ufeffpath,label,operator\nline=1/date=2024-01/a.png,1,x\r\nline=2/b%20.png,0,\n")
    assert table.schema.names == [*MANIFEST_SCHEMA.names, "date", "line", "operator"]
    first, second = table.to_pylist()
    assert first["uri"] == f"{tmp_path}/line=1/date=2024-01/a.png"
    assert first["path"] == "line=1/date=2024-01/a.png"
    assert (first["label"], first["line"], first["date"], first["operator"]) == (1, "1", "2024-01", "x")
    assert (second["label"], second["line"], second["date"], second["operator"]) == (0, "2", None, None)
    assert not first["has_mask"]
    assert not second["has_mask"]


def test_normal_images_of_a_category_with_masks_have_known_empty_masks(tmp_path: Path) -> None:
    text = "path,label,mask_path,category\na.png,1,m/a.png,screw\nb.png,0,,screw\nc.png,0,,tile\nd.png,1,,tile\n"
    table = read_csv(tmp_path, text, root="s3://plant/images")
    assert table["has_mask"].to_pylist() == [True, True, False, False]
    assert table["mask_uri"].to_pylist()[:2] == ["s3://plant/images/m/a.png", None]


def test_parquet_and_its_own_output_are_read_back_the_same(tmp_path: Path) -> None:
    uri = str(tmp_path / "manifest.parquet")
    rows = {"uri": ["s3://plant/x/a.png", "s3://plant/x/b.png"], "label": [True, False], "group": [7, None]}
    pq.write_table(pa.table(rows), uri)
    table = read_manifest(uri, root="s3://plant")
    assert table["path"].to_pylist() == ["x/a.png", "x/b.png"]
    assert table["label"].to_pylist() == [1, 0]
    assert table["group"].to_pylist() == ["7", None]
    pq.write_table(table, uri)
    assert read_manifest(uri).equals(table)


def test_labels_may_be_unknown(tmp_path: Path) -> None:
    assert read_csv(tmp_path, "path,label\na.png,\nb.png,1.0\n")["label"].to_pylist() == [None, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\na.png,2\n", r"row 1: label must be 0 \(normal\) or 1 \(anomalous\), got '2'"),
        ("path,label\na.png,0\nb.png,__import__('os')\n", "row 2: label must be"),
        ("path,label\na.png,0\n../b.png,1\n", r"row 2: '../b.png' must not hold"),
        ("path\ns3://plant/../other/b.png\n", "must not hold"),
        ("path\na\0.png\n", "NUL"),
        ("path\nfile:///data/%ab.png\n", "row 1: the name of 'file:///data/%ab.png' is no UTF-8"),  # found by fuzzing
        ("path,mask_path\na.png,../m.png\n", "row 1: '../m.png' must not hold"),
        ("path,label\na.png,0\nb.png,0\na.png,1\n", "row 3: .*a.png stands in row 1 already"),
        ("path,label\na.png,0\n,1\n", "row 2: there is no uri or path"),
        ("path,label\na.png\n", "row 1: 1 values where the heading has 2"),
        ("file;label\na.png;0\n", "needs a column 'uri' or 'path'; it has 'file;label'"),
        ("path,label,label\na.png,0,1\n", "column 'label' stands twice"),
        ("path,label\n", "holds no images"),
        ("", "needs a column 'uri' or 'path'; it has none"),
        ("path,line\nline=1/a.png,2\n", "the path says line=1, the column line says '2'"),
        ("path\nuri=1/a.png\n", "that name is taken"),
        ('path\n"a.png\n', "no valid CSV"),
    ],
)
def test_what_is_wrong_is_one_line_with_its_row(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        read_csv(tmp_path, text)
    assert "\n" not in str(error.value)
    assert "labels.csv" in str(error.value)


def test_other_files_are_no_manifests(tmp_path: Path) -> None:
    uri = str(tmp_path / "manifest.parquet")
    for data, message in ((b"\x89PNG\r\n", "neither Parquet nor CSV"), (b"PAR1 cut", "damaged or incomplete Parquet")):
        write_bytes(uri, data)
        with pytest.raises(DataError, match=message):
            read_manifest(uri)
    with pytest.raises(StorageError, match="does not exist"):
        read_manifest(str(tmp_path / "none.csv"))


@pytest.mark.storage
def test_a_manifest_in_object_storage_is_read_from_its_own_folder(s3_bucket: str) -> None:
    write_bytes(join_uri(s3_bucket, "set/labels.csv"), b"path,label\na.png,1\n")
    table = read_manifest(join_uri(s3_bucket, "set/labels.csv"))
    assert table["uri"].to_pylist() == [join_uri(s3_bucket, "set/a.png")]


def test_the_magnetic_tile_archive(shared_data: Path) -> None:
    folder = shared_data / "field" / "magnetic_tile"
    table = read_manifest(str(folder / "labels.csv"), root=str(folder / "images"))
    assert table.num_rows == 460
    assert sum(table["label"].to_pylist()) == 100
    assert set(table["line"].to_pylist()) == {"0", "1", "2"}
    assert all(len(date) == len("2024-01") for date in table["date"].to_pylist())
    assert not any(table["has_mask"].to_pylist())
    assert all(Path(uri).is_file() for uri in table["uri"].to_pylist())
