"""What feclip promises about faults, and the page that says what tests saw of it.

pytest -m chaos --reliability-table docs/reliability.json    tests add what they saw
python tests/reliability.py                                  writes the table into docs/reliability.md
"""

import fcntl
import json
from dataclasses import asdict, dataclass
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
RECORDS = DOCS / "reliability.json"
PAGE = DOCS / "reliability.md"
BEGIN = "<!-- reliability: written by tests/reliability.py from docs/reliability.json -->"
END = "<!-- end of reliability -->"
COLUMNS = ("fault", "moment", "promised", "lost", "twice", "s to recover", "seed", "test")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that goes wrong."""

    title: str
    promise: str
    """What feclip promises then."""
    told: str
    """Words of the README or another page that promise it."""


SAME = "the table of an undisturbed run"
AGAIN = "The same command again does what is missing and only that"
GOES_ON = "goes on by itself where the cluster has room left"
HELD = "One submission at a time works on an output"
TRAIN_AGAIN = "The same command again goes on after a crash"
SWEEP_AGAIN = "ended trials stay, broken ones go on from their last epoch"
STORAGE = "Storage that fails is no error of a file"
ONE_HOLDS = "one goes on or both stop with a line; nothing is mixed"
UNSEEN = "not recorded yet"
SECOND = "the second stops with a line, the first is not disturbed"
FAULTS = {
    "score: node": Fault(title="scoring: a node dies", promise=SAME, told=GOES_ON),
    "score: spot": Fault(title="scoring: a node is drained, then gone", promise=SAME, told=GOES_ON),
    "score: actor": Fault(title="scoring: the actor with the model is killed", promise=SAME, told=GOES_ON),
    "score: decoding": Fault(title="scoring: a decoding worker is killed", promise=SAME, told=GOES_ON),
    "score: memory": Fault(title="scoring: a node runs out of memory", promise=SAME, told=GOES_ON),
    "score: driver": Fault(title="scoring: the driver is killed", promise=f"again: {SAME}", told=AGAIN),
    "score: head": Fault(title="scoring: the head dies", promise=f"one line; again: {SAME}", told=AGAIN),
    "score: disk": Fault(title="scoring: the output's disk is full", promise=f"one line; again: {SAME}", told=AGAIN),
    "score: flaky": Fault(title="scoring: storage is flaky", promise=SAME, told=STORAGE),
    "score: slow": Fault(title="scoring: storage is slow", promise=SAME, told=STORAGE),
    "score: back": Fault(title="scoring: storage dies and comes back", promise=SAME, told=STORAGE),
    "score: away": Fault(
        title="scoring: storage stays away", promise=f"ends non-zero, named; again: {SAME}", told=STORAGE
    ),
    "score: poison": Fault(
        title="scoring: images kill their decoder",
        promise="a row with the error each; all others as ever",
        told="A file that cannot be read, decoded or scored is a row with `error` and `error_kind`",
    ),
    "score: two": Fault(title="scoring: two jobs on one output", promise=ONE_HOLDS, told=HELD),
    "score: second": Fault(title="scoring: a second job while one is at work", promise=SECOND, told=HELD),
    "calibrate: node": Fault(
        title="calibration: a node dies", promise="the calibration_id of an undisturbed run", told=GOES_ON
    ),
    "calibrate: two": Fault(title="calibration: two jobs on one output", promise=ONE_HOLDS, told=HELD),
    "train: node": Fault(
        title="training: a node dies", promise="from the last epoch; metrics within 1e-4", told=GOES_ON
    ),
    "train: job": Fault(
        title="training: the job is killed",
        promise="again: from the last epoch; metrics within 1e-4",
        told=TRAIN_AGAIN,
    ),
    "train: disk": Fault(
        title="training: the output's disk is full", promise="one line; again: metrics within 1e-4", told=TRAIN_AGAIN
    ),
    "train: flaky": Fault(
        title="training: storage is flaky", promise="metrics within 1e-4 of undisturbed ones", told=STORAGE
    ),
    "train: two": Fault(title="training: two jobs on one output", promise=ONE_HOLDS, told=HELD),
    "train: second": Fault(title="training: a second job while one is at work", promise=SECOND, told=HELD),
    "sweep: node": Fault(
        title="a sweep: a node dies", promise="every trial to its end, no epoch twice", told=SWEEP_AGAIN
    ),
    "sweep: job": Fault(
        title="a sweep: the job is killed", promise="again: every trial to its end, no epoch twice", told=SWEEP_AGAIN
    ),
    "sweep: trial": Fault(
        title="a sweep: a trial diverges, a worker is killed",
        promise="a row with the error; the others to their end",
        told="A failed trial is a row",
    ),
    "sweep: two": Fault(title="a sweep: two jobs on one output", promise=ONE_HOLDS, told=HELD),
}


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a test saw of a fault."""

    fault: str
    """Key of `FAULTS`."""
    moment: str
    lost: int = 0
    """Rows of a score table, epochs of a training or trials of a sweep that were missing in the end."""
    twice: int = 0
    seconds: float | None = None
    """From the fault to the next piece of work written; None where nothing goes on by itself."""
    seed: int = 0
    test: str = ""


def add(path: Path, seen: Seen) -> None:
    """Put what was seen into a file of records, in place of what the same test saw before."""
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        records = read(path) if path.stat().st_size else []
        kept = [old for old in records if (old.fault, old.seed) != (seen.fault, seen.seed)]
        order = list(FAULTS)
        ordered = sorted([*kept, seen], key=lambda each: (order.index(each.fault), each.seed))
        path.write_text(json.dumps([asdict(each) for each in ordered], indent=1) + "\n")


def read(path: Path) -> list[Seen]:
    """Return the records of a file."""
    return [Seen(**record) for record in json.loads(path.read_text())]


def table(records: list[Seen]) -> str:
    """Return the records as a table in Markdown, with a row for each fault, seen or not."""
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    found = {seen.fault for seen in records}
    unseen = [Seen(fault=name, moment=UNSEEN) for name in FAULTS if name not in found]
    for seen in sorted([*records, *unseen], key=lambda each: (list(FAULTS).index(each.fault), each.seed)):
        fault = FAULTS[seen.fault]
        if seen.moment == UNSEEN:
            lines.append(f"| {fault.title} | {UNSEEN} | {fault.promise} | | | | | |")
            continue
        seconds = "-" if seen.seconds is None else f"{seen.seconds:.0f}"
        cells = (fault.title, seen.moment, fault.promise, seen.lost, seen.twice, seconds, seen.seed, f"`{seen.test}`")
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def with_table(page: str, records: list[Seen]) -> str:
    """Return the page with the table between its marks."""
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n{table(records)}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(), read(RECORDS)))
