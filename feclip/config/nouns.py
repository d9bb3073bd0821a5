"""What the prompts call the images of each group."""

from collections.abc import Iterable, Mapping
from typing import Any

from jsonargparse.typing import register_type

from feclip.config.lists import read_list, write_list

__all__ = ["Nouns", "check_nouns", "groups_to_tell", "tell_nouns"]

MAX_NOUNS = 256  # the text tower embeds the prompts of each whenever a model is built
MAX_TEXT = 4096  # characters of a group and its noun
SHOWN_CHARACTERS = 100  # of a text that is refused
SHOWN_GROUPS = 5
"""Groups of a noun that a line names."""


class Nouns(tuple[str, ...]):
    """Nouns of groups, written ``pcb1=PCB,tile=magnetic tile``, in a file also as a mapping from group to noun."""

    __slots__ = ()

    def by_group(self) -> dict[str, str]:
        """Return the nouns by group.

        Example:
            >>> Nouns(("tile=magnetic tile",)).by_group()
            {'tile': 'magnetic tile'}
        """
        return {group: noun for group, _, noun in (part.partition("=") for part in self)}


def check_nouns(nouns: Nouns) -> Nouns:
    """Return nouns in the order of their groups, without the spaces around them.

    Raises:
        ValueError: If one has no group or no noun, a group stands twice, or there are too many.

    Example:
        >>> check_nouns(Nouns(("tile = magnetic tile", "pcb1=PCB")))
        ('pcb1=PCB', 'tile=magnetic tile')
    """
    if not 1 <= len(nouns) <= MAX_NOUNS:
        msg = f"model.nouns must name 1 to {MAX_NOUNS} groups, got {len(nouns)}."
        raise ValueError(msg)
    pairs = [tuple(text.strip() for text in part[: MAX_TEXT + 1].partition("=")) for part in nouns]
    for part, (group, _, noun) in zip(nouns, pairs, strict=True):
        if not group or not noun or "," in part or len(part) > MAX_TEXT:
            msg = (
                f"model.nouns must be written group=noun, like pcb1=PCB, without commas and with {MAX_TEXT} characters "
                f"at most; got {part[:SHOWN_CHARACTERS]!r}."
            )
            raise ValueError(msg)
    groups = [group for group, _, _ in pairs]
    repeated = sorted({group for group in groups if groups.count(group) > 1})
    if repeated:
        msg = f"model.nouns names {repeated[0]!r} twice; a group has one noun."
        raise ValueError(msg)
    return Nouns(f"{group}={noun}" for group, _, noun in sorted(pairs))


def groups_to_tell(groups: Iterable[str | None], nouns: Mapping[str, str]) -> set[str | None]:
    """Return what `tell_nouns` needs of groups, however many there are: those with a noun, and a few of the others.

    Example:
        >>> len(groups_to_tell(["pcb1", *map(str, range(1000))], {"pcb1": "PCB"}))
        7
    """
    found = set(groups)
    others = sorted(found - nouns.keys(), key=lambda group: (group is not None, group or ""))
    return (found & nouns.keys()) | set(others[: SHOWN_GROUPS + 1])


def tell_nouns(nouns: Mapping[str, str], *, other: str, column: str, groups: Iterable[str | None]) -> str:
    """Return in a line what images are called.

    Args:
        nouns: Nouns by group.
        other: What every other image is called.
        column: Whose values the groups are.
        groups: Values that there are, None among them where images have none.

    Example:
        >>> tell_nouns({"pcb1": "PCB"}, other="object", column="category", groups=["screw", "pcb1"])
        "Prompts by category: 'PCB' for pcb1; 'object', for want of a noun of their own, for screw."
    """
    called: dict[str, list[str]] = {}
    for group in sorted({"images without one" if group is None else group for group in groups}):
        noun = nouns.get(group)
        text = f"{other!r}, for want of a noun of their own," if noun is None else repr(noun)
        called.setdefault(text, []).append(group)
    ordered = sorted(called, key=lambda text: text not in {repr(noun) for noun in nouns.values()})
    shown = [f"{text} for {_shown(called[text])}" for text in ordered]
    return f"Prompts by {column}: {'; '.join(shown)}."


def _shown(groups: list[str]) -> str:
    return ", ".join(groups[:SHOWN_GROUPS]) + (" and others" if groups[SHOWN_GROUPS:] else "")


_read_pairs = read_list(tuple, str)


def _read(value: str | Mapping[Any, Any] | Iterable[Any]) -> Nouns:
    if not isinstance(value, Mapping):
        return Nouns(_read_pairs(value))
    unfit = [group for group, noun in value.items() if "=" in str(group) or not isinstance(noun, str)]
    if unfit:
        msg = f"expected nouns by group, both texts, and groups without =; got {unfit[0]!r}"
        raise ValueError(msg)
    return Nouns(f"{group}={noun}" for group, noun in value.items())


register_type(Nouns, serializer=write_list, deserializer=_read)
