"""MkDocs hook: files of the repository become pages, and links between files become links between pages.

A page may link to any file of the repository as it would on a forge. Where that file is a page of the site, the link
leads there; where it is not, its path stands in the text instead of the link.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).parents[2]
PAGES = {
    "README.md": "index.md",
    "README.ko.md": "index.ko.md",
    "deploy/README.md": "clusters.md",
    "benchmarks/README.md": "benchmarks.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""Files outside of docs/, and the pages they become."""

SOURCES = {page: source for source, page in PAGES.items()}
_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put every decision record into the navigation, and every page that it does not name."""
    records = sorted(f"adr/{path.name}" for path in (REPOSITORY / "docs" / "adr").glob("0*.md"))
    (project,) = [section["Project"] for section in config.nav or [] if "Project" in section]
    project[-1]["Decisions"] = ["adr/README.md", *records]
    named = str(config.nav)
    project += [path.name for path in sorted((REPOSITORY / "docs").glob("*.md")) if f"'{path.name}'" not in named]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that stand outside of docs/."""
    for source, page in PAGES.items():
        if (REPOSITORY / source).is_file():
            files.append(File.generated(config, page, abs_src_path=str(REPOSITORY / source)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 - MkDocs's names
    """Rewrite the links of one page; code is left alone."""
    uri = page.file.src_uri
    source = _source_of(uri)
    pages = {_source_of(file.src_uri): file.src_uri for file in files}
    parts = re.split(r"(^```.*?^```)", markdown, flags=re.DOTALL | re.MULTILINE)
    parts[::2] = [_LINK.sub(lambda link: _rewritten(link, source=source, uri=uri, pages=pages), p) for p in parts[::2]]
    return "".join(parts)


def _source_of(uri: str) -> str:
    """Return the file of the repository that a page is made from."""
    if uri.startswith("notebooks/"):
        return f"docs/{uri.removesuffix('.md')}.ipynb"
    return SOURCES.get(uri, f"docs/{uri}")


def _rewritten(link: re.Match[str], *, source: str, uri: str, pages: dict[str, str]) -> str:
    path, hash_sign, anchor = link["target"].partition("#")
    if not path or ":" in path:
        return link[0]
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    index = posixpath.join(target, "README.md")
    target = index if index in pages else target
    if target in pages:
        relative = posixpath.relpath(pages[target], posixpath.dirname(uri) or ".")
        return f"{link['image']}[{link['text']}]({relative}{hash_sign}{anchor})"
    if not (REPOSITORY / target).exists():
        return link[0]  # MkDocs names it, and --strict stops
    return link["text"] if target.endswith(link["text"].strip("`/")) else f"{link['text']} (`{target}`)"
