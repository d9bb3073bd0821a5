"""An archive is listed once, whole and alike on every storage; a bad manifest is one line that names its row."""

import http.server
import io
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit
from xml.sax.saxutils import escape

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feclip.archive import Source, list_part, plan_parts, write_numbered
from feclip.archive import listing as listing_module
from feclip.archive.listing import LISTING_SCHEMA, MASK_COLUMN
from feclip.config import ListingConfig, Names
from feclip.data import _object_store, is_local, read_bytes, write_bytes
from feclip.errors import DataError, StorageError

Rows = list[dict[str, Any]]
KNOWN = set(LISTING_SCHEMA.names)


def put(folder: str, *names: str) -> None:
    """Write files whose content is their name."""
    for name in names:
        write_bytes(f"{folder}/{name}", name.encode())


def archive_of(folder: str, **listing: Names) -> Source:
    return Source(archive=folder, manifest=None, listing=ListingConfig(**listing))


def listed(source: Source) -> tuple[Rows, Counter[str]]:
    """Return the rows of all parts in their order, and what was left out."""
    rows: Rows = []
    ignored: Counter[str] = Counter()
    for part in plan_parts(source):
        for block in list_part(part, source):
            rows += block.table.to_pylist()
            ignored.update(block.ignored)
    return rows, ignored


def names_of(source: Source) -> list[str]:
    return [row["uri"].removeprefix(f"{source.archive}/") for row in listed(source)[0]]


def partitions_of(row: dict[str, Any]) -> dict[str, str | None]:
    return {name: value for name, value in row.items() if name not in KNOWN}


def test_images_are_rows_partitions_are_columns_and_the_rest_is_counted(folder: str) -> None:
    images = {
        "top.tiff": {},
        "line=1/date=2026-01-02/a.png": {"line": "1", "date": "2026-01-02"},
        "line=1/date=2026-01-03/some/where/B.PNG": {"line": "1", "date": "2026-01-03"},
        "line=2/c.JpEg": {"line": "2"},
        "plain/deep/er/d.webp": {},
    }
    put(folder, *images, "notes.txt", "line=2/NOTES.TXT", "line=2/README", "plain/archive.tar.gz", "plain/png")
    rows, ignored = listed(archive_of(folder))
    assert {row["uri"]: {key: value for key, value in partitions_of(row).items() if value} for row in rows} == {
        f"{folder}/{name}": partitions for name, partitions in images.items()
    }
    assert len(rows) == len(images)
    assert all(row["size"] == len(row["uri"].removeprefix(f"{folder}/")) for row in rows)
    assert all((row["etag"] is None) == is_local(folder) for row in rows)
    assert {row[MASK_COLUMN] for row in rows} == {None}
    assert ignored == {".txt": 2, "no extension": 2, ".gz": 1}


LAYOUTS: dict[str, dict[str, str | None]] = {
    "line=a%2Fb%20%C3%BC/x.png": {"line": "a/b ü"},
    "line=a+b c/x.png": {"line": "a+b c"},
    "line=__HIVE_DEFAULT_PARTITION__/date=1/x.png": {"line": None, "date": "1"},
    "line=/x.png": {"line": ""},
    "key=b=c/x.png": {"key": "b=c"},
    "größe=3/x.png": {"größe": "3"},
    "uri=5/row_id=6/map_max=7/valid_mask_uri=8/x.png": {
        "source_uri": "5",
        "source_row_id": "6",
        "source_map_max": "7",
        "source_valid_mask_uri": "8",
    },
    "1x=2/=3/a b=4/x-y=5/x.png": {},
    "line=1/z=2.png": {"line": "1"},
}


def test_partitions_are_read_as_hive_writes_them(folder: str) -> None:
    put(folder, *(f"{number}/{path}" for number, path in enumerate(LAYOUTS)))
    rows, _ = listed(archive_of(folder))
    assert len(rows) == len(LAYOUTS)
    found = {row["uri"].removeprefix(f"{folder}/").partition("/")[2]: partitions_of(row) for row in rows}
    for path, expected in LAYOUTS.items():
        assert {key: found[path][key] for key in expected} == expected
        assert all(value is None for key, value in found[path].items() if key not in expected)


def test_partitions_above_the_archive_are_none_of_its_columns(folder: str) -> None:
    put(folder, "plant=7/line=1/x.png", "plant=8/line=1/x.png")
    rows, _ = listed(archive_of(f"{folder}/plant=7"))
    assert [row["uri"] for row in rows] == [f"{folder}/plant=7/line=1/x.png"]
    assert partitions_of(rows[0]) == {"line": "1"}
    assert [partitions_of(row) for row in listed(archive_of(f"{folder}/plant=7/"))[0]] == [{"line": "1"}]


def test_what_is_an_image_is_chosen_by_ends_of_names_and_patterns(folder: str) -> None:
    put(folder, "a/b.png", "a/c.PNG", "a/deep/d.png", "e/f.jpg", "g.png", "h.raw")
    assert set(names_of(archive_of(folder, extensions=Names((".RAW", ".png"))))) == {
        "a/b.png",
        "a/c.PNG",
        "a/deep/d.png",
        "g.png",
        "h.raw",
    }
    rows, ignored = listed(archive_of(folder, include=Names(("a/*", "e/*")), exclude=Names(("*/c.PNG", "a/deep/*"))))
    assert {row["uri"].removeprefix(f"{folder}/") for row in rows} == {"a/b.png", "e/f.jpg"}
    assert ignored == {".raw": 1, "left out by listing.include or listing.exclude": 3}
    assert names_of(archive_of(folder, include=Names(("A/*",)))) == []  # patterns mind the case


ODD_NAMES = (
    "a b/ c .png",
    "ünï/日本 é e\u0301.png",  # the same letter twice, in one and in two code points
    "hash#/query?.png",
    "percent%41/%2F.png",
    "plus+&=;,'\"\\<>.png",
    "line\nbreak.png",
    ".hidden/.x.png",
    "x.png.png",
    "-/--.png",
)


def test_any_name_is_listed_as_it_can_be_read(folder: str) -> None:
    put(folder, *ODD_NAMES)
    rows, _ = listed(archive_of(folder))
    assert {row["uri"] for row in rows} == {f"{folder}/{name}" for name in ODD_NAMES}
    assert all(read_bytes(row["uri"]).decode() == row["uri"].removeprefix(f"{folder}/") for row in rows)


def test_a_missing_archive_holds_no_images(folder: str) -> None:
    put(folder, "other/a.png", "note.txt")
    assert listed(archive_of(f"{folder}/none")) == ([], {})
    assert listed(archive_of(folder, extensions=Names((".bmp",)))) == ([], {".png": 1, ".txt": 1})


@pytest.mark.storage
@pytest.mark.usefixtures("s3_bucket")
def test_a_missing_bucket_is_an_error() -> None:
    with pytest.raises(StorageError, match="there is no bucket 'nowhere'"):
        listed(archive_of("s3://nowhere/images"))


def test_a_local_file_is_no_archive(tmp_path: Path) -> None:
    put(str(tmp_path), "a.png")
    with pytest.raises(StorageError, match="a folder is expected"):
        listed(archive_of(str(tmp_path / "a.png")))


def test_an_empty_local_archive_is_empty(tmp_path: Path) -> None:
    (tmp_path / "inner" / "most").mkdir(parents=True)
    assert listed(archive_of(str(tmp_path))) == ([], {})


@pytest.mark.parametrize("min_folders", [1, 64])
def test_links_are_followed_dangling_ones_are_rows_and_circles_are_errors(
    min_folders: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing_module, "MIN_FOLDERS", min_folders)
    archive = tmp_path / "archive"
    put(str(archive), "kept/a.png", "b.png")
    (archive / "linked").symlink_to(archive / "kept")
    (archive / "deep").mkdir()
    (archive / "deep" / "gone.png").symlink_to(archive / "none.png")
    source = archive_of(str(archive))
    assert {row["uri"].removeprefix(f"{archive}/"): row["size"] for row in listed(source)[0]} == {
        "b.png": len("b.png"),
        "kept/a.png": len("kept/a.png"),
        "linked/a.png": len("kept/a.png"),
        "deep/gone.png": 0,
    }
    (archive / "deep" / "up").symlink_to(archive)
    with pytest.raises(StorageError, match="it links back to a folder above it"):
        listed(source)


def blocks_written(source: Source, output: str) -> tuple[pa.Table, list[int]]:
    """Freeze a source as the driver does; return what was written, in the order of the files, and their rows."""
    tables = [block.table for part in plan_parts(source) for block in list_part(part, source)]
    tables = [table for table in tables if len(table)]
    columns = sorted({name for table in tables for name in table.column_names} - KNOWN)
    first, written = 0, []
    for table in tables:
        file = write_numbered(output, table, first_row_id=first, columns=columns)
        assert (file.first_row_id, file.num_rows) == (first, len(table))
        content = read_bytes(f"{output}/{file.name}")
        written.append(pq.read_table(pa.BufferReader(content)))
        first += len(table)
    return pa.concat_tables(written), [len(table) for table in written]


def test_files_of_the_listing_are_bounded_and_their_row_ids_dense(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing_module, "ROWS_PER_FILE", 3)
    put(folder, *(f"in/line=1/{number}.png" for number in range(7)), *(f"in/{number}.png" for number in range(3)))
    put(folder, "in/line=1/3.txt", "in/z.txt")
    source = archive_of(f"{folder}/in")
    ignored = [[block.ignored for block in list_part(part, source)] for part in plan_parts(source)]
    assert sum((Counter(counts) for part in ignored for counts in part), Counter[str]()) == {".txt": 2}
    table, sizes = blocks_written(source, f"{folder}/out")
    assert sizes == [3, 3, 3, 1]
    assert table["row_id"].to_pylist() == list(range(10))
    assert table["uri"].to_pylist() == [row["uri"] for row in listed(source)[0]]
    assert set(table["uri"].to_pylist()) == {
        f"{folder}/in/{name}"
        for name in (*(f"line=1/{number}.png" for number in range(7)), *(f"{number}.png" for number in range(3)))
    }
    assert table["line"].to_pylist() == ["1" if "line=1" in uri else None for uri in table["uri"].to_pylist()]
    assert table.schema.names == [*LISTING_SCHEMA.names, "line"]
    assert table.schema.field("row_id").type == pa.int64()


def test_a_file_of_the_listing_is_the_same_bytes_whoever_writes_it(folder: str) -> None:
    put(folder, "in/a.png", "in/line=1/b.png")
    source = archive_of(f"{folder}/in")
    table = next(list_part(plan_parts(source)[0], source)).table
    files = [write_numbered(f"{folder}/{run}", table, first_row_id=9, columns=["line", "none"]) for run in ("x", "y")]
    assert files[0] == files[1]
    assert files[0].name == f"rows-000000000009-{files[0].sha256[:16]}.parquet"
    contents = [read_bytes(f"{folder}/{run}/{files[0].name}") for run in ("x", "y")]
    assert contents[0] == contents[1]
    assert pq.read_table(pa.BufferReader(contents[0]))["none"].to_pylist() == [None] * len(table)


def random_names(seed: int) -> list[str]:
    """Images at any depth of a tree whose folders differ by signs around the slash."""
    random = np.random.default_rng(seed)
    parts = ("a", "a-b", "a b", "a.png", "line=1", "line=10", "ü")
    folders = ["/".join(random.choice(parts, random.integers(0, 5))) for _ in range(30)]
    names = {f"{folder}/{number}.jpg".lstrip("/") for number, folder in enumerate(folders)}
    return sorted(names | {f"{folder}/0.jpg".lstrip("/") for folder in folders})


@pytest.mark.parametrize("seed", [0, 1])
def test_every_image_is_listed_once_whatever_the_fan_out(
    seed: int, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = random_names(seed)
    put(folder, *names)
    source = archive_of(folder)
    numbers = set()
    for min_folders, per_part in ((1, 64), (2, 1), (7, 2), (64, 64), (1000, 1), (1000, 3)):
        monkeypatch.setattr(listing_module, "MIN_FOLDERS", min_folders)
        monkeypatch.setattr(listing_module, "FOLDERS_PER_PART", per_part)
        parts = plan_parts(source)
        numbers.add(len(parts))
        found = names_of(source)
        assert sorted(found) == names
        assert names_of(source) == found
    assert max(numbers) > 20
    assert min(numbers) == 1


def test_the_order_is_that_of_the_names_where_images_lie_in_leaves(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = sorted(
        f"line={line}/date=2026-0{month}/{number}.png"
        for line in range(3)
        for month in range(1, 4)
        for number in range(2)
    )
    put(folder, *reversed(names))
    for min_folders in (1, 2, 4, 64):
        monkeypatch.setattr(listing_module, "MIN_FOLDERS", min_folders)
        assert names_of(archive_of(folder)) == names


@contextmanager
def stored(keys: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve listings of keys as S3 does, in pages; for keys that no file system can hold. Yields the bucket's URI."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
            assert asked["list-type"] == "2"
            body = page_of(keys, asked).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_HEAD(self) -> None:
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "feclip-test-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "feclip-test-secret")
    try:
        yield "s3://plant"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def page_of(keys: list[str], asked: dict[str, str]) -> str:
    prefix, delimiter = asked.get("prefix", ""), asked.get("delimiter", "")
    entries: dict[str, bool] = {}  # key or common prefix, and whether it is the latter
    for key in sorted(keys):
        rest = key.removeprefix(prefix)
        if key.startswith(prefix):
            is_deeper = bool(delimiter) and delimiter in rest
            entries[prefix + rest.partition(delimiter)[0] + delimiter if is_deeper else key] = is_deeper
    waiting = [name for name in entries if name > asked.get("continuation-token", "")]
    page, more = waiting[: int(asked["max-keys"])], waiting[int(asked["max-keys"]) :]
    lines = [
        f"<CommonPrefixes><Prefix>{quote(name)}</Prefix></CommonPrefixes>"
        if entries[name]
        else f"<Contents><Key>{quote(name)}</Key><Size>{len(name)}</Size><ETag>&quot;e&quot;</ETag></Contents>"
        for name in page
    ]
    after = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
    return (
        '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<EncodingType>url</EncodingType><IsTruncated>{str(bool(more)).lower()}</IsTruncated>{after}"
        f"{''.join(lines)}</ListBucketResult>"
    )


ODD_KEYS = [
    "images/",  # markers of folders, written by some browsers of object storage
    "images/line=1/",
    "images/empty/",
    "images/line=1/a.png",
    "images/line=1//b.png",
    "images/line=1///c.png",
    "images//line=2/d.png",
    "images/marker.png/",
    "images/e.png",
    "images/e.png/f.png",  # an object and a folder of one name
    "images/line=3/date=%2F/g.png",
    "images-2/h.png",
    "images.png",
    "/i.png",
]


@pytest.mark.storage
@pytest.mark.parametrize("page_size", [1, 2, 1000])
@pytest.mark.parametrize("min_folders", [1, 3, 64])
def test_folder_markers_are_no_rows_and_empty_names_of_folders_are_kept(
    min_folders: int, page_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing_module, "MIN_FOLDERS", min_folders)
    monkeypatch.setattr(_object_store, "PAGE_SIZE", page_size)
    wanted = sorted(f"s3://plant/{key}" for key in ODD_KEYS if key.startswith("images/") and not key.endswith("/"))
    with stored(ODD_KEYS, monkeypatch) as bucket:
        rows, ignored = listed(archive_of(f"{bucket}/images"))
        whole, _ = listed(archive_of(bucket))
    assert sorted(row["uri"] for row in rows) == wanted
    assert ignored == {}
    assert sorted(row["uri"] for row in whole) == sorted(f"s3://plant/{key}" for key in ODD_KEYS if key[-1] != "/")
    lines = {row["uri"].rpartition("/")[2]: row.get("line") for row in rows}
    assert (lines["a.png"], lines["b.png"], lines["c.png"], lines["d.png"], lines["f.png"]) == (
        "1",
        "1",
        "1",
        "2",
        None,
    )
    assert {row["uri"][-5:]: row.get("date") for row in rows}["g.png"] == "/"
    assert {row["etag"] for row in rows} == {"e"}


MANIFEST: Rows = [
    {"path": "line=1/a, b.png", "uri": "", "size": 12, "etag": "e1", "valid_mask_path": "masks/a.png", "part": "x"},
    {"path": "", "uri": "/elsewhere/line=2/ü.png", "size": None, "etag": "", "valid_mask_path": "", "part": "y"},
    {"path": "", "uri": "s3://plant/c.png", "size": 0, "etag": "e3", "valid_mask_path": "/m.png", "part": ""},
    {"path": "nul\0.png", "uri": "", "size": None, "etag": "", "valid_mask_path": "", "part": "a=b"},
    {"path": "a, b.png", "uri": "", "size": 7, "etag": "", "valid_mask_path": "s3://plant/m.png", "part": "é\nz"},
]


def csv_of(rows: Rows) -> bytes:
    cells = [[str(value if value is not None else "").replace('"', '""') for value in row.values()] for row in rows]
    lines = [",".join(rows[0]), *(",".join(f'"{cell}"' for cell in line) for line in cells)]
    return ("\ufeff" + "\r\n\r\n".join(lines) + "\r\n").encode()


def parquet_of(rows: Rows | pa.Table, *, row_group_size: int = 2) -> bytes:
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows)
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=row_group_size)
    return sink.getvalue()


def manifest_of(folder: str, content: bytes, *, archive: str | None = None) -> Source:
    write_bytes(f"{folder}/tables/images.table", content)
    return Source(archive=archive, manifest=f"{folder}/tables/images.table")


@pytest.mark.parametrize("root", [None, "s3://other/images/", "/data/images"])
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_manifest_names_images_masks_and_further_columns(kind: str, root: str | None, folder: str) -> None:
    kept = range(len(MANIFEST)) if root is None else (0, 3)  # the others lie outside of a root
    manifest = [MANIFEST[index] for index in kept]
    source = manifest_of(folder, csv_of(manifest) if kind == "csv" else parquet_of(manifest), archive=root)
    parts = plan_parts(source)
    assert len(parts) == (1 if kind == "csv" else -(-len(kept) // 2))
    rows, ignored = listed(source)
    base = (root or f"{folder}/tables").rstrip("/")
    expected = [
        (f"{base}/line=1/a, b.png", 12, "e1", f"{base}/masks/a.png", "x", "1"),
        ("/elsewhere/line=2/ü.png", None, None, None, "y", "2"),
        ("s3://plant/c.png", 0, "e3", "/m.png", None, None),
        (f"{base}/nul\0.png", None, None, None, "a=b", None),
        (f"{base}/a, b.png", 7, None, "s3://plant/m.png", "é\nz", None),
    ]
    expected = [expected[index] for index in kept]
    names = ("uri", "size", "etag", MASK_COLUMN, "part", "line")
    assert [tuple(row.get(name) for name in names) for row in rows] == expected
    assert {name for row in rows for name in row} == set(names)
    assert ignored == {}
    table, _ = blocks_written(source, f"{folder}/out")
    assert table["row_id"].to_pylist() == list(range(len(kept)))
    assert [tuple(row[name] for name in names) for row in table.to_pylist()] == expected


def test_row_groups_are_listed_apart_and_together_hold_each_row_once(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing_module, "ROWS_PER_FILE", 4)
    names = [f"{number}.png" for number in range(23)]
    source = manifest_of(folder, parquet_of([{"uri": name} for name in names], row_group_size=5))
    assert [part.row_groups for part in plan_parts(source)] == [(0,), (1,), (2,), (3,), (4,)]
    table, sizes = blocks_written(source, f"{folder}/out")
    assert table["uri"].to_pylist() == [f"{folder}/tables/{name}" for name in names]
    assert sizes == [4, 1, 4, 1, 4, 1, 4, 1, 3]


def test_the_rows_of_a_manifest_may_repeat_and_extensions_do_not_matter(folder: str) -> None:
    source = manifest_of(folder, b"uri\n/a.raw\n/a.raw\n/b\n")
    assert [row["uri"] for row in listed(source)[0]] == ["/a.raw", "/a.raw", "/b"]


def test_columns_of_a_manifest_that_the_score_table_uses_get_a_prefix_and_win_over_partitions(folder: str) -> None:
    source = manifest_of(
        folder, b"path, sha256 ,row_id,line,valid_mask_uri,model_id\nline=1/a.png,abc,7,9,/m.png,m\nline=2/b.png,,,,,\n"
    )
    rows, _ = listed(source)
    assert partitions_of(rows[0]) == {
        "source_sha256": "abc",
        "source_row_id": "7",
        "source_model_id": "m",
        "line": "9",
    }
    assert rows[0][MASK_COLUMN] == "/m.png"
    assert set(partitions_of(rows[1]).values()) <= {None}


def test_values_of_a_parquet_manifest_become_text(folder: str) -> None:
    table = pa.table({"uri": ["/a.png"], "count": [0], "good": [False], "share": [0.5], "none": [None]})
    assert [partitions_of(row) for row in listed(manifest_of(folder, parquet_of(table)))[0]] == [
        {"count": "0", "good": "False", "share": "0.5", "none": None}
    ]


@pytest.mark.parametrize("content", [b"uri\n", parquet_of(pa.table({"uri": pa.array([], pa.string())}))])
def test_an_empty_manifest_holds_no_images(content: bytes, folder: str) -> None:
    assert listed(manifest_of(folder, content)) == ([], {})


def rows_of(number: int, **last: object) -> pa.Table:
    """Many good rows, then one with these values."""
    rows: Rows = [{"uri": f"{index}.png", "size": "5"} for index in range(number)]
    return pa.Table.from_pylist([*rows, {"uri": "last.png", "size": "5"} | last])


BAD_MANIFESTS = {
    "empty": (b"", r"needs a column 'uri' or 'path'; it has none\."),
    "no_column": (b"file,line\na.png,1\n", r"needs a column 'uri' or 'path'; it has 'file', 'line'\."),
    "other_separator": (b"uri;line\na.png;1\n", r"needs a column 'uri' or 'path'; it has 'uri;line'\."),
    "no_column_parquet": (parquet_of(pa.table({"file": ["a"]})), r"it has 'file'\."),
    "no_column_empty_parquet": (parquet_of(pa.table({"file": pa.array([], pa.string())})), r"it has 'file'\."),
    "short_row": (b"uri,line\na,1\n\nb\n", r", row 2: 1 values where the heading has 2 columns\."),
    "long_row": (b"uri,line\na,1\nb,2,3\n", r", row 2: 3 values where the heading has 2 columns\."),
    "blank_uri": (b"uri,line\na,1\nb,2\n,3\n", r", row 3: there is no uri or path\."),
    "blank_both": (b"uri,path\n,a\n,\n", r", row 2: there is no uri or path\."),
    "null_uri": (parquet_of(rows_of(5, uri=None)), r", row 6: there is no uri or path\."),
    "size": (b"uri,size\na,1\nb,many\n", r", row 2: size must be a number of bytes, got 'many'\."),
    "size_fraction": (b"uri,size\na,1.5\n", r", row 1: size must be a number of bytes, got '1\.5'\."),
    "size_parquet": (parquet_of(rows_of(4, size="x")), r", row 5: size must be a number of bytes, got 'x'\."),
    "quote": (b'uri\na\n"b\n', r"is no valid CSV: "),
    "not_text": (b"uri\n\xff\xfe\n", r"is neither Parquet nor CSV in UTF-8 \(byte 4 is no text\)\."),
    "cut_parquet": (parquet_of(rows_of(5))[:-20], r"is a damaged or incomplete Parquet file\."),
}


@pytest.mark.parametrize("name", BAD_MANIFESTS)
def test_a_bad_manifest_is_one_line_that_names_what_is_wrong(name: str, tmp_path: Path) -> None:
    content, words = BAD_MANIFESTS[name]
    source = manifest_of(str(tmp_path), content)
    with pytest.raises(DataError, match=rf"^{re.escape(str(source.manifest))}.*{words}") as error:
        listed(source)
    assert "\n" not in str(error.value)


def test_an_absent_manifest_is_named(folder: str) -> None:
    source = Source(archive=None, manifest=f"{folder}/none.csv")
    for action in (plan_parts, Source.identity):
        with pytest.raises(StorageError, match=r"none\.csv: it does not exist"):
            action(source)


def test_another_archive_other_options_or_another_manifest_are_another_source(folder: str) -> None:
    sources = [
        archive_of(folder),
        archive_of(f"{folder}/deeper"),
        archive_of(folder, extensions=Names((".png",))),
        archive_of(folder, include=Names(("a/*",))),
        archive_of(folder, exclude=Names(("a/*",))),
    ]
    identities = [source.identity() for source in sources]
    identities.append(manifest_of(folder, b"uri\na\n").identity())
    identities.append(manifest_of(folder, b"uri\na\n", archive=folder).identity())
    identities.append(manifest_of(folder, b"uri\nb\n").identity())
    assert all(identities.count(identity) == 1 for identity in identities)
    assert manifest_of(folder, b"uri\nb\n").identity() == identities[-1]
