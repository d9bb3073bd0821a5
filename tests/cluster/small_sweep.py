"""A sweep of seconds: its flags, its space, and what its records must say however often it was broken off."""

from pathlib import Path

import yaml

from feclip.tuning import read_trials

SMALL_SWEEP = ("--model.backbone", "feclip-demo", "--optim.epochs", "2", "--optim.batch_size", "8")


def write_space(path: Path, **fields: object) -> str:
    path.write_text(yaml.safe_dump({name.replace("__", "."): said for name, said in fields.items()}))
    return str(path)


def none_ran_twice_to_the_end(output: str) -> None:
    """Every epoch of a trial was finished once: each start took up where the last one had ended."""
    for record in read_trials(output):
        assert list(record.starts) == sorted(set(record.starts)) or record.starts[0] == 0
        assert record.starts[-1] < 2, record
        assert [metrics["epoch"] for metrics in record.epochs] == list(range(1, len(record.epochs) + 1))
