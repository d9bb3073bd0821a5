"""Figures are what their scripts draw today."""

import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "figures"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.svg"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_figure_is_what_its_script_draws(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    drawn = importlib.import_module(name).draw()
    assert drawn == (FOLDER / f"{name}.svg").read_text(encoding="utf-8"), "run python docs/figures/draw.py"


def test_every_script_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    assert sorted(importlib.import_module("draw").FIGURES) == SCRIPTS
