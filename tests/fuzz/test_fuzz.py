"""Each fuzzing target survives some seconds, from seeds that its readers take; `make fuzz` takes as long as wanted."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TARGET = Path(__file__).with_name("fuzz_target.py")
SEEDS = Path(__file__).with_name("seeds")
REPOSITORY = Path(__file__).parents[2]
TARGETS = ("manifests", "records", "spaces", "names")


def fuzzed(target: str, folder: Path, *, seconds: int) -> int:
    """Fuzz, and return how many inputs were tried."""
    pytest.importorskip("atheris", reason="atheris is built for Linux alone")
    corpus = folder / "corpus"
    corpus.mkdir()
    flags = (f"-max_total_time={seconds}", "-timeout=20", "-rss_limit_mb=4096", "-max_len=4096", "-print_final_stats=1")
    done = subprocess.run(
        [sys.executable, str(TARGET), target, str(corpus), str(SEEDS / target), *flags],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds + 500,
        check=False,
    )
    inputs = {path.name: path.read_bytes() for path in folder.glob("*-*") if path.is_file()}
    assert done.returncode == 0, f"{inputs}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    (tried,) = re.findall(r"stat::number_of_executed_units:\s*(\d+)", done.stderr)
    return int(tried)


@pytest.mark.parametrize("target", TARGETS[:3])
def test_a_few_seconds_find_nothing(target: str, tmp_path: Path) -> None:
    assert fuzzed(target, tmp_path, seconds=4) > len(list((SEEDS / target).iterdir()))


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_some_minutes_find_nothing(target: str, tmp_path: Path) -> None:
    assert fuzzed(target, tmp_path, seconds=180) > 1000
