"""The console script: what it lists, what it says of typos, and that its texts are commands that work."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import feclip
from feclip.__main__ import main
from feclip.cli import parse_config
from feclip.commands import COMMANDS, about, load, summary

REPOSITORY = Path(__file__).parents[2]
HEAVY = ("jsonargparse", "numpy", "pyarrow", "ray", "torch")


def examples(name: str) -> list[list[str]]:
    """Return the command lines that a text shows, line continuations joined."""
    joined = re.sub(r"\\\n\s*", " ", about(name))
    return [shlex.split(line) for line in joined.splitlines() if re.match(r"    \S*(feclip|ray job submit) ", line)]


def test_help_lists_every_command_with_one_line_and_loads_nothing_heavy() -> None:
    program = (
        "import sys\nfrom feclip.__main__ import main\ncode = main(['--help'])\n"
        f"print(code, [name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    *text, end = done.stdout.splitlines()
    assert end == "0 []"
    for name in COMMANDS:
        assert [line for line in text if line.split()[:1] == [name]] == [f"  {name:9}  {summary(name)}"]
        assert summary(name).endswith(".")


def test_a_bundle_can_be_asked_for_in_three_lines_without_loading_torch() -> None:
    program = (
        "import sys, feclip\nseen = [name for name in ('numpy', 'torch') if name in sys.modules]\n"
        "from feclip import Predictor\n"
        "print(seen, Predictor.__name__, 'torch' in sys.modules, 'ray' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] Predictor False False"
    with pytest.raises(AttributeError, match="no attribute 'Predicter'"):
        _ = feclip.Predicter  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("argv", "code", "told"),
    [
        (["--version"], 0, f"feclip {feclip.__version__}\n"),
        (["scor"], 2, "feclip: error: no command 'scor'; did you mean score? (all commands: feclip --help)\n"),
        (["qqq"], 2, f"feclip: error: no command 'qqq'; one of {', '.join(COMMANDS)}. (all commands: feclip --help)\n"),
        (["--print_shtab", "fish"], 2, "feclip: error: --print_shtab takes one shell, bash or zsh. (all commands"),
        (["--print_shtab"], 2, "feclip: error: --print_shtab takes one shell, bash or zsh. (all commands"),
    ],
)
def test_what_stands_for_no_command(argv: list[str], code: int, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == code
    captured = capsys.readouterr()
    assert (captured.err if code else captured.out).startswith(told)
    assert (captured.err + captured.out).count("\n") == 1


def test_without_a_word_the_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "commands:\n  finetune " in capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_example_of_a_text_is_a_command_line_that_its_config_takes(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(REPOSITORY)
    found = examples(name)
    assert any("--print_config=comments" in words for words in found)
    assert len(found) >= 3
    for words in found:
        if words[0] == "ray":
            script = words[words.index("--") + 1 :]
            assert script[:2] == ["python", f"jobs/{name}.py"]
            assert (REPOSITORY / script[1]).is_file()
            words = ["feclip", name, *script[2:]]  # noqa: PLW2901 - what it is short for
        assert words[:2] == ["feclip", name]
        if "--print_config=comments" in words:
            continue
        config = load(COMMANDS[name].config)
        assert isinstance(parse_config(config, words[2:], prog=name, about=""), config)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_teaches_before_it_lists(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    told = capsys.readouterr().out
    assert told.startswith(f"usage: feclip {name} ")
    assert about(name) in told
    assert told.index(f"feclip {name} --print_config=comments") < told.index("--config CONFIG")


def test_a_job_teaches_by_the_same_text_under_its_own_name() -> None:
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "jobs" / "score.py"), "--help"], capture_output=True, text=True, check=True
    )
    assert about("score", written="python jobs/score.py") in done.stdout
    assert "feclip score " not in done.stdout


def test_every_job_is_a_command_and_does_nothing_else() -> None:
    scripts = sorted((REPOSITORY / "jobs").glob("*.py"))
    assert scripts
    for script in scripts:
        assert script.stem in COMMANDS
        assert f'run_script("{script.stem}")' in script.read_text()
        assert len(script.read_text().splitlines()) <= 60


def test_the_console_script_is_this_function() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert load(project["scripts"]["feclip"]) is main
    assert project["version"] == feclip.__version__


def test_every_text_belongs_to_a_command() -> None:
    texts = sorted(path.stem for path in (REPOSITORY / "feclip" / "commands").glob("*.txt"))
    assert texts == sorted(COMMANDS)
