"""Tables for people: lines of Markdown, in which names that others gave mark nothing, and the same for a terminal."""

import html
from collections.abc import Iterator, Sequence

__all__ = ["code", "header", "line", "on_screen", "plain"]

_MARKS = {ord(mark): f"&#{ord(mark)};" for mark in "|`[]*\\"}
_CODE_MARKS = str.maketrans("`|", "'/")


def header(names: Sequence[str]) -> Iterator[str]:
    """Yield the two lines that begin a table."""
    yield line(names)
    yield "|" + "---|" * len(names)


def line(cells: Sequence[str]) -> str:
    """Return one line of a table."""
    return f"| {' | '.join(cells)} |"


def plain(text: str) -> str:
    """Return a name that others gave as text of one line that marks nothing, in Markdown and in the HTML it becomes."""
    return html.escape(" ".join(text.split())).translate(_MARKS)


def code(text: str) -> str:
    """Return a name that others gave as code of one line, which it cannot end."""
    return f"`{' '.join(text.split()).translate(_CODE_MARKS)}`"


def on_screen(lines: Sequence[str]) -> str:
    """Return Markdown as text for a terminal, the columns of its tables aligned.

    Example:
        >>> print(on_screen([*header(["", "AUROC"]), line(["ours", "0.9"])]))
              AUROC
        ours  0.9
    """
    blocks: list[list[str]] = [[]]
    for text in lines:
        if text.startswith("|") != bool(blocks[-1] and blocks[-1][-1].startswith("|")):
            blocks.append([])
        blocks[-1].append(text)
    return "\n".join(text for block in blocks for text in _aligned(block)).strip("\n")


def _aligned(lines: list[str]) -> list[str]:
    """Return the lines of a table with columns of one width; other lines as they are."""
    if not lines or not lines[0].startswith("|"):
        return lines
    rows = [
        [html.unescape(cell.strip()) for cell in text.strip("|").split("|")]
        for text in lines
        if not text.startswith("|---")
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
