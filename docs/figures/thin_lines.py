"""Which lines survive in a mask when it is brought to the model's input, by their width there."""

import numpy as np
from svg import BLUE, GRID, MUTED, ORANGE, Drawing, Point

from feclip.data import Letterbox

INPUT = 336
WIDTHS = [step / 50 for step in range(15, 66)]
SOURCE_HEIGHT = 64
LEFT, RIGHT, TOP, BOTTOM = 80, 700, 40, 300


def share_that_survives(width: float) -> float:
    """Return the share of one-pixel lines that leave a mark, when one source pixel is ``width`` input pixels wide."""
    source_width = round(INPUT / width)
    geometry = Letterbox.fitted(SOURCE_HEIGHT, source_width, image_size=INPUT)
    columns = range(8, source_width - 8, 13)
    survivors = 0
    for column in columns:
        mask = np.zeros((SOURCE_HEIGHT, source_width), np.bool_)
        mask[:, column] = True
        survivors += bool(geometry.place(mask).any())
    return survivors / len(columns)


def draw() -> str:
    """Return the figure."""
    figure = Drawing(width=760, height=380, title="Share of thin lines that survive in a mask, by their width")
    for share in (0.0, 0.5, 1.0):
        y = _place(WIDTHS[0], share)[1]
        figure.line([(LEFT, y), (RIGHT, y)], stroke=GRID, width=1)
        figure.text((LEFT - 8, y + 4), f"{100 * share:g} %", anchor="end", fill=MUTED)
    for width in (0.4, 0.6, 0.8, 1.0, 1.2):
        figure.text((_place(width, 0)[0], BOTTOM + 20), f"{width:g}", fill=MUTED)
    figure.text(((LEFT + RIGHT) / 2, BOTTOM + 45), "width of the line on the model's input, px")
    figure.text((LEFT, TOP - 16), "lines that leave a mark in the training mask", anchor="start")
    figure.line([_place(width, share_that_survives(width)) for width in WIDTHS], stroke=BLUE, width=2)
    for pixels in (1, 2, 3):
        width = pixels * INPUT / 1024
        figure.line([_place(width, 0), _place(width, 1)], stroke=ORANGE, dashed=True)
        figure.text((_place(width, 1)[0] + 5, TOP + 16 * pixels), f"{pixels} px of 1024", size=12, anchor="start")
    return figure.render()


def _place(width: float, share: float) -> Point:
    across = (width - WIDTHS[0]) / (WIDTHS[-1] - WIDTHS[0])
    return LEFT + across * (RIGHT - LEFT), BOTTOM - share * (BOTTOM - TOP)
