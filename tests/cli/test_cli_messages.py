"""What a wrong value is called: its field, its file and line, and what was meant."""

from pathlib import Path

import pytest

from feclip.cli import parse_config, run_job
from feclip.cli.origins import origin_of
from feclip.config import FinetuneConfig, PredictConfig
from feclip.errors import ConfigError

VALID = "output: /out\ndata:\n  root: /data\n"


def told(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        parse_config(FinetuneConfig, argv, prog="job", about="")
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    return message.strip()


@pytest.mark.parametrize(
    ("added", "line", "named"),
    [
        ("optim:\n  epochs: -1\n", 5, "optim.epochs must be at least 0, got -1."),
        (
            "optim:\n  batch_size: 3\n  epochs: many\n",
            6,
            "key \"optim.epochs\": Expected a <class 'int'>. Got value: many",
        ),
        ("optim: {epochs: 2, epoch: 4}\n", 4, "Group 'optim' does not accept option 'epoch'"),
        ("cluster:\n  num_workers: 20\n", None, "optim.batch_size must be at least cluster.num_workers (20)"),
        ("optim: [1\n", 5, "expected ',' or ']'"),
    ],
)
def test_a_value_from_a_file_is_named_with_file_and_line(
    added: str, line: int | None, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(VALID + added)
    message = told(["--config", str(file)], capsys)
    assert named in message
    assert f"error: {file}:{5 if line is None else line}: " in message
    assert "unicode string" not in message


def test_a_flag_that_overrides_a_file_is_not_blamed_on_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(VALID + "optim:\n  epochs: 2\n")
    message = told([f"--config={file}", "--optim.epochs=-3"], capsys)
    assert message.startswith("job: error: optim.epochs must be at least 0, got -3.")


def test_of_two_files_the_later_one_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text(VALID + "seed: 1\noptim: {epochs: 3}\n")
    second.write_text("seed: -1\n")
    message = told(["--config", str(first), "--config", str(second)], capsys)
    assert message.startswith(f"job: error: {second}:1: seed must be at least 0 and below 2**32, got -1.")


def test_a_value_that_only_the_job_can_refuse_is_named_with_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(VALID + "cluster: {num_workers: 3}\n")

    def refuse(config: FinetuneConfig) -> None:
        msg = f"cluster.num_workers={config.cluster.num_workers} needs 3 CPUs, but the cluster has 2"
        raise ConfigError(msg)

    assert run_job(FinetuneConfig, refuse, prog="job", about="", argv=["--config", str(file)]) == 2
    assert (
        capsys.readouterr().err == f"job: error: {file}:4: cluster.num_workers=3 needs 3 CPUs, but the cluster has 2\n"
    )


@pytest.mark.parametrize(
    ("flag", "meant"),
    [("--optim.learnin_rate", "--optim.learning_rate"), ("--outputt", "--output"), ("--qqqqq", None)],
)
def test_a_misspelt_flag_is_told_what_it_may_mean(
    flag: str, meant: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    message = told(["--output", "/out", flag, "1"], capsys)
    assert f"unrecognized arguments: {flag} 1" in message
    assert ("did you mean" in message) == (meant is not None)
    assert meant is None or f"; did you mean {meant}?" in message


def test_a_field_that_no_file_set_has_no_origin(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("optim:\n  epochs: 3\n")
    argv = ["--config", str(file), "--config", str(tmp_path / "absent.yaml")]
    assert origin_of("optim.epochs must be", argv) == f"{file}:2"
    assert origin_of("optim.epochs_more must be", argv) is None
    assert origin_of("seed must be", argv) is None
    assert origin_of("seed must be", []) is None


@pytest.mark.parametrize(
    "argv",
    [
        ["a.jpg", "b.jpg", "--bundle", "/b"],
        ["--bundle", "/b", "a.jpg", "b.jpg"],
        ["--config", "FILE"],
        ["a.jpg", "b.jpg", "--config", "FILE", "--bundle", "/b"],
        ["--config", "FILE", "a.jpg", "b.jpg"],
    ],
)
def test_images_are_given_without_a_flag_or_by_a_file(argv: list[str], tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    images = "[x.jpg]" if argv[0] != "--config" or len(argv) > 2 else "[a.jpg, b.jpg]"
    file.write_text(f"images: {images}\nbundle: /b\n")
    words = [str(file) if word == "FILE" else word for word in argv]
    if argv[:2] == ["a.jpg", "b.jpg"] and "FILE" in argv:
        expected: tuple[str, ...] = ("x.jpg",)  # what comes later overrides
    else:
        expected = ("a.jpg", "b.jpg")
    assert parse_config(PredictConfig, words, prog="predict", about="").images == expected


def test_no_image_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_config(PredictConfig, ["--bundle", "/b"], prog="predict", about="")
    assert stop.value.code == 2
    assert "images is required: name image files or folders" in capsys.readouterr().err
