"""The rows that a report shows, chosen while a table streams by."""

import numpy as np
import numpy.typing as npt

__all__ = ["TopRows", "random_priorities"]


class TopRows:
    """Keeps the row ids with the largest keys of any number of batches; of equal ones the first.

    Args:
        size: Rows to keep, at least 0.

    Example:
        >>> rows = TopRows(2)
        >>> rows.offer(np.array([0, 1, 2]), np.array([1.0, np.nan, 3.0]))
        >>> rows.offer(np.array([3]), np.array([2.0]))
        >>> rows.row_ids()
        [2, 3]
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._keys = np.zeros(0)
        self._row_ids = np.zeros(0, np.int64)

    def offer(self, row_ids: npt.NDArray[np.int64], keys: npt.NDArray[np.float64]) -> None:
        """Take over what belongs among the kept rows.

        Args:
            row_ids: ``(M,)``.
            keys: ``(M,)``; NaN is never kept.
        """
        full = 0 < self._size == len(self._keys)
        chosen = np.flatnonzero(keys > self._keys[-1] if full else ~np.isnan(keys))
        all_keys = np.concatenate([self._keys, keys[chosen]])
        order = np.argsort(-all_keys, kind="stable")[: self._size]
        self._row_ids = np.concatenate([self._row_ids, row_ids[chosen]])[order]
        self._keys = all_keys[order]

    def row_ids(self) -> list[int]:
        """Return the rows, largest key first."""
        found: list[int] = self._row_ids.tolist()
        return found


def random_priorities(num: int, *, seed: int, first_row_id: int) -> npt.NDArray[np.float64]:
    """Return keys whose largest are a random sample without replacement, ``(num,)``, the same for the same table."""
    priorities: npt.NDArray[np.float64] = np.random.default_rng([seed, first_row_id]).random(num)
    return priorities
