"""The commands that documents show have flags that exist, with valid values."""

import ast
import collections
import json
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
_COMMAND = re.compile(
    r"(?:-m |`)(experiments\.[\w.]*\w)"
    r"((?:\s+--[\w./=:,*+-]+(?:\"[^\"]*\")?)*)"
)
_FLAG = re.compile(r"(?<![\w-])--\w+=[\w./]+")
_PARSE = """
import importlib, json, sys
from absl import flags

name, commands = sys.argv[1], json.loads(sys.argv[2])
importlib.import_module(name)
for command in commands:
    flags.FLAGS.unparse_flags()
    flags.FLAGS([name, *command])
"""


def _commands():
    """Returns the arguments of all commands, by module."""
    found = collections.defaultdict(list)
    sources = [*ROOT.glob("experiments/*.py")]
    sources += ROOT.glob("experiments/benchmarks/*.py")
    for path in [ROOT / "README.md", ROOT / "BUILD.md", *sources]:
        _collect(path.read_text("utf-8"), found)
    _collect((ROOT / "experiments/RESULTS.md").read_text("utf-8"), found)
    for path in sources:
        # A program's description names further flags.
        description = ast.get_docstring(ast.parse(path.read_text("utf-8")))
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if name in found:
            found[name] += [[flag] for flag in _FLAG.findall(description or "")]
    return dict(found)


def _collect(text, found):
    joined = re.sub(r"\\+\n", " ", text)
    for name, arguments in _COMMAND.findall(joined):
        path = ROOT / f"{name.replace('.', '/')}.py"
        if path.exists() and "__main__" in path.read_text("utf-8"):
            found[name].append(shlex.split(arguments))


COMMANDS = _commands()


def test_commands_are_found():
    assert ["--dataset=sen12ms_regions"] in COMMANDS["experiments.land_cover"]
    assert ["--table"] in COMMANDS["experiments.sinusoid"]
    assert sum(map(len, COMMANDS.values())) > 60


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_commands_are_understood(name):
    subprocess.run(
        [sys.executable, "-c", _PARSE, name, json.dumps(COMMANDS[name])],
        cwd=ROOT,
        check=True,
    )
