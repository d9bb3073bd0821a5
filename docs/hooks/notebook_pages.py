"""MkDocs hook: a notebook becomes a page; its cells are shown, and a test runs them."""

from pathlib import Path

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add one page for each notebook."""
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=_markdown(path)))
    return files


def _markdown(path: Path) -> str:
    cells = nbformat.read(path, as_version=4).cells
    shown = [cell.source if cell.cell_type == "markdown" else f"```python\n{cell.source}\n```" for cell in cells]
    return "\n\n".join(shown) + "\n"
