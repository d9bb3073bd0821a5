"""The documentation as tests read it: its blocks, what a comment above a block says of it, commands, headings, links.

A comment stands alone above a block, in Markdown invisible: ``<!-- run -->``. What it may say, with or without a reason
after a colon:

run             a laptop runs it: executed in order of the page, on small generated data (slow tests)
run: quick      the same, also in CI
gpu, cluster, aws, kubernetes, weights, make, parse
                only parsed: it needs a GPU, a cluster, an account, downloaded weights, a clean clone, the reader's data
text            no command: a drawing of folders, a formula, the content of a file

``<!-- page: record -->`` at the top of a page: its commands are those that once gave its numbers; they are only parsed.
"""

import itertools
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

REPOSITORY = Path(__file__).parents[2]
PARSED = ("gpu", "cluster", "aws", "kubernetes", "weights", "make", "parse", "record")
MARKS = ("run", "run: quick", "text", *PARSED)

_MARKDOWN = MarkdownIt("commonmark").enable("table")
_COMMENT = re.compile(r"<!-- (.+?) -->")


def pages() -> list[Path]:
    """Return every page whose commands and links are held to be right."""
    outside = [REPOSITORY / name for name in ("README.md", "README.ko.md", "CONTRIBUTING.md", "deploy/README.md")]
    return [*outside, *sorted((REPOSITORY / "docs").rglob("*.md"))]


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced or indented block."""

    page: Path
    line: int
    """Where it begins, one-based."""
    language: str
    """As the fence says; empty for an indented block."""
    mark: str
    """One of `MARKS`, or what else a comment said; empty where there is none."""
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(REPOSITORY)}:{self.line}"

    @property
    def holds_commands(self) -> bool:
        """Whether a shell is meant to read it."""
        return self.mark != "text" and self.language in {"", "bash", "console", "sh"}

    def commands(self) -> Iterator[list[str]]:
        """Yield its commands as words, without comments, line continuations joined."""
        for line in re.sub(r"\\\n\s*", " ", self.text).splitlines():
            words: list[str] = []
            for word in [*shlex.split(line, comments=True), "&&"]:
                if word != "&&":
                    words.append(word)
                elif words:
                    yield words
                    words = []


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page."""
    found, mark = [], ""
    record = "<!-- page: record -->" in page.read_text(encoding="utf-8")
    for token in _MARKDOWN.parse(page.read_text(encoding="utf-8")):
        if token.type == "html_block" and (comment := _COMMENT.fullmatch(token.content.strip())):
            mark = _mark(comment[1])
        elif token.type in {"fence", "code_block"}:
            line = (token.map or [0])[0] + 1
            mark = mark or ("record" if record else "")
            found.append(Block(page=page, line=line, language=token.info, mark=mark, text=token.content))
            mark = ""
        elif token.type != "html_block":
            mark = ""
    return found


def headings(page: Path) -> list[tuple[int, str]]:
    """Return level and text of every heading."""
    tokens = _MARKDOWN.parse(page.read_text(encoding="utf-8"))
    return [
        (int(token.tag[1]), following.content)
        for token, following in itertools.pairwise(tokens)
        if token.type == "heading_open"
    ]


def links(page: Path) -> list[str]:
    """Return the targets of all links and images."""
    return [target for token in _MARKDOWN.parse(page.read_text(encoding="utf-8")) for target in _targets(token)]


def anchor(heading: str) -> str:
    """Return the anchor of a heading as forges and MkDocs make it."""
    plain = re.sub(r"[`*]", "", heading)
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", plain.lower()).strip())


def _targets(token: Token) -> Iterator[str]:
    if token.type == "link_open":
        yield str(token.attrs["href"])
    if token.type == "image":
        yield str(token.attrs["src"])
    for child in token.children or ():
        yield from _targets(child)


def _mark(comment: str) -> str:
    return comment if comment in MARKS else comment.partition(":")[0]
