"""Random maps that hold every difficulty at once."""

import numpy as np
import numpy.typing as npt

__all__ = ["Case", "draw_case"]

Case = tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]


def draw_case(seed: int) -> Case:
    """Return logits and masks ``(5, 9, 11)``: ties, a normal image, padding that cuts regions, regions at borders."""
    rng = np.random.default_rng(seed)
    levels = int(rng.choice([2, 8, 64, 2**17]))  # powers of two, so that changes of scale stay exact in float32
    masks = rng.random((5, 9, 11)) < 0.15
    masks[0] = False  # a normal image
    masks[1] = False
    masks[1, 0, 0] = masks[1, 8, 4:] = True  # a corner and a border
    masks[2, 2:6, 3:9] = True  # a region that padding will cut
    logits = (rng.integers(levels, size=masks.shape) * 16 / levels - 8).astype(np.float32)
    logits[masks] += np.float32(16 / levels) * rng.integers(3)
    logits[2, :, 5:7] = np.nan
    logits[3, :, :2] = np.nan
    if rng.random() < 0.5:
        logits[4] = np.nan  # an image without a gt mask
    return logits, masks
