"""A slice of an archive is scored as one process would, is there whole or not at all, and nothing is scored twice."""

import dataclasses
import io
import itertools
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from feclip.archive import (
    LISTING_FOLDER,
    FetchedSlice,
    Run,
    Source,
    Tally,
    check_slices,
    decide_slice,
    decode_jpegs,
    fetch_slice,
    forget_decisions,
    list_part,
    plan_parts,
    publish_slice,
    read_scores,
    score_slice,
    slice_name,
    slices_with_errors,
    write_numbered,
)
from feclip.archive import slices as slices_module
from feclip.archive.listing import LISTING_SCHEMA
from feclip.building import build_model
from feclip.bundle import Bundle, read_bundle, write_bundle
from feclip.calibration import Calibration, CalibrationOptions, StatisticOptions, calibrate, decide
from feclip.config import OPTIONAL_COLUMNS, FinetuneConfig, ModelConfig, Names, OptimConfig, ScoringConfig
from feclip.data import (
    GpuDecoder,
    GuardedDecoder,
    StorageForbiddenError,
    StorageMissingError,
    _object_store,
    delete,
    is_local,
    join_uri,
    prepare_image,
    read_bytes,
    sha256,
    write_bytes,
)
from feclip.data import fetch as fetch_module
from feclip.errors import DataError, RunError, StorageError
from feclip.score_table import SCORE_SCHEMA, recompute_statistics, unpack_token_maps
from feclip.scoring import Scorer

SIZE = 112
OPTIONS = {"topk_fraction": 0.05, "smoothing_sigma": 1.5}  # not the defaults
SLICE_SIZE = 5
SHAPES = ((40, 56), (56, 12), (30, 30), (8, 90), (64, 47), (33, 57), (20, 21))  # (h, w)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = str(tmp_path_factory.mktemp("bundle"))
    model = ModelConfig(backbone="feclip-demo").settled()
    config = FinetuneConfig(output=folder, model=model, optim=OptimConfig(epochs=0))
    images = pa.table({"uri": ["/a.png"]})
    write_bundle(folder, model=build_model(model, seed=3), config=config, images=images, metrics=[])
    return read_bundle(folder)


@pytest.fixture(scope="module")
def scorer(bundle: Bundle) -> Scorer:
    """One image in a pass, so that its company cannot change the last bit of a score."""
    return Scorer(bundle, precision="float32", batch_size=1, **OPTIONS)


@pytest.fixture(scope="module")
def decoder(bundle: Bundle) -> Iterator[GuardedDecoder]:
    with GuardedDecoder(bundle.input_options) as decoder:
        yield decoder


def png(number: int) -> bytes:
    height, width = SHAPES[number % len(SHAPES)]
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return encoded(pixels)


def encoded(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


GOOD = {f"line={number % 2}/{number:02}.png": png(number) for number in range(9)}
BAD = {
    "line=0/02b.png": (b"", "empty"),
    "line=1/03 text.png": (b"no image", "not_an_image"),
    "line=1/cut.png": (png(1)[:-40], "truncated"),
    "top.jpg": (b"will be deleted", "absent"),
}


def frozen(source: Source, output: str, *, model_id: str, **config: Any) -> Run:  # noqa: ANN401
    """Freeze a listing and claim the output, as the driver does."""
    tables = [block.table for part in plan_parts(source) for block in list_part(part, source)]
    columns = sorted({name for table in tables for name in table.column_names} - set(LISTING_SCHEMA.names))
    files, first = [], 0
    for table in tables:
        if len(table):
            folder = join_uri(output, LISTING_FOLDER)
            files.append(write_numbered(folder, table, first_row_id=first, columns=columns))
            first += len(table)
    run = Run.frozen(
        output,
        model_id=model_id,
        config=ScoringConfig(**({"slice_size": SLICE_SIZE} | OPTIONS | config)),
        source=source,
        files=files,
        ignored={},
        image_size=SIZE,
    )
    run.publish()
    return run


@pytest.fixture
def archive(folder: str) -> Source:
    """Nine images and four files that cannot be scored, one of them deleted once it is listed."""
    for name, data in [*GOOD.items(), *((name, data) for name, (data, _) in BAD.items())]:
        write_bytes(f"{folder}/images/{name}", data)
    return Source(archive=f"{folder}/images", manifest=None)


@pytest.fixture
def run(archive: Source, folder: str, scorer: Scorer) -> Run:
    """An archive of three slices, frozen."""
    run = frozen(archive, f"{folder}/out", model_id=scorer.model_id)
    delete(f"{folder}/images/top.jpg")
    return run


@pytest.fixture
def small(tmp_path: Path, scorer: Scorer) -> Run:
    """Three images in two slices, on the local disk."""
    for number in range(3):
        write_bytes(f"{tmp_path}/images/{number}.png", png(number))
    source = Source(archive=f"{tmp_path}/images", manifest=None)
    return frozen(source, f"{tmp_path}/out", model_id=scorer.model_id, slice_size=2)


def scored(run: Run, index: int, *, decoder: GuardedDecoder, scorer: Scorer) -> pa.Table:
    fetched = fetch_slice(run, index, decoder=decoder)
    rows, pixels = fetched.pack_rows(), fetched.pixels  # the way from a task to an actor
    again = FetchedSlice.unpack(index, rows=rows, pixels=pixels)
    return score_slice(run, again, scorer=scorer)


def publish_all(
    run: Run, *, decoder: GuardedDecoder, scorer: Scorer, calibration: Calibration | None = None
) -> dict[int, pa.Table]:
    tables = {index: scored(run, index, decoder=decoder, scorer=scorer) for index in range(run.num_slices)}
    for index, table in tables.items():
        publish_slice(run, index, table, calibration=calibration)
    return tables


def calibrated(table: pa.Table, *, model_id: str, **changes: float) -> Calibration:
    return calibrate(
        [table],
        model_id=model_id,
        options=CalibrationOptions(percentiles=("50",), force=True, rule="either"),
        statistic_options=StatisticOptions(**(OPTIONS | changes)),
    )


def plainly(archive: Source, scorer: Scorer, bundle: Bundle) -> dict[str, dict[str, Any]]:
    """Score the good images by a loop in this process; nothing is listed, divided, packed or written."""
    expected = {}
    for name, data in GOOD.items():
        image = prepare_image(data, uri=name, options=bundle.input_options)
        (row,) = scorer.score(image.pixels[None], image.valid_pixels()[None]).rows()
        source = {"sha256": sha256(data), "width": image.width, "height": image.height, "size": len(data)}
        region = {"valid_box": list(image.valid_box), "valid_mask": image.valid_mask, "line": name[5]}
        expected[f"{archive.archive}/{name}"] = row | source | region
    return expected


def test_an_archive_in_slices_is_scored_as_by_a_plain_loop(
    run: Run, archive: Source, bundle: Bundle, scorer: Scorer, decoder: GuardedDecoder
) -> None:
    publish_all(run, decoder=decoder, scorer=scorer)
    table = pa.concat_tables([read_scores(run, index) for index in range(run.num_slices)])
    assert table["row_id"].to_pylist() == list(range(len(GOOD) + len(BAD)))
    assert table.schema.names == [*SCORE_SCHEMA.names, "line"]
    assert set(table["model_id"].to_pylist()) == {scorer.model_id}
    rows = {row["uri"]: row for row in table.to_pylist()}
    assert set(rows) == {f"{archive.archive}/{name}" for name in (*GOOD, *BAD)}
    for uri, expected in plainly(archive, scorer, bundle).items():
        for name, value in expected.items():
            stored = rows[uri][name]
            assert stored == (np.float32(value) if isinstance(value, float) else value), (uri, name)
        assert rows[uri]["error"] is None
        assert (rows[uri]["etag"] is None) == is_local(run.output)
    for name, (data, kind) in BAD.items():
        row = rows[f"{archive.archive}/{name}"]
        assert row["error_kind"] == kind
        assert row["error"].startswith("Cannot ")
        assert name in row["error"]
        assert row["sha256"] == (None if kind == "absent" else sha256(data))
        assert {row[column] for column in ("image_logit", "map_max", "token_map", "valid_box", "width")} == {None}
    assert {row["line"] for row in rows.values()} == {"0", "1", None}


def test_statistics_recomputed_from_published_maps_equal_the_published_ones(
    run: Run, scorer: Scorer, decoder: GuardedDecoder
) -> None:
    tables = publish_all(run, decoder=decoder, scorer=scorer)
    for index, table in tables.items():
        stored = read_scores(run, index)
        assert stored.equals(table)
        again = recompute_statistics(stored, image_size=SIZE, **OPTIONS)
        for name in ("map_max", "map_topk_mean"):
            assert again[name].to_pylist() == stored[name].to_pylist()
        maps = unpack_token_maps(stored)
        assert maps.dtype == np.float16
        assert maps.shape == (len(table) - table["token_map"].null_count, *scorer.token_grid)
    other = recompute_statistics(read_scores(run, 0), image_size=SIZE)
    assert other["map_topk_mean"].to_pylist() != read_scores(run, 0)["map_topk_mean"].to_pylist()


def test_a_packed_slice_is_the_same_slice(run: Run, scorer: Scorer, decoder: GuardedDecoder) -> None:
    kinds: Counter[str] = Counter()
    for index in range(run.num_slices):
        fetched = fetch_slice(run, index, decoder=decoder, num_readers=1)
        assert [row["row_id"] for row in fetched.rows] == list(run.rows_of(index))
        decoded = [row for row in fetched.rows if row.get("error") is None]
        assert len(fetched.pixels) == len(decoded) * SIZE * SIZE * 3
        again = FetchedSlice.unpack(index, rows=fetched.pack_rows(), pixels=fetched.pixels)
        known = [{name: value for name, value in row.items() if value is not None} for row in fetched.rows]
        assert again.rows == known
        assert again.pack_rows() == fetched.pack_rows()
        kinds.update(row["error_kind"] for row in fetched.rows if "error_kind" in row)
        straight = score_slice(run, fetched, scorer=scorer)
        assert score_slice(run, again, scorer=scorer).equals(straight)
        assert score_slice(run, fetched, scorer=scorer).equals(straight)  # another try of an actor
    assert kinds == Counter(kind for _, kind in BAD.values())


def test_a_slice_published_twice_is_the_same_bytes(run: Run, scorer: Scorer, decoder: GuardedDecoder) -> None:
    first = scored(run, 1, decoder=decoder, scorer=scorer)
    calibration = calibrated(first, model_id=scorer.model_id)
    places = [
        join_uri(folder, slice_name(1))
        for folder in (run.scores_folder, run.decisions_folder(calibration.calibration_id))
    ]
    contents, tallies = [], []
    for table in (first, scored(run, 1, decoder=decoder, scorer=scorer), first):
        tallies.append(publish_slice(run, 1, table, calibration=calibration))
        contents.append([read_bytes(place) for place in places])
    assert contents[0] == contents[1] == contents[2]
    assert tallies[0] == tallies[1] == tallies[2]
    assert run.missing(run.scores_folder) == [0, 2]
    delete(places[1])
    decide_slice(run, 1, calibration=calibration)
    assert read_bytes(places[1]) == contents[0][1]


def test_many_that_publish_one_slice_at_once_leave_one_whole_file(
    small: Run, scorer: Scorer, decoder: GuardedDecoder
) -> None:
    table = scored(small, 0, decoder=decoder, scorer=scorer)
    with ThreadPoolExecutor(8) as pool:
        writes = [pool.submit(publish_slice, small, 0, table) for _ in range(24)]
        while not all(write.done() for write in writes):
            if not small.missing(small.scores_folder, [0]):
                assert read_scores(small, 0).equals(table)
    assert [write.result() for write in writes] == [Tally(num_images=2)] * 24
    assert [path.name for path in Path(small.scores_folder).iterdir()] == [slice_name(0)]


@pytest.mark.parametrize("columns", [(), ("width",), ("token_map", "valid_box", "valid_mask"), OPTIONAL_COLUMNS])
def test_columns_that_nobody_wants_are_not_written(
    columns: tuple[str, ...], tmp_path: Path, small: Run, scorer: Scorer, decoder: GuardedDecoder
) -> None:
    source = Source(archive=f"{tmp_path}/images", manifest=None)
    run = frozen(source, f"{tmp_path}/less", model_id=scorer.model_id, columns=Names(columns))
    (table,) = publish_all(run, decoder=decoder, scorer=scorer).values()
    always = [name for name in SCORE_SCHEMA.names if name not in OPTIONAL_COLUMNS]
    stored = read_scores(run, 0)
    assert stored.equals(table)
    assert stored.column_names == [name for name in SCORE_SCHEMA.names if name in (*always, *columns)]
    whole = pa.concat_tables(publish_all(small, decoder=decoder, scorer=scorer).values())
    assert stored.equals(whole.select(stored.column_names).combine_chunks())
    calibration = calibrated(table, model_id=scorer.model_id)
    decide_slice(run, 0, calibration=calibration)
    check_slices(run, [0], calibration_id=calibration.calibration_id)


def test_decisions_are_those_of_the_calibration_and_follow_the_scores(
    run: Run, scorer: Scorer, decoder: GuardedDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = publish_all(run, decoder=decoder, scorer=scorer)
    calibration = calibrated(pa.concat_tables(tables.values()), model_id=scorer.model_id)
    folder = run.decisions_folder(calibration.calibration_id)
    deeds: list[tuple[str, str]] = []
    for name, function in {"delete": delete, "write_bytes": write_bytes}.items():

        def noted(uri: str, *data: bytes, name: str = name, function: Callable[..., None] = function) -> None:
            deeds.append((name, uri))
            function(uri, *data)

        monkeypatch.setattr(slices_module, name, noted)
    total = Tally()
    for index, table in tables.items():
        deeds.clear()
        tally = publish_slice(run, index, table, calibration=calibration)
        decided, scores = join_uri(folder, slice_name(index)), join_uri(run.scores_folder, slice_name(index))
        assert deeds == [("write_bytes", scores), ("write_bytes", decided)]
        expected = decide(table, calibration, statistic_options=run.statistic_options)
        assert pq.read_table(pa.BufferReader(read_bytes(decided))).equals(expected)
        labels = expected["pred_label"].to_pylist()
        assert tally.labels == +Counter(anomalous=labels.count(True), normal=labels.count(False))
        assert tally.num_images == len(table)
        assert decide_slice(run, index, calibration=calibration).labels == tally.labels
        total += tally
    assert set(total.labels) == {"normal", "anomalous"}
    assert total.labels.total() == len(GOOD)
    assert total.errors == Counter(kind for _, kind in BAD.values())
    assert total.num_images == len(GOOD) + len(BAD)
    assert check_slices(run, tables, calibration_id=calibration.calibration_id) == total
    assert check_slices(run, tables) == dataclasses.replace(total, labels=Counter())


def test_thresholds_that_do_not_fit_leave_the_scores_and_no_decisions(
    small: Run, scorer: Scorer, decoder: GuardedDecoder
) -> None:
    table = scored(small, 0, decoder=decoder, scorer=scorer)
    other_options = calibrated(table, model_id=scorer.model_id, topk_fraction=0.5)
    renamed = table.set_column(table.column_names.index("model_id"), "model_id", pa.array(["other"] * len(table)))
    other_model = calibrated(renamed, model_id="other")
    for calibration, words in ((other_options, "topk_fraction"), (other_model, "model_id")):
        where = join_uri(small.decisions_folder(calibration.calibration_id), slice_name(0))
        write_bytes(where, b"decisions on older scores")
        forget_decisions(small, [0])
        with pytest.raises(DataError, match=words):
            publish_slice(small, 0, table, calibration=calibration)
        assert read_scores(small, 0).equals(table)
        assert small.missing(small.decisions_folder(calibration.calibration_id), [0]) == [0]
        with pytest.raises(DataError, match=words):
            decide_slice(small, 0, calibration=calibration)


def test_a_slice_of_errors_alone_is_a_slice(tmp_path: Path, scorer: Scorer, decoder: GuardedDecoder) -> None:
    content = b"uri,part\nnone.png,a\nnul\0.png,b\n" + b"x" * 300 + b".png,c\n.,d\n"
    write_bytes(f"{tmp_path}/images.csv", content)
    source = Source(archive=None, manifest=f"{tmp_path}/images.csv")
    run = frozen(source, f"{tmp_path}/out", model_id=scorer.model_id)
    (table,) = publish_all(run, decoder=decoder, scorer=scorer).values()
    expected = ["absent", "unreadable_name", "unreadable_name", "unreadable_name"]
    assert read_scores(run, 0)["error_kind"].to_pylist() == expected
    assert table["part"].to_pylist() == ["a", "b", "c", "d"]
    assert all("\n" not in error for error in table["error"].to_pylist())
    assert check_slices(run, [0]) == Tally(num_images=4, errors=Counter(expected))
    normals = table.set_column(*column_of(table, "image_logit", [1.0] * 4))
    for name in ("map_max", "map_topk_mean"):
        normals = normals.set_column(*column_of(table, name, [1.0] * 4))
    calibration = calibrated(normals, model_id=scorer.model_id)
    assert decide_slice(run, 0, calibration=calibration) == Tally()
    check_slices(run, [0], calibration_id=calibration.calibration_id)


def column_of(table: pa.Table, name: str, values: list[float]) -> tuple[int, str, pa.Array]:
    return table.column_names.index(name), name, pa.array(values, pa.float32())


def test_masks_of_a_manifest_reach_the_score_table(tmp_path: Path, bundle: Bundle, scorer: Scorer) -> None:
    mask = np.zeros((40, 56), np.uint8)
    mask[5:30, 10:50] = 255
    mask[10:14, 25:40] = 0
    for name, data in {"0.png": png(0), "1.png": png(0), "2.png": png(0), "mask.png": encoded(mask)}.items():
        write_bytes(f"{tmp_path}/{name}", data)
    write_bytes(f"{tmp_path}/m.csv", b"path,valid_mask_path\n0.png,mask.png\n1.png,\n2.png,none.png\n")
    source = Source(archive=None, manifest=f"{tmp_path}/m.csv")
    run = frozen(source, f"{tmp_path}/out", model_id=scorer.model_id)
    options = dataclasses.replace(bundle.input_options, valid_region="mask_uri")
    with GuardedDecoder(options) as decoder:
        publish_all(run, decoder=decoder, scorer=scorer)
    stored = read_scores(run, 0)
    assert stored["error_kind"].to_pylist() == [None, "unfit_mask", "unfit_mask"]
    image = prepare_image(png(0), uri="0.png", options=options, valid_mask=encoded(mask))
    assert image.valid_mask is not None
    assert stored["valid_mask"].to_pylist() == [image.valid_mask, None, None]
    (expected,) = scorer.score(image.pixels[None], image.valid_pixels()[None]).rows()
    assert stored["map_max"][0].as_py() == expected["map_max"]
    again = recompute_statistics(stored, image_size=SIZE, **OPTIONS)
    assert again["map_topk_mean"].to_pylist() == stored["map_topk_mean"].to_pylist()
    assert "valid_mask_uri" not in stored.column_names


def test_a_slice_with_other_rows_is_refused(run: Run, scorer: Scorer, decoder: GuardedDecoder) -> None:
    tables = publish_all(run, decoder=decoder, scorer=scorer)
    place = join_uri(run.scores_folder, slice_name(0))
    whole = tables[0]
    wrong = {
        "another slice": tables[1],
        "a row less": whole.slice(1),
        "a row twice": pa.concat_tables([whole, whole.slice(0, 1)]),
        "one instead of another": pa.concat_tables([whole.slice(0, 4), whole.slice(0, 1)]),
        "another order": pa.concat_tables([whole.slice(1), whole.slice(0, 1)]),
        "none": whole.slice(0, 0),
    }
    for table in wrong.values():
        write_bytes(place, parquet_of(table))
        for action in (lambda: check_slices(run, [1, 0]), lambda: read_scores(run, 0, columns=["uri"])):
            with pytest.raises(RunError, match=r"slice-00000000\.parquet does not hold the rows of slice 0; delete it"):
                action()
    write_bytes(place, read_bytes(place)[:40])
    with pytest.raises(RunError, match=r"slice-00000000\.parquet is damaged .*; delete it and submit the job again\."):
        check_slices(run, [0])
    write_bytes(place, parquet_of(whole))
    assert check_slices(run, range(run.num_slices)).num_images == run.num_rows
    delete(place)
    with pytest.raises(StorageMissingError, match="it does not exist"):
        check_slices(run, [0])


def parquet_of(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def test_decisions_with_other_rows_are_refused(small: Run, scorer: Scorer, decoder: GuardedDecoder) -> None:
    tables = publish_all(small, decoder=decoder, scorer=scorer)
    calibration = calibrated(pa.concat_tables(tables.values()), model_id=scorer.model_id)
    for index in tables:
        decide_slice(small, index, calibration=calibration)
    names = [join_uri(small.decisions_folder(calibration.calibration_id), slice_name(index)) for index in (0, 1)]
    write_bytes(names[0], read_bytes(names[1]))
    with pytest.raises(RunError, match=r"decisions/.*slice-00000000\.parquet does not hold the rows of slice 0"):
        check_slices(small, [0, 1], calibration_id=calibration.calibration_id)
    assert check_slices(small, [0, 1]).num_images == 3


def test_slices_with_errors_are_found_and_can_be_mended(run: Run, scorer: Scorer, decoder: GuardedDecoder) -> None:
    tables = publish_all(run, decoder=decoder, scorer=scorer)
    bad = [index for index, table in tables.items() if table["error_kind"].null_count < len(table)]
    assert slices_with_errors(run, tables) == bad != []
    for name in BAD:
        write_bytes(f"{run.source['archive']}/{name}", png(3))
    for index in bad[:-1]:
        publish_slice(run, index, scored(run, index, decoder=decoder, scorer=scorer))
    assert slices_with_errors(run, tables) == bad[-1:]
    publish_slice(run, bad[-1], scored(run, bad[-1], decoder=decoder, scorer=scorer))
    assert slices_with_errors(run, tables) == []
    assert check_slices(run, tables) == Tally(num_images=run.num_rows)


def test_rows_that_are_not_those_of_the_slice_are_not_scored(
    small: Run, scorer: Scorer, decoder: GuardedDecoder
) -> None:
    fetched = fetch_slice(small, 0, decoder=decoder)
    per_image = SIZE * SIZE * 3
    wrong = [
        dataclasses.replace(fetched, rows=fetched.rows[1:], pixels=fetched.pixels[per_image:]),
        dataclasses.replace(fetched, rows=fetched.rows * 2, pixels=fetched.pixels * 2),
        dataclasses.replace(fetched, index=1),
    ]
    for other in wrong:
        with pytest.raises(RunError, match="it is not written, so submit the job again"):
            score_slice(small, other, scorer=scorer)


def failing(function: Callable[..., Any], errors: Iterator[Exception | None]) -> tuple[Callable[..., Any], list[str]]:
    """Return a function that raises these errors in turn and works where one is None, and the URIs it was asked for."""
    asked: list[str] = []

    def called(uri: str, *data: bytes, **options: int) -> Any:  # noqa: ANN401
        asked.append(uri)
        error = next(errors)
        if error is not None:
            raise error
        return function(uri, *data, **options)

    return called, asked


def test_storage_that_keeps_failing_leaves_the_slice_open(
    small: Run, scorer: Scorer, decoder: GuardedDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = scored(small, 0, decoder=decoder, scorer=scorer)
    function, asked = failing(read_bytes, itertools.repeat(StorageError("It does not work.")))
    monkeypatch.setattr(fetch_module, "read_bytes", function)
    with pytest.raises(StorageError, match=r"^It does not work\.$"):
        fetch_slice(small, 0, decoder=decoder, num_readers=1)
    assert set(Counter(asked).values()) == {1}  # trying again is what reading does, not what a slice does
    monkeypatch.setattr(slices_module, "write_bytes", failing(write_bytes, itertools.repeat(StorageError("No.")))[0])
    with pytest.raises(StorageError, match=r"^No\.$"):
        publish_slice(small, 0, table)
    assert small.missing(small.scores_folder) == [0, 1]


def test_what_is_said_of_one_file_is_a_row_at_once(
    small: Run, scorer: Scorer, decoder: GuardedDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = iter([StorageForbiddenError("Cannot read: forbidden."), StorageMissingError("Cannot read: gone.")])
    function, asked = failing(read_bytes, errors)
    monkeypatch.setattr(fetch_module, "read_bytes", function)
    fetched = fetch_slice(small, 0, decoder=decoder, num_readers=1)
    assert [row["error_kind"] for row in fetched.rows] == ["forbidden", "absent"]
    assert len(asked) == 2
    table = score_slice(small, fetched, scorer=scorer)
    assert publish_slice(small, 0, table).errors == Counter(forbidden=1, absent=1)


def test_an_answer_of_the_storage_is_not_asked_for_again(
    small: Run, scorer: Scorer, decoder: GuardedDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = scored(small, 0, decoder=decoder, scorer=scorer)
    calibration = calibrated(table, model_id=scorer.model_id)
    with pytest.raises(StorageMissingError):
        decide_slice(small, 0, calibration=calibration)
    function, asked = failing(write_bytes, itertools.repeat(StorageForbiddenError("No right to it.")))
    monkeypatch.setattr(slices_module, "write_bytes", function)
    with pytest.raises(StorageForbiddenError):
        publish_slice(small, 0, table)
    assert len(asked) == 1


@pytest.mark.storage
def test_storage_that_goes_away_is_an_error_and_no_rows(
    s3_bucket: str, scorer: Scorer, decoder: GuardedDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bytes(f"{s3_bucket}/images/a.png", png(0))
    source = Source(archive=f"{s3_bucket}/images", manifest=None)
    run = frozen(source, f"{s3_bucket}/out", model_id=scorer.model_id)
    fetched = fetch_slice(run, 0, decoder=decoder)
    table = score_slice(run, fetched, scorer=scorer)
    with socket.socket() as taken:  # bound but not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
        monkeypatch.setattr(_object_store, "NUM_ATTEMPTS", 1)
        for action in (
            lambda: fetch_slice(run, 0, decoder=decoder),
            lambda: publish_slice(run, 0, table),
            lambda: check_slices(run, [0]),
        ):
            with pytest.raises(StorageError, match="no connection; check AWS_ENDPOINT_URL"):
                action()


def test_tallies_add_up() -> None:
    one = Tally(num_images=3, errors=Counter(empty=1), labels=Counter(normal=2))
    two = Tally(num_images=2, errors=Counter(empty=1, absent=1))
    assert one + two == Tally(num_images=5, errors=Counter(empty=2, absent=1), labels=Counter(normal=2))
    assert (one.num_images, one.errors) == (3, Counter(empty=1))


def test_jpegs_that_a_gpu_decodes_give_the_same_rows(tmp_path: Path, scorer: Scorer, decoder: GuardedDecoder) -> None:
    """Here torchcodec decodes on the CPU; what it cannot decode has the row that Pillow gives it."""
    for number in range(5):
        height, width = SHAPES[number]
        smooth = np.add.outer(np.arange(height) * 3, np.arange(width) * 2) % 200
        image = Image.fromarray(np.stack([smooth, smooth.T[:1].mean() + 0 * smooth, 255 - smooth], 2).astype(np.uint8))
        buffer = io.BytesIO()
        image.convert("CMYK" if number == 1 else "RGB").save(buffer, "PNG" if number == 2 else "JPEG", quality=95)
        data = buffer.getvalue()
        write_bytes(f"{tmp_path}/images/{number}.jpg", data[:-30] if number == 4 else data)
    source = Source(archive=f"{tmp_path}/images", manifest=None)
    run = frozen(source, f"{tmp_path}/out", model_id=scorer.model_id)
    plain = scored(run, 0, decoder=decoder, scorer=scorer).to_pylist()

    left = fetch_slice(run, 0, decoder=decoder, leaves_jpegs=True)
    left = FetchedSlice.unpack(0, rows=left.pack_rows(), pixels=left.pixels)
    assert ["jpeg" in row for row in left.rows] == [True, False, False, True, True]
    assert len(left.pixels) == 2 * SIZE * SIZE * 3
    gpu = GpuDecoder(decoder.options, device="cpu")
    again = score_slice(run, decode_jpegs(run, left, gpu=gpu, decoder=decoder), scorer=scorer).to_pylist()

    assert [row["error_kind"] for row in plain] == [None, None, None, None, "truncated"]
    numbers = ("image_logit", "image_score", "map_max", "map_topk_mean")
    for one, other in zip(plain, again, strict=True):
        assert {name: one[name] for name in one if name not in (*numbers, "token_map")} == {
            name: other[name] for name in other if name not in (*numbers, "token_map")
        }
        for name in numbers:
            assert one[name] == (None if other[name] is None else pytest.approx(other[name], abs=0.05))
