"""The house: who may import whom, which packages there are, and how light the runtime is."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WINGS = ("runtime", "calibration", "train", "export")
MAY_IMPORT = {
    "runtime": {"runtime"},
    "calibration": {"calibration", "runtime"},
    "train": {"train", "runtime"},
    "export": {"export", "train", "calibration", "runtime"},
}
# Heavy package: the only modules that may import it, by wing or file.
HEAVY = {
    "torch": ("train/", "export/"),
    "safetensors": ("train/",),
    "lightning_fabric": ("train/loop.py", "train/session.py", "train/commands.py"),
    "tensorboardX": ("train/logs.py",),
    "onnx": ("calibration/", "export/"),
    "onnxruntime": ("runtime/engine_onnxruntime.py", "calibration/", "export/"),
    "openvino": ("runtime/engine_openvino.py",),
    "cv2": ("runtime/media_cv2.py", "runtime/registration_cv2.py"),
    "matplotlib": ("runtime/plot_matplotlib.py",),
    "tensorrt": ("runtime/engine_tensorrt.py",),
    "tensorrt_rtx": ("runtime/engine_tensorrt.py",),
    "cupy": ("runtime/device_cupy.py",),
    "pycuda": ("runtime/device_pycuda.py",),
}
FILES = [path for wing in WINGS for path in sorted((ROOT / wing).rglob("*.py"))]


def imports_of(path: Path) -> list[tuple[int, str]]:
    """(level, dotted name) of every import of a file, also of those inside functions."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.level, node.module or ""))
    return found


def wing_of(path: Path, level: int, module: str) -> str | None:
    """The wing that a relative import reaches; None for the root itself."""
    package = path.relative_to(ROOT).parent.parts
    base = package[: len(package) - (level - 1)]
    return (*base, *module.split("."))[0] or None


def test_there_are_files_to_check():
    assert len(FILES) > 30


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way_and_heavy_packages_stay_in_their_module(path):
    name = str(path.relative_to(ROOT))
    wing = path.relative_to(ROOT).parts[0]
    for level, module in imports_of(path):
        if level:
            target = wing_of(path, level, module)
            assert target is None or target in MAY_IMPORT[wing], f"{name} imports {target}"
            continue
        top = module.split(".")[0]
        assert top not in ("irstd", *WINGS), f"{name}: import {module} relatively"
        assert top not in HEAVY or name.startswith(HEAVY[top]), f"{name} imports {module}"


def test_every_package_is_declared():
    declared = re.search(r"^packages = \[(.*?)\]", text("pyproject.toml"), re.S | re.M)
    assert declared is not None
    names = set(re.findall(r'"([\w.]+)"', declared.group(1)))
    there = {"irstd"} | {
        ".".join(("irstd", *path.relative_to(ROOT).parent.parts))
        for path in FILES
        if path.name == "__init__.py"
    }
    assert names == there


def test_core_dependencies_are_what_flies():
    found = re.search(r"^dependencies = \[(.*?)\]", text("pyproject.toml"), re.S | re.M)
    assert found is not None
    assert re.findall(r'"(\w+)', found.group(1)) == ["numpy", "click", "msgspec"]


def test_files_are_one_idea_each():
    files = [*FILES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "samples").glob("*.py")]
    long = {str(p.relative_to(ROOT)): lines for p in files if (lines := len(code(p))) > 400}
    assert not long


def test_every_module_says_what_it_is_for():
    silent = [p.name for p in FILES if not ast.get_docstring(ast.parse("\n".join(code(p))))]
    assert not silent


def test_importing_the_runtime_loads_nothing_heavy():
    heavy = sorted(HEAVY)
    program = f"import irstd.runtime, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd="/"
    )
    assert done.stdout.strip() == "[]"


def test_importing_the_runtime_loads_nothing_of_gpus():
    program = "import irstd.runtime, sys; print([m for m in sys.modules if 'irstd' in m])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd="/"
    )
    assert "irstd.runtime.detector" in done.stdout
    for part in ("device", "gpu", "tensorrt", "launches", "nvrtc"):
        assert part not in done.stdout


def test_wings_are_no_packages_of_their_own_elsewhere():
    program = "import runtime"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd="/")
    assert "ModuleNotFoundError" in done.stderr


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def code(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()
