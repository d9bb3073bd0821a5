"""Templates to pages, and the one script of plots that a page has inside or beside it."""

from typing import Any

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs

__all__ = ["PLOTLY_FILE", "plotly_script", "render_page"]

PLOTLY_FILE = "plotly.min.js"
"""Name of the script beside a page that does not hold it."""
_SHARED = "feclip.pages"


def render_page(template: str, *, package: str, **values: Any) -> str:  # noqa: ANN401 - what the template names
    """Return a page as HTML; every value is escaped.

    Args:
        template: File in the package's ``templates``, which extends ``page.html.jinja``.
        package: Room that the template belongs to.
        **values: What the template names; one that it names and does not get is an error.
    """
    loader = jinja2.ChoiceLoader([jinja2.PackageLoader(package), jinja2.PackageLoader(_SHARED)])
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )

    def asset(name: str) -> Markup:
        """Return a style sheet or a script of ours as it is."""
        return Markup(loader.get_source(environment, name)[0])  # noqa: S704 - ours, and no value of a user is in it

    environment.globals["asset"] = asset
    return environment.get_template(template).render(**values)


def plotly_script() -> str:
    """Return Plotly's script, about 5 MB."""
    script: str = get_plotlyjs()
    return script
