"""What a manifest, a table, a folder or a file from a stranger must not reach: other files, devices, endless memory."""

import io
import os
import pickle
import socket
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feclip.archive import Source, list_part, plan_parts
from feclip.config import SweepConfig
from feclip.data import (
    MANIFEST_SCHEMA,
    GuardedDecoder,
    ImageErrorKind,
    InputOptions,
    StorageForbiddenError,
    StorageTooLargeError,
    fetch_and_decode,
    join_uri,
    read_bytes,
    read_layout,
    read_manifest,
    write_bytes,
)
from feclip.data import manifest as manifest_module
from feclip.errors import DataError, StorageError
from feclip.tuning import TrialRecord, TrialStatus, parse_space, sweep_page


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder ``root`` beside a file that nothing in it may lead to."""
    (tmp_path / "root" / "inner").mkdir(parents=True)
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "secret.png").write_bytes(b"secret")
    (tmp_path / "root" / "inner" / "a.png").write_bytes(b"a")
    return tmp_path


def rows_of_archive(manifest: Path, root: str | None) -> list[str]:
    source = Source(archive=root, manifest=str(manifest))
    return [
        uri
        for part in plan_parts(source)
        for block in list_part(part, source)
        for uri in block.table["uri"].to_pylist()
    ]


def rows_of_labelled(manifest: Path, root: str | None) -> list[str]:
    return list(read_manifest(str(manifest), root=root)["uri"].to_pylist())


READERS = [rows_of_archive, rows_of_labelled]
Reader = Callable[[Path, str | None], list[str]]


def written(path: Path, *names: str, kind: str = "csv") -> Path:
    table = pa.table({"path": [*names]})
    if kind == "csv":
        path.write_text("path\n" + "".join(f'"{name}"\n' for name in names))
    else:
        pq.write_table(table, path)
    return path


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    "name",
    [
        "../private/secret.png", "inner/../../private/secret.png", "..", "file:///root/../private/secret.png",
        "file:///root/%2e%2e/private/secret.png", "file:///root/%2E%2E%2Fprivate/secret.png",
        "s3://plant/../other/a.png", "s3://key:secret-word@plant/a.png",
    ],
)  # fmt: skip
def test_names_that_climb_or_carry_keys_are_refused(read: Reader, name: str, place: Path) -> None:
    manifest = written(place / "root" / "m.parquet", "inner/a.png", name, kind="parquet")
    with pytest.raises(DataError, match=r"m\.parquet, row 2: ") as error:
        read(manifest, None)
    assert "secret-word" not in str(error.value)


@pytest.mark.parametrize("name", ["a\0.png", "file:///a%00.png"])
def test_a_name_that_ends_early_is_refused_or_an_error_of_that_image(name: str, place: Path) -> None:
    manifest = written(place / "root" / "m.parquet", "inner/a.png", name, kind="parquet")
    with pytest.raises(DataError, match=r"m\.parquet, row 2: "):
        rows_of_labelled(manifest, None)
    *_, uri = rows_of_archive(manifest, None)
    with GuardedDecoder(InputOptions(image_size=8)) as decoder:
        found = fetch_and_decode(uri, decoder=decoder)
    assert found.error is not None
    assert found.error.kind is ImageErrorKind.unreadable_name


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("outside", ["/etc/passwd", "file:///etc/passwd", "s3://other/a.png", "{place}/rooted/a.png"])
def test_a_root_that_is_given_bounds_absolute_names_too(read: Reader, outside: str, place: Path) -> None:
    root, outside = place / "root", outside.format(place=place)
    manifest = written(place / "m.csv", f"{root}/inner/a.png", f"file://{root}/inner/b.png", outside)
    with pytest.raises(DataError, match=r"m\.csv, row 3: .* lies outside of "):
        read(manifest, str(root))
    assert len(read(manifest, None)) == 3  # whoever gives no root trusts the manifest


@pytest.mark.parametrize("read", READERS)
def test_a_prefix_bounds_names_in_object_storage(read: Reader, place: Path) -> None:
    manifest = written(place / "m.csv", "a.png", "s3://plant/set/b.png", "s3://plant/settled/c.png")
    with pytest.raises(DataError, match=r"row 3: s3://plant/settled/c\.png lies outside of s3://plant/set\."):
        read(manifest, "s3://plant/set")


def link_to_file(root: Path) -> str:
    (root / "link.png").symlink_to(root.parent / "private" / "secret.png")
    return "link.png"


def link_to_folder(root: Path) -> str:
    (root / "deep").symlink_to(root.parent / "private")
    return "deep/secret.png"


def chain_of_links(root: Path) -> str:
    (root / "first").symlink_to("second")
    (root / "second").symlink_to("..")
    return "first/private/secret.png"


def dangling_link(root: Path) -> str:
    (root / "gone.png").symlink_to("/nowhere/at/all.png")
    return "gone.png"


@pytest.mark.parametrize("make", [link_to_file, link_to_folder, chain_of_links, dangling_link])
@pytest.mark.parametrize("read", READERS)
def test_links_of_a_manifest_that_lead_out_are_refused(make: Callable[[Path], str], read: Reader, place: Path) -> None:
    manifest = written(place / "root" / "m.csv", "inner/a.png", make(place / "root"))
    with pytest.raises(DataError, match=r"row 2: .* that leads out of "):
        read(manifest, None)


@pytest.mark.parametrize("make", [link_to_file, link_to_folder, dangling_link])
def test_links_of_a_folder_that_lead_out_are_refused(make: Callable[[Path], str], place: Path) -> None:
    make(place / "root")
    source = Source(archive=str(place / "root"), manifest=None)
    with pytest.raises(StorageError, match="is a link that leads out of"):
        [block for part in plan_parts(source) for block in list_part(part, source)]


def test_links_that_stay_inside_are_followed_also_where_the_root_is_a_link(place: Path) -> None:
    root = place / "linked"
    root.symlink_to(place / "root")
    (place / "root" / "again").symlink_to(place / "root" / "inner")
    source = Source(archive=str(root), manifest=None)
    found = [
        uri
        for part in plan_parts(source)
        for block in list_part(part, source)
        for uri in block.table["uri"].to_pylist()
    ]
    assert found == [f"{root}/again/a.png", f"{root}/inner/a.png"]
    manifest = written(place / "m.csv", "again/a.png", f"{root}/inner/a.png")
    for read in READERS:
        assert len(read(manifest, str(root))) == 2


def test_a_layout_leads_nowhere_else(place: Path) -> None:
    root = place / "root"
    for folder in ("good", "bent"):
        (root / "screw" / "test" / folder).mkdir(parents=True)
        (root / "screw" / "test" / folder / "a.png").write_bytes(b"a")
    (root / "screw" / "ground_truth").symlink_to(place / "private")
    with pytest.raises(StorageError, match="is a link that leads out of"):
        read_layout(str(root), layout="mvtec")


@pytest.mark.parametrize(
    ("image", "mask"), [("../private/secret.png", ""), ("inner/a.png", "../private/secret.png"), ("/etc/passwd", "")]
)
def test_the_table_of_visa_leads_nowhere_else(image: str, mask: str, place: Path) -> None:
    (place / "root" / "split_csv").mkdir()
    text = f"object,split,label,image,mask\ncandle,test,anomaly,{image},{mask}\n"
    (place / "root" / "split_csv" / "1cls.csv").write_text(text)
    with pytest.raises(DataError, match=r"1cls\.csv, row 1: "):
        read_layout(str(place / "root"), layout="visa")


@pytest.mark.parametrize("name", ["pipe.png", "socket.png", "zero.png"])
def test_what_is_no_file_is_an_error_of_that_image_and_not_a_hang(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server, GuardedDecoder(InputOptions(image_size=8)) as decoder:
        server.bind(str(tmp_path / "socket.png"))
        found = fetch_and_decode(str(tmp_path / name), decoder=decoder)
    assert found.error is not None
    assert found.error.kind is ImageErrorKind.forbidden
    with pytest.raises(StorageForbiddenError, match="a device, a pipe or a socket"):
        read_bytes(str(tmp_path / name))


@pytest.mark.parametrize("kind", ["local", pytest.param("s3", marks=pytest.mark.storage)])
def test_a_file_that_is_larger_than_allowed_is_not_read(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = str(tmp_path) if kind == "local" else request.getfixturevalue("s3_bucket")
    uri = join_uri(folder, "large.png")
    write_bytes(uri, bytes(1000))
    assert len(read_bytes(uri, max_bytes=1000)) == 1000
    with pytest.raises(StorageTooLargeError, match="1000 bytes are more than the 999 that are allowed"):
        read_bytes(uri, max_bytes=999)
    with GuardedDecoder(InputOptions(image_size=8)) as decoder:
        found = fetch_and_decode(uri, decoder=decoder, max_file_bytes=999)
    assert found.error is not None
    assert found.error.kind is ImageErrorKind.too_large


def test_a_small_manifest_that_claims_many_rows_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million equal rows take a few hundred bytes."""
    path = tmp_path / "m.parquet"
    pq.write_table(pa.table({"path": ["a.png"] * 1_000_000}), path)
    assert path.stat().st_size < 10_000
    monkeypatch.setattr(manifest_module, "MAX_ROWS", 999_999)
    with pytest.raises(DataError, match="holds 1000000 rows; a labelled manifest has at most 999999"):
        read_manifest(str(path))


def test_a_flipped_bit_in_the_pages_of_a_manifest_is_told(tmp_path: Path) -> None:
    sink = io.BytesIO()
    table = pa.table({"path": [f"{number}.png" for number in range(100)], "label": [0, 1] * 50})
    pq.write_table(table, sink, compression="none", use_dictionary=False, write_page_checksum=True)
    content = bytearray(sink.getvalue())
    content[content.index(b"50.png") + 1] ^= 1
    (tmp_path / "m.parquet").write_bytes(content)
    for read in READERS:
        with pytest.raises(DataError, match="damaged"):
            read(tmp_path / "m.parquet", None)


def test_a_page_that_pyarrow_passes_over_is_missed(tmp_path: Path) -> None:
    """Sums cover the content of pages, not their headers; found by a mutation: a page of an unknown type is no page."""
    path = tmp_path / "m.parquet"
    table = pa.table({"path": [f"{number}.png" for number in range(20)]})
    pq.write_table(table, path, row_group_size=10, use_dictionary=False, compression="none", write_page_checksum=True)
    content = bytearray(path.read_bytes())
    content[pq.read_metadata(path).row_group(1).column(0).data_page_offset + 1] = 85  # the page's type, after its tag
    path.write_bytes(content)
    assert pq.ParquetFile(path).read_row_group(1).num_rows == 0
    for read in READERS:
        with pytest.raises(DataError, match="damaged"):
            read(path, None)


class _Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("ran",)


def test_a_type_that_would_be_unpickled_stays_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Older versions of Arrow unpickled the name of an extension type (CVE-2023-47248)."""
    monkeypatch.chdir(tmp_path)
    metadata = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(_Payload()),
    }
    table = pa.table(
        [pa.array(["a.png"]), pa.array(["x"])],
        schema=pa.schema([("path", pa.string()), pa.field("x", pa.string(), metadata=metadata)]),
    )
    pq.write_table(table, tmp_path / "m.parquet")
    found = read_manifest(str(tmp_path / "m.parquet"))
    assert found.schema.names == [*MANIFEST_SCHEMA.names, "x"]
    assert not (tmp_path / "ran").exists()


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


SCRIPT = "</script><script>alert(1)</script><img src=x onerror=alert(2)><a href='javascript:alert(3)'>x</a>"


def hostile_page(word: str) -> _Page:
    space = parse_space({"model.noun": {"choice": [word, "screw"]}}, name=word, where="-")
    records = [
        TrialRecord(
            number=number,
            values={"model.noun": (word, "screw")[number % 2]},
            status=TrialStatus.done,
            epochs=({"image_auroc": number / 10, "aupro": 0.5, word: 1.0},),
        )
        for number in range(1, 8)
    ]
    records.append(TrialRecord(number=8, values={"model.noun": word}, status=TrialStatus.failed, error=word))
    return _Page(sweep_page(space, records, options=SweepConfig(), title=word, facts={word: word}))


def test_what_a_stranger_named_is_text_on_the_page_of_a_sweep() -> None:
    """The page has the same elements whatever its values are."""
    hostile, harmless = hostile_page(SCRIPT), hostile_page("bolt")
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in harmless.tags]
    assert not [tag for tag, _ in hostile.tags if tag in {"img", "iframe"}]
    assert not [name for _, given in hostile.tags for name in given if name.startswith("on")]
