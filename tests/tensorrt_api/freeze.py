"""Writes down the Python API of several TensorRT versions, one JSON file each.

TensorRT itself cannot be had everywhere, but its bindings can: they load once something bears the
names of the libraries that they want. That shows every class, method and enumeration of a version;
nothing of it can be called. Run it where pip, a C compiler and binutils are there:

    python tests/tensorrt_api/freeze.py            # all versions
    python tests/tensorrt_api/freeze.py 10.3.0     # one
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).parent
# Version: the package whose wheel holds its bindings. JetPack has 8.6, 10.3, 10.13 and 10.16.
BINDINGS = {
    "8.6.1": "tensorrt-bindings",
    "10.3.0": "tensorrt-cu12-bindings",
    "10.13.3.9": "tensorrt-cu12-bindings",
    "10.16.1.11": "tensorrt-cu12-bindings",
    "11.4.0.106": "tensorrt-cu13-bindings",
}
RTX = "tensorrt-rtx"
# What building and running touches; the other classes are kept by name alone.
CLASSES = (
    "Builder",
    "EngineInspector",
    "IBuilderConfig",
    "ICudaEngine",
    "IErrorRecorder",
    "IExecutionContext",
    "IGpuAllocator",
    "IGpuAsyncAllocator",
    "IHostMemory",
    "ILayer",
    "ILogger",
    "INetworkDefinition",
    "IOptimizationProfile",
    "IOutputAllocator",
    "IProfiler",
    "IProgressMonitor",
    "IRuntimeConfig",
    "ISerializationConfig",
    "ITensor",
    "ITimingCache",
    "Logger",
    "OnnxParser",
    "ParserError",
    "Runtime",
    "TimingCacheKey",
)
SPECIAL = ("__getitem__", "__init__", "__len__")


def main() -> None:
    """Freeze the versions named, or read one module for a parent that does."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("versions", nargs="*", metavar="VERSION", help=", ".join(BINDINGS))
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.read:
        print(json.dumps(describe(load_bindings(asked.read))))
        return
    for version in asked.versions or [*BINDINGS, RTX]:
        path, listing = freeze_rtx() if version == RTX else freeze(version)
        path.write_text(json.dumps(listing, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        print(f"{path.name}: {path.stat().st_size} bytes")


def freeze(version: str) -> tuple[Path, dict[str, object]]:
    """Read a version's bindings in a process of their own: two versions in one do not go."""
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        wanted = f"{BINDINGS[version]}=={version}"
        subprocess.run([*pip, "--only-binary=:all:", "--dest", folder, wanted], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        zipfile.ZipFile(wheel).extractall(folder)
        bindings = Path(folder) / "tensorrt_bindings" / "tensorrt.so"
        done = subprocess.run(
            [sys.executable, __file__, "--read", bindings], check=True, stdout=subprocess.PIPE
        )
    listing = {"library": "tensorrt", "version": version, **json.loads(done.stdout)}
    return HERE / f"tensorrt-{version}.json", listing


def freeze_rtx() -> tuple[Path, dict[str, object]]:
    """Read the installed TensorRT for RTX, which needs no dummies."""
    rtx = importlib.import_module("tensorrt_rtx")
    listing = {"library": RTX, "version": rtx.__version__, **describe(rtx)}
    return HERE / f"{RTX}-{rtx.__version__}.json", listing


def load_bindings(path: Path) -> ModuleType:
    """Import bindings whose libraries are not there."""
    for library in make_dummies(path):
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    spec = importlib.util.spec_from_file_location("tensorrt", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_dummies(path: Path) -> list[Path]:
    """Compile a library for each name that the bindings want; its functions give NULL."""
    dynamic = subprocess.run(["readelf", "-d", path], check=True, capture_output=True, text=True)
    wanted = re.findall(r"NEEDED.*\[(libnv[^\]]+)\]", dynamic.stdout)
    symbols = subprocess.run(
        ["nm", "-D", "--undefined-only", path], check=True, capture_output=True, text=True
    )
    here = ctypes.CDLL(None)
    names = re.findall(r"^ +U ([\w.]+)$", symbols.stdout, re.MULTILINE)
    source = path.with_name("dummy.c")
    absent = [name for name in names if not hasattr(here, name)]
    source.write_text("".join(f"void *{name}() {{ return 0; }}\n" for name in absent))
    libraries = [path.with_name(name) for name in wanted]
    for library in libraries:
        command = ["gcc", "-shared", "-fPIC", "-w", f"-Wl,-soname,{library.name}", "-o", library]
        subprocess.run([*command, source], check=True)
    return libraries


def describe(module: ModuleType) -> dict[str, object]:
    """The surface of a module: enumerations with their integers, classes, functions."""
    public = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    classes = {name: value for name, value in public.items() if isinstance(value, type)}
    enums = {name: value for name, value in classes.items() if hasattr(value, "__members__")}
    kept = {name: value for name, value in classes.items() if name in CLASSES}
    enums |= {
        f"{owner}.{name}": value
        for owner, cls in kept.items()
        for name, value in vars(cls).items()
        if isinstance(value, type) and hasattr(value, "__members__")
    }
    return {
        "enums": {
            name: {member: int(value) for member, value in enum.__members__.items()}
            for name, enum in enums.items()
        },
        "classes": {name: describe_class(cls) for name, cls in kept.items()},
        "other classes": sorted(classes.keys() - enums.keys() - kept.keys()),
        "functions": sorted(
            name for name, value in public.items() if callable(value) and name not in classes
        ),
    }


def describe_class(cls: type) -> dict[str, object]:
    """Methods with the parameters of each overload, properties, and constants of a class."""
    members: dict[str, object] = {}
    for base in reversed(cls.__mro__[:-1]):
        members |= vars(base)
    found: dict[str, dict[str, object]] = {"methods": {}, "properties": {}}
    constants = []
    for name, value in members.items():
        if name.startswith("_") and name not in SPECIAL:
            continue
        if isinstance(value, property):
            found["properties"][name] = "read and write" if value.fset else "read"
        elif isinstance(value, type) or not callable(getattr(cls, name)):
            constants.append(name)
        else:
            found["methods"][name] = overloads(name, getattr(cls, name).__doc__ or "")
    return {**found, "constants": sorted(constants)}


def overloads(name: str, text: str) -> list[str]:
    """Parameters of each overload and what it gives, out of pybind11's docstring.

    A `=` stands behind parameters that have a default:
    `f(self: a.B, flags: typing.SupportsInt = 0, x: list[int]) -> a.C` is `flags=, x -> C`.
    """
    lines = re.findall(rf"^(?:\d+\. )?{re.escape(name)}\((.*)\) -> (.*)$", text, re.MULTILINE)
    return [f"{', '.join(parameters(line))} -> {given.rpartition('.')[2]}" for line, given in lines]


def parameters(signature: str) -> list[str]:
    """Names in a signature; `self` and types are left out."""
    bare = signature
    while bare != (bare := re.sub(r"\[[^\[\]]*\]|<[^<>]*>|\([^()]*\)", "", bare)):
        pass
    names = [
        f"{part.partition(':')[0].strip()}{'=' if ' = ' in part else ''}"
        for part in bare.split(",")
    ]
    return [name for name in names if name not in ("", "*", "self")]


if __name__ == "__main__":
    main()
