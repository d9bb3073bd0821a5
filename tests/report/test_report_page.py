"""A report says what its table holds, shows what it can, and is whole or absent."""

import csv
import dataclasses
import io
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from small_plant import ABSENT, DATES, LINES, MOVED_DATE, NUM_NORMALS, NUM_ROWS, Plant
from small_table import write_table

from feclip.archive import read_scores, slice_name
from feclip.bundle import Bundle
from feclip.calibration import CalibrationOptions, Rule, Statistic, calibrate, decide, decision_margins
from feclip.config import Names, ReportConfig
from feclip.data import Letterbox, delete, exists, join_uri, read_bytes
from feclip.errors import BundleError, ConfigError, DataError, FeclipError, RunError
from feclip.pages import PLOTLY_FILE
from feclip.report import making, report
from feclip.report.finding import print_found
from feclip.report.opened import ScoredTable
from feclip.report.overlays import HeatScale, overlay_pixels, source_map
from feclip.score_table import unpack_token_maps, unpack_valid_regions


def page_data(page: str) -> dict[str, Any]:
    """Return what the page's script reads."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


@pytest.fixture(scope="module")
def page(site: Path) -> str:
    return (site / "index.html").read_text()


@pytest.fixture(scope="module")
def data(page: str) -> dict[str, Any]:
    return page_data(page)


@pytest.mark.parametrize("rule", list(Rule))
def test_what_lies_beyond_the_threshold_is_what_decides(plant: Plant, rule: Rule) -> None:
    assert plant.calibrated.calibration is not None
    calibration = plant.calibrated.calibration.with_decision(rule=rule)
    options = plant.run.statistic_options
    margins = decision_margins(plant.table, calibration, statistic_options=options)
    labels = decide(plant.table, calibration, statistic_options=options)["pred_label"].to_pylist()
    assert [None if np.isnan(margin) else margin > 0 for margin in margins.tolist()] == labels
    assert True in labels
    assert False in labels


def test_the_counts_of_a_page_are_those_of_the_decisions(plant: Plant, data: dict[str, Any]) -> None:
    assert plant.calibrated.calibration is not None
    labels = decide(plant.table, plant.calibrated.calibration, statistic_options=plant.run.statistic_options)[
        "pred_label"
    ].to_pylist()
    wanted = Counter((row["line"], row["date"]) for row, label in zip(plant.rows, labels, strict=True) if label)
    failed = Counter((row["line"], row["date"]) for row in plant.rows if "error" in row)
    chart = data["chart"]
    found, errors = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for group, date, num_errors, start, numbers in chart["cells"]:
        key = (chart["groups"][group], chart["dates"][date])
        found[key] += sum(numbers[max(chart["zero"] + 1 - start, 0) :])
        errors[key] += num_errors
    assert +found == wanted
    assert +errors == failed
    assert sum(sum(numbers) for *_, numbers in chart["cells"]) == NUM_ROWS - failed.total()


def test_galleries_are_the_highest_the_nearest_and_a_seeded_sample(plant: Plant, data: dict[str, Any]) -> None:
    assert plant.calibrated.calibration is not None
    threshold = plant.calibrated.calibration.threshold(Statistic.image_logit)
    logits = {index: float(row["scores"][0]) for index, row in enumerate(plant.rows) if "error" not in row}
    shown = {name: [data["cards"][place]["id"] for place in rows] for name, rows in data["galleries"].items()}
    assert shown["highest"] == sorted(logits, key=lambda row: -logits[row])[:24]
    assert shown["nearest"] == sorted(logits, key=lambda row: abs(logits[row] - threshold))[:24]
    assert len({*shown["random"]}) == 24
    card = data["cards"][data["galleries"]["highest"][0]]
    assert card["margin"] == logits[shown["highest"][0]] - threshold
    assert card["further"] == {name: plant.rows[card["id"]][name] for name in ("line", "date")}


def test_drift_is_marked_where_it_is(page: str, data: dict[str, Any]) -> None:
    assert "Thresholds may no longer hold:" in page
    verdicts = {row["name"]: row["verdict"] for row in data["drift"]}
    assert verdicts == {date: "moved" if date == MOVED_DATE else "steady" for date in DATES}
    assert f"{NUM_NORMALS - NUM_NORMALS // 200:,} normals" in page


def test_nothing_of_a_table_becomes_markup_or_comes_from_a_network(page: str, site: Path) -> None:
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert page.count("<script") == 4  # theme, data, plots beside it, ours
    assert "&lt;img src=x onerror=alert(1)&gt;" in page  # among the errors
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    assert {path.name for path in site.iterdir()} == {"index.html", PLOTLY_FILE, "images"}


def test_an_image_that_cannot_be_had_is_a_card_that_says_so(plant: Plant, data: dict[str, Any], site: Path) -> None:
    absent = [card for card in data["cards"] if card["id"] % ABSENT == 0]
    assert absent
    assert all(card["photo"] is None and card["overlay"] and "does not exist" in card["note"] for card in absent)
    for card in data["cards"]:
        if card["photo"] is not None:
            with Image.open(site / card["photo"]) as photo:
                assert photo.size == (plant.rows[card["id"]]["width"], plant.rows[card["id"]]["height"])
            with Image.open(site / card["overlay"]) as overlay:
                ratio = photo.width / photo.height
                assert overlay.width / overlay.height == pytest.approx(ratio, rel=0.02)


def test_a_file_that_changed_since_it_was_scored_says_so(plant: Plant, data: dict[str, Any], tmp_path: Path) -> None:
    assert not any("changed" in card["note"] for card in data["cards"])
    file = Path(next(card["uri"] for card in data["cards"] if card["photo"]))
    before = file.read_bytes()
    Image.new("RGB", (50, 40)).save(file)
    try:
        report(plant.config(tmp_path / "page", num_shown=24))
    finally:
        file.write_bytes(before)
    cards = page_data((tmp_path / "page" / "index.html").read_text())["cards"]
    assert [card["uri"] for card in cards if "changed since it was scored" in card["note"]] == [str(file)]


def test_a_heatmap_lies_where_its_map_is(plant: Plant) -> None:
    """The highest pixel of the picture is, in the image's own pixels, where the model's input has it."""
    options = plant.calibrated.input_options
    rows = plant.table.filter(plant.table["token_map"].is_valid()).slice(0, 40)
    for index in range(len(rows)):
        row = rows.slice(index, 1)
        height, width = row["height"][0].as_py(), row["width"][0].as_py()
        tokens = unpack_token_maps(row)[0]
        geometry = options.geometry(height, width)
        valid = unpack_valid_regions(row, image_size=options.image_size)[0]
        values = source_map(tokens, geometry=geometry, valid_pixels=valid)
        assert np.isfinite(values).all()
        top, left = np.unravel_index(np.nanargmax(values), values.shape)
        token_row, token_column = np.unravel_index(np.nanargmax(tokens), tokens.shape)
        patch = options.image_size / len(tokens)
        wanted = ((token_row + 0.5) * patch - geometry.top, (token_column + 0.5) * patch - geometry.left)
        found = (top / values.shape[0] * geometry.height, left / values.shape[1] * geometry.width)
        assert np.abs(np.subtract(found, wanted)).max() <= patch


def test_a_squashed_map_gets_its_aspect_ratio_back_and_invalid_pixels_are_not_drawn() -> None:
    tokens = np.full((14, 14), -4, np.float16)
    tokens[3, 10] = 2
    geometry = Letterbox.squashed(50, 200, image_size=112)
    valid = np.ones((112, 112), np.bool_)
    valid[:, :28] = False
    values = source_map(tokens, geometry=geometry, valid_pixels=valid)
    assert values.shape == (84, 336)
    assert np.isnan(values[:, :83]).all()
    assert np.isfinite(values[:, 85:]).all()
    pixels = overlay_pixels(values, HeatScale(low=-3, high=2, outline=0))
    assert pixels[:, :83, 3].max() == 0
    assert pixels[values < -3][:, 3].max() == 0
    outline = (pixels == 255).all(axis=2)
    assert outline.any()
    assert (values[outline] > 0).all()


def test_finding_prints_every_row_that_holds_the_text(plant: Plant) -> None:
    table = ScoredTable.opened(plant.config("unused"))
    for text in ("PART_0000", "<img src=x", "cut short", "no such thing", "100%"):
        to = io.StringIO()
        num = print_found(table, text=text, to=to)
        found = list(csv.DictReader(io.StringIO(to.getvalue())))
        holds = [
            index
            for index, row in enumerate(plant.rows)
            if text.lower() in row["uri"].lower() or text in row.get("error", "")
        ]
        assert [int(row["row_id"]) for row in found] == holds
        assert num == len(holds)
        assert all((row["pred_label"] == "") == bool(row["error"]) for row in found)
        assert all(row["uri"] == plant.rows[int(row["row_id"])]["uri"] for row in found)


def test_find_writes_no_page(plant: Plant, capsys: pytest.CaptureFixture[str]) -> None:
    assert plant.calibrated.uri
    config = ReportConfig(bundle=plant.calibrated.uri, scores=plant.scores, find="part_000001.jpg")
    assert report(config) is None
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_bundle_without_thresholds_has_a_page_without_decisions(plant: Plant, bundle: Bundle, tmp_path: Path) -> None:
    config = ReportConfig(bundle=bundle.uri, scores=plant.scores, output=str(tmp_path / "page"), with_images=False)
    report(config)
    page = (tmp_path / "page" / "index.html").read_text()
    assert "The bundle has no thresholds" in page
    assert "called anomalous" not in page
    data = page_data(page)
    chart = data["chart"]
    above = sum(sum(numbers[max(chart["start"] + 1 - start, 0) :]) for *_, start, numbers in chart["cells"])
    assert 0 < above <= 0.01 * NUM_ROWS
    assert not (tmp_path / "page" / "images").exists()


def test_thresholds_by_group_move_together_and_drift_is_told_by_group(
    plant: Plant, bundle: Bundle, tmp_path: Path
) -> None:
    """Without the normals' scores at hand the page compares what the record holds, and says so."""
    normals = pa.concat_tables(
        [
            read_scores(ScoredTable.opened(plant.config("unused")).normals(plant.config("unused")).run, index)  # type: ignore[union-attr]
            for index in range(NUM_NORMALS // 100)
        ]
    )
    options = CalibrationOptions(percentiles=("98", "99"), rule=Rule.either, threshold_by="line")
    calibration = calibrate(
        [normals], model_id=bundle.model_id, options=options, statistic_options=plant.run.statistic_options
    )
    table = dataclasses.replace(ScoredTable.opened(plant.config("unused")), calibration=calibration)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ScoredTable, "opened", classmethod(lambda _, __: table))
        patch.setattr(ScoredTable, "normals", lambda _, __: None)
        report(plant.config(tmp_path / "page", with_images=False))
    page = (tmp_path / "page" / "index.html").read_text()
    assert "It cannot tell a shift of normal scores from" in page
    labels = decide(plant.table, calibration, statistic_options=plant.run.statistic_options)["pred_label"].to_pylist()
    data = page_data(page)
    assert data["decision"]["threshold"] is None
    chart = data["chart"]
    assert chart["reference"] is None
    above = sum(sum(numbers[max(chart["zero"] + 1 - start, 0) :]) for *_, start, numbers in chart["cells"])
    assert above == labels.count(True)
    assert page.count('<th scope="row">98</th>') == page.count('<th scope="row">99</th>') == len(LINES)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"group_by": "color"}, ConfigError, "group_by must be a column of the archive's folders or its manifest"),
        ({"percentile": "50"}, ConfigError, "percentile must be one that was calibrated, 99, 99.5, got 50"),
        ({"scores": "/nowhere"}, RunError, "/nowhere holds no score table"),
        ({"bundle": "/nowhere"}, BundleError, "/nowhere holds no bundle"),
        ({"normals": "/nowhere"}, RunError, "/nowhere holds no score table"),
    ],
)
def test_what_cannot_be_reported_is_one_line_and_leaves_no_page(
    plant: Plant, tmp_path: Path, changes: dict[str, Any], error: type[FeclipError], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        report(dataclasses.replace(plant.config(tmp_path / "page"), **changes))
    assert not (tmp_path / "page" / "index.html").exists()


def test_a_page_over_its_own_table_is_refused(plant: Plant) -> None:
    with pytest.raises(ConfigError, match="output must be another place than scores"):
        report(plant.config(plant.scores + "/"))


def test_normals_that_are_others_are_refused(plant: Plant, bundle: Bundle, tmp_path: Path) -> None:
    rows = plant.rows[:300]
    write_table(str(tmp_path / "others"), bundle=bundle, rows=rows)
    message = f"holds {sum('error' not in row for row in rows)} scored images, and the thresholds were fitted on"
    with pytest.raises(DataError, match=message):
        report(plant.config(tmp_path / "page", normals=str(tmp_path / "others")))


def test_a_broken_report_leaves_no_page_to_be_taken_for_whole(
    plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "page"
    report(plant.config(output, with_images=False))
    assert (output / "index.html").exists()

    def broken(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(making, "write_pictures", broken)
    with pytest.raises(KeyboardInterrupt):
        report(plant.config(output))
    assert not (output / "index.html").exists()


@pytest.mark.storage
def test_a_table_and_a_page_in_object_storage(plant: Plant, bundle: Bundle, s3_bucket: str) -> None:
    scores, output = join_uri(s3_bucket, "scores"), join_uri(s3_bucket, "pages", "run 1")
    rows = [row for row in plant.rows if "error" not in row][:250]
    run = write_table(scores, bundle=bundle, rows=rows)
    page = report(ReportConfig(bundle=plant.calibrated.uri, scores=scores, output=output, num_shown=6))
    assert page is not None
    assert page_data(read_bytes(page).decode())["chart"]["groups"] == sorted(LINES)
    assert exists(join_uri(output, PLOTLY_FILE))
    delete(join_uri(run.scores_folder, slice_name(1)))
    with pytest.raises(RunError, match="1 of 3 slices are missing"):
        report(ReportConfig(bundle=plant.calibrated.uri, scores=scores, output=output))
    assert exists(page), "the page of before stays: nothing was begun"


def test_a_damaged_slice_is_named(plant: Plant, bundle: Bundle, tmp_path: Path) -> None:
    run = write_table(str(tmp_path / "scores"), bundle=bundle, rows=plant.rows[:250])
    slice_1 = Path(run.scores_folder) / slice_name(1)
    slice_1.write_bytes(slice_1.read_bytes()[:-40])
    with pytest.raises(RunError, match=re.escape(f"{slice_1} is damaged")):
        report(dataclasses.replace(plant.config(tmp_path / "page"), scores=run.output))
    assert not (tmp_path / "page" / "index.html").exists()


def test_a_table_of_errors_alone_has_a_page(plant: Plant, bundle: Bundle, tmp_path: Path) -> None:
    rows = [row for row in plant.rows if "error" in row]
    run = write_table(str(tmp_path / "scores"), bundle=bundle, rows=rows)
    report(dataclasses.replace(plant.config(tmp_path / "page"), scores=run.output))
    data = page_data((tmp_path / "page" / "index.html").read_text())
    assert data["cards"] == []
    assert sum(cell[2] for cell in data["chart"]["cells"]) == len(rows)


def test_a_table_without_maps_and_partitions_has_a_page(plant: Plant, bundle: Bundle, tmp_path: Path) -> None:
    rows = [{**row, "partitions": ()} for row in plant.rows[:120]]
    columns = Names(("size", "etag", "height", "image_score", "valid_box", "valid_mask"))
    run = write_table(str(tmp_path / "scores"), bundle=bundle, rows=rows, columns=columns)
    report(dataclasses.replace(plant.config(tmp_path / "page", num_shown=5), scores=run.output))
    page = (tmp_path / "page" / "index.html").read_text()
    assert "there are no heatmaps" in page
    assert 'id="group"' not in page
    assert all(card["overlay"] is None for card in page_data(page)["cards"])
