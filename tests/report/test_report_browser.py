"""The page in a real browser: slider, filters, links, keyboard, no error, nothing that a screen reader trips over."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser_page import check_accessible, opened_page
from playwright.sync_api import Browser, Page, expect
from small_plant import DATES, LINES, Plant

from feclip.calibration import decision_margins
from feclip.report.intervals import wilson_interval


@pytest.fixture
def page(browser: Browser, site: Path) -> Iterator[Page]:
    """The report, opened from its file."""
    with opened_page(browser, site / "index.html") as page:
        yield page


@pytest.fixture(scope="module")
def margins(plant: Plant) -> np.ndarray:
    assert plant.calibrated.calibration is not None
    return decision_margins(plant.table, plant.calibrated.calibration, statistic_options=plant.run.statistic_options)


def chosen_rows(plant: Plant, *, line: str | None = None, date: str | None = None) -> np.ndarray:
    return np.array([line in {None, row["line"]} and date in {None, row["date"]} for row in plant.rows], np.bool_)


def slide(page: Page, steps: int) -> float:
    """Move the slider by some stops and return how far it then is from the calibrated threshold, logits."""
    moved: float = page.evaluate(
        """steps => {
            const chart = JSON.parse(document.getElementById("data").textContent).chart;
            const slider = document.getElementById("stop");
            slider.value = Number(slider.value) + steps;
            slider.dispatchEvent(new Event("input", {bubbles: true}));
            return (Number(slider.value) - chart.zero) * chart.step;
        }""",
        steps,
    )
    return moved


def shown_count(page: Page) -> int:
    return int(page.locator("#anomalous").inner_text().replace(",", ""))


@pytest.mark.parametrize("steps", [0, 1, -1, 37, -80, 10_000, -10_000])
def test_the_slider_recounts_as_a_computation_says(page: Page, margins: np.ndarray, steps: int) -> None:
    offset = slide(page, steps)
    above, scored = int((margins > offset).sum()), int(np.isfinite(margins).sum())
    assert shown_count(page) == above
    low, high = (100 * float(end) for end in wilson_interval(above, scored))
    text = page.locator("#count").inner_text()
    assert f"of {scored:,} scored images anomalous" in text
    ends = text.partition("(95 %: ")[2].partition(")")[0].split(" to ")
    assert [float(end) for end in ends] == pytest.approx([low, high], rel=0.006)
    for gallery in ("highest", "nearest", "random"):
        page.locator(f"[data-view={gallery}]").click()
        labels = page.locator("#cards .label").all_inner_texts()
        ids = page.locator("#cards [data-row]").evaluate_all("items => items.map(item => Number(item.dataset.row))")
        assert labels == ["anomalous" if margins[row] > offset else "normal" for row in ids]


def test_filters_count_and_show_their_part_alone(page: Page, plant: Plant, margins: np.ndarray) -> None:
    for line, date in ((LINES[1], None), (LINES[2], DATES[3]), (None, DATES[0])):
        page.locator("#group").select_option(label="all" if line is None else line)
        page.locator("#date").select_option(label="all" if date is None else date)
        chosen = chosen_rows(plant, line=line, date=date)
        assert shown_count(page) == int((margins[chosen] > 0).sum())
        failed = sum("error" in row for row, inside in zip(plant.rows, chosen, strict=True) if inside)
        assert f"; {failed} without a score" in page.locator("#count").inner_text()
        page.locator("[data-view=random]").click()
        ids = page.locator("#cards [data-row]").evaluate_all("items => items.map(item => Number(item.dataset.row))")
        assert all(chosen[row] for row in ids)


def plotted(page: Page, plot: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = page.evaluate(
        "id => document.getElementById(id).data.map(({x, y}) => ({x: [...x], y: [...y]}))", plot
    )
    return found


def test_the_plots_draw_the_counts(page: Page, plant: Plant, margins: np.ndarray) -> None:
    offset = slide(page, 21)
    page.wait_for_function("document.getElementById('distribution-plot').layout.shapes.length === 2")
    over_time = plotted(page, "time-plot")[2]
    assert over_time["x"] == list(DATES)
    for date, rate in zip(over_time["x"], over_time["y"], strict=True):
        part = margins[chosen_rows(plant, date=date)]
        assert rate == pytest.approx(100 * (part > offset).sum() / np.isfinite(part).sum())
    by_group = plotted(page, "group-plot")[0]
    assert [text.replace("&lt;", "<") for text in by_group["y"]] == sorted(LINES, reverse=True)
    for line, rate in zip(sorted(LINES, reverse=True), by_group["x"], strict=True):
        part = margins[chosen_rows(plant, line=line)]
        assert rate == pytest.approx(100 * (part > offset).sum() / np.isfinite(part).sum())
    archive, normals = plotted(page, "distribution-plot")
    assert sum(archive["y"]) == pytest.approx(100)
    assert sum(normals["y"]) == pytest.approx(100)


def test_a_link_leads_to_what_was_seen(page: Page, browser: Browser, site: Path) -> None:
    slide(page, 12)
    page.locator("#group").select_option(label=LINES[2])
    page.locator("[data-view=nearest]").click()
    page.locator("#search").fill("PART")
    page.locator("#cards button").first.click()
    expect(page.locator("#viewer")).to_be_visible()
    name, count, fragment = page.locator("#viewer-name").inner_text(), shown_count(page), page.url.partition("#")[2]
    assert "part" in name.lower()
    with opened_page(browser, site / "index.html", fragment=f"#{fragment}") as other:
        expect(other.locator("#viewer")).to_be_visible()
        assert other.locator("#viewer-name").inner_text() == name
        assert shown_count(other) == count
        assert other.locator("#group option:checked").inner_text() == LINES[2]
        assert other.locator("[data-view=nearest]").get_attribute("aria-pressed") == "true"
        assert other.locator("#search").input_value() == "PART"


@pytest.mark.parametrize("fragment", ["#stop=NaN&group=none&row=999999", "#stop=1e9&view=__proto__", "#%E0%A4%A&date="])
def test_a_broken_link_opens_the_whole_page(browser: Browser, site: Path, fragment: str) -> None:
    with opened_page(browser, site / "index.html", fragment=fragment) as page:
        assert page.locator("#cards .card").count() == 24


def test_everything_is_reached_by_keyboard(page: Page) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    page.locator("#stop").focus()
    before = page.locator("#stop").input_value()
    page.keyboard.press("ArrowRight")
    assert int(page.locator("#stop").input_value()) == int(before) + 1
    page.locator("#cards button").nth(3).focus()
    page.keyboard.press("Enter")
    expect(page.locator("#viewer")).to_be_visible()
    first = page.locator("#viewer-facts dd").first.inner_text()
    page.keyboard.press("ArrowRight")
    assert page.locator("#viewer-facts dd").first.inner_text() != first
    page.keyboard.press("ArrowLeft")
    assert page.locator("#viewer-facts dd").first.inner_text() == first
    page.keyboard.press("Escape")
    expect(page.locator("#viewer")).to_be_hidden()
    assert page.evaluate("document.activeElement === document.querySelectorAll('#cards button')[3]")


def test_what_is_shown_is_exported_and_no_name_becomes_a_formula(page: Page, plant: Plant, margins: np.ndarray) -> None:
    page.locator("#search").fill("img src")
    with page.expect_download() as started:
        page.locator("#export").click()
    with Path(started.value.path()).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == page.locator("#cards .card").count() > 0
    for row in rows:
        index = int(row["row_id"])
        assert row["uri"] == plant.rows[index]["uri"]
        assert row["line"] == plant.rows[index]["line"]
        assert float(row["beyond_threshold"]) == margins[index]
        assert row["label"] == ("anomalous" if margins[index] > 0 else "normal")
    guarded = page.evaluate(
        """() => feclip.gallery.csv([{id: 1, uri: "=1+1", further: {line: "@a"}, scores: {}, margin: 0}],
                                    {calibrated: true, decide: () => ({calibrated: true, isAnomalous: false})})"""
    )
    assert guarded.splitlines()[1].startswith("1,'=1+1,'@a,")


def test_a_missing_image_says_so_in_its_card(page: Page) -> None:
    cards = page.locator("#cards .missing")
    for gallery in ("highest", "nearest", "random"):
        page.locator(f"[data-view={gallery}]").click()
        for text in cards.all_inner_texts():
            assert "does not exist" in text
    assert page.evaluate("JSON.parse(document.getElementById('data').textContent).cards.some(card => !card.photo)")


@pytest.mark.parametrize("width", [1400, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_both_themes_and_widths_it_fits_and_a_screen_reader_finds_its_way(
    browser: Browser, site: Path, width: int, scheme: str
) -> None:
    with opened_page(browser, site / "index.html", width=width, scheme=scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        check_accessible(page)
        page.locator("#cards button").first.click()
        check_accessible(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_of_a_training_opens_too(browser: Browser, training_site: Path, scheme: str) -> None:
    with opened_page(browser, training_site / "index.html", width=400, scheme=scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        assert [trace["y"] for trace in plotted(page, "loss-plot")] == [[2, 1], [0.2, 0.1]]
        check_accessible(page)


def test_the_theme_is_switched_with_its_plots(page: Page) -> None:
    looks = []
    for _ in range(2):
        looks.append(
            page.evaluate(
                """() => [getComputedStyle(document.body).backgroundColor,
                          document.getElementById("time-plot")._fullLayout.font.color]"""
            )
        )
        page.locator("#theme").click()
    assert looks[0][0] != looks[1][0]
    assert looks[0][1] != looks[1][1]
