"""The site: built without a warning, complete in itself, its reference whole."""

import dataclasses
import os
import re
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from doc_pages import REPOSITORY

from feclip import config

JOBS = {
    path.stem: getattr(config, f"{path.stem.capitalize()}Config") for path in sorted((REPOSITORY / "jobs").glob("*.py"))
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make check` builds it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    built = subprocess.run(
        command,
        cwd=REPOSITORY,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return folder


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        loaded = re.findall(
            r"<(?:script|img|link|iframe)[^>]+(?:src|href)=\"([^\"]+)\"", page.read_text(encoding="utf-8")
        )
        assert [target for target in loaded if "//" in target] == [], page.name


def test_pages_of_the_repository_are_pages_of_the_site(site: Path) -> None:
    for name, words in {
        "index": "make demo",
        "index.ko": "make demo",
        "clusters": "aws cloudformation deploy",
        "benchmarks": "lfs_statistic",
        "contributing": "lint-imports",
        "changelog": "Unreleased",
        "adr/0013-exactly-once": "exactly once",
        "notebooks/first-bundle": "draw_sample",
    }.items():
        assert words in _text(site / f"{name}.html"), name


@pytest.mark.parametrize("job", JOBS)
def test_every_field_of_a_job_stands_in_the_reference(site: Path, job: str) -> None:
    page = _text(site / "reference" / "config.html")
    section = page[page.index(f"jobs/{job}.py") :]
    for name in _names(JOBS[job]):
        assert re.search(rf"(?<![\w.]){re.escape(name)}(?![\w.])", section), f"{job}: {name}"


def test_every_room_has_a_page(site: Path) -> None:
    pages = {path.stem for path in (site / "reference").glob("*.html")}
    assert pages >= {
        "archive",
        "bundle",
        "calibration",
        "cluster",
        "config",
        "data",
        "demo",
        "errors",
        "metrics",
        "model",
    }


def test_public_names_are_shown_with_their_docstrings(site: Path) -> None:
    page = _text(site / "reference" / "model.html")
    assert "resolve_tap_blocks" in page
    assert 'The paper\'s N "blocks" are groups of layers' in page
    assert ":class:" not in page


def _text(page: Path) -> str:
    html = re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8"))
    for entity, character in {
        "&quot;": '"',
        "&#34;": '"',
        "&#39;": "'",
        "&lt;": "<",
        "&gt;": ">",
        "&amp;": "&",
    }.items():
        html = html.replace(entity, character)
    return html


def _names(kind: type[Any], prefix: str = "") -> Iterator[str]:
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from _names(hints[field.name], f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}"
