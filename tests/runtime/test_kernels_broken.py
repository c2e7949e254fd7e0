"""Kernels broken on purpose: the simulation sees each barrier, atomic and bound that is missing."""

import functools
import re
import shutil

import numpy as np
import pytest

from irstd.runtime.clip import Alignment
from irstd.runtime.frame import ClipContract, FrameContract, fit_geometry, prepare
from irstd.runtime.launches import clip_stages, extract_stage, prepare_stage
from irstd.runtime.targets import Extraction
from irstd.tests.runtime.shim.simulation import Simulation
from irstd.tests.runtime.test_kernels import grid, map_of, measured, run_extract, sent
from irstd.tests.runtime.test_kernels_clip import (
    MOVES,
    begin,
    make_frames,
    run_clip,
    stack_on_host,
)

SEEDS = range(1, 60)
EXTRACTION = Extraction(0.48)


@pytest.fixture(scope="module")
def simulation(tmp_path_factory):
    if shutil.which("g++") is None:
        pytest.skip("no g++ to compile the kernels with")
    return Simulation(tmp_path_factory.mktemp("simulation"))


def programs():
    """A stage of each program."""
    contract = FrameContract(40, 70, 14, clip=ClipContract(3))
    geometry = fit_geometry((40, 70), contract)
    return (
        prepare_stage((40, 70), contract),
        extract_stage(contract, geometry, EXTRACTION),
        clip_stages(contract, geometry)[0],
    )


# What each program must do. Each gives, for a seed, what was wrong and whether the result is right.


def preparing(simulation, code, shape, size, fit):
    frame = np.random.default_rng(0).permutation(shape[0] * shape[1]).astype(np.uint16)
    frame = frame.reshape(shape)
    contract = FrameContract(*size, bit_depth=14, fit=fit)
    stage = prepare_stage(shape, contract)
    expected = prepare(frame, contract)[0, 0]

    def run(seed):
        outcome = simulation.run(stage, {"frame": sent(frame, stage)}, seed=seed, code=code)
        return outcome.faults, np.array_equal(outcome.buffers["input"], expected)

    return run


def extracting(simulation, code, values, extraction=EXTRACTION):
    def find(seed, code):
        contract = FrameContract(*values.shape)
        _, _, outcome = run_extract(
            simulation, values, contract, values.shape, extraction, seed=seed, code=code
        )
        counts = outcome.buffers["counts"]
        # Which of too many are listed is chance.
        found = np.sort(measured(outcome), order="first") if counts[1] < 1024 else counts
        return outcome.faults, counts, found

    @functools.cache
    def truth():
        return find(0, None)[1:]

    def run(seed):
        faults, seen, found = find(seed, code)
        counts, targets = truth()
        return faults, np.array_equal(seen, counts) and np.array_equal(found, targets)

    return run


def stacking(simulation, code, contract, shape):
    frames, shifts = make_frames(contract.clip.span, contract, shape), MOVES["parts of pixels"]
    if contract.clip.defects == "over time":
        frames = [with_hot_pixels(frame, shape) for frame in frames]
    expected = stack_on_host(contract, shape, frames, shifts)

    def run(seed):
        alignment = begin(Alignment(contract.clip), shifts)
        outcome = run_clip(simulation, contract, shape, frames, alignment, seed=seed, code=code)
        return outcome.faults, np.array_equal(outcome.buffers["input"], expected)

    return run


def with_hot_pixels(frame, shape):
    """In the corners, beside the borders, and behind them, where what pads a frame begins."""
    hot, (last_row, last_column) = 0.8 * frame, (side - 1 for side in shape)
    corners = (0, 0), (0, last_column), (last_row, 0), (last_row, last_column)
    for place in (*corners, (1, 9), (9, 1), (last_row + 1, 20), (20, last_column + 1)):
        hot[place] = 0.99
    return hot


def noise():
    """A map of many components, with what is no confidence, and the threshold itself."""
    rng = np.random.default_rng(0)
    values = map_of(rng.random((40, 70)) < 0.3)
    values[rng.random(values.shape) < 0.1] = np.nan
    values[rng.random(values.shape) < 0.1] = EXTRACTION.threshold
    return values


def bars():
    """Lines on the borders of a map, across the seams of its tiles."""
    mask = np.zeros((40, 70), bool)
    mask[0, 28:36] = mask[-1, 60:68] = mask[28:36, 0] = mask[30:34, -1] = True
    return map_of(mask)


# Every barrier and every atomic is needed, and its loss is seen.


def losses(stage):
    """The program with one barrier gone or one atomic made a plain operation."""
    code = stage.read_code()
    less = {"__syncthreads();": "", "__syncthreads_or(": "("}
    for found in re.finditer(r"__syncthreads\(\);|__syncthreads_or\(|\batomic\w+\(", code):
        plain = less.get(found.group(), found.group().replace("atomic", "plain"))
        yield changed(stage, found, plain)


def changed(stage, found, instead):
    """The program with other text for what was found."""
    code, *shared = found.string, *(s.read_text(encoding="utf-8") for s in stage.sources[:-1])
    line = code.count("\n", 0, found.start()) + 1 - sum(one.count("\n") for one in shared)
    return pytest.param(
        code[: found.start()] + instead + code[found.end() :],
        id=f"{stage.sources[-1].name}:{line} {found.group()} -> {instead}",
    )


def assert_loss_is_seen(run):
    faults, is_right = run(0)
    assert "race" in faults
    # Also without the detector of races: some order of threads gives a wrong result.
    assert not (is_right and all(run(seed)[1] for seed in SEEDS))


PREPARE, EXTRACT, STACK = programs()


@pytest.mark.parametrize("code", [*losses(PREPARE)])
def test_prepare_needs_each_barrier_and_atomic(simulation, code):
    assert_loss_is_seen(preparing(simulation, code, (60, 40), (60, 40), "resize"))


@pytest.mark.parametrize("code", [*losses(EXTRACT)])
def test_extract_needs_each_barrier_and_atomic(simulation, code):
    assert_loss_is_seen(extracting(simulation, code, noise()))


@pytest.mark.parametrize("code", [*losses(STACK)])
def test_stacking_needs_each_barrier_and_atomic(simulation, code):
    contract = FrameContract(70, 36, clip=ClipContract(3))
    assert_loss_is_seen(stacking(simulation, code, contract, (70, 36)))


# Every bound is needed, to the pixel.

OPERATORS = {"<": "<=", "<=": "<", ">": ">=", ">=": ">"}
COMPARED = (
    "rows|columns|height|width|pixels|capacity|bound|listed|newest|start|stop|below|least_area|"
    "threshold|0"
)
# Sides of what is compared; reductions count down to 0, and 0.0 is a value.
COMPARISON = re.compile(rf"(?<!distance) (<|<=|>|>=) (?:[a-z]\w*\.)*(?:{COMPARED})\b(?!\.\d)")
CLAMPS = {
    "width - 2)": "width - 1)",
    "height - 1 - PAIRS": "height - PAIRS",
    "min(counts[PIECES], capacity)": "counts[PIECES]",
    "max(place, 0)": "max(place, -1)",
    "pixels - 1); }": "pixels); }",
}
# piece_at finds nothing beyond the last seam, so a thread too many does nothing.
NEEDLESS = "index >= below"


def slips(stage):
    """The program with one bound off by one, or gone."""
    code = "\n".join(line.split("//")[0] for line in stage.read_code().split("\n"))
    for found in COMPARISON.finditer(code):
        if not code[: found.end()].endswith(NEEDLESS):
            one = found.group(1)
            yield changed(stage, found, found.group().replace(f" {one} ", f" {OPERATORS[one]} ", 1))
    for clamp, instead in CLAMPS.items():
        for found in re.finditer(re.escape(clamp), code):
            yield changed(stage, found, instead)


def assert_slip_is_seen(*runs):
    for run in runs:
        faults, is_right = run(0)
        if faults or not is_right:
            return
    pytest.fail("nothing was seen")


@pytest.mark.parametrize("code", [*slips(PREPARE)])
def test_prepare_needs_each_bound(simulation, code):
    sizes = ((60, 40), (37, 45), "resize"), ((17, 21), (40, 45), "pad")
    assert_slip_is_seen(*(preparing(simulation, code, *size) for size in sizes))


@pytest.mark.parametrize("code", [*slips(EXTRACT)])
def test_extract_needs_each_bound(simulation, code):
    too_many = (np.where(grid(side, side, 2), np.float32(0.9), 0) for side in (71, 137))
    maps = noise(), bars(), *(values.astype(np.float32) for values in too_many)
    assert_slip_is_seen(
        extracting(simulation, code, noise(), Extraction(0.48, min_area=2.0)),
        *(extracting(simulation, code, values) for values in maps),
    )


@pytest.mark.parametrize("code", [*slips(STACK)])
def test_stacking_needs_each_bound(simulation, code):
    contracts = (
        FrameContract(*size, fit="pad", clip=ClipContract(3, 1, registration, defects=defects))
        for size, registration, defects in (
            ((40, 36), "translation", "over time"),
            ((40, 36), "none", "over time"),
            # No padding, whose pixels are those of the border.
            ((37, 33), "translation", "each frame"),
        )
    )
    assert_slip_is_seen(*(stacking(simulation, code, one, (37, 33)) for one in contracts))


def test_all_bounds_are_found():
    counts = [len(list(slips(stage))) for stage in (PREPARE, EXTRACT, STACK)]
    assert counts == [10, 17, 25]
    there = "".join(stage.read_code() for stage in (PREPARE, EXTRACT, STACK))
    assert all(clamp in there for clamp in (*CLAMPS, NEEDLESS))
