"""Completion in a real shell: the script is sourced, and asked as the shell asks it."""

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from feclip.__main__ import main
from feclip.commands import COMMANDS


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script for bash, as the command prints it."""
    file = tmp_path_factory.mktemp("completion") / "feclip.bash"
    with pytest.MonkeyPatch.context() as patch, file.open("w") as output:
        patch.setattr("sys.stdout", output)
        assert main(["--print_shtab", "bash"]) == 0
    return file


def completed(script: Path, *words: str, cwd: Path | None = None) -> set[str]:
    """Return what bash offers for the last word of a command line."""
    program = (
        f"source {script}\n"
        "complete -p feclip >/dev/null || exit 9\n"
        f"COMP_WORDS=(feclip {' '.join(map(shlex.quote, words))}); COMP_CWORD={len(words)}; COMP_TYPE=9\n"
        f"_shtab_feclip feclip {shlex.quote(words[-1])} {shlex.quote(['feclip', *words][-2])}\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run(
        [bash, "--norc", "-c", program], capture_output=True, text=True, check=True, cwd=cwd or script.parent
    )
    return set(done.stdout.split())


def test_commands_are_completed(script: Path) -> None:
    assert completed(script, "sc") == {"score"}
    assert completed(script, "") >= set(COMMANDS)


def test_flags_of_a_command_are_completed(script: Path) -> None:
    assert completed(script, "score", "--score.pre") == {"--score.precision"}
    assert completed(script, "predict", "--sa") == {"--save"}
    assert completed(script, "decide", "--score.pre") == set()


def test_words_of_a_choice_are_completed(script: Path) -> None:
    assert completed(script, "score", "--score.precision", "b") == {"bfloat16"}
    assert completed(script, "score", "--plan", "") == {"true", "false"}


@pytest.mark.parametrize("words", [("score", "--bundle", "bun"), ("predict", "bun")])
def test_paths_are_completed_where_a_path_is_wanted(script: Path, words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "bundle-1").mkdir()
    assert {name.rstrip("/") for name in completed(script, *words, cwd=tmp_path)} == {"bundle-1"}


def test_zsh_has_a_script_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--print_shtab", "zsh"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("#compdef feclip")
    assert all(name in text for name in COMMANDS)
