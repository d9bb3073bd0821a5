"""Whoever has no anomalib is told so in one line, and only when the bridge is asked for."""

from importlib.util import find_spec

import pytest

from feclip.errors import ConfigError

pytestmark = pytest.mark.skipif(find_spec("anomalib") is not None, reason="anomalib is installed")


def test_the_bridge_says_what_is_missing() -> None:
    with pytest.raises(ConfigError) as failure:
        from feclip.integrations.anomalib import FeClip  # noqa: F401, PLC0415 - what fails
    assert str(failure.value) == (
        "feclip.integrations.anomalib.FeClip needs anomalib, which is not installed; "
        "docs/anomalib.md says how to install both."
    )


def test_a_wrong_name_is_a_wrong_name() -> None:
    import feclip.integrations.anomalib as bridge  # noqa: PLC0415 - beside what is tested

    assert not hasattr(bridge, "Padim")
    assert "LabelledMVTec" in bridge.__all__
