"""Every command of the documentation is one that its program takes: a wrong flag or value fails here."""

import importlib.util
import itertools
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from doc_pages import MARKS, REPOSITORY, Block, blocks, pages
from jsonargparse import auto_parser
from ray.scripts.scripts import cli as ray_cli

from feclip import config
from feclip.cli import parse_config
from feclip.demo import __main__ as generator

ABSOLUTE = re.compile(r"(?:--(?:data\.root|data\.manifest|output|bundle|archive|manifest|normals|scores)) (\S+)")
BLOCKS = [block for page in pages() for block in blocks(page)]
COMMANDS = [(block, words) for block in BLOCKS if block.holds_commands for words in block.commands()]


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_says_what_is_done_with_it(block: Block) -> None:
    assert block.mark in MARKS, f"{block}: put one of {', '.join(MARKS)} in a comment above the block"


@pytest.mark.parametrize(("block", "words"), COMMANDS, ids=lambda value: str(value) if isinstance(value, Block) else "")
def test_a_command_is_one_that_its_program_takes(block: Block, words: list[str]) -> None:
    program, *arguments = words
    while re.fullmatch(r"[A-Z_]+=\S*", program):
        if not arguments:
            return  # an assignment
        program, *arguments = arguments
    assert program in PROGRAMS, f"{block}: no test knows how to read {program}"
    PROGRAMS[program](arguments)


@pytest.mark.parametrize(
    "command",
    [
        "jobs/score.py --bundle /b --archive /a --output /o --score.actors 2",
        "jobs/finetune.py --data.root /d --output /o --data.resize enlarge",
        "jobs/tune.py --output /o",
        "jobs/nothing.py",
        "-m feclip.demo archive /a --number 3",
        "benchmarks/accuracy.py no_such_step",
    ],
)
def test_wrong_commands_are_found(command: str) -> None:
    with pytest.raises((SystemExit, AssertionError)) as failure:
        _python(command.split())
    assert not isinstance(failure.value, SystemExit) or failure.value.code == 2


def test_the_pages_have_commands_for_every_job() -> None:
    written = {Path(words[1]).stem for _, words in COMMANDS if words[0] == "python" and words[1].startswith("jobs/")}
    assert written == {path.stem for path in (REPOSITORY / "jobs").glob("*.py")}


def _python(arguments: list[str]) -> None:
    script, *flags = arguments
    if script == "-m":
        module, *flags = flags
        return _module(module, flags)
    path = REPOSITORY / script
    assert path.is_file(), f"there is no {script}"
    if path.parent.name == "jobs":
        return _feclip([path.stem, *flags])
    return _told_by_its_source(path, flags)


def _feclip(arguments: list[str]) -> None:
    command, *flags = arguments
    if command.startswith("--"):
        return  # --help and completion, of the program itself
    kind = getattr(config, f"{command.capitalize()}Config", None)
    assert kind is not None, f"there is no command {command}"
    try:
        parse_config(kind, flags, prog=command, about=f"feclip {command}")
    except SystemExit as stop:
        if stop.code != 0:  # 0 after --help and --print_config
            raise


def _module(module: str, flags: list[str]) -> None:
    assert importlib.util.find_spec(module) is not None, f"there is no {module}"
    if module == "feclip.demo":
        auto_parser([generator.mvtec, generator.archive], allow_abbrev=False).parse_args(flags)


def _told_by_its_source(path: Path, flags: list[str]) -> None:
    """Check words that a script of benchmarks/ or docs/ must know: its step, and the names of its flags."""
    source = path.read_text(encoding="utf-8")
    if flags and re.fullmatch(r"[a-z_0-9]+", flags[0]):
        assert flags[0] in source, f"{path.name} has no {flags[0]}"
    for flag in flags:
        if flag.startswith("--"):
            assert flag[2:].partition("=")[0] in source, f"{path.name} has no {flag}"


def _uv(arguments: list[str]) -> None:
    """Check that uv has the sub-command and its flags, and that the project has the extra."""
    words = list(itertools.takewhile(str.isalpha, arguments))
    program = Path(sys.executable).parent / "uv"
    told = subprocess.run(
        [program, "help", "--no-pager", *words[:2]], capture_output=True, text=True, check=True
    ).stdout
    for flag in (word for word in arguments if word.startswith("--")):
        assert re.search(rf"(?<![\w-]){flag}(?![\w-])", told), f"uv {' '.join(words)} has no {flag}"
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    assert set(re.findall(r"\.\[(\w+)\]", " ".join(arguments))) <= extras.keys()


def _ray(arguments: list[str]) -> None:
    command, words = ray_cli, [word for word in arguments if word != "--"]
    job = words.index("python") if "python" in words else len(words)
    words, submitted = words[:job], words[job:]
    while getattr(command, "commands", None):
        name, *words = words
        assert name in command.commands, f"ray has no {name}"
        command = command.commands[name]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    unknown = {word.partition("=")[0] for word in words if word.startswith("-")} - known
    assert not unknown, f"ray {command.name} has no {', '.join(unknown)}"
    if submitted:
        _python(submitted[1:])
        paths = ABSOLUTE.findall(" ".join(submitted))
        assert paths
        assert all(path.startswith(("/", "s3://")) for path in paths), "a submitted job starts in another folder"


def _make(arguments: list[str]) -> None:
    targets = re.findall(r"^([\w/.-]+):(?!=)", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(arguments) <= set(targets)


def _files_exist(arguments: list[str]) -> None:
    """Check the files of the repository that a command names, where its program is not at hand."""
    for word in arguments:
        if word.startswith(("deploy/", "tests/", "docs/")):
            assert (REPOSITORY / word).exists(), f"there is no {word}"


PROGRAMS: dict[str, Callable[[list[str]], None]] = {
    ".": lambda _: None,
    "aws": _files_exist,
    "chmod": lambda _: None,
    "cp": _files_exist,
    "docker": _files_exist,
    "export": lambda _: None,
    "feclip": _feclip,
    "grafana": lambda _: None,
    "kubectl": _files_exist,
    "make": _make,
    "pytest": _files_exist,
    "python": _python,
    "ray": _ray,
    "uv": _uv,
}
