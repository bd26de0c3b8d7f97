import pytest


@pytest.fixture(scope="module", autouse=True)
def in_float64(float64):
    """Every test of this folder computes in float64."""
