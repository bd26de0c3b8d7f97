import importlib.metadata
import inspect
import os
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

import keras_meta
from keras_meta import addons

ROOT = pathlib.Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
FOLDERS = ("keras_meta", "experiments", "tests", ".ci")
TEXTS = {".csv", ".json", ".md", ".py", ".toml", ""}
HOMES = re.compile(r"(?<![\w.~$}/])/(?:home|root|Users|work)/\w")


def files():
    """The project's own files, whether in git already or not."""
    found = [path for path in ROOT.iterdir() if path.is_file()]
    for folder in FOLDERS:
        found += [path for path in (ROOT / folder).rglob("*") if path.is_file()]
    hidden = ("__pycache__", ".hypothesis")
    return [path for path in found if not set(hidden) & set(path.parts)]


def test_version_is_in_one_place():
    assert "version" in PROJECT["project"]["dynamic"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {
        "attr": "keras_meta.version.__version__"
    }
    quoted = f'"{keras_meta.__version__}"'
    holders = [
        path.relative_to(ROOT).as_posix()
        for path in files()
        if path.suffix in {".py", ".toml"} and quoted in path.read_text("utf-8")
    ]
    assert holders == ["keras_meta/version.py"]


@pytest.mark.skipif(
    not any(importlib.metadata.distributions(name="keras-meta")),
    reason="keras_meta is not installed",
)
def test_installed_metadata():
    metadata = importlib.metadata.metadata("keras-meta")
    assert metadata["Version"] == keras_meta.__version__
    assert metadata["License-Expression"] == "Apache-2.0"


@pytest.mark.slow
def test_other_backends_are_refused():
    # Another backend would have to be installed.
    pretend = (
        "import keras; keras.backend.backend = lambda: 'jax'; import keras_meta"
    )
    run = subprocess.run(
        [sys.executable, "-c", pretend],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": "tensorflow"},
        capture_output=True,
        text=True,
    )
    assert run.returncode != 0
    error = run.stderr.strip().splitlines()[-1]
    assert error.startswith("ImportError: ")
    assert "'jax'" in error
    assert "KERAS_BACKEND=tensorflow" in error


def test_every_folder_of_code_is_a_package():
    code = [
        path.parent
        for folder in ("keras_meta", "experiments")
        for path in (ROOT / folder).rglob("*.py")
    ]
    assert [x for x in set(code) if not (x / "__init__.py").exists()] == []


def test_data_files_are_packaged():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["keras_meta"]
    package = ROOT / "keras_meta"
    data = {
        path
        for path in files()
        if path.is_relative_to(package) and path.suffix != ".py"
    }
    # Type checkers read annotations only where they find this file.
    assert package / "py.typed" in data
    assert data - {x for p in patterns for x in package.glob(p)} == set()


def test_no_paths_of_one_machine():
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in files()
        if path.suffix in TEXTS
        for match in HOMES.finditer(path.read_text("utf-8"))
    ]
    assert found == []


def exports(module):
    """Yields the functions and classes that a module and its parts export."""
    for name in getattr(module, "__all__", [*vars(module)]):
        member = getattr(module, name)
        is_part = inspect.ismodule(member)
        home = getattr(member, "__name__" if is_part else "__module__", "")
        if name.startswith("_") or not home.startswith("keras_meta."):
            continue
        if is_part:
            yield from exports(member)
        else:
            yield member


def functions_of(member):
    """Yields the functions that a member of a module or a class holds."""
    # Those of properties, cached properties and class methods.
    places = ("fget", "fset", "func", "__func__")
    held = [getattr(member, place, None) for place in places]
    yield from filter(inspect.isfunction, map(inspect.unwrap, [member, *held]))


def public_functions():
    """Returns all functions that users see and that are written here."""
    found = set()
    for export in [*exports(keras_meta), *exports(addons)]:
        found.update(functions_of(export))
        for base in getattr(export, "__mro__", ()):
            if not base.__module__.startswith("keras_meta."):
                continue
            for name, member in vars(base).items():
                # Names of the form `__add__` are public.
                if not name.startswith("_") or name.startswith("__"):
                    found.update(functions_of(member))
    (package,) = keras_meta.__path__
    return [f for f in found if f.__code__.co_filename.startswith(package)]


def missing_annotations(function):
    """Returns the parameters without a type, and "return" if it has none."""
    signature = inspect.signature(function)
    missing = [
        name
        for name, parameter in signature.parameters.items()
        if parameter.annotation is parameter.empty
        and name not in ("self", "cls")
    ]
    has_result = function.__name__ != "__init__"
    if has_result and signature.return_annotation is signature.empty:
        missing.append("return")
    return missing


def test_public_signatures_are_annotated():
    functions = public_functions()
    assert {
        "from_arrays",
        "Interval.percent",
        "Learner.call",
        "MetaTraining.train_step",
        "Part.__getattr__",
        "Truncated.from_config",
        "UpdateRule.__init__",
    } <= {f.__qualname__ for f in functions}
    missing = {
        f"{f.__module__}.{f.__qualname__}": missing_annotations(f)
        for f in functions
    }
    assert {k: v for k, v in missing.items() if v} == {}
