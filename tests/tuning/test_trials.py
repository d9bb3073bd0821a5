"""Records, proposals, objective, table and page of a sweep, without a cluster."""

import dataclasses
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from browser_page import check_accessible, opened_page
from playwright.sync_api import Browser

from feclip.config import SearchMethod, SweepConfig
from feclip.errors import DataError, RunError
from feclip.training import TrainState
from feclip.tuning import (
    TrialRecord,
    TrialStatus,
    best_trial,
    drop_states,
    importances,
    objective,
    parse_space,
    propose,
    read_trial,
    read_trial_state,
    read_trials,
    require_judgeable,
    sweep_page,
    trials_table,
    write_trial,
    write_trial_state,
)

SPACE = parse_space(
    {
        "model.fusion_weight": {"loguniform": [0.01, 1.0]},
        "loss.focal_gamma": {"uniform": [0, 4]},
        "model.num_taps": {"int": [1, 6]},
        "model.use_lfs": {"choice": [True, False]},
        "model.padding": {"choice": ["ignore", "masked"]},
        "model.lfs_kernel_size": {"choice": [1, 3]},
    },
    name="example",
    where="-",
)
OPTIONS = SweepConfig(startup_trials=6)


def trial(number: int, value: float | None = None, *, status: TrialStatus = TrialStatus.done) -> TrialRecord:
    values = {
        "model.fusion_weight": 0.1,
        "loss.focal_gamma": 2.0,
        "model.num_taps": 3,
        "model.use_lfs": True,
        "model.padding": "masked",
        "model.lfs_kernel_size": 3,
    }
    epochs = () if value is None else ({"epoch": 1, "image_auroc": value, "aupro": value},)
    return TrialRecord(number=number, values=values, status=status, epochs=epochs)


def test_the_objective_weighs_what_was_measured() -> None:
    record = {"image_auroc": 0.9, "aupro": 0.5, "pixel_auroc": 0.99}
    assert objective(record, weights=SweepConfig()) == pytest.approx(0.7)
    assert objective(record, weights=SweepConfig(image_auroc_weight=3, aupro_weight=1)) == pytest.approx(0.8)
    assert objective(record, weights=SweepConfig(aupro_weight=0)) == 0.9
    assert objective({"image_auroc": 0.9}, weights=SweepConfig()) == 0.9
    assert objective({"image_auroc": 0.9}, weights=SweepConfig(image_auroc_weight=0)) is None
    assert objective({"loss": 1.0}, weights=SweepConfig()) is None


def manifest(rows: list[tuple[str, int, bool, str]]) -> pa.Table:
    names = ("category", "label", "has_mask", "split")
    return pa.table({name: [row[index] for row in rows] for index, name in enumerate(names)})


def test_a_held_out_split_that_cannot_judge_is_refused_before_anything_runs() -> None:
    good, bad = ("screw", 0, True, "held_out"), ("screw", 1, True, "held_out")
    train = ("screw", 1, True, "train")
    assert require_judgeable(manifest([good, bad, train]), weights=SweepConfig()) == ("image_auroc", "aupro")
    unmasked = ("screw", 1, False, "held_out")
    assert require_judgeable(manifest([good, unmasked]), weights=SweepConfig()) == ("image_auroc",)
    with pytest.raises(DataError, match="No image is held out"):
        require_judgeable(manifest([train, ("screw", 0, True, "report")]), weights=SweepConfig())
    with pytest.raises(DataError, match="cannot judge a trial"):
        require_judgeable(manifest([good, ("grid", 1, False, "held_out")]), weights=SweepConfig())
    with pytest.raises(DataError, match="cannot judge a trial"):
        require_judgeable(manifest([good, unmasked]), weights=SweepConfig(image_auroc_weight=0))


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    record = trial(3, status=TrialStatus.running).started().advanced({"epoch": 1, "aupro": 0.5}, seconds=2, last=False)
    write_trial(str(tmp_path), record)
    assert read_trial(str(tmp_path), 3) == record
    assert not record.ended
    ended = record.started().advanced({"epoch": 2, "aupro": 0.6}, seconds=3, last=True)
    assert ended.ended
    assert ended.starts == (0, 1)
    assert ended.seconds == 5
    write_trial(str(tmp_path), ended)
    write_trial(str(tmp_path), trial(12).failed("first line\nsecond line", mendable=True))
    assert [each.number for each in read_trials(str(tmp_path))] == [3, 12]
    failed = read_trial(str(tmp_path), 12)
    assert (failed.error, failed.mendable, failed.ended) == ("first line second line", True, True)
    assert not failed.reopened().ended
    assert read_trials(str(tmp_path / "absent")) == []


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema": 2}', '{"schema": 1, "number": 3}'])
def test_a_record_of_another_make_is_named(content: str, tmp_path: Path) -> None:
    write_trial(str(tmp_path), trial(3))
    file = tmp_path / "_sweep" / "trials" / "0003" / "trial.json"
    file.write_text(content)
    with pytest.raises(RunError, match=r"trial\.json"):
        read_trial(str(tmp_path), 3)


def test_a_state_is_read_by_the_epochs_of_its_record(tmp_path: Path) -> None:
    record = trial(1, status=TrialStatus.running)
    assert read_trial_state(str(tmp_path), record) is None
    for epoch in (1, 2, 3):
        state = TrainState(
            epoch=epoch,
            trained={"weight": torch.full((2,), float(epoch))},
            moments={},
            generators={},
            metrics=[{"epoch": each} for each in range(1, epoch + 1)],
            backbone_digest="digest",
        )
        write_trial_state(str(tmp_path), 1, state)
    second = dataclasses.replace(record, epochs=({"epoch": 1}, {"epoch": 2}))
    read = read_trial_state(str(tmp_path), second)
    assert read is not None
    assert read.trained["weight"].tolist() == [2.0, 2.0]
    drop_states(str(tmp_path), 1, before=3)
    kept = sorted(path.name for path in (tmp_path / "_sweep" / "trials" / "0001").iterdir() if any(path.iterdir()))
    assert kept == ["state-0003"]
    with pytest.raises(RunError, match="cannot be read"):
        read_trial_state(str(tmp_path), second)


def run_of_proposals(
    method: SearchMethod, *, seed: int, num: int, broken_after: int | None = None
) -> list[TrialRecord]:
    """Propose and judge trials in turn, a small fusion weight being best; a broken sweep knows its records alone."""
    options = dataclasses.replace(OPTIONS, search=method)
    records: list[TrialRecord] = []
    for number in range(1, num + 1):
        if number == broken_after:
            records = [TrialRecord(**vars(record)) for record in records]
        values = propose(SPACE, records, number=number, seed=seed, options=options)
        value = 1 - values["model.fusion_weight"]
        records.append(
            TrialRecord(number=number, values=values, status=TrialStatus.done, epochs=({"image_auroc": value},))
        )
    return records


@pytest.mark.parametrize("method", list(SearchMethod))
def test_proposals_follow_from_the_seed_and_the_records(method: SearchMethod) -> None:
    first = run_of_proposals(method, seed=3, num=14)
    assert first == run_of_proposals(method, seed=3, num=14, broken_after=9)
    assert first != run_of_proposals(method, seed=4, num=14)
    assert len({json.dumps(record.values) for record in first}) == len(first)
    for record in first:
        assert 0.01 <= record.values["model.fusion_weight"] <= 1
        assert record.values["model.num_taps"] in range(1, 7)
        assert record.values["model.padding"] in {"ignore", "masked"}
        json.dumps(record.values)


def test_tpe_learns_where_chance_does_not() -> None:
    def late(method: SearchMethod, seed: int) -> float:
        records = run_of_proposals(method, seed=seed, num=30)[-10:]
        return float(np.mean([np.log10(record.values["model.fusion_weight"]) for record in records]))

    learned = np.mean([late(SearchMethod.optuna, seed) for seed in range(3)])
    drawn = np.mean([late(SearchMethod.random, seed) for seed in range(3)])
    assert learned < drawn - 0.3


def test_trials_that_run_stopped_or_failed_are_known_to_the_search() -> None:
    records = [
        trial(1, status=TrialStatus.running),
        trial(2, 0.5, status=TrialStatus.stopped),
        trial(3).failed("boom", mendable=False),
        trial(4, 0.7),
    ]
    assert propose(SPACE, records, number=5, seed=0, options=OPTIONS).keys() == set(SPACE.fields)


def test_the_best_trial_was_trained_to_the_end() -> None:
    records = [
        trial(1, 0.5),
        trial(2, 0.9, status=TrialStatus.stopped),
        trial(3, 0.7),
        trial(4, 0.7),
        trial(5, 0.99).failed("boom", mendable=False),
        trial(6, None),
    ]
    best = best_trial(records, options=OPTIONS)
    assert best is not None
    assert best.number == 3
    assert best_trial(records[1:2], options=OPTIONS) is None


def test_the_table_has_a_typed_column_per_field() -> None:
    records = [trial(1, 0.5), trial(2).failed("boom", mendable=False), trial(3, status=TrialStatus.running)]
    table = trials_table(SPACE, records, options=OPTIONS)
    assert {field.name: str(field.type) for field in table.schema} == {
        "trial": "int64",
        "model.fusion_weight": "double",
        "loss.focal_gamma": "double",
        "model.num_taps": "int64",
        "model.use_lfs": "bool",
        "model.padding": "string",
        "model.lfs_kernel_size": "int64",
        "objective": "double",
        "image_auroc": "double",
        "aupro": "double",
        "epochs": "int64",
        "seconds": "double",
        "attempts": "int64",
        "status": "string",
        "error": "string",
    }
    assert table["objective"].to_pylist() == [0.5, None, None]
    assert table["error"].to_pylist() == [None, "boom", None]
    assert trials_table(SPACE, [], options=OPTIONS).num_rows == 0


class Page(HTMLParser):
    """What a browser would find in a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.scripts: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep a tag and what it is given."""
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "link", "img", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Check that what closes is what was open."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Keep scripts and text apart."""
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        else:
            self.text += data


def page_of(records: list[TrialRecord], title: str = "Sweep of example") -> Page:
    return Page(sweep_page(SPACE, records, options=OPTIONS, title=title, facts={"images": "/data/<mvtec>"}))


def test_the_page_is_whole_and_asks_the_network_for_nothing() -> None:
    records = run_of_proposals(SearchMethod.optuna, seed=0, num=12)
    page = page_of(records)
    assert page.open == []
    links = [given["href"] or "" for _, given in page.tags if "href" in given]
    assert all(link.startswith(("#", "data:")) for link in links), links
    assert not [tag for tag, given in page.tags if "src" in given or tag in {"iframe", "img"}]
    drawn = page.scripts[-1]
    assert drawn.count("feclip.plots.draw(") == 3
    assert "parcoords" in drawn
    assert "http" not in drawn
    assert len([given for tag, given in page.tags if given.get("class") == "plot"]) == 3
    assert len([tag for tag, _ in page.tags if tag == "tr"]) == 1 + len(records)
    best = best_trial(records, options=OPTIONS)
    assert best is not None
    assert [given["class"] for tag, given in page.tags if tag == "tr" and given][best.number - 1] == "done best"


def test_the_ticks_of_a_searched_number_of_things_are_whole() -> None:
    drawn = page_of(run_of_proposals(SearchMethod.optuna, seed=0, num=6)).scripts[-1]
    axes = next(
        data[0]["dimensions"]
        for text in drawn.split("feclip.plots.draw(")[1:]
        for data, _ in [json.JSONDecoder().raw_decode(text, text.index("["))]
        if data[0]["type"] == "parcoords"
    )
    [axis] = [axis for axis in axes if axis["label"] == "model.num_taps"]
    assert axis["tickvals"] == [1, 2, 3, 4, 5, 6]


def test_what_stands_in_the_page_is_text_and_no_markup() -> None:
    evil = '</script><script>alert("x")</script><b>'
    records = [trial(1, 0.5), trial(2).failed(evil, mendable=False)]
    page = page_of(records, title=evil)
    assert evil in page.text
    assert "/data/<mvtec>" in page.text
    assert len(page.scripts) == 3  # theme, plots, ours
    assert not [tag for tag, _ in page.tags if tag == "b"]
    assert "Importance needs 4 trials" in page.text


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_opens_in_a_browser(browser: Browser, tmp_path: Path, scheme: str) -> None:
    records = run_of_proposals(SearchMethod.optuna, seed=0, num=12)
    file = tmp_path / "sweep.html"
    file.write_text(sweep_page(SPACE, records, options=OPTIONS, title="Sweep", facts={"images": "/data/<mvtec>"}))
    with opened_page(browser, file, width=400, scheme=scheme) as page:
        assert page.locator(".plot .main-svg").count() >= 3
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        check_accessible(page)


def test_a_page_without_a_trial_that_ended_still_opens() -> None:
    page = page_of([trial(1, status=TrialStatus.running)])
    assert page.open == []
    assert "No trial was trained to the end." in page.text


def test_importance_names_the_field_that_decides() -> None:
    records = run_of_proposals(SearchMethod.random, seed=1, num=40)
    shares = importances(SPACE, records, options=OPTIONS)
    assert next(iter(shares)) == "model.fusion_weight"
    assert sum(shares.values()) == pytest.approx(1)
    assert importances(SPACE, records[:3], options=OPTIONS) == {}
    assert importances(SPACE, [trial(number, 0.5) for number in range(1, 9)], options=OPTIONS) == {}
