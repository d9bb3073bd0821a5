"""An output belongs to one run: another model, listing or option is refused by name, and slices hold each row once."""

import dataclasses
import json
from typing import Any

import pyarrow as pa
import pytest

from feclip.archive import LISTING_FOLDER, ListedFile, Run, Source, find_run, scored_options, slice_name, write_numbered
from feclip.calibration import StatisticOptions
from feclip.config import ListingConfig, Names, Precision, ScoringConfig
from feclip.data import StorageMissingError, join_uri, read_bytes, write_bytes
from feclip.errors import DataError, RunError


def unlisted(num_rows: int, *, size: int) -> tuple[ListedFile, ...]:
    """Files of a listing that nobody reads."""
    return tuple(
        ListedFile(name=f"rows-{first}.parquet", first_row_id=first, num_rows=min(size, num_rows - first), sha256="0")
        for first in range(0, num_rows, size)
    )


def frozen(output: str, *, files: tuple[ListedFile, ...] = unlisted(12, size=5), **changes: Any) -> Run:  # noqa: ANN401
    arguments: dict[str, Any] = {
        "model_id": "model-1",
        "config": ScoringConfig(slice_size=3, columns=Names(("width", "size")), smoothing_sigma=1),
        "source": Source(archive="/images", manifest=None, listing=ListingConfig(include=Names(("a/*", "b*")))),
        "ignored": {".txt": 2},
        "image_size": 112,
    }
    return Run.frozen(output, files=files, **(arguments | changes))


def written(output: str, *sizes: int, slice_size: int = 3) -> Run:
    """Freeze a listing in files of these sizes."""
    files, first = [], 0
    for size in sizes:
        numbers = range(first, first + size)
        table = pa.table(
            {
                "uri": [f"/{number}.png" for number in numbers],
                "size": pa.array(numbers, pa.int64()),
                "etag": pa.nulls(size, pa.string()),
                "valid_mask_uri": pa.nulls(size, pa.string()),
                "line": [str(number % 2) for number in numbers],
            }
        )
        folder = join_uri(output, LISTING_FOLDER)
        files.append(write_numbered(folder, table, first_row_id=first, columns=["line"]))
        first += size
    return frozen(output, files=tuple(files), config=ScoringConfig(slice_size=slice_size))


def claim_of(run: Run) -> str:
    return join_uri(run.output, "_run", f"{run.digest}.json")


def test_a_claim_is_read_back_as_it_was(folder: str) -> None:
    assert find_run(folder) is None
    run = written(folder, 4, 3, 5)
    assert find_run(folder) is None  # a listing alone claims nothing
    run.publish()
    first = read_bytes(claim_of(run))
    assert find_run(folder) == run
    run.publish()
    assert read_bytes(claim_of(run)) == first
    again = frozen(folder, files=run.files, config=ScoringConfig(slice_size=3))
    assert again == run
    record = json.loads(first)
    assert (record["num_rows"], record["schema"], record["ignored"]) == (12, 1, {".txt": 2})
    assert folder not in record.values()  # a copy of the output is still one run


def test_a_manifest_is_claimed_by_its_content(folder: str) -> None:
    write_bytes(f"{folder}/images.csv", b"uri\n/a.png\n")
    source = Source(archive=None, manifest=f"{folder}/images.csv")
    run = frozen(f"{folder}/out", source=source)
    run.publish()
    found = find_run(f"{folder}/out")
    assert found == run
    found.require_same(model_id="model-1", options=run.options, source=source.identity())
    write_bytes(f"{folder}/images.csv", b"uri\n/b.png\n")
    with pytest.raises(RunError, match=r": source\.manifest_sha256 was '\w{64}', now '\w{64}'\. Choose"):
        found.require_same(model_id="model-1", options=run.options, source=source.identity())


CHANGES: dict[str, dict[str, Any]] = {
    "model": {"model_id": "model-2"},
    "topk_fraction": {"config": ScoringConfig(slice_size=3, columns=Names(("width", "size")), topk_fraction=0.5)},
    "smoothing": {"config": ScoringConfig(slice_size=3, columns=Names(("width", "size")), smoothing_sigma=2)},
    "precision": {
        "config": ScoringConfig(
            slice_size=3, columns=Names(("width", "size")), smoothing_sigma=1, precision=Precision.float32
        )
    },
    "compile": {
        "config": ScoringConfig(slice_size=3, columns=Names(("width", "size")), smoothing_sigma=1, compile=True)
    },
    "columns": {"config": ScoringConfig(slice_size=3, columns=Names(("width",)), smoothing_sigma=1)},
    "all_columns": {"config": ScoringConfig(slice_size=3, smoothing_sigma=1)},
    "slice_size": {"config": ScoringConfig(slice_size=4, columns=Names(("width", "size")), smoothing_sigma=1)},
    "archive": {"source": Source(archive="/other", manifest=None, listing=ListingConfig(include=Names(("a/*", "b*"))))},
    "include": {"source": Source(archive="/images", manifest=None)},
    "rows": {"files": unlisted(13, size=5)},
    "division": {"files": unlisted(12, size=6)},
    "content": {"files": tuple(dataclasses.replace(file, sha256="1") for file in unlisted(12, size=5))},
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_digest_tells_runs_apart_by_whatever_changes_their_rows(name: str) -> None:
    assert frozen("/out", **CHANGES[name]).digest != frozen("/out").digest


def test_the_digest_is_that_of_the_same_run_wherever_it_stands() -> None:
    other_order = ScoringConfig(slice_size=3, columns=Names(("size", "width")), smoothing_sigma=1.0, batch_size=5)
    same = frozen("s3://plant/out", config=other_order, ignored={".md": 1})
    assert same.digest == frozen("/out").digest
    assert len(same.digest) == 16
    assert same.scores_folder == f"s3://plant/out/scores/{same.digest}"
    assert same.decisions_folder("c") == "s3://plant/out/decisions/c"
    assert same.statistic_options == StatisticOptions(topk_fraction=0.01, smoothing_sigma=1)


def test_a_second_submission_is_the_same_run_or_told_what_differs() -> None:
    run = frozen("/out")
    config = ScoringConfig(columns=Names(("size", "width")), smoothing_sigma=1.0, batch_size=3, slice_size=100)
    run.require_same(model_id="model-1", options=scored_options(config), source=dict(run.source))
    run.require_same(model_id="model-1", options=scored_options(config), source=None)
    other = scored_options(ScoringConfig(columns=Names(("size", "width")), topk_fraction=0.25, smoothing_sigma=1))
    source = Source(archive="/new", manifest=None, listing=ListingConfig(include=Names(("a/*", "b*")))).identity()
    with pytest.raises(RunError, match=r"^/out belongs to another scoring run: .*Choose another output\.$") as error:
        run.require_same(model_id="model-2", options=other, source=source)
    for words in ("'model-1', now 'model-2'", "options.topk_fraction was 0.01, now 0.25", "was '/images', now '/new'"):
        assert words in str(error.value)
    assert "smoothing_sigma" not in str(error.value)
    assert "\n" not in str(error.value)
    run.require_same(model_id="model-1", options=run.options, source=None)
    with pytest.raises(RunError, match=r"source\.manifest was None, now '/m\.csv'"):
        run.require_same(model_id="model-1", options=run.options, source={**run.source, "manifest": "/m.csv"})


def test_two_claims_that_stand_are_refused(folder: str) -> None:
    """No submission leaves them, since each holds the output alone; a copy of two outputs into one would."""
    frozen(folder).publish()
    frozen(folder, model_id="model-2").publish()
    with pytest.raises(RunError, match=r"claimed by 2 runs .* as if copied together; choose another output"):
        find_run(folder)


EDITS: dict[str, dict[str, Any]] = {
    "model_id": {"model_id": "model-2"},
    "slice_size": {"slice_size": 4},
    "options": {"options": {"topk_fraction": 0.5}},
    "source": {"source": {"archive": "/other"}},
    "files": {"files": []},
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_claim_is_refused(name: str, folder: str) -> None:
    run = frozen(folder)
    run.publish()
    record = json.loads(read_bytes(claim_of(run)))
    write_bytes(claim_of(run), json.dumps(record | EDITS[name]).encode())
    with pytest.raises(RunError, match=rf"{run.digest}\.json was changed: its digest is \w{{16}}; choose another"):
        find_run(folder)


def test_a_renamed_claim_is_refused(folder: str) -> None:
    run = frozen(folder)
    write_bytes(join_uri(folder, "_run", "0123456789abcdef.json"), claim_bytes(run))
    with pytest.raises(RunError, match=rf"0123456789abcdef\.json was changed: its digest is {run.digest}"):
        find_run(folder)


def claim_bytes(run: Run) -> bytes:
    elsewhere = dataclasses.replace(run, output=join_uri(run.output, "elsewhere"))
    elsewhere.publish()
    return read_bytes(claim_of(elsewhere))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"schema": 2, "files": 7}', r"is of schema 2, this feclip reads 1; choose another output\."),
        (b'{"schema": 1}', r"is no record of a scoring run"),
        (b'{"schema": 1, "files": [{"name": "a"}]}', r"is no record of a scoring run"),
        (b"{}", r"is no record of a scoring run"),
        (b"[]", r"is no record of a scoring run"),
        (b"", r"is no record of a scoring run"),
        (b"\xff\xfe", r"is no record of a scoring run"),
    ],
)
def test_what_is_no_claim_is_refused_in_one_line(content: bytes, words: str, folder: str) -> None:
    write_bytes(join_uri(folder, "_run", "0123456789abcdef.json"), content)
    with pytest.raises(RunError, match=rf"0123456789abcdef\.json {words}") as error:
        find_run(folder)
    assert "\n" not in str(error.value)


def test_a_claim_that_is_being_written_is_none(folder: str) -> None:
    write_bytes(join_uri(folder, "_run", ".0123456789abcdef.json.00ff.tmp"), b"{")
    assert find_run(folder) is None


@pytest.mark.parametrize("slice_size", [1, 3, 5, 11, 12, 13, 500])
@pytest.mark.parametrize("num_rows", [1, 5, 12, 13])
def test_slices_hold_each_row_once(num_rows: int, slice_size: int) -> None:
    run = frozen("/out", files=unlisted(num_rows, size=5), config=ScoringConfig(slice_size=slice_size))
    assert run.num_rows == num_rows
    slices = [list(run.rows_of(index)) for index in range(run.num_slices)]
    assert [row for rows in slices for row in rows] == list(range(num_rows))
    assert all(len(rows) == slice_size for rows in slices[:-1])
    assert 1 <= len(slices[-1]) <= slice_size


def test_the_size_of_a_slice_follows_from_the_images() -> None:
    def size_of(num_rows: int, *, image_size: int, slice_size: int | None = None) -> int:
        config = ScoringConfig(slice_size=slice_size)
        return frozen("/out", files=unlisted(num_rows, size=10**6), config=config, image_size=image_size).slice_size

    assert size_of(5, image_size=336) == 16
    assert size_of(64 * 20 + 1, image_size=112) == 21
    assert size_of(10**6, image_size=112) == 512
    assert size_of(10**6, image_size=336) == 188
    assert 188 * 3 * 336 * 336 < 64_000_000 < 189 * 3 * 336 * 336
    assert size_of(10**6, image_size=20_000) == 1
    assert size_of(10**6, image_size=336, slice_size=7) == 7


def test_an_archive_without_images_is_no_run() -> None:
    source = Source(archive="/images", manifest=None)
    with pytest.raises(DataError, match=r"^/images holds no images\.$"):
        frozen("/out", files=(), ignored={}, source=source)
    with pytest.raises(DataError, match=r"^/images holds no images \(left out: 3 \.raw, 1 \.txt\); set listing\."):
        frozen("/out", files=unlisted(0, size=1), ignored={".txt": 1, ".raw": 3}, source=source)
    with pytest.raises(DataError, match=r"^/m\.csv holds no images\.$"):
        frozen("/out", files=(), ignored={}, source=Source(archive="/images", manifest="/m.csv"))


def test_missing_slices_are_those_without_a_file(folder: str) -> None:
    run = frozen(folder)
    assert run.num_slices == 4
    assert run.missing(run.scores_folder) == [0, 1, 2, 3]
    for name in (slice_name(1), slice_name(3), "slice-2.parquet", f".{slice_name(0)}.00ff.tmp", slice_name(77)):
        write_bytes(join_uri(run.scores_folder, name), b"x")
    write_bytes(join_uri(run.decisions_folder("c"), slice_name(0)), b"x")
    write_bytes(join_uri(run.scores_folder, "deeper", slice_name(0)), b"x")
    assert run.missing(run.scores_folder) == [0, 2]
    assert run.missing(run.scores_folder, [3, 2, 1]) == [2]
    assert run.missing(run.scores_folder, []) == []
    assert run.missing(run.decisions_folder("c")) == [1, 2, 3]
    assert run.missing(run.decisions_folder("d"), iter([2])) == [2]


@pytest.mark.parametrize("slice_size", [1, 2, 4, 5, 7, 12, 100])
def test_a_slice_of_the_listing_is_whole_across_files(slice_size: int, folder: str) -> None:
    run = written(folder, 4, 1, 2, 5, slice_size=slice_size)
    tables = [run.read_listing(index) for index in range(run.num_slices)]
    for index, table in enumerate(tables):
        assert table["row_id"].to_pylist() == list(run.rows_of(index))
    whole = pa.concat_tables(tables)
    assert whole["uri"].to_pylist() == [f"/{number}.png" for number in range(12)]
    assert whole["size"].to_pylist() == list(range(12))
    assert whole["line"].to_pylist() == ["0", "1"] * 6


def test_a_damaged_file_of_the_listing_is_refused(folder: str) -> None:
    run = written(folder, 4, 3, 5)
    damaged = join_uri(folder, LISTING_FOLDER, run.files[1].name)
    content = read_bytes(damaged)
    for wrong in (content[:-1], content + b"x", b"", read_bytes(join_uri(folder, LISTING_FOLDER, run.files[0].name))):
        write_bytes(damaged, wrong)
        with pytest.raises(
            RunError, match=r"rows-000000000004-\w+\.parquet is not the file that .* \(sha256 differs\)"
        ):
            run.read_listing(1)
    assert len(run.read_listing(0)) == 3
    assert len(run.read_listing(3)) == 3
    write_bytes(damaged, content)
    assert len(run.read_listing(1)) == 3


def test_an_absent_file_of_the_listing_is_named(folder: str) -> None:
    run = written(folder, 4, 3)
    gone = dataclasses.replace(run, output=join_uri(folder, "copy"))
    with pytest.raises(StorageMissingError, match=r"rows-000000000000-\w+\.parquet: it does not exist"):
        gone.read_listing(0)


def test_a_listing_that_is_not_what_the_claim_says_lacks_rows(folder: str) -> None:
    run = written(folder, 4, 3, 5)
    one, two, three = run.files
    for files in (
        (one, dataclasses.replace(two, num_rows=4), dataclasses.replace(three, first_row_id=8)),
        (one, dataclasses.replace(two, first_row_id=5), three),
        (two, one, three),
        (one, three),
    ):
        claimed = dataclasses.replace(run, files=files)
        with pytest.raises(RunError, match=r"the frozen listing lacks rows of slice \d|is no listing of 4 images"):
            [claimed.read_listing(index) for index in range(claimed.num_slices)]
