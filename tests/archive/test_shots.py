"""The images of a memory bank: so many of each group, the same for any division of the listing."""

from collections import Counter
from pathlib import Path

import pytest

from feclip.archive import ShotRequest, Source, choose_shots, merge_shots, plan_parts
from feclip.archive import shots as module
from feclip.archive.shots import Shots
from feclip.errors import DataError


def archive_of(folder: Path, *, lines: int = 3, images: int = 40) -> Source:
    for line in range(lines):
        for number in range(images):
            path = folder / f"line={line}" / f"batch={number % 5}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
    return Source(archive=str(folder), manifest=None)


def chosen(source: Source, request: ShotRequest, *, backwards: bool = False) -> Shots:
    parts = plan_parts(source)
    found = [choose_shots(part, source, request) for part in (reversed(parts) if backwards else parts)]
    return merge_shots(found, request)


@pytest.mark.parametrize("column", ["line", None])
def test_so_many_of_each_group_are_chosen_whatever_the_order(column: str | None, tmp_path: Path) -> None:
    source = archive_of(tmp_path)
    request = ShotRequest(shots=4, group_column=column, seed=0)
    found = chosen(source, request)
    assert found == chosen(source, request, backwards=True)
    assert list(found) == (["0", "1", "2"] if column else [""])
    uris = [shot.uri for shots in found.values() for shot in shots]
    assert len({*uris}) == len(uris) == 4 * len(found)
    for group, shots in found.items():
        assert all(f"/{column}={group}/" in shot.uri for shot in shots) or column is None


def test_another_place_gives_the_same_images_and_another_seed_others(tmp_path: Path) -> None:
    def names(folder: str, seed: int) -> list[str]:
        source = archive_of(tmp_path / folder)
        (shots,) = chosen(source, ShotRequest(shots=8, group_column=None, seed=seed)).values()
        return [shot.uri.removeprefix(f"{source.archive}/") for shot in shots]

    assert names("here", 0) == names("there", 0) != names("here", 1)


def test_each_image_is_taken_as_often_as_any_other(tmp_path: Path) -> None:
    """300 draws of 5 from 20: each image 75 times, within 5 standard deviations."""
    source = archive_of(tmp_path, lines=1, images=20)
    counts = Counter[str]()
    for seed in range(300):
        (shots,) = chosen(source, ShotRequest(shots=5, group_column=None, seed=seed)).values()
        counts.update(shot.uri for shot in shots)
    assert len(counts) == 20
    assert all(abs(count - 75) < 5 * (300 * 0.25 * 0.75) ** 0.5 for count in counts.values())


def test_all_are_all_and_too_many_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = archive_of(tmp_path, lines=2, images=10)
    request = ShotRequest(shots=None, group_column="line", seed=0)
    assert {group: len(shots) for group, shots in chosen(source, request).items()} == {"0": 10, "1": 10}
    monkeypatch.setattr(module, "MAX_SHOTS", 19)
    with pytest.raises(DataError, match="at most 19 images"):
        chosen(source, request)


def test_an_image_without_a_group_is_named(tmp_path: Path) -> None:
    source = archive_of(tmp_path, lines=1, images=1)
    with pytest.raises(DataError, match=r"0\.png has no station, by which the memory bank is to be divided"):
        chosen(source, ShotRequest(shots=1, group_column="station", seed=0))


def test_an_anomalous_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "m.csv").write_text("path,label\na.png,1\n")
    source = Source(archive=None, manifest=str(tmp_path / "m.csv")).identified()
    with pytest.raises(DataError, match=r"a\.png is labelled anomalous; a memory bank is made of normal images alone"):
        chosen(source, ShotRequest(shots=1, group_column=None, seed=0))
