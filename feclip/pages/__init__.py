"""What all pages share: one look in light and dark, plots that follow it, and nothing from the network."""

from feclip.pages.rendering import PLOTLY_FILE, plotly_script, render_page

__all__ = ["PLOTLY_FILE", "plotly_script", "render_page"]
