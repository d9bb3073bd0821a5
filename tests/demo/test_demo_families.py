"""Roles: who sees which family."""

import itertools

from feclip.demo import ALL_FAMILIES, DEFECT_TYPES, FAMILIES, LINE_DEFECTS, caption, noun_of


def test_roles_are_disjoint_and_cover_every_family() -> None:
    assert set(FAMILIES) == {"pretraining", "finetuning", "unseen"}
    for first, second in itertools.combinations(FAMILIES.values(), 2):
        assert not set(first) & set(second)
    assert sorted(itertools.chain(*FAMILIES.values())) == sorted(ALL_FAMILIES)


def test_there_are_enough_families_and_defects() -> None:
    assert len(set(ALL_FAMILIES)) == len(ALL_FAMILIES) >= 10
    assert len(set(DEFECT_TYPES)) == len(DEFECT_TYPES) >= 10
    assert set(LINE_DEFECTS) < set(DEFECT_TYPES)


def test_captions_are_distinct() -> None:
    captions = {caption(noun=noun_of(family), label=label) for family in ALL_FAMILIES for label in (0, 1)}
    assert len(captions) == 2 * len(ALL_FAMILIES)
