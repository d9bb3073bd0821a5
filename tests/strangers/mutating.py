"""Seeded damage: of bytes, as disks and networks do it, and of JSON values, as somebody with an editor does it."""

import copy
from random import Random
from typing import Any

MOST_FLIPS = 8
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**300, 0.5, -0.0, 1e-320, 1e308, "", " ", "0", "nan",
    "1e400", "\0", "../../etc/passwd", "/etc/passwd", "file:///etc/passwd", "s3://key:word@bucket/a", "http://h/a",
    "a" * 5000, "\u202e<script>", "\udc80".encode("utf-8", "surrogatepass").decode("latin-1"), [], {}, [[]], [None],
    "[" * 5000, "{a: &a [x,x,x,x,x,x,x,x,x],b: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a],c: [*b,*b,*b,*b,*b,*b,*b,*b,*b]}",
    {"": {}}, {"class_path": "os.system", "init_args": {}},
)  # fmt: skip


def damaged(chance: Random, data: bytes) -> tuple[str, bytes]:
    """Flip, cut, insert, repeat, blank or swap some bytes; return what was done, and the result."""
    kind = chance.choice(("flip", "flip", "flip", "byte", "cut", "insert", "repeat", "remove", "blank", "swap", "tail"))
    size = len(data)
    place, length = chance.randrange(size), chance.randint(1, max(1, size // 4))
    found = bytearray(data)
    if kind == "flip":
        for _ in range(chance.randint(1, MOST_FLIPS)):
            found[chance.randrange(size)] ^= 1 << chance.randrange(8)
    elif kind == "byte":
        found[place] = chance.randrange(256)
    elif kind == "cut":
        del found[place:]
    elif kind == "insert":
        found[place:place] = chance.randbytes(chance.randint(1, 64))
    elif kind == "repeat":
        found[place:place] = found[place : place + length]
    elif kind == "remove":
        del found[place : place + length]
    elif kind == "blank":
        found[place : place + length] = bytes(len(found[place : place + length]))
    elif kind == "swap":
        other = chance.randrange(size)
        found[place], found[other] = found[other], found[place]
    else:
        last = min(size, 256)  # where a Parquet file keeps its footer
        found[size - 1 - chance.randrange(last)] = chance.randrange(256)
    return f"{kind} at {place} of {size}", bytes(found)


def changed(chance: Random, value: Any) -> tuple[str, Any]:  # noqa: ANN401 - a JSON value
    """Replace, remove, add, rename or swap one value somewhere in a JSON value; return what was done, and the copy."""
    found = copy.deepcopy(value)
    containers = list(_containers(found))
    path, container = chance.choice(containers)
    kind = chance.choice(("replace", "replace", "replace", "remove", "add", "swap", "rename", "nest"))
    keys = list(container) if isinstance(container, dict) else list(range(len(container)))
    if not keys or kind == "add":
        if isinstance(container, dict):
            container["more"] = chance.choice(ODD_VALUES)
        else:
            container.append(chance.choice(ODD_VALUES))
        return f"add to {path}", found
    key = chance.choice(keys)
    if kind == "remove":
        del container[key]
    elif kind == "swap":
        other = chance.choice(keys)
        container[key], container[other] = container[other], container[key]
    elif kind == "rename" and isinstance(container, dict):
        container[f"{key} "] = container.pop(key)
    elif kind == "nest":
        container[key] = [container[key]]
    else:
        kind, container[key] = "replace", _another(chance, container[key])
    return f"{kind} {path}/{key}", found


def _another(chance: Random, value: Any) -> Any:  # noqa: ANN401 - a JSON value
    if isinstance(value, int | float) and not isinstance(value, bool) and chance.random() < 0.5:
        return chance.choice((-value, value + 1, value * 2, value / 3, str(value), float(value)))
    if isinstance(value, str) and value and chance.random() < 0.5:
        return chance.choice((value[:-1], value + "x", value.upper(), value[::-1], [value]))
    return copy.deepcopy(chance.choice(ODD_VALUES))


def _containers(value: Any, path: str = "") -> Any:  # noqa: ANN401 - JSON values
    if isinstance(value, dict | list):
        yield path, value
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in pairs:
            yield from _containers(inner, f"{path}/{key}")
