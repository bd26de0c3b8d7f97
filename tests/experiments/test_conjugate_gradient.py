import pytest


@pytest.fixture
def without_warnings(monkeypatch):
    """Keeps it from standard error that so short a training is no use."""
    monkeypatch.setenv("PYTHONWARNINGS", "ignore::UserWarning")


@pytest.mark.slow
def test_binary(without_warnings, run_binary, tmp_path):
    printed = run_binary(
        "conjugate_gradient",
        "--iterations=5",
        "--cg_steps=0",
        "--cg_steps=40",
        "--test_tasks=4",
        "--compared_tasks=2",
        f"--output={tmp_path}",
    )
    errors = {
        cells[0]: float(cells[1])
        for cells in map(str.split, printed.splitlines())
        if cells
        and cells[0] in ("0", "40", "unrolled")
        and len(cells) in (2, 6)
    }
    assert errors["0"] > 0.1
    assert errors["40"] < 1e-2
    assert errors["unrolled"] < 0.5
