"""The memory bank of a bundle: tokens of normal images, and how they were chosen.

memory_bank.safetensors   ``tap_<t>.group_<g>`` (M, D), float16, of unit length; taps and groups count from zero
memory_bank.json          the model they are of, the shots, the groups, what a coreset left out
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from safetensors import SafetensorError

from feclip.bundle.record import require_keys
from feclip.data import is_count, is_number
from feclip.errors import BundleError

if TYPE_CHECKING:  # a process that needs no model does without torch: docs/adr/0020
    import torch

    from feclip.model import MemoryBank

__all__ = ["BANK_FILE", "BANK_RECORD_FILE", "StoredBank", "read_bank"]

BANK_FILE = "memory_bank.safetensors"
BANK_RECORD_FILE = "memory_bank.json"
MAX_NAME = 4096  # characters
UNIT_TOLERANCE = 0.01  # of a row's length; float16 itself is off by less than a thousandth
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredBank:
    """A memory bank as it stands in a bundle."""

    parent_model_id: str
    """The model whose tokens they are: the same without a bank."""
    request: dict[str, Any]
    """What was asked for: where the normal images are, shots, seed, share of the rows that are kept."""
    group_column: str | None
    """Column of a listing by which the bank is divided; None where all images share it."""
    groups: dict[str, int]
    """Normal images by group; one group without a name where there is no column."""
    mean_distance: float
    """Mean over all rows of 1 - cosine to the nearest one kept, of the worst tap and group; 0 where all are kept."""
    max_distance: float
    """The largest of these: no distance to the bank is larger by more than what this angle makes of it."""
    rows: "dict[str, torch.Tensor]"
    """Tokens ``(M, D)`` by ``tap_<t>.group_<g>``."""

    @property
    def num_images(self) -> int:
        """Normal images of the bank."""
        return sum(self.groups.values())

    @property
    def num_bytes(self) -> int:
        """Bytes of the tokens."""
        return sum(rows.numel() * rows.element_size() for rows in self.rows.values())

    def record(self) -> dict[str, Any]:
        """Return what memory_bank.json holds."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "rows"}

    def build(self) -> "MemoryBank":
        """Return the bank as a module on the CPU."""
        from feclip.model import MemoryBank  # noqa: PLC0415 - see docs/adr/0020

        taps = len(self.rows) // len(self.groups)
        rows = [[self.rows[_name(tap, group)] for group in range(len(self.groups))] for tap in range(taps)]
        return MemoryBank(rows, groups=None if self.group_column is None else list(self.groups))

    @classmethod
    def of(
        cls,
        rows: "list[list[torch.Tensor]]",
        **fields: Any,  # noqa: ANN401 - the other fields
    ) -> Self:
        """Return a bank of rows by tap and group, both in their order."""
        named = {_name(tap, group): part for tap, parts in enumerate(rows) for group, part in enumerate(parts)}
        return cls(rows=named, **fields)


def _name(tap: int, group: int) -> str:
    return f"tap_{tap}.group_{group}"


def read_bank(record: Mapping[str, Any], content: bytes, *, num_taps: int, where: str) -> StoredBank:
    """Read a memory bank that anyone may have written.

    Args:
        record: What memory_bank.json holds.
        content: Bytes of memory_bank.safetensors.
        num_taps: Taps of the model.
        where: The bundle, for messages.

    Raises:
        BundleError: If a field or a tensor is not what it must be.
    """
    fields = [field.name for field in dataclasses.fields(StoredBank) if field.name != "rows"]
    require_keys(record, fields, where=f"{where}/{BANK_RECORD_FILE}")
    groups, column = record["groups"], record["group_column"]
    rules = {
        "parent_model_id": isinstance(record["parent_model_id"], str) and _DIGEST.fullmatch(record["parent_model_id"]),
        "request": isinstance(record["request"], dict),
        "group_column": column is None or (isinstance(column, str) and 0 < len(column) <= MAX_NAME),
        "groups": isinstance(groups, dict)
        and len(groups) > 0
        and (column is not None or len(groups) == 1)
        and all(len(name) <= MAX_NAME and is_count(number) and number for name, number in groups.items()),
        **{
            name: is_number(record[name]) and 0 <= record[name] <= 2  # noqa: PLR2004 - of 1 - cosine
            for name in ("mean_distance", "max_distance")
        },
    }
    for name, holds in rules.items():
        if not holds:
            msg = f"{where}/{BANK_RECORD_FILE}: {name} is not what it must be; calibrate again."
            raise BundleError(msg)
    bank = StoredBank(**record, rows=_read_rows(content, where=f"{where}/{BANK_FILE}"))
    expected = {_name(tap, group) for tap in range(num_taps) for group in range(len(groups))}
    if bank.rows.keys() != expected:
        msg = (
            f"{where}/{BANK_FILE} does not hold the rows of {num_taps} taps and {len(groups)} groups; calibrate again."
        )
        raise BundleError(msg)
    return bank


def _read_rows(content: bytes, *, where: str) -> "dict[str, torch.Tensor]":
    import torch  # noqa: PLC0415 - see docs/adr/0020
    from safetensors.torch import load  # noqa: PLC0415 - see docs/adr/0020

    try:
        rows = load(content)
    except (SafetensorError, KeyError, OverflowError, RuntimeError, TypeError, ValueError) as error:
        msg = f"{where} is a damaged file: {' '.join(str(error).split())}"
        raise BundleError(msg) from error
    for name, part in rows.items():
        fits = part.dtype is torch.float16 and part.ndim == 2 and part.numel() > 0  # noqa: PLR2004 - (M, D)
        if not fits or bool(((part.float().norm(dim=1) - 1).abs() > UNIT_TOLERANCE).any()):
            msg = f"{where}: {name[:100]} must be float16 rows of unit length; calibrate again."
            raise BundleError(msg)
        if bool(part.isnan().any()):
            msg = f"{where}: {name[:100]} holds numbers that are not finite; calibrate again."
            raise BundleError(msg)
    return rows
