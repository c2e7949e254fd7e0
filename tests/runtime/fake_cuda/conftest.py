"""Devices on a fake driver, driven by CuPy or by PyCUDA."""

import importlib
import shutil
import sys
from dataclasses import dataclass

import pytest

from irstd.runtime.engine_tensorrt import TensorRtEngine
from irstd.tests.conftest import bright_spot_graph
from irstd.tests.runtime.fake_cuda.driver import Driver
from irstd.tests.runtime.fake_cuda.fake_cupy import fake_cupy
from irstd.tests.runtime.fake_cuda.fake_network import computing_tensorrt
from irstd.tests.runtime.fake_cuda.fake_pycuda import fake_pycuda
from irstd.tests.runtime.shim.simulation import Simulation

FAKES = {"cupy": fake_cupy, "pycuda": fake_pycuda}
HOMES = {"cupy": "irstd.runtime.device_cupy", "pycuda": "irstd.runtime.device_pycuda"}


@pytest.fixture(scope="session")
def simulation(tmp_path_factory):
    if shutil.which("g++") is None:
        pytest.skip("no g++ to compile the kernels with")
    return Simulation(tmp_path_factory.mktemp("simulation"))


@dataclass
class Bench:
    """A fake machine: its driver, and the device that irstd opens on it."""

    simulation: Simulation
    monkeypatch: pytest.MonkeyPatch
    library: str = "cupy"

    def install(self, library, **options):
        """Put a fake driver and the fake of a library in place."""
        self.library = library
        self.driver = Driver(self.simulation, **options)
        for name in list(sys.modules):
            if name.split(".")[0] in FAKES or name in HOMES.values():
                self.monkeypatch.delitem(sys.modules, name)
        for other in FAKES:
            self.monkeypatch.setitem(sys.modules, other, None)  # as if it were not installed
        for name, module in FAKES[library](self.driver).items():
            self.monkeypatch.setitem(sys.modules, name, module)
        if library == "pycuda":
            home = importlib.import_module(HOMES["pycuda"])
            self.monkeypatch.setattr(home, "find_nvrtc", lambda: None)
        return self

    def open(self, number=0):
        return importlib.import_module("irstd.runtime.device").open_device(number)

    def engine(self, *, size=(24, 20), gain=3, number=0, **options):
        """The real engine, on a fake TensorRT that computes `bright_spot_graph`."""
        return self.engine_of(bright_spot_graph(*size, gain=gain), number=number, **options)

    def engine_of(self, graph, *, listing="tensorrt-10.3.0", number=0, is_half=False):
        """The same, on a fake that computes a graph."""
        model = graph.SerializeToString()
        trt, plan = computing_tensorrt(listing, self.driver, model, is_half=is_half)
        return TensorRtEngine(plan, self.open(number), trt)


@pytest.fixture
def bench(simulation, monkeypatch):
    yield Bench(simulation, monkeypatch)
    for home in HOMES.values():  # nobody else may get a module that holds a fake
        sys.modules.pop(home, None)


@pytest.fixture(params=["cupy", "pycuda"])
def library(request):
    return request.param
