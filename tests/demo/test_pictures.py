"""The sets of the demonstration are written beside each other, whole, and once."""

from pathlib import Path

import pytest

from feclip.demo import pictures, write_pictures
from feclip.errors import RunError

TINY = ("archive", "--families", "tile", "--num_images", "2", "--defect_fraction", "0", "--num_months", "1")


def test_sets_are_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "SETS", {"normals": TINY, "archive": (*TINY, "--seed", "1")})
    write_pictures(tmp_path)
    found = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*.jpg"))}
    assert sorted({path.relative_to(tmp_path).parts[0] for path in found}) == ["archive", "normals"]
    assert len(found) == 4
    changed = next(iter(found))
    changed.write_bytes(b"kept")
    write_pictures(tmp_path)
    assert changed.read_bytes() == b"kept"


def test_what_cannot_be_written_is_one_line_and_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "SETS", {"archive": (*TINY, "--families", "velvet")})
    with pytest.raises(RunError, match=r"The pictures of .*archive cannot be written: .*velvet") as caught:
        write_pictures(tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
