"""A fresh folder on each kind of storage, for the tests of archives."""

from pathlib import Path

import pytest

from feclip.data import join_uri


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.storage)])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh folder of either kind."""
    return str(tmp_path) if request.param == "local" else join_uri(request.getfixturevalue("s3_bucket"), "folder")
