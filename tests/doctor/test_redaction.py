"""Secrets in texts: what is taken out, and what stays so that a report is of use."""

import json
from pathlib import Path
from urllib.parse import quote

import pytest

from feclip.doctor.redaction import Redactor, shown_environment

MARK = "MARKED+secret/42"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
    "AWS_SECRET_ACCESS_KEY": MARK,
    "AWS_ENDPOINT_URL": "http://marked-user:marked-pass@127.0.0.1:9000",
    "INNOCENT": "marked-innocent",
    "LANG": "C.UTF-8",
    "PATH": "/usr/bin:/bin",
    "HOME": "/home/someone",
}


@pytest.mark.parametrize(
    "text",
    [
        f"the key is {MARK}.",
        json.dumps({"key": MARK}),
        f"GET /?sig={quote(MARK, safe='')}&x=1",
        f"GET /{quote(MARK)}",
        "marked-innocent came from nowhere",
        "endpoint http://marked-user:marked-pass@127.0.0.1:9000/bucket",
        "user marked-user, password marked-pass",
        "https://other-user:marked-9@host/",
        "aws_secret_access_key = marked-8",
        '"my_token": "marked-7"',
        "PASSWORD=marked-6;",
        "Authorization: Bearer marked-5.marked",
        "https://b.s3/x?X-Amz-Credential=marked-4%2F2026&X-Amz-Signature=marked3&X-Amz-Date=1",
        "-----BEGIN RSA PRIVATE KEY-----\nmarked-2\n-----END RSA PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\nmarked-1 and the end is missing",
        "key id AKIAIOSFODNN7EXAMPLE or ASIAMARKEDMARKED0001",
    ],
)
def test_what_is_marked_is_taken_out(text: str) -> None:
    hidden = Redactor(ENVIRONMENT)(text)
    assert "(removed)" in hidden
    assert "marked" not in hidden.lower()
    assert "AKIA" not in hidden


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("PATH is /usr/bin:/bin and LANG C.UTF-8", "PATH is /usr/bin:/bin and LANG C.UTF-8"),
        ("token_map, 24 tokens; keys: 3", "token_map, 24 tokens; keys: 3"),
        ("Cannot read s3://plant/a.png: HTTP 503", "Cannot read s3://plant/a.png: HTTP 503"),
        ("/home/someone/runs and /home/someone2", "~/runs and /home/someone2"),
        ('"storage_endpoint": null', '"storage_endpoint": null'),
    ],
)
def test_what_helps_stays(text: str, shown: str) -> None:
    assert Redactor(ENVIRONMENT)(text) == shown


def test_files_of_credentials_are_secrets(tmp_path: Path) -> None:
    (tmp_path / "credentials").write_text("[default]\naws_secret_access_key = marked-in-a-file\n")
    (tmp_path / "auth_token").write_text("0123456789abcdef\n")
    environment = {
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
        "RAY_AUTH_TOKEN_PATH": str(tmp_path / "auth_token"),
    }
    hidden = Redactor(environment)(f"marked-in-a-file 0123456789abcdef [default] {tmp_path}")
    assert hidden == f"(removed) (removed) [default] {tmp_path}"


def test_of_the_environment_only_names_and_harmless_values_are_shown() -> None:
    shown = shown_environment(ENVIRONMENT)
    assert shown["PATH"] == "/usr/bin:/bin"
    assert {name for name, value in shown.items() if value == "(set)"} == {
        "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "INNOCENT", "HOME",
    }  # fmt: skip


def test_a_switch_is_no_secret_whatever_its_name() -> None:
    hide = Redactor({"TOKENIZERS_PARALLELISM": "false", "PLANT_TOKEN": "tulips"})
    assert hide('{"use_gpu": false, "note": "tulips"}') == '{"use_gpu": false, "note": "(removed)"}'
