"""How far the false-alarm rate of a threshold may lie, by the number of normals it was taken from."""

import math

from svg import BLUE, GRID, INK, MUTED, ORANGE, Drawing, Point

from feclip.calibration import Variant, num_needed, rank_of, rate_interval

LEFT, RIGHT, TOP, BOTTOM = 80, 700, 40, 330
MOST_NORMALS = 100_000
RATES = (1e-4, 1e-3, 1e-2, 1e-1)
COLORS = {"99.5": BLUE, "99.9": ORANGE}


def draw() -> str:
    """Return the figure."""
    figure = Drawing(width=760, height=400, title="95 % interval of the false-alarm rate by the number of normals")
    for rate in RATES:
        y = _place(100, rate)[1]
        figure.line([(LEFT, y), (RIGHT, y)], stroke=GRID, width=1)
        figure.text((LEFT - 8, y + 4), f"{100 * rate:g} %", anchor="end", fill=MUTED)
    for num in (100, 1_000, 10_000, MOST_NORMALS):
        x = _place(num, RATES[0])[0]
        figure.line([(x, TOP), (x, BOTTOM)], stroke=GRID, width=1)
        figure.text((x, BOTTOM + 20), f"{num:,}", fill=MUTED)
    figure.text(((LEFT + RIGHT) / 2, BOTTOM + 45), "normals that calibrate")
    figure.text((LEFT, TOP - 16), "good parts that are stopped", anchor="start")
    for percentile, color in COLORS.items():
        _draw_band(figure, percentile, color)
    return figure.render()


def _draw_band(figure: Drawing, percentile: str, color: str) -> None:
    least = num_needed(percentile, Variant.percentile)
    steps = 60
    nums = [round(least * (MOST_NORMALS / least) ** (step / steps)) for step in range(steps + 1)]
    ends = [rate_interval(num, rank_of(num, percentile, Variant.percentile)) for num in nums]
    lower = [_place(num, low) for num, (low, _) in zip(nums, ends, strict=True)]
    upper = [_place(num, high) for num, (_, high) in zip(nums, ends, strict=True)]
    figure.area([*lower, *reversed(upper)], fill=color)
    target = 1 - float(percentile) / 100
    figure.line([_place(least, target), _place(MOST_NORMALS, target)], stroke=color, dashed=True)
    x, y = upper[0]
    low, high = ends[0]
    label_y = y - 24 if percentile == "99.5" else max(point[1] for point in lower) + 4
    label_x = x + 6 if percentile == "99.5" else x + 90
    figure.text((label_x, label_y), f"{percentile}: from {least:,} normals", size=12, anchor="start", fill=INK)
    rates = f"with these, {100 * low:.2g} to {100 * high:.2g} %"
    figure.text((label_x, label_y + 15), rates, size=12, anchor="start", fill=MUTED)


def _place(num: float, rate: float) -> Point:
    across = math.log10(num / 100) / math.log10(MOST_NORMALS / 100)
    down = math.log10(RATES[-1] / rate) / math.log10(RATES[-1] / RATES[0])
    return LEFT + across * (RIGHT - LEFT), TOP + down * (BOTTOM - TOP)
