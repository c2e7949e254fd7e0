"""Every public function is documented, and the examples in the docstrings do what they say."""

import ast
import doctest
import importlib
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
MODULES = [
    ".".join(("irstd", *path.relative_to(ROOT).with_suffix("").parts))
    for wing in ("runtime", "calibration", "train", "export")
    for path in sorted((ROOT / wing).rglob("*.py"))
    if path.name != "__init__.py"
]


# Homes of libraries that only machines with a GPU have.
NEEDS = {"irstd.runtime.device_cupy": "cupy", "irstd.runtime.device_pycuda": "pycuda.driver"}


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], reason="drives a GPU", exc_type=ImportError)
    module = importlib.import_module(name)
    outcome = doctest.testmod(module, extraglobs={"np": np})
    assert outcome.failed == 0


@pytest.mark.parametrize("name", MODULES)
def test_public_functions_and_classes_are_documented(name):
    path = ROOT.joinpath(*name.split(".")[1:]).with_suffix(".py")
    nodes = ast.parse(path.read_text(encoding="utf-8")).body
    silent = [
        node.name
        for node in nodes
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert not silent
