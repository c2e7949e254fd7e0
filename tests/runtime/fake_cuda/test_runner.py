"""What the GPU's own tests run on, tried on a fake device: it must work where a GPU first is."""

import numpy as np

from irstd.runtime import Detector, Extraction, FrameContract
from irstd.runtime.sources import SourceFrame
from irstd.tests.runtime.gpu_runner import CopyNetwork, GpuRunner
from irstd.tests.runtime.test_gpu import Identity, assert_same
from irstd.tests.runtime.test_kernels import assert_extracted, assert_prepared, map_of, scene


def test_stages(bench, library):
    bench.install(library)
    runner = GpuRunner(bench.open())
    assert_prepared(runner, scene((20, 30), 14), FrameContract(24, 20, 14))
    mask = np.random.default_rng(0).random((24, 40)) < 0.2
    assert_extracted(runner, map_of(mask))
    bench.driver.assert_clean()


def test_a_network_that_copies(bench, library):
    bench.install(library)
    contract, extraction = FrameContract(24, 20, 14), Extraction(0.3)
    identity = Identity()
    identity.input_shape = (1, 1, 24, 20)
    truth = Detector(identity, contract, extraction)
    items = [SourceFrame(n, str(n), scene((30, 27), 14, seed=n)) for n in range(4)]
    with Detector(CopyNetwork(bench.open(), (24, 20)), contract, extraction) as detector:
        for result in detector.stream(items):
            assert_same(result.targets, truth(result.source.frame))
    bench.driver.assert_clean()
