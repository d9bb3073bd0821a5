"""What holds for every file that starts a cluster."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from deployed import REPOSITORY

FILES = [
    REPOSITORY / name for name in ("cluster.yaml", "Dockerfile", ".dockerignore", "deploy/README.md", "deploy/aws.yaml")
] + sorted((REPOSITORY / "deploy" / "kuberay").iterdir())
SECRET = re.compile(
    r"AKIA[0-9A-Z]{16}"
    r"|-----BEGIN"
    r"|\b[0-9a-f]{32,}\b"  # a token of Ray
    r"|(secret_access_key|session_token|password|auth_token)\s*[=:]\s*(?!\.\.\.)[\"']?[\w+/]{8,}",
    re.IGNORECASE,
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_secret_stands_in_it(path: Path) -> None:
    assert SECRET.search(path.read_text()) is None


@pytest.mark.parametrize(
    "text",
    ["AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI", "auth_token: 'abcdefgh1'", "0123456789abcdef" * 2],
)
def test_secrets_are_known_when_seen(text: str) -> None:
    assert SECRET.search(text) is not None


def test_the_image_runs_as_a_user_without_rights() -> None:
    lines = (REPOSITORY / "Dockerfile").read_text().splitlines()
    assert [line for line in lines if line.startswith("USER ")][-1] == "USER 1000"
    assert any("useradd --uid 1000" in line for line in lines)
    manifest = yaml.safe_load((REPOSITORY / "deploy" / "kuberay" / "score.yaml").read_text())
    head = manifest["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    assert head["securityContext"]["runAsUser"] == 1000


def test_python_and_uv_of_the_image_are_those_of_the_project() -> None:
    dockerfile = (REPOSITORY / "Dockerfile").read_text()
    python = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["requires-python"]
    assert re.findall(r"^FROM python:(\d\.\d+)-", dockerfile, re.MULTILINE) == [python.removeprefix(">=")]
    makefile = (REPOSITORY / "Makefile").read_text()
    assert re.findall(r"uv==(\S+)", dockerfile) == re.findall(r"^UV_VERSION := (\S+)$", makefile, re.MULTILINE)


def test_every_package_of_the_image_is_pinned_with_a_hash() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["aws"]
    pinned = dict(
        re.findall(
            r"^([\w.-]+)==\S+.*\\\n    --hash=(\w+)", (REPOSITORY / "requirements.txt").read_text(), re.MULTILINE
        )
    )
    names = {re.split(r"[\[<>=]", entry)[0].replace("_", "-") for entry in wanted}
    assert names <= set(pinned)
    assert set(pinned.values()) == {"sha256"}


def test_the_build_context_has_what_the_image_copies() -> None:
    kept = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    copied = re.findall(r"^COPY (?!\. \.)(.+) \./$", (REPOSITORY / "Dockerfile").read_text(), re.MULTILINE)
    assert {name for line in copied for name in line.split()} <= kept
    assert {"feclip", "jobs", project["readme"], *project["license-files"]} <= kept
    assert all((REPOSITORY / name).exists() for name in kept)
