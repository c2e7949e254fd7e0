import re
from pathlib import Path

import pytest

import irstd
from irstd.runtime.nvrtc import compile_cuda, find_nvrtc

KERNELS = Path(irstd.__file__).parent / "runtime" / "kernels"

BUILDS = [
    (
        "prepare.cu",
        [
            f"-DSAMPLE_BYTES={sample}",
            f"-DINPUT_BYTES={result}",
            f"-DSTRETCH={stretch}",
            f"-DREPAIR={stretch}",
        ],
    )
    for sample in (1, 2)
    for result in (2, 4)
    for stretch in (0, 1)
]
BUILDS += [("stack.cu", [f"-DINPUT_BYTES={result}"]) for result in (2, 4)]
TARGETS = [
    *((file, options, "sm_87") for file, options in BUILDS),
    *(
        (file, options, f"sm_{architecture}")
        for architecture in (75, 86, 89, 90, 110, 120)
        for file, options in (BUILDS[7], BUILDS[-2], ("components.cu", []))
    ),
    ("components.cu", [], "sm_87"),
]


@pytest.mark.skipif(find_nvrtc() is None, reason="no nvidia-cuda-nvrtc to compile with")
@pytest.mark.parametrize(("name", "options", "architecture"), TARGETS)
def test_nvrtc_compiles_without_a_warning_or_a_spill(name, options, architecture):
    code = (KERNELS / name).read_text(encoding="utf-8")
    compiled = compile_cuda(
        find_nvrtc(), code, (f"-arch={architecture}", "--ptxas-options=-v", *options)
    )
    assert compiled.cubin[:4] == b"\x7fELF"
    assert "warning" not in compiled.log
    spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", compiled.log)
    registers = re.findall(r"Used (\d+) registers", compiled.log)
    assert len(spills) >= 6
    assert set(spills) == {"0"}
    assert max(map(int, registers)) <= 64  # a quarter of an SM for each block of 256
