"""What becomes of one image in a scoring job, with the bytes of each step."""

import numpy as np
import torch
from svg import FROZEN, MUTED, PALE_BLUE, PALE_ORANGE, Drawing

from feclip.data import Letterbox, valid_tokens
from feclip.score_table import pack_token_map

SOURCE = (3000, 4000)  # height and width of benchmarks/results/decoding_jpeg_12.json
INPUT, PATCH = 336, 14
COLUMNS = 3
BOX = (250, 66)


def draw() -> str:
    """Return the figure."""
    geometry = Letterbox.fitted(*SOURCE, image_size=INPUT)
    valid = valid_tokens(torch.from_numpy(geometry.valid_pixels())[None], patch_size=PATCH)[0]
    side = valid.shape[0]
    decoded, prepared = SOURCE[0] * SOURCE[1] * 3, INPUT * INPUT * 3
    token_map = len(pack_token_map(np.zeros((side, side), np.float16)))
    figure = Drawing(width=940, height=300, title="From bytes in storage to a row of the score table")
    figure.text((20, 30), f"One {SOURCE[1]} x {SOURCE[0]} JPEG, model input {INPUT} px", size=15, anchor="start")
    steps = (
        ("listing", "once, then frozen", "a URI", FROZEN),
        ("fetch", "threads of a task", "the file's bytes", FROZEN),
        ("decode", "same task", f"{decoded:,} bytes", FROZEN),
        ("letterbox", f"{geometry.width} x {geometry.height} in {INPUT} x {INPUT}", f"{prepared:,} bytes", PALE_BLUE),
        ("model", "actor; GPU if asked for", f"{int(valid.sum())} of {side * side} tokens valid", PALE_ORANGE),
        ("row", "Parquet, one file a slice", f"token map {token_map:,} bytes", PALE_ORANGE),
    )
    for index, (name, where, size, fill) in enumerate(steps):
        x = 20 + index % COLUMNS * 310
        y = 60 + index // COLUMNS * 120
        figure.labelled((x, y), BOX, name, where, size, fill=fill)
        if index % COLUMNS < COLUMNS - 1:
            figure.arrow((x + 252, y + BOX[1] / 2), (x + 308, y + BOX[1] / 2))
    figure.line([(765, 128), (765, 152), (145, 152), (145, 170)])
    figure.arrow((145, 170), (145, 178))
    between = f"Between tasks and actor: {prepared:,} bytes an image, never the {decoded:,} of the decoded picture."
    figure.text((20, 280), between, anchor="start", size=12, fill=MUTED)
    return figure.render()
