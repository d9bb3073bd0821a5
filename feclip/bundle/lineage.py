"""Where a tuned bundle comes from: its parent, the epoch that was chosen, and what the guard saw before and after.

`lineage.json` of a bundle; absent where it has no parent. It is read strictly, since anyone may have written it.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from feclip.bundle.record import require_keys
from feclip.data import is_count, is_number
from feclip.errors import BundleError

__all__ = ["Change", "Domain", "Lineage", "read_lineage"]

SCHEMA = 1
MAX_TEXT = 4096  # characters
TITLES = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC"}
_DIGEST = re.compile(r"[0-9a-f]{64}")
_Part = TypeVar("_Part")


@dataclass(frozen=True, kw_only=True)
class Change:
    """A metric of the parent and of the tuned bundle, on the same images."""

    metric: str
    before: float
    """Of the parent, 0..1."""
    after: float
    """Of the tuned bundle."""
    low: float
    """Lower end of the 95 % interval of after - before, over images that are drawn for both alike."""
    high: float
    """Its upper end."""

    @property
    def is_worse(self) -> bool:
        """Whether the whole interval is below 0."""
        return self.high < 0

    def __str__(self) -> str:
        title = TITLES.get(self.metric, self.metric)
        interval = f"{self.low:+.3f}..{self.high:+.3f}"
        return f"{title} {self.before:.3f} -> {self.after:.3f} (95 % of the difference {interval})"


@dataclass(frozen=True, kw_only=True)
class Domain:
    """What the guard saw on the images of one domain."""

    name: str
    """``field`` or ``old``."""
    source: str
    """Where its images come from."""
    num_images: int
    num_anomalous: int
    changes: tuple[Change, ...]
    """Of image AUROC and, where masks are known, pixel AUROC; means over the categories."""

    @property
    def is_worse(self) -> bool:
        """Whether any of the metrics is."""
        return any(change.is_worse for change in self.changes)

    def __str__(self) -> str:
        worse = [change for change in self.changes if change.is_worse]
        told = "got worse" if worse else "was not shown to get worse"
        return f"the {self.name} domain {told}: {'; '.join(map(str, worse or self.changes))}"


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """The parent of a bundle, and how the bundle compares with it."""

    parent: str
    """URI of the parent when it was tuned."""
    parent_id: str
    """Its ``model_id``."""
    epoch: int
    """The epoch that was chosen on held-out images, from one; 0: none was better, and the weights are the parent's."""
    before: Mapping[str, float]
    """Metrics of the parent on the held-out images, as those of each epoch are measured."""
    domains: tuple[Domain, ...]
    """The held-out field images; then the old domain, where there were images of it."""

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values; `read_lineage` reads them back."""
        fields = dataclasses.asdict(self)
        fields["domains"] = [domain | {"changes": list(domain["changes"])} for domain in fields["domains"]]
        return {"schema": SCHEMA} | fields | {"before": dict(self.before)}


def read_lineage(record: Mapping[str, Any], *, where: str) -> Lineage:
    """Return the lineage that a record holds.

    Args:
        record: Content of lineage.json.
        where: What errors call it.

    Raises:
        BundleError: If a field is missing, unknown or not what it must be.
    """
    if record.get("schema") != SCHEMA or isinstance(record.get("schema"), bool):
        msg = f"{where} has schema {record.get('schema')!r}; this feclip reads schema {SCHEMA}: tune the parent again."
        raise BundleError(msg)
    require_keys(record, ("schema", *_names(Lineage)), where=where)
    before, digest = record["before"], record["parent_id"]
    _require(_is_text(record["parent"]), f"{where}: parent", "a text")
    _require(isinstance(digest, str) and _DIGEST.fullmatch(digest), f"{where}: parent_id", "a sha256")
    _require(is_count(record["epoch"]), f"{where}: epoch", "a whole number of at least 0")
    _require(
        isinstance(before, Mapping) and all(map(is_number, before.values())), f"{where}: before", "numbers by name"
    )
    return Lineage(
        parent=record["parent"],
        parent_id=digest,
        epoch=record["epoch"],
        before=before,
        domains=_each(record["domains"], _domain, where=f"{where}: domains"),
    )


def _domain(record: Mapping[str, Any], where: str) -> Domain:
    require_keys(record, _names(Domain), where=where)
    for name in ("name", "source"):
        _require(_is_text(record[name]), f"{where}.{name}", "a text")
    for name in ("num_images", "num_anomalous"):
        _require(is_count(record[name]), f"{where}.{name}", "a whole number of at least 0")
    return Domain(**{**record, "changes": _each(record["changes"], _change, where=f"{where}.changes")})


def _change(record: Mapping[str, Any], where: str) -> Change:
    require_keys(record, _names(Change), where=where)
    _require(_is_text(record["metric"]), f"{where}.metric", "a text")
    for name in ("before", "after", "low", "high"):
        _require(is_number(record[name]), f"{where}.{name}", "a number")
    return Change(**record)


def _each(found: object, read: Callable[[Any, str], _Part], *, where: str) -> tuple[_Part, ...]:
    _require(isinstance(found, list), where, "a list")
    assert isinstance(found, list)
    return tuple(read(part, f"{where}[{index}]") for index, part in enumerate(found))


def _names(kind: type[Any]) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind))


def _require(holds: object, name: str, rule: str) -> None:
    if not holds:
        msg = f"{name} must be {rule}."
        raise BundleError(msg)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_TEXT
