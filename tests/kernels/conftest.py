import pytest


@pytest.fixture(scope="module", autouse=True)
def in_float64(float64):
    """Runs every test in this folder in float64."""
