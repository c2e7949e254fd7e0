import re
from itertools import product

import pytest

from irstd.runtime.frame import ClipContract, FrameContract, fit_geometry
from irstd.runtime.launches import clip_stages, extract_stage, prepare_stage
from irstd.runtime.nvrtc import compile_cuda, find_nvrtc
from irstd.runtime.targets import Extraction

SHAPE = (40, 50)
DEFECTS = ("each frame", "over time")


def stages(is_half, depth, normalisation, defects):
    clip = ClipContract(3, defects=defects)
    contract = FrameContract(*SHAPE, depth, normalisation, clip=clip)
    geometry = fit_geometry(SHAPE, contract)
    yield prepare_stage(SHAPE, contract, is_half=is_half)
    yield clip_stages(contract, geometry, is_half=is_half)[0]
    yield extract_stage(contract, geometry, Extraction())


def programs():
    """(name, code, options, architecture) of every build for a Jetson Orin, of one for others."""
    built = set()
    for build in product((True, False), (14, 8), ("stretch", "full-scale"), DEFECTS):
        for stage in stages(*build):
            name, code = stage.sources[-1].name, stage.read_code()
            architectures = (87,) if name in built else (87, 75, 86, 89, 90, 110, 120)
            built.add(name)
            for architecture in architectures:
                said = " ".join((name, *stage.options, f"sm_{architecture}"))
                yield pytest.param(code, stage.options, f"sm_{architecture}", id=said)


PROGRAMS = {program.id: program for program in programs()}


def test_every_program_is_compiled_for_every_architecture():
    files = [name.split()[0] for name in PROGRAMS]
    counts = {name: files.count(name) for name in files}
    assert counts == {"prepare.cu": 12 + 6, "stack.cu": 2 + 6, "components.cu": 1 + 6}


@pytest.mark.skipif(find_nvrtc() is None, reason="no nvidia-cuda-nvrtc to compile with")
@pytest.mark.parametrize(("code", "options", "architecture"), PROGRAMS.values())
def test_nvrtc_compiles_without_a_warning_or_a_spill(code, options, architecture):
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
