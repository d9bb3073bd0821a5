"""The windows of the two adapters on a token grid, and the filters that the LFS statistics rest on."""

from svg import BLUE, GRID, MUTED, ORANGE, PALE_BLUE, PALE_ORANGE, Drawing

from feclip.model.dct import frequency_filters, signed_filter

GRID_SIDE, WINDOW, CELL, TOP = 8, 3, 24, 70


def draw() -> str:
    """Return the figure."""
    figure = Drawing(width=790, height=360, title="Windows of FFE and LFS on a token grid, and the filters of LFS")
    _draw_ffe(figure, left=30)
    _draw_lfs(figure, left=290)
    _draw_filters(figure, left=540)
    return figure.render()


def _draw_ffe(figure: Drawing, *, left: float) -> None:
    figure.text((left, 30), "FFE", anchor="start", size=15)
    figure.text((left, 50), f"{WINDOW} x {WINDOW} windows side by side", anchor="start", size=12, fill=MUTED)
    padded = -(-GRID_SIDE // WINDOW) * WINDOW
    for y in range(padded):
        for x in range(padded):
            added = max(x, y) >= GRID_SIDE
            fill = "#f3f4f6" if added else PALE_BLUE if (x // WINDOW + y // WINDOW) % 2 else "#eff6ff"
            figure.box((left + x * CELL, TOP + y * CELL), (CELL, CELL), fill=fill, stroke=GRID, dashed=added)
    for y in range(0, padded, WINDOW):
        for x in range(0, padded, WINDOW):
            figure.box((left + x * CELL, TOP + y * CELL), (WINDOW * CELL, WINDOW * CELL), stroke=BLUE)
    below = TOP + padded * CELL + 22
    said = (f"{GRID_SIDE} x {GRID_SIDE} tokens: the edge is", f"repeated to {padded} x {padded},", "then cropped")
    figure.text((left, below), *said, anchor="start", size=12)


def _draw_lfs(figure: Drawing, *, left: float) -> None:
    figure.text((left, 30), "LFS", anchor="start", size=15)
    figure.text((left, 50), f"one {WINDOW} x {WINDOW} window at every token", anchor="start", size=12, fill=MUTED)
    for y in range(GRID_SIDE):
        for x in range(GRID_SIDE):
            figure.box((left + x * CELL, TOP + y * CELL), (CELL, CELL), fill="#fff7ed", stroke=GRID)
    for x, y in ((1, 1), (2, 1), (5, 5)):
        before = (WINDOW - 1) // 2
        figure.box((left + x * CELL, TOP + y * CELL), (CELL, CELL), fill=PALE_ORANGE, stroke=ORANGE)
        corner = (left + (x - before) * CELL, TOP + (y - before) * CELL)
        figure.box(corner, (WINDOW * CELL, WINDOW * CELL), stroke=ORANGE, dashed=True)
    below = TOP + GRID_SIDE * CELL + 22
    said = ("as many windows as tokens;", "the answer is written to", "the token in the middle")
    figure.text((left, below), *said, anchor="start", size=12)


def _draw_filters(figure: Drawing, *, left: float) -> None:
    figure.text((left, 30), "Statistic of an LFS window", anchor="start", size=15)
    figure.text((left, 58), "signed: one fixed filter", anchor="start", size=12, fill=MUTED)
    figure.cells((left, TOP), signed_filter(WINDOW)[0].tolist(), side=42, digits=3)
    filters = frequency_filters(WINDOW).tolist()
    y = TOP + WINDOW * 42 + 30
    said = ("magnitude, power: mean of |c| or c² of", f"{len(filters)} filters, without the DC term")
    figure.text((left, y), *said, anchor="start", size=12, fill=MUTED)
    for index, weights in enumerate(filters):
        at = (left + index % 4 * 50, y + 32 + index // 4 * 50)
        figure.cells(at, weights, side=14)
