"""Which images made a model, so that its bundle says so: `jobs/evaluate.py` refuses them."""

from collections.abc import Iterable

import pyarrow as pa
import torch

from feclip.bundle import IMAGE_COLUMNS
from feclip.data import absolute_uri, encode_parquet, inspect_rows, parse_parquet
from feclip.errors import DataError

__all__ = ["ImagesUsed"]

SELECTED, TRAINED = "selected", "trained"
_NUM_READERS = 4


class ImagesUsed:
    """Images by what they did, in the order they were first seen; those of a bundle that training went on from too.

    Args:
        before: `IMAGE_COLUMNS` of those images.
    """

    def __init__(self, before: pa.Table | None = None) -> None:
        self._before = IMAGE_COLUMNS.empty_table() if before is None else before.select(IMAGE_COLUMNS.names)
        self._roles: dict[str, str] = {}

    def add(self, paths: Iterable[str], *, role: str) -> None:
        """Note images; one that trained stays one that trained."""
        for path in paths:
            uri = absolute_uri(path)
            if self._roles.get(uri) != TRAINED:
                self._roles[uri] = role

    @property
    def trained(self) -> list[str]:
        """Those that trained here."""
        return [uri for uri, role in self._roles.items() if role == TRAINED]

    def table(self) -> pa.Table:
        """Read the images, and return the table that a bundle has of them.

        Raises:
            DataError: If one cannot be read any more.
            StorageError: If storage fails.
        """
        nothing = dict.fromkeys(("sha256", "mask_uri", "label", "valid_mask_uri"))
        rows = [{"uri": uri, "role": role} | nothing for uri, role in self._roles.items()]
        if not rows:
            return self._before
        found = inspect_rows(pa.Table.from_pylist(rows), num_threads=_NUM_READERS)
        errors = [error for error in found["error"].to_pylist() if error]
        if errors:
            msg = f"{len(errors)} of {len(rows)} images that made the model cannot be read any more: {errors[0]}"
            raise DataError(msg)
        return pa.concat_tables([self._before, found.select(IMAGE_COLUMNS.names).cast(IMAGE_COLUMNS)])

    def state(self) -> dict[str, torch.Tensor | list[str]]:
        """Return what a Lightning checkpoint keeps: plain lists, and a table as the bytes of its file."""
        content = torch.frombuffer(bytearray(encode_parquet(self._before)), dtype=torch.uint8)
        return {"before": content, "uris": list(self._roles), "roles": list(self._roles.values())}

    def load_state(self, state: dict[str, torch.Tensor | list[str]]) -> None:
        """Restore what `state` returned."""
        before = state["before"]
        assert isinstance(before, torch.Tensor)
        self._before = parse_parquet(before.numpy().tobytes())
        self._roles = dict(zip(state["uris"], state["roles"], strict=True))
