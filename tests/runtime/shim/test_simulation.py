import shutil

import numpy as np
import pytest

from irstd.runtime.launches import Buffer, Launch, Stage
from irstd.tests.runtime.shim.simulation import Simulation


@pytest.fixture(scope="module")
def simulation(tmp_path_factory):
    if shutil.which("g++") is None:
        pytest.skip("no g++ to compile the kernels with")
    return Simulation(tmp_path_factory.mktemp("simulation"))


def faults_of(simulation, body):
    code = f'extern "C" __global__ void probe(unsigned int* out) {{ {body} }}'
    stage = Stage(
        (),
        (),
        (Buffer("out", np.dtype(np.uint32), (64,), is_cleared=True),),
        (Launch("probe", (2, 1), (32, 1), ("out",)),),
    )
    return simulation.run(stage, {}, code=code).faults


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("out[blockIdx.x * 32 + threadIdx.x] = 1;", ""),
        ("atomicAdd(&out[0], 1u);", ""),
        ("out[0] = 1;", "race"),
        ("out[threadIdx.x] = 1;", "race"),  # between the blocks
        ("atomicAdd(&out[0], 1u); out[1 + threadIdx.x] = out[0];", "race"),
        ("out[blockIdx.x * 32 + threadIdx.x + 1] = 1;", "stray"),
        ("if (threadIdx.x > 0) __ballot_sync(~0u, 1);", "hang"),
        ("if (threadIdx.x > 0) __syncthreads(); else __ballot_sync(~0u, 1);", "hang"),
        ("const volatile unsigned int* wait = out; while (*wait == 0) {}", "hang"),
    ],
)
def test_the_simulator_tells_what_is_wrong(simulation, body, said):
    faults = faults_of(simulation, body)
    assert said in faults
    assert bool(said) == bool(faults)
