"""Links of the documentation lead somewhere: to a file of the repository, and to a heading of it."""

from pathlib import Path

import pytest
from doc_pages import REPOSITORY, anchor, headings, links, pages

MADE = REPOSITORY / "docs" / "reference"


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for link in links(page):
        path, _, fragment = link.partition("#")
        if ":" in path:
            assert path.startswith("https://"), f"{page.name}: {link}"
            continue
        target = (page.parent / path).resolve() if path else page
        if target.parent == MADE:
            continue  # made from docstrings while the site is built, which checks it
        assert target.exists(), f"{page.name}: {link}"
        if fragment and target.suffix == ".md":
            assert fragment in {anchor(text) for _, text in headings(target)}, f"{page.name}: {link}"
