"""The CUDA kernels stack the clips of `Clip`, to the last bit: stack.cu runs on the CPU (shim/)."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from irstd.runtime.clip import Alignment, Clip
from irstd.runtime.clip_gpu import to_table
from irstd.runtime.frame import ClipContract, FrameContract, fit_geometry
from irstd.runtime.launches import clip_stages
from irstd.runtime.registration import Shift
from irstd.tests.runtime.shim.simulation import Simulation

CLIP = ClipContract(3, 2)


@pytest.fixture(scope="module")
def simulation(tmp_path_factory):
    if shutil.which("g++") is None:
        pytest.skip("no g++ to compile the kernels with")
    return Simulation(tmp_path_factory.mktemp("simulation"))


def make_frames(count, contract, shape, *, seed=0):
    """Prepared frames of other levels each, padded as `prepare` pads them."""
    rng = np.random.default_rng(seed)
    frames = []
    for number in range(count):
        seen = (0.1 * number + (0.2 + 0.1 * number) * rng.random(shape)).clip(0, 1)
        below, beside = contract.height - shape[0], contract.width - shape[1]
        frames.append(np.pad(seen, ((0, below), (0, beside)), mode="symmetric").astype(np.float32))
    return frames


class Told:
    """A registration that finds the shifts it is told."""

    def __init__(self, shifts):
        self.shifts = iter(shifts)

    def extract_texture(self, seen):
        return np.zeros(1)

    def estimate_shift(self, older, newer):
        return Shift(*next(self.shifts), correlation=1.0)


def begin(alignment, shifts):
    """Let frames move as told."""
    if alignment.is_registered:
        alignment._registration = Told(shifts)
    return alignment


def run_clip(simulation, contract, shape, frames, alignment, *, is_half=False, seed=0, code=None):
    """All frames through both stages: what the last one leaves, and what was wrong."""
    geometry = fit_geometry(shape, contract)
    keep, stack = clip_stages(contract, geometry, is_half=is_half)
    held, faults = {}, ""
    for number, frame in enumerate(frames):
        alignment.add(frame[: shape[0], : shape[1]], geometry)
        places = to_table(alignment.frames(), shape)
        given = held | {"prepared": frame, "places": places}
        outcome = simulation.run(keep, given, seed=seed + number, code=code)
        held = {n: outcome.buffers[n] for n in ("ring", "levels") if n in outcome.buffers}
        faults += outcome.faults
    held |= {n: outcome.buffers[n] for n in ("ring", "match", "places") if n in outcome.buffers}
    held.pop("levels", None)
    outcome = simulation.run(stack, held, seed=seed, code=code)
    return replace(outcome, faults=faults + outcome.faults)


def stack_on_host(contract, shape, frames, shifts):
    clip, geometry = Clip(contract.clip), fit_geometry(shape, contract)
    begin(clip._alignment, shifts)
    for frame in frames:
        clip.add(frame[None, None], geometry)
    return clip.stack()[0]


def assert_stacked(simulation, contract, shape, *, shifts=(), frames=None, is_half=False, seed=0):
    """The kernels' clip is that of `Clip`, bit for bit."""
    shifts = [*shifts, *STILL][: contract.clip.span + 1]
    if frames is None:
        frames = make_frames(contract.clip.span + 1, contract, shape, seed=seed)
    expected = stack_on_host(contract, shape, frames, shifts)
    alignment = begin(Alignment(contract.clip), shifts)
    outcome = run_clip(simulation, contract, shape, frames, alignment, is_half=is_half, seed=seed)
    assert not outcome.faults
    seen = outcome.buffers["input"]
    assert seen.dtype == (np.float16 if is_half else np.float32)
    np.testing.assert_array_equal(seen, expected.astype(seen.dtype))
    return expected


STILL = [(0.0, 0.0)] * 20
MOVES = {
    "still": STILL,
    "whole pixels": [(1.0, -2.0), (0.0, 3.0), (-1.0, 0.0), (2.0, 2.0), (0.0, -1.0)],
    "parts of pixels": [(0.3, -0.6), (-1.7, 0.01), (0.5, 0.5), (2.25, -3.1), (-0.999, 1e-7)],
    "out of the frame": [(5.0, 5.5), (9.0, -8.0), (12.2, 3.0), (11.0, 14.0), (0.4, 30.0)],
    "back": [(-7.6, 2.0), (-9.3, 12.0), (-20.0, 1.0), (3.3, -11.0), (-2.5, -4.5)],
}


@pytest.mark.parametrize("is_half", [False, True])
@pytest.mark.parametrize("shifts", MOVES.values(), ids=MOVES)
def test_clips_of_a_moving_camera(simulation, shifts, is_half):
    contract = FrameContract(40, 44, fit="pad", clip=CLIP)
    clip = assert_stacked(simulation, contract, (37, 41), shifts=shifts, is_half=is_half)
    assert not np.array_equal(clip[0], clip[-1])


@pytest.mark.parametrize("is_half", [False, True])
def test_clips_that_are_left_as_they_are(simulation, is_half):
    clip = ClipContract(4, registration="none")
    contract = FrameContract(33, 70, fit="pad", clip=clip)
    assert_stacked(simulation, contract, (33, 65), is_half=is_half)


HOT = [(0, 0), (0, 9), (17, 0), (36, 40), (36, 7), (11, 40), (20, 21), (20, 23), (30, 30), (30, 31)]


@pytest.mark.parametrize("registration", ["translation", "none"])
def test_pixels_that_stay_hot_are_repaired(simulation, registration):
    """In corners, at borders where the padding begins, in the middle, and where two touch."""
    clip = ClipContract(3, 2, registration, defects="over time")
    contract, shape = FrameContract(40, 44, fit="pad", clip=clip), (37, 41)
    frames = [0.8 * frame for frame in make_frames(clip.span + 1, contract, shape)]
    for number, frame in enumerate(frames):
        for place in HOT:
            frame[place] = 0.98 if place == (30, 30) else 0.99
        frame[25, 5 + 3 * number] = frame[8, 8] = 1.0
    frames[2][8, 8] = 0.0
    shifts = MOVES["out of the frame"]
    stack = assert_stacked(simulation, contract, shape, shifts=shifts, frames=frames)
    is_changed = stack[-1] != frames[-1]
    assert [bool(is_changed[place]) for place in HOT] == [True] * 8 + [False] * 2
    assert not is_changed[8, 8] and not is_changed[30, 10] and not is_changed[25].any()
    left = replace(contract, clip=replace(clip, defects="each frame"))
    stack = assert_stacked(simulation, left, shape, shifts=shifts, frames=frames)
    np.testing.assert_array_equal(stack[-1], frames[-1])


@pytest.mark.parametrize("seed", range(1, 4))
def test_no_order_of_threads_and_blocks_changes_the_clip(simulation, seed):
    contract = FrameContract(65, 34, clip=CLIP)
    assert_stacked(simulation, contract, (65, 34), shifts=MOVES["parts of pixels"], seed=seed)


def test_constant_and_faint_frames(simulation):
    contract, shape = FrameContract(32, 32, clip=CLIP), (32, 32)
    frames = make_frames(5, contract, shape)
    frames[0][:] = 0.1  # of no deviation: it only gets the newest's mean
    frames[2] = np.float32(0.3) + np.float32(1e-4) * frames[2]
    clip = assert_stacked(simulation, contract, shape, frames=frames)
    np.testing.assert_allclose(clip[0], frames[4].mean(), atol=1e-6)
    np.testing.assert_allclose(clip[1].std(), frames[4].std(), rtol=1e-2)


def test_a_contract_for_single_frames_has_no_clip():
    contract = FrameContract(32, 32)
    with pytest.raises(ValueError, match="has no clip"):
        clip_stages(contract, fit_geometry((32, 32), contract))
