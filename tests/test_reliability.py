"""The page of faults says what the records say, and no fault and no promise is without a row."""

import re
from pathlib import Path

import reliability
from reliability import FAULTS, PAGE, RECORDS, Seen, add, read, with_table

REPOSITORY = Path(__file__).parents[1]


def test_the_page_is_the_table_of_the_records() -> None:
    page = PAGE.read_text()
    assert with_table(page, read(RECORDS)) == page, "run python tests/reliability.py"


def test_every_fault_has_a_row_and_nothing_was_lost_or_doubled() -> None:
    records = read(RECORDS)
    assert {seen.fault for seen in records} <= FAULTS.keys()
    assert all(seen.lost == seen.twice == 0 for seen in records)
    page = PAGE.read_text()
    assert [fault.title for fault in FAULTS.values() if f"\n| {fault.title} | " not in page] == []


def test_the_tests_of_the_page_exist() -> None:
    for seen in read(RECORDS):
        file, name = seen.test.split("::")
        assert f"def {name}(" in (REPOSITORY / "tests" / file).read_text(), seen.test


def test_every_promise_stands_in_the_documentation() -> None:
    pages = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
    told = " ".join(" ".join(page.read_text().split()) for page in pages if page != PAGE)
    assert [fault.title for fault in FAULTS.values() if fault.told not in told] == []


def test_every_fault_is_recorded_by_a_test() -> None:
    tests = "".join(path.read_text() for path in (REPOSITORY / "tests").glob("c*/test_*.py"))
    named = set(re.findall(r'"((?:score|calibrate|train|sweep): \w+)"', tests))
    in_pairs = {f"score: {fault}" for fault in ("flaky", "slow")}  # the name of one test's parameter
    assert named | in_pairs == FAULTS.keys()


def test_what_a_test_sees_again_replaces_what_it_saw_before(tmp_path: Path) -> None:
    path = tmp_path / "records.json"
    first, other = Seen(fault="train: node", moment="early"), Seen(fault="score: node", moment="late", seed=1)
    add(path, first)
    add(path, other)
    add(path, Seen(fault="train: node", moment="later", seconds=2.4))
    assert [(seen.fault, seen.moment) for seen in read(path)] == [("score: node", "late"), ("train: node", "later")]
    assert "| later |" in reliability.table(read(path))
    assert "| 2 | 0 | `` |" in reliability.table(read(path))
    assert reliability.table(read(path)).count(reliability.UNSEEN) == len(FAULTS) - 2
