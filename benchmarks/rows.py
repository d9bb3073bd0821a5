#!/usr/bin/env python
"""Write benchmarks/README.md: every row that speed is judged by, from the records in benchmarks/results/.

python benchmarks/rows.py
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import RESULTS, SPREAD, is_table, shown_number, shown_spread, shown_timing

README = Path(__file__).with_name("README.md")
NOT_MEASURED = "not measured"


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row that is wanted, whether it was measured or not."""

    names: tuple[str, ...]
    """Its records in ``benchmarks/results/``, one for each device or variant."""
    what: str
    rival: str
    wanted: str


ROWS = (
    Row(
        names=("lfs_statistic",),
        what="LFS statistic, B = 4, 24 x 24 x 1024, Q = 3, CPU",
        rival="the guide's unfold + einsum",
        wanted=">= 40 x, relative difference <= 1e-06",
    ),
    Row(
        names=("adapters", "adapters_gpu"),
        what="both adapters, forward + backward, CPU and GPU",
        rival="the guide's code, literally",
        wanted=">= 1.5 x, <= 1/3 peak memory",
    ),
    Row(
        names=("whole_model", "whole_model_gpu"),
        what="whole model, inference, CPU and GPU",
        rival="bare open_clip image encoder (ViT-L-14-336), same precision and batch",
        wanted="<= 1.3 x its time on a CPU, <= 1.2 x on a GPU",
    ),
    Row(
        names=("gpu_peak",),
        what="whole model at 336 px, batch at will, one H200-class GPU",
        rival="measured matrix-product peak",
        wanted=">= 0.55 of peak",
    ),
    Row(
        names=("training_step", "training_step_cached", "training_step_gpu"),
        what="fine-tuning step at 336 px, same taps",
        rival="the guide's loop, float32",
        wanted="CPU: not slower, >= 1.2 x with the prefix cached; GPU with bfloat16: >= 4 x",
    ),
    Row(
        names=("archive_gpu",),
        what="archive scoring from local object storage, JPEG, one GPU",
        rival="the slower of decoding and the model alone on resident batches",
        wanted=">= 0.9",
    ),
    Row(
        names=("archive_cpu",),
        what="archive scoring on 2 cores with the demonstration backbone",
        rival="one process, DataLoader, same decoding and model",
        wanted=">= 0.85 from the first slice",
    ),
    Row(
        names=("winclip",),
        what="same images, FE-CLIP on ViT-B-16 at 240 px, CPU",
        rival="anomalib WinCLIP Engine.predict in its own environment, ViT-B-16-plus-240",
        wanted=">= 5 x images/s",
    ),
    Row(
        names=("exported", "exported_demo"),
        what="exported to ONNX, one image at a time in ONNX Runtime, CPU",
        rival="the same model in PyTorch",
        wanted=">= 1 x its speed, differences <= 0.0001",
    ),
    Row(
        names=("percentiles_100m",),
        what="exact p99.5 and p99.9 of 100 million scores in Parquet",
        rival="reading the column once with pyarrow",
        wanted="<= 6 x its time, <= 1 GiB",
    ),
    Row(
        names=("percentiles_10m",),
        what="the same at 10 million",
        rival="ray.data.aggregate.Quantile",
        wanted=">= 5 x",
    ),
    Row(
        names=("growth",),
        what="growth: 5,000, 20,000, 100,000 images, start-up not counted",
        rival="itself",
        wanted="images/s within 10 %, memory flat",
    ),
    Row(
        names=("scale",),
        what="scale on paper: a model of stages fed by measured rates, 1, 8, 64 GPUs, 100 million images",
        rival="-",
        wanted="table with the bottleneck of each row",
    ),
)

INTRODUCTION = """# Benchmarks

Each row is measured against its rival in the same run: the two take turns, and what is shown is the median of at least
5 calls with the smallest and the largest. The ratio is of medians. Where a row needs a device that was not at hand it
says "not measured"; nothing in this table is an estimate.

    make bench                                          # every row on the device it finds, then this table
    python benchmarks/run.py --only winclip,archive_cpu # some rows, then this table
    python benchmarks/run.py --list                     # the rows, the command of each and how long it takes
    python benchmarks/rows.py                           # this table again, from benchmarks/results/

This file is written by `benchmarks/rows.py`. Further numbers of a row (memory, differences, sizes) stand under the
table and in `benchmarks/results/<row>.json`. Rows of the model have random weights, which change no time.
"""


def render(records: Mapping[str, Mapping[str, Any]], rows: Sequence[Row] = ROWS) -> str:
    """Return the page.

    Args:
        records: Records as `harness.write_record` writes them, by the name of their file without suffix.
        rows: What is wanted, in order. A record that none of them names follows at the end.

    Returns:
        Markdown. Each record is named; one that is wanted and absent is marked as not measured.
    """
    head = ["row", "what", "rival", "wanted", "ratio", "ours", "rival's", "reached", "machine"]
    machines: list[str] = []
    lines, left = [], dict(records)
    for row in rows:
        for name in row.names:
            if name in left:
                lines.append(_line(name, left.pop(name), machines))
            else:
                lines.append(_cells(name, row.what, row.rival, row.wanted, NOT_MEASURED, "", "", "", ""))
    lines += [_line(name, record, machines) for name, record in sorted(left.items())]
    facts = [_facts(name, records[name]) for name in sorted(records) if records[name]["facts"]]
    parts = [
        INTRODUCTION,
        "\n".join([_cells(*head), f"|{'---|' * len(head)}", *lines]),
        "## Machines\n\n" + "\n".join(f"{number}. {text}" for number, text in enumerate(machines, start=1)),
        "## Further numbers of the runs",
        *facts,
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def read_records(folder: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """Return the records of a folder by the name of their file without suffix."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def main() -> None:
    """Write the page from the records that are there."""
    README.write_text(render(read_records()), encoding="utf-8")
    sys.stdout.write(f"{README.name} written\n")


def _line(name: str, record: Mapping[str, Any], machines: list[str]) -> str:
    machine = _machine(record)
    if machine not in machines:
        machines.append(machine)
    ratio = NOT_MEASURED if record["ratio"] is None else f"{record['ratio']:.3g} ({record['ratio_of']})"
    ratio = "a table, below" if is_table(record) else ratio
    reached = {None: "", True: "yes", False: "no"}[record["met"]]
    timings = ["" if record[side] is None else shown_timing(record[side]) for side in ("ours", "theirs")]
    where = f"{machines.index(machine) + 1}, {record['machine']['num_threads']} threads"
    return _cells(name, record["what"], record["rival"], record["wanted"], ratio, *timings, reached, where)


def _machine(record: Mapping[str, Any]) -> str:
    machine = record["machine"]
    gpu = machine["gpu"] or "no GPU"
    cores = f"{machine['processor']}, {machine['num_cpus']} cores, {machine['memory_gib']} GiB, {gpu}"
    return f"{cores}, Python {machine['python']}, torch {machine['torch']}"


def _facts(name: str, record: Mapping[str, Any]) -> str:
    """Return a section with the facts of a record: those of one line as a list, then each table."""
    lines = [f"- {_words(key)}: {_shown(value)}" for key, value in record["facts"].items() if _table_of(value) is None]
    tables = [
        f"{_words(key)}:\n\n{_table(found)}"
        for key, value in record["facts"].items()
        if (found := _table_of(value)) is not None
    ]
    head = f"### {name}\n\n`{record['command']}`, {record['date']}, commit {record['commit']}"
    return "\n\n".join([head, "\n".join(lines), *tables] if lines else [head, *tables])


def _table_of(value: object) -> list[Mapping[str, Any]] | None:
    """Return a fact's lines if it is a table: a list of mappings, or a mapping of mappings, by their names."""
    if isinstance(value, Mapping) and value and all(isinstance(line, Mapping) for line in value.values()):
        return None if all(map(_is_spread, value.values())) else [{"": key} | line for key, line in value.items()]
    if isinstance(value, list) and value and all(isinstance(line, Mapping) for line in value):
        return value
    return None


def _table(lines: Sequence[Mapping[str, Any]]) -> str:
    flat = [_flat(line) for line in lines]
    names = list(dict.fromkeys(name for line in flat for name in line))
    cells = [_cells(*(_shown(line.get(name)) for name in names)) for line in flat]
    return "\n".join([_cells(*map(_words, names)), f"|{'---|' * len(names)}", *cells])


def _flat(line: Mapping[str, Any]) -> dict[str, Any]:
    """Return a line with what is nested in columns of its own."""
    flat: dict[str, Any] = {}
    for name, value in line.items():
        if isinstance(value, Mapping) and not _is_spread(value):
            flat |= {f"{name}, {inner}": within for inner, within in value.items()}
        else:
            flat[name] = value
    return flat


def _is_spread(value: object) -> bool:
    return isinstance(value, Mapping) and tuple(value) == SPREAD


def _words(name: str) -> str:
    return name.replace("_", " ")


def _shown(value: object) -> str:
    if _is_spread(value):
        return shown_spread(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{_words(str(key))} {_shown(within)}" for key, within in value.items())
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "" if value is None else str(value)
    return shown_number(value)


def _cells(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


if __name__ == "__main__":
    main()
