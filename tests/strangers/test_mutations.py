"""A damaged or forged bundle, manifest or score table loads equal or is one clear error: seeded, thousands of times.

The seeds run in processes of their own (`mutation_worker.py`), so that a crash or a hang is told by its seed.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from specimens import ScoresSpecimen

from feclip.errors import RunError

WORKER = Path(__file__).with_name("mutation_worker.py")
REPOSITORY = Path(__file__).parents[2]
KINDS = ("bundle", "manifest", "scores")
SEEDS_IN_CI = 250
SEEDS = 10_000
SEEDS_OF_A_PROCESS = 500


def outcomes(folder: Path, *kinds: str, first: int, count: int) -> dict[str, Counter[str]]:
    """Run some seeds; return how many of each kind loaded equal, were refused, or hold another content."""
    done = subprocess.run(
        [sys.executable, str(WORKER), str(folder), str(first), str(count), *kinds],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=600 + 30 * count,  # a single hang is ended by the worker's own clock
        check=False,
    )
    lines = done.stdout.splitlines()
    failed = [line for line in lines if line.startswith("FAILED")]
    assert not failed, done.stdout[done.stdout.index("FAILED") :][:10_000]
    last = lines[-1] if lines else "the start"
    assert done.returncode == 0, f"ended by {done.returncode} after {last}\n{done.stderr[-3000:]}"
    records = [json.loads(line.removeprefix("COUNTS ")) for line in lines if line.startswith("COUNTS ")]
    assert [record["kind"] for record in records] == list(kinds)
    return {record.pop("kind"): Counter(record) for record in records}


def are_sound(found: Counter[str], *, count: int) -> None:
    """Every seed was read, damage is mostly found, and yet not everything is refused."""
    assert found.total() == count
    assert found["refused"] > count / 2
    assert found["equal"] + found["another"] > 0


def test_damage_is_one_error_or_changes_nothing(tmp_path: Path) -> None:
    found = outcomes(tmp_path / "work", *KINDS, first=0, count=SEEDS_IN_CI)
    for kind in KINDS:
        are_sound(found[kind], count=SEEDS_IN_CI)


@pytest.mark.parametrize(
    ("pattern", "before", "after"),
    [
        ("decisions/*/slice-00000001.parquet", b"map_max_normalized", b"map_maw_normalized"),
        ("scores/*/slice-00000001.parquet", b"line", b"lime"),
    ],
)
def test_a_column_whose_name_was_damaged_is_missed(pattern: str, before: bytes, after: bytes, tmp_path: Path) -> None:
    """The footer of a Parquet file has no sum; found by a mutation: the column was left out without a word."""
    specimen = ScoresSpecimen(tmp_path)
    (path,) = tmp_path.glob(pattern)
    content = path.read_bytes()
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    path.write_bytes(content[:footer] + content[footer:].replace(before, after))
    with pytest.raises(RunError, match=r"slice-00000001\.parquet is damaged"):
        specimen.read()


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", KINDS)
def test_ten_thousand_damages(kind: str, tmp_path: Path) -> None:
    firsts = range(0, SEEDS, SEEDS_OF_A_PROCESS)
    with ThreadPoolExecutor(2) as pool:
        parts = pool.map(
            lambda first: outcomes(tmp_path / str(first), kind, first=first, count=SEEDS_OF_A_PROCESS)[kind], firsts
        )
        found = sum(parts, Counter[str]())
    are_sound(found, count=SEEDS)
    sys.stdout.write(f"{kind}: {dict(found)}\n")
