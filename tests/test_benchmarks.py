"""The page of the benchmarks says what the records say, and the literal rivals compute what feclip computes."""

import doctest
import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from feclip.model import FeClipModel, FFEAdapter, FrequencyTap, LFSAdapter

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
CLOSE = 1e-5  # of the largest value


@pytest.fixture(scope="module", autouse=True)
def _benchmarks_on_the_path() -> Iterator[None]:
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture
def rows() -> ModuleType:
    return importlib.import_module("rows")


@pytest.fixture
def guide() -> ModuleType:
    return importlib.import_module("guide")


def lines_of(page: str, name: str) -> list[str]:
    return [line for line in page.splitlines() if line.startswith(f"| {name} |")]


def largest_difference(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float((got - expected).abs().max() / expected.abs().max())


def test_the_page_on_disk_is_what_the_records_render(rows: ModuleType) -> None:
    assert rows.README.read_text(encoding="utf-8") == rows.render(rows.read_records())


def test_the_page_names_every_record_once(rows: ModuleType) -> None:
    records = rows.read_records()
    assert records
    page = rows.render(records)
    assert all(len(lines_of(page, name)) == 1 for name in records)
    for name, record in records.items():
        assert record["row"] == name
        measured = record["ratio"] is not None or "table" in record["facts"]
        assert ("not measured" in lines_of(page, name)[0]) != measured


def test_rows_without_a_record_are_marked_as_not_measured(rows: ModuleType) -> None:
    page = rows.render({})
    for row in rows.ROWS:
        for name in row.names:
            (line,) = lines_of(page, name)
            assert "not measured" in line
            assert row.wanted in line


def test_a_record_that_no_row_names_is_shown_too(rows: ModuleType) -> None:
    record = rows.read_records()["lfs_statistic"]
    page = rows.render({"lfs_statistic": record, "of_another_kind": record | {"row": "of_another_kind"}})
    assert "not measured" not in lines_of(page, "lfs_statistic")[0]
    assert page.index("| lfs_statistic |") < page.index("| scale |") < page.index("| of_another_kind |")


def test_a_record_without_a_gpu_holds_no_number(rows: ModuleType) -> None:
    for name, record in rows.read_records().items():
        if record["ratio"] is None:
            assert record["ours"] is record["theirs"] is record["met"] is None, name


def test_facts_become_lists_and_tables(rows: ModuleType) -> None:
    speed = {"median": 1234.5, "least": 1000.0, "most": 2000}
    facts = {
        "versions": {"numpy": "2.4", "torch": "2.15"},
        "peak_mib": 192.4,
        "by_stage": {"fetch": speed, "decode": speed},
        "candidates": {"ours": {"images_per_second": speed, "apart": {"mean": 0.123456, "largest": 7}}},
        "table": [{"actors": 1, "hours": None}, {"actors": 64, "hours": 0.5}],
    }
    record = rows.read_records()["lfs_statistic"] | {"ratio": None, "ours": None, "theirs": None, "met": None}
    page = rows.render({"scale": record | {"row": "scale", "facts": facts}})
    assert "a table, below" in lines_of(page, "scale")[0]
    section = page[page.index("### scale") :].splitlines()
    assert "- versions: numpy 2.4, torch 2.15" in section
    assert "- peak mib: 192" in section
    assert "- by stage: fetch 1,234 (1,000 to 2,000), decode 1,234 (1,000 to 2,000)" in section
    start = section.index("|  | images per second | apart, mean | apart, largest |")
    assert section[start + 2] == "| ours | 1,234 (1,000 to 2,000) | 0.123 | 7 |"
    start = section.index("| actors | hours |")
    assert section[start + 2 : start + 4] == ["| 1 |  |", "| 64 | 0.5 |"]


def test_the_examples_of_the_harness_are_true() -> None:
    tried = doctest.testmod(importlib.import_module("harness"))
    assert tried.attempted
    assert not tried.failed


def test_every_row_has_a_command_that_writes_it_and_every_command_a_script(rows: ModuleType) -> None:
    run = importlib.import_module("run")
    names = [benchmark.name for benchmark in run.BENCHMARKS]
    assert len({*names}) == len(names)
    for row in rows.ROWS:
        assert any(row.names[0].startswith(name) for name in names), row.names
    for benchmark in run.BENCHMARKS:
        script, *command = benchmark.command.split()
        source = (BENCHMARKS / script).read_text(encoding="utf-8")
        assert all(f"def {name}(" in source for name in command), benchmark


def test_every_script_can_be_read_by_python() -> None:
    scripts = sorted(path.stem for path in BENCHMARKS.glob("*.py") if path.stem != "winclip_once")  # needs anomalib
    done = subprocess.run(
        [sys.executable, "-c", "".join(f"import {script}\n" for script in scripts)],
        cwd=BENCHMARKS,
        env=os.environ | {"PYTHONPATH": str(BENCHMARKS.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_report_over_a_synthetic_table_is_made_and_told() -> None:
    """Of two files of a listing; a million rows by hand."""
    command = [sys.executable, str(BENCHMARKS / "report.py"), "--num_rows", "9000"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^report: [\d.]+ s \(wanted <= 120 s\), [\d,]+ rows/s, peak \d+ MiB$", done.stdout, re.MULTILINE)
    assert re.search(r"^page: [\d.]+ MB in all \(wanted <= 30 MB\)", done.stdout, re.MULTILINE)


def test_the_rate_of_a_job_starts_at_its_first_slice_and_its_memory_is_told_by_image() -> None:
    job = importlib.import_module("scoring_job").JobRun(
        seconds_to_first_slice=50.0,
        slices=((0.0, 10), (1.0, 10), (2.0, 10), (4.0, 10), (6.0, 10)),
        memory=((10, 500), (20, 520), (30, 540), (50, 580)),
    )
    assert job.images_per_second == pytest.approx(40 / 6)
    assert job.rates_of_parts(2) == [10.0, 5.0]
    assert job.peak_of_halves == (520, 580)
    assert job.bytes_per_image == pytest.approx(2.0)


def test_the_rate_of_a_gpu_comes_from_a_record_of_the_same_model_that_was_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rows: ModuleType
) -> None:
    scale = importlib.import_module("scale")
    monkeypatch.setattr(scale, "RESULTS", tmp_path)
    record = rows.read_records()["gpu_peak"] | {"ratio": 0.6, "device": "some GPU"}
    record |= {"what": "whole model, ViT-L-14-336 at 336 px, batch 128", "facts": {"images_per_second": 900.0}}

    def found(model: str, **changes: object) -> object:
        (tmp_path / "gpu_peak.json").write_text(json.dumps(record | changes))
        return scale.recorded_gpu(model)

    assert scale.recorded_gpu("ViT-L-14-336 at 336 px") is None
    assert found("ViT-L-14-336 at 336 px", ratio=None) is None
    assert found("ViT-B-16 at 240 px") is None
    rate = found("ViT-L-14-336 at 336 px")
    assert (rate.images_per_second, rate.on_gpu) == (900.0, True)  # type: ignore[attr-defined]


def test_a_benchmark_that_cannot_run_says_why_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = importlib.import_module("run")
    (tmp_path / "bad.py").write_text("raise SystemExit('no such device')")
    (tmp_path / "good.py").write_text("print('measured')")
    (tmp_path / "rows.py").write_text("print('table written')")
    monkeypatch.setattr(run, "FOLDER", tmp_path)
    monkeypatch.setattr(run, "BENCHMARKS", (run.Benchmark("bad", "bad.py", 1), run.Benchmark("good", "good.py", 1)))
    assert run.run(run.BENCHMARKS) == 1
    said = capfd.readouterr()
    assert "bad did not run: no such device" in said.err
    assert said.out.index("measured") < said.out.index("table written")
    with pytest.raises(SystemExit, match="--only knows bad, good; got other"):
        run.find(["good", "other"])
    assert run.run(run.find(["good"])) == 0


@pytest.mark.parametrize("window", [2, 3])
@pytest.mark.parametrize("grid", [(6, 6), (5, 7)], ids=str)
def test_the_literal_adapters_agree_with_ours(guide: ModuleType, grid: tuple[int, int], window: int) -> None:
    torch.manual_seed(0)
    ffe, lfs = FFEAdapter(16, window), LFSAdapter(16, window)
    tap = FrequencyTap(ffe, lfs, fusion_weight=0.3)
    tokens = torch.randn(2, *grid, 16)
    with torch.no_grad():
        literal_lfs = guide.GuideLFS(lfs)
        assert largest_difference(literal_lfs.local_statistics(tokens), lfs.local_statistics(tokens)) < CLOSE
        assert largest_difference(literal_lfs(tokens), lfs(tokens)) < CLOSE
        assert largest_difference(guide.GuideFFE(ffe)(tokens), ffe(tokens)) < CLOSE
        assert largest_difference(guide.GuideTap(tap)(tokens), tap(tokens)) < CLOSE


def test_the_literal_adapters_have_the_same_gradients(guide: ModuleType) -> None:
    torch.manual_seed(0)
    tap = FrequencyTap(FFEAdapter(16, 3), LFSAdapter(16, 3), fusion_weight=0.3)
    tokens = torch.randn(2, 5, 7, 16, requires_grad=True)
    found = [
        torch.autograd.grad(module(tokens).square().sum(), [tokens, *module.parameters()])
        for module in (tap, guide.GuideTap(tap))
    ]
    assert max(largest_difference(ours, theirs) for ours, theirs in zip(*found, strict=True)) < CLOSE


def test_the_literal_model_agrees_with_ours_and_leaves_no_hook(guide: ModuleType) -> None:
    torch.manual_seed(0)
    model = FeClipModel.from_pretrained("ViT-S-32-alt", pretrained="none", image_size=96, num_taps=3)
    images = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        before = model(images)
        literal = guide.GuideModel(model)(images)
        after = model(images)
    for field in ("class_logits", "token_logits", "class_embeddings"):
        assert largest_difference(getattr(literal, field), getattr(before, field)) < CLOSE
        assert torch.equal(getattr(before, field), getattr(after, field))
