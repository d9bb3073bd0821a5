"""The Korean pages say what the English ones say: as many headings, the same blocks, the same numbers of fields."""

import re
from pathlib import Path

import pytest
from doc_pages import REPOSITORY, blocks, headings, links

PAIRS = [
    (REPOSITORY / "README.md", REPOSITORY / "README.ko.md"),
    (REPOSITORY / "docs" / "field-guide.md", REPOSITORY / "docs" / "field-guide.ko.md"),
]
pairs = pytest.mark.parametrize(("english", "korean"), PAIRS, ids=lambda path: path.name)


@pairs
def test_headings_correspond(english: Path, korean: Path) -> None:
    assert [level for level, _ in headings(english)] == [level for level, _ in headings(korean)]


@pairs
def test_blocks_hold_the_same_commands(english: Path, korean: Path) -> None:
    ours, theirs = blocks(english), blocks(korean)
    assert [(block.language, block.mark) for block in ours] == [(block.language, block.mark) for block in theirs]
    for block, other in zip(ours, theirs, strict=True):
        if block.holds_commands:
            assert list(block.commands()) == list(other.commands()), f"{block} and {other}"


@pairs
def test_code_words_and_measured_numbers_correspond(english: Path, korean: Path) -> None:
    assert _words(english) == _words(korean)


@pairs
def test_each_links_to_the_other(english: Path, korean: Path) -> None:
    assert korean.name in links(english)
    assert english.name in links(korean)


@pairs
def test_the_translation_is_korean(english: Path, korean: Path) -> None:
    hangul = re.findall(r"[가-힣]", korean.read_text(encoding="utf-8"))
    assert len(hangul) > len(english.read_text(encoding="utf-8")) // 8


def _words(page: Path) -> tuple[set[str], set[str]]:
    """Return what stands in backticks, and the numbers with a decimal point."""
    text = "\n".join(line for line in page.read_text(encoding="utf-8").splitlines() if not line.startswith("    "))
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return set(re.findall(r"`([^`\n]+)`", text)), set(re.findall(r"\d+\.\d+", text))
