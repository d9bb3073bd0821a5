"""Fixtures of the metrics."""

import pytest
from random_maps import Case, draw_case


@pytest.fixture(params=range(12))
def case(request: pytest.FixtureRequest) -> Case:
    """Return one of twelve."""
    return draw_case(request.param)
