"""Float32 scores as unsigned integers of the same order, their *keys*: exact to count, sort and send.

Calibration and the metrics both count keys; neither room knows the other.
"""

import numpy as np
import numpy.typing as npt

__all__ = ["KEY_BITS", "Keys", "keys_of", "scores_of"]

KEY_BITS = 32
SIGN = np.uint32(1 << (KEY_BITS - 1))

Keys = npt.NDArray[np.uint32]


def keys_of(scores: npt.NDArray[np.float32]) -> Keys:
    """Return keys of shape ``(N,)`` in the order of the scores; both zeros have one key.

    Example:
        >>> keys = keys_of(np.array([-1, -0.0, 0.0, 1], np.float32))
        >>> bool(keys[0] < keys[1] == keys[2] < keys[3])
        True
    """
    bits = (scores + np.float32(0)).view(np.uint32)  # -0.0 + 0.0 is 0.0
    flipped: Keys = (bits.view(np.int32) >> np.int32(KEY_BITS - 1)).view(np.uint32)  # all ones where negative
    flipped |= SIGN
    flipped ^= bits
    return flipped


def scores_of(keys: Keys) -> npt.NDArray[np.float32]:
    """Return the scores that :func:`keys_of` turns into these keys."""
    bits: Keys = np.where(keys & SIGN, keys ^ SIGN, ~keys).astype(np.uint32, copy=False)
    return bits.view(np.float32)
