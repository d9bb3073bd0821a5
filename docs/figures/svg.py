"""A drawing of boxes, lines and texts as SVG, for the figures beside this file. Coordinates in px, y downwards."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

INK = "#1f2937"
MUTED = "#6b7280"
GRID = "#d1d5db"
FROZEN = "#e5e7eb"
BLUE = "#2563eb"
PALE_BLUE = "#dbeafe"
ORANGE = "#c2410c"
PALE_ORANGE = "#ffedd5"

Point = tuple[float, float]


@dataclass(kw_only=True)
class Drawing:
    """A figure: what is drawn later lies above."""

    width: int
    height: int
    title: str
    """What a screen reader says."""
    parts: list[str] = field(default_factory=list)

    def box(self, at: Point, size: Point, *, fill: str = "none", stroke: str = INK, dashed: bool = False) -> None:
        """Draw a rectangle; ``at`` is its upper left corner."""
        dash = ' stroke-dasharray="4 3"' if dashed else ""
        self.parts.append(
            f'<rect x="{at[0]:g}" y="{at[1]:g}" width="{size[0]:g}" height="{size[1]:g}" rx="3" '
            f'fill="{fill}" stroke="{stroke}"{dash}/>'
        )

    def text(self, at: Point, *lines: str, size: int = 13, anchor: str = "middle", fill: str = INK) -> None:
        """Write lines of text, the first on the baseline ``at``."""
        for index, line in enumerate(lines):
            y = at[1] + index * size * 1.3
            style = f'font-size="{size}" text-anchor="{anchor}" fill="{fill}"'
            self.parts.append(f'<text x="{at[0]:g}" y="{y:g}" {style}>{escape(line)}</text>')

    def labelled(self, at: Point, size: Point, *lines: str, fill: str, text_size: int = 13) -> None:
        """Draw a rectangle with lines of text in its middle."""
        self.box(at, size, fill=fill)
        top = at[1] + size[1] / 2 - (len(lines) - 1) * text_size * 0.65 + text_size * 0.35
        self.text((at[0] + size[0] / 2, top), *lines, size=text_size)

    def line(self, points: Iterable[Point], *, stroke: str = INK, width: float = 1.5, dashed: bool = False) -> None:
        """Draw straight lines from point to point."""
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.parts.append(f'<polyline points="{path}" fill="none" stroke="{stroke}" stroke-width="{width:g}"{dash}/>')

    def arrow(self, start: Point, end: Point, *, stroke: str = INK) -> None:
        """Draw an arrow."""
        self.parts.append(
            f'<line x1="{start[0]:g}" y1="{start[1]:g}" x2="{end[0]:g}" y2="{end[1]:g}" stroke="{stroke}" '
            'stroke-width="1.5" marker-end="url(#head)"/>'
        )

    def area(self, points: Iterable[Point], *, fill: str) -> None:
        """Fill a polygon, half transparent."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.parts.append(f'<polygon points="{path}" fill="{fill}" fill-opacity="0.35"/>')

    def cells(self, at: Point, rows: Sequence[Sequence[float]], *, side: float, digits: int | None = None) -> None:
        """Draw a matrix as cells: blue above zero, orange below, by size; with numbers where ``digits`` says so."""
        largest = max(abs(value) for row in rows for value in row) or 1.0
        for y, row in enumerate(rows):
            for x, value in enumerate(row):
                left, top = at[0] + x * side, at[1] + y * side
                fill, share = (BLUE if value > 0 else ORANGE), abs(value) / largest
                self.parts.append(
                    f'<rect x="{left:g}" y="{top:g}" width="{side:g}" height="{side:g}" fill="{fill}" '
                    f'fill-opacity="{share * 0.6:.2f}" stroke="{GRID}"/>'
                )
                if digits is not None:
                    self.text((left + side / 2, top + side / 2 + 4), f"{value:.{digits}f}", size=11)

    def render(self) -> str:
        """Return the SVG: its own light card, so that it can be read in a dark page too."""
        body = "\n".join(self.parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" role="img" '
            f'font-family="system-ui, sans-serif">\n<title>{escape(self.title)}</title>\n'
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
            f'orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="{INK}"/></marker></defs>\n'
            f'<rect width="{self.width}" height="{self.height}" rx="8" fill="#ffffff"/>\n{body}\n</svg>\n'
        )
