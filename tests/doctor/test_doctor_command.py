"""The command: its lines, its end, and the file for a bug report, which holds no secret."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from feclip.__main__ import main

ALONE = ("--ray", "false", "--device", "cpu")
DEMO = ("--model.backbone", "feclip-demo")
LOOKED_AT = (
    "versions", "dependencies", "machine", "precision", "bundle", "backbone", "block layout", "tap blocks",
    "token grid", "windows", "parameters", "forward pass", "training", "storage",
)  # fmt: skip
MARKED = {
    "AWS_ACCESS_KEY_ID": "AKIAMARKEDMARKED0001",
    "AWS_SECRET_ACCESS_KEY": "marked/Secret+key=1",
    "AWS_ENDPOINT_URL": "http://marked-user:marked-pass@127.0.0.1:9",
    "PLANT_TOKEN": "marked-token-2",
    "NEIGHBOUR": "marked-neighbour-3",
}


def test_all_is_well_and_the_place_for_the_output_is_tried(
    bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--bundle", bundle, "--output", str(tmp_path / "scores"), *ALONE]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert {line.split()[0] for line in lines} <= {"ok", "warning"}
    for check in LOOKED_AT:
        assert any(line[9:].startswith(check) for line in lines), check
    assert not any(line[9:].startswith("ray") for line in lines)
    assert not any((tmp_path / "scores").iterdir())


def test_what_failed_is_named_and_the_rest_is_still_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    argv = ["doctor", "--bundle", str(tmp_path), "--output", str(blocked / "scores"), "--format", "json", *ALONE]
    assert main(argv) == 1
    captured = capsys.readouterr()
    findings = [json.loads(line) for line in captured.out.splitlines()]
    assert all(set(finding) == {"check", "status", "message", "advice"} for finding in findings)
    failed = {finding["check"]: finding["message"] for finding in findings if finding["status"] == "failed"}
    assert {*failed} == {"model", "storage"}
    assert "holds no bundle" in failed["model"]
    assert "is a file" in failed["storage"]
    assert captured.err.splitlines()[-1] == (
        f"feclip doctor: error: 2 of {len(findings)} checks failed: model, storage."
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--format", "csv"), "format must be text or json, got 'csv'."),
        (("--bundle", "/b", "--model.num_taps", "2"), "a bundle has its own model, so leave one of them out"),
        (("--run", "/r"), "run and logs are read for --diagnose alone"),
    ],
)
def test_flags_that_do_not_fit_are_one_line(
    flags: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["doctor", *flags])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def contents(diagnosis: Path) -> dict[str, str]:
    """Return the texts of a diagnosis by name."""
    with zipfile.ZipFile(diagnosis) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name).decode() for name in archive.namelist()}


@pytest.fixture(scope="module")
def diagnosed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A diagnosis of a run whose environment, endpoint, records and log hold marked secrets."""
    home = tmp_path_factory.mktemp("diagnosis")
    (home / "run" / "_run").mkdir(parents=True)
    (home / "run" / "_SUMMARY.json").write_text(json.dumps({"num_images": 7, "note": MARKED["PLANT_TOKEN"]}))
    (home / "run" / "_run" / "claim.json").write_text(json.dumps({"storage_endpoint": MARKED["AWS_ENDPOINT_URL"]}))
    (home / "run" / "slice-0.parquet").write_bytes(b"PAR1 " + MARKED["PLANT_TOKEN"].encode())
    lines = [f"line {number}" for number in range(2000)]
    lines += [f"Cannot read it with {MARKED['AWS_SECRET_ACCESS_KEY']} of {MARKED['NEIGHBOUR']}", "password: marked-4"]
    (home / "score.log").write_text("\n".join([*lines, "The last error: out of coffee."]))
    argv = ["doctor", *ALONE, *DEMO, "--diagnose", str(home / "out.zip"), "--run", str(home / "run")]
    argv += ["--logs", f"{home / 'score.log'},{home / 'absent.log'}"]
    session = home / "ray" / "session_2026-01-01_00-00-00_000000_1" / "logs"
    session.mkdir(parents=True)
    (session / "raylet.err").write_text(f"The raylet died of {MARKED['PLANT_TOKEN']}.\n")
    (session / "worker-1.err").write_text("")
    environ = os.environ | MARKED | {"RAY_TMPDIR": str(home)}
    done = subprocess.run(
        [sys.executable, "-m", "feclip", *argv], env=environ, capture_output=True, text=True, check=True
    )
    assert "marked" not in (done.stdout + done.stderr).lower()
    return contents(home / "out.zip")


def test_no_marked_secret_is_in_a_diagnosis(diagnosed: dict[str, str]) -> None:
    for name, text in diagnosed.items():
        assert "marked" not in text.lower(), name
    assert "(removed)" in diagnosed["logs/00-score.log.txt"]


def test_a_diagnosis_holds_what_a_report_needs(diagnosed: dict[str, str]) -> None:
    assert json.loads(diagnosed["versions.json"])["torch"]
    environment = json.loads(diagnosed["environment.json"])
    assert environment["PLANT_TOKEN"] == environment["AWS_SECRET_ACCESS_KEY"] == "(set)"  # noqa: S105 - what is shown
    assert environment["AWS_ENDPOINT_URL"] == "http://(removed)@127.0.0.1:9"
    checks = [json.loads(line) for line in diagnosed["checks.jsonl"].splitlines()]
    assert {check["check"] for check in checks} >= {"versions", "backbone", "training"}
    assert json.loads(diagnosed["config.json"])["model"]["backbone"] == "feclip-demo"
    assert json.loads(diagnosed["run/_SUMMARY.json"])["num_images"] == 7
    assert "_run/claim.json" in diagnosed["run/files.txt"]
    assert "slice-0.parquet" in diagnosed["run/files.txt"]
    assert not any(name.endswith(".parquet") for name in diagnosed)
    log = diagnosed["logs/00-score.log.txt"].splitlines()
    assert log[-1] == "The last error: out of coffee."
    assert len(log) <= 302
    assert "cannot be read" in diagnosed["logs/01-absent.log.txt"]
    assert diagnosed["logs/02-raylet.err.txt"].endswith("The raylet died of (removed).\n")
    assert len([name for name in diagnosed if name.startswith("logs/")]) == 3


def test_a_folder_takes_a_diagnosis_too_but_never_a_second_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["doctor", *ALONE, "--bundle", str(tmp_path / "no-bundle"), "--diagnose", str(tmp_path / "report")]
    assert main(argv) == 1  # the bundle; the diagnosis is written all the same
    assert (tmp_path / "report" / "checks.jsonl").is_file()
    assert "does not exist" in (tmp_path / "report" / "bundle" / "config.json").read_text()
    capsys.readouterr()
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "a folder that is not empty" in captured.err
