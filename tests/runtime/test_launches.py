from dataclasses import replace

import numpy as np
import pytest

from irstd.runtime.frame import FrameContract, Geometry, fit_geometry
from irstd.runtime.launches import extract_stage, is_complete, prepare_stage
from irstd.runtime.targets import Extraction


def kernels(stage):
    return [launch.kernel for launch in stage.launches]


def test_the_fit_decides_the_kernel():
    resized, padded = FrameContract(16, 24), FrameContract(16, 24, fit="pad")
    assert kernels(prepare_stage((20, 24), resized)) == ["find_limits", "prepare_resized"]
    assert kernels(prepare_stage((16, 24), resized)) == ["find_limits", "prepare_padded"]
    assert kernels(prepare_stage((9, 24), padded)) == ["find_limits", "prepare_padded"]


@pytest.mark.parametrize(("depth", "is_looked_for"), [(8, False), (14, True), (16, False)])
def test_full_scale_looks_for_the_brightest_value_where_bits_can_be_too_many(depth, is_looked_for):
    contract = FrameContract(16, 24, depth, "full-scale", "pad")
    stage = prepare_stage((16, 24), contract)
    assert kernels(stage) == ["find_limits"] * is_looked_for + ["prepare_padded"]
    assert np.int32(2**depth - 1) in stage.launches[-1].arguments


def test_options_and_buffers_of_prepare_by_hand():
    stage = prepare_stage((20, 30), FrameContract(16, 24, 12), is_half=True, pitch=64)
    assert stage.options == ("-DSAMPLE_BYTES=2", "-DINPUT_BYTES=2", "-DSTRETCH=1", "-DREPAIR=1")
    assert [(b.name, b.nbytes, b.is_cleared) for b in stage.buffers] == [
        ("frame", 20 * 64, False),
        ("limits", 16, True),
        ("input", 16 * 24 * 2, False),
        ("row_taps", 16 * 8, False),
        ("column_taps", 24 * 8, False),
    ]
    # The first network row of 16 over 20 lies at (0 + 0.5) * 20 / 16 - 0.5 = 0.125.
    assert stage.buffer("row_taps").contents[0].tolist() == (0, 0.125)


def test_buffers_of_extract_by_hand():
    contract = FrameContract(64, 96)
    stage = extract_stage(contract, fit_geometry((64, 96), contract), Extraction(max_targets=1500))
    assert [(b.name, b.shape, b.is_cleared) for b in stage.buffers] == [
        ("confidence", (64, 96), False),
        ("labels", (64, 96), False),
        ("parents", (6 + 4 * 1500,), False),
        ("pieces", (6 + 4 * 1500,), False),
        ("targets", (1500,), False),
        ("counts", (3,), True),
    ]


def test_no_list_is_longer_than_components_can_be_many():
    contract, extraction = FrameContract(65, 9), Extraction(max_targets=10**9)
    stage = extract_stage(contract, fit_geometry((65, 9), contract), extraction)
    assert stage.buffer("targets").shape == (33 * 5,)


@pytest.mark.parametrize("counts", [(4102, 1024, 0), (5, 1, 0)])
def test_lists_that_held_all(counts):
    stage = extract_stage(FrameContract(64, 96), Geometry(1.0, 1.0, 64, 96), Extraction())
    counts = np.array(counts, np.uint32)
    assert is_complete(counts, stage)
    assert not is_complete(counts + np.array([4102, 0, 0], np.uint32), stage)
    assert not is_complete(counts + np.array([0, 1024, 0], np.uint32), stage)


def test_every_argument_is_a_buffer_or_a_number_of_the_kernel():
    contract = FrameContract(40, 50, 14)
    geometry = fit_geometry((60, 70), contract)
    for stage in (
        prepare_stage((60, 70), contract),
        extract_stage(contract, geometry, Extraction()),
    ):
        names = {buffer.name for buffer in stage.buffers}
        for launch in stage.launches:
            for argument in launch.arguments:
                known = argument in names if isinstance(argument, str) else argument.itemsize == 4
                assert known, (launch.kernel, argument)
        code = stage.read_code()
        assert all(f"__global__ void {name}(" in code for name in kernels(stage))


@pytest.mark.parametrize(
    ("shape", "change", "pitch", "said"),
    [
        ((7, 9), {}, None, "frame is 7x9, expected at least 8x8"),
        ((17, 9), {"fit": "pad"}, None, "larger than the network's 16x24"),
        ((16, 24), {}, 47, "pitch is 47 bytes, expected at least 48"),
        ((16, 24), {}, 49, "and a multiple of 2"),
    ],
)
def test_what_cannot_be_prepared_is_refused(shape, change, pitch, said):
    contract = replace(FrameContract(16, 24, 14), **change)
    with pytest.raises(ValueError, match=said):
        prepare_stage(shape, contract, pitch=pitch)


def test_maps_whose_sums_could_overflow_are_refused():
    contract = FrameContract(4096, 4096)
    with pytest.raises(ValueError, match="4096x4096, too large for the kernels"):
        extract_stage(contract, fit_geometry((512, 512), contract), Extraction())
