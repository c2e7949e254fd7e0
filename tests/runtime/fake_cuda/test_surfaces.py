"""What irstd calls of CuPy and PyCUDA is there, as written down from them; the fakes take it."""

import ast
import inspect
import json
from pathlib import Path

import pytest

import irstd
from irstd.tests.runtime.fake_cuda.driver import Driver
from irstd.tests.runtime.fake_cuda.fake_cupy import fake_cupy
from irstd.tests.runtime.fake_cuda.fake_pycuda import fake_pycuda
from irstd.tests.runtime.fake_cuda.freeze import look_up

RUNTIME = Path(irstd.__file__).parent / "runtime"
LISTINGS = {
    path.stem.split("-")[0]: json.loads(path.read_text(encoding="utf-8"))
    for path in Path(__file__).parent.glob("*.json")
}
MAKERS = {"cupy": fake_cupy, "pycuda": fake_pycuda}
# What a module calls the library's modules, and what these are inside the library.
ALIASES = {
    "cupy": {"cupy": "", "runtime": "cuda.runtime."},
    "pycuda": {"pycuda": "", "driver": "driver."},
}


def names_used(library):
    """Every dotted name of the library in the module that is its home."""
    tree = ast.parse((RUNTIME / f"device_{library}.py").read_text(encoding="utf-8"))
    inner = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and id(node) not in inner:
            root, _, rest = ast.unparse(node).partition(".")
            if root in ALIASES[library] and "(" not in rest:
                yield ALIASES[library][root] + rest


@pytest.mark.parametrize("library", sorted(LISTINGS))
def test_what_is_called_is_there(library):
    used = set(names_used(library))
    assert len(used) > 15
    assert used <= set(LISTINGS[library])


@pytest.mark.parametrize("library", sorted(LISTINGS))
def test_the_fakes_are_as_the_libraries_are(library):
    module, checked = MAKERS[library](Driver(None))[library], 0
    for name in set(names_used(library)):
        real, fake = LISTINGS[library][name], look_up(module, name)
        if isinstance(real, int) and isinstance(fake, int):
            assert fake == real, name
        elif isinstance(real, list):
            names = [one.lstrip("*") for one in real]
            taken = list(inspect.signature(fake).parameters)
            # Compiled modules often tell no names: arg1, arg2.
            assert len(taken) <= len(names), name
            for one, other in zip(taken, names, strict=False):
                assert one == other or other.startswith("arg"), name
        else:
            continue
        checked += 1
    assert checked > 8


def test_methods_of_cupy_take_what_they_are_given():
    listing = LISTINGS["cupy"]
    assert listing["RawKernel.__call__"][1:4] == ["grid", "block", "args"]
    assert listing["cuda.Stream.__init__"][2] == "non_blocking"
    assert listing["cuda.Stream.begin_capture"] == ["self", "mode"]
    assert listing["cuda.Graph.launch"] == ["self", "stream"]
