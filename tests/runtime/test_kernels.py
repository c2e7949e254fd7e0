"""The CUDA kernels give numpy's numbers: the .cu files run on the CPU (shim/), no GPU needed."""

import shutil

import numpy as np
import pytest

from irstd.runtime.components import connect
from irstd.runtime.defects import repair_defects
from irstd.runtime.frame import ClipContract, FrameContract, fit_geometry, prepare, stretch_limits
from irstd.runtime.launches import extract_stage, is_complete, prepare_stage
from irstd.runtime.measurements import to_targets
from irstd.runtime.targets import Extraction, extract
from irstd.tests.runtime.shim.simulation import Simulation

COLUMNS = ("row", "column", "area", "peak", "score", "box")


@pytest.fixture(scope="module")
def simulation(tmp_path_factory):
    if shutil.which("g++") is None:
        pytest.skip("no g++ to compile the kernels with")
    return Simulation(tmp_path_factory.mktemp("simulation"))


# Frames


def scene(shape, depth, *, seed=0):
    """Noise on a slope with a target and with defects on borders, in corners, side by side."""
    rng = np.random.default_rng(seed)
    top = 2**depth - 1
    slope = np.add.outer(np.linspace(0.2, 0.4, shape[0]), np.linspace(0, 0.2, shape[1]))
    frame = (slope + rng.normal(0, 0.01, shape)) * top
    frame[4:6, 3:6] = 0.8 * top
    for place in [(0, 0), (-1, -1), (0, 6), (-1, 3), (3, -1), (-3, 0), (2, 2), (-3, -3), (-3, -4)]:
        frame[place] = top if rng.random() < 0.5 else 0
    return np.rint(frame).clip(0, top).astype(np.uint8 if depth == 8 else np.uint16)


def sent(frame, stage):
    """The bytes of a frame in rows of the stage's pitch; what lies between is not the frame's."""
    buffer = stage.buffer("frame")
    rows = np.full(buffer.shape, 0xEE, np.uint8)
    rows[:, : frame.shape[1] * frame.itemsize] = frame.view(np.uint8)
    return rows


def assert_prepared(simulation, frame, contract, *, seed=0, **options):
    stage = prepare_stage(frame.shape, contract, **options)
    outcome = simulation.run(stage, {"frame": sent(frame, stage)}, seed=seed)
    assert not outcome.faults
    expected = prepare(frame, contract)[0, 0].astype(stage.buffer("input").dtype)
    np.testing.assert_array_equal(outcome.buffers["input"], expected)
    if len(stage.launches) == 2:
        assert outcome.buffers["limits"][2] == frame.max()
    return outcome


@pytest.mark.parametrize("is_half", [False, True])
@pytest.mark.parametrize("normalisation", ["stretch", "full-scale"])
@pytest.mark.parametrize("depth", [8, 14])
def test_prepare_in_every_build(simulation, depth, normalisation, is_half):
    frame = scene((37, 70), depth)
    for size, fit in [((30, 41), "resize"), ((61, 70), "resize"), ((40, 75), "pad")]:
        contract = FrameContract(*size, depth, normalisation, fit)
        assert_prepared(simulation, frame, contract, is_half=is_half)


@pytest.mark.parametrize("depth", range(9, 17))
def test_prepare_at_every_depth(simulation, depth):
    frame = scene((20, 33), depth, seed=depth)
    for normalisation in ("stretch", "full-scale"):
        contract = FrameContract(17, 30, depth, normalisation)
        assert_prepared(simulation, frame, contract, seed=depth)


@pytest.mark.parametrize(
    ("shape", "size", "fit"),
    [
        ((8, 8), (8, 8), "resize"),
        ((8, 8), (33, 65), "resize"),
        ((57, 33), (8, 8), "resize"),
        ((58, 34), (58, 31), "resize"),
        ((65, 97), (65, 97), "pad"),
        ((9, 10), (40, 47), "pad"),  # mirrored again and again
    ],
)
def test_prepare_of_odd_sizes(simulation, shape, size, fit):
    frame = scene(shape, 12)
    assert_prepared(simulation, frame, FrameContract(*size, 12, "stretch", fit))


def test_prepare_of_rows_with_a_pitch(simulation):
    for depth, pitch in [(8, 37), (14, 70)]:
        frame = scene((21, 33), depth)
        assert_prepared(simulation, frame, FrameContract(16, 40, depth), pitch=pitch)


def special_frames():
    rng = np.random.default_rng(5)
    shape = (19, 35)
    yield "constant", np.full(shape, 700, np.uint16)
    yield "all dark", np.zeros(shape, np.uint16)
    yield "all hot", np.full(shape, 16383, np.uint16)
    yield "checkerboard", (np.indices(shape).sum(axis=0) % 2 * 900).astype(np.uint16)
    yield "grid of hot pixels", np.where(np.indices(shape).sum(axis=0) % 3 == 0, 16383, 9)
    yield "two levels", np.where(rng.random(shape) < 0.1, 8001, 8000)
    column = np.full(shape, 100)
    column[:, 9], column[4:6, 4:6] = 0, 180
    yield "dead column", column
    # Levels whose differences lie on both sides of a quarter of the span and of 15 % of a height.
    for levels in ([0, 17, 20, 23, 40, 100, 400], [0, 1, 2, 3, 4, 20], [0, 60, 100, 460, 16383]):
        yield f"levels {levels}", rng.choice(levels, shape)
        sparse = np.where(rng.random(shape) < 0.12, rng.choice(levels, shape), levels[2])
        yield f"few of {levels}", sparse


@pytest.mark.parametrize("frame", [pytest.param(f, id=name) for name, f in special_frames()])
def test_prepare_of_special_frames(simulation, frame):
    frame = frame.astype(np.uint16)
    for fit in ("resize", "pad"):
        assert_prepared(simulation, frame, FrameContract(24, 40, 14, fit=fit))


def test_the_special_frames_hold_defects_and_near_defects():
    repaired = {True: 0, False: 0}
    for name, frame in special_frames():
        if name.startswith("few of"):
            frame = frame.astype(np.uint16)
            low, high = stretch_limits(frame)
            repaired[(repair_defects(frame, span=high - low) != frame).any()] += 1
    assert repaired[True] >= 2


@pytest.mark.parametrize("size", [(40, 44), (20, 33)])
def test_defects_that_are_known_over_time_are_left_by_prepare(simulation, size):
    frame, single = scene((40, 44), 14), FrameContract(*size, 14)
    contract = FrameContract(*size, 14, clip=ClipContract(3, defects="over time"))
    assert_prepared(simulation, frame, contract)
    assert not np.array_equal(prepare(frame, contract), prepare(frame, single))


def test_prepare_of_a_whole_frame(simulation):
    frame = scene((512, 640), 14)
    assert_prepared(simulation, frame, FrameContract(512, 512, 14), is_half=True)


# Confidence maps


def map_of(mask, *, seed=0, low=0.5):
    rng = np.random.default_rng(seed)
    values = low + (1 - low) * rng.random(mask.shape)
    values = np.where(mask, values, 0.9 * low * rng.random(mask.shape))
    return values.astype(np.float32)


def grid(rows, columns, step):
    mask = np.zeros((rows, columns), bool)
    mask[::step, ::step] = True
    return mask


def spiral(side):
    mask = np.zeros((side, side), bool)
    low, high = 0, side - 1
    while low < high:
        mask[low, max(low - 2, 0) : high + 1] = mask[low : high + 1, high] = True
        mask[high, low : high + 1] = mask[low + 2 : high + 1, low] = True
        low, high = low + 2, high - 2
    return mask


def shapes():
    comb = np.zeros((45, 71), bool)
    comb[:, ::2] = True
    borders = np.zeros((70, 75), bool)
    borders[[0, -1]] = borders[:, [0, -1]] = True
    borders[1:-1, [1, -2]] = borders[[1, -2], 1:-1] = False
    corners = np.zeros((66, 67), bool)
    corners[[31, 32, 31, 63, 64, 0, 65], [31, 32, 64, 63, 64, 66, 0]] = True
    across = np.zeros((65, 65), bool)
    across[31:33, :] = across[:, 31:33] = True
    yield "comb open below", comb[:, :]
    yield "comb joined below", np.vstack([comb, np.ones((1, 71), bool)])
    yield "comb joined above", np.vstack([np.ones((1, 71), bool), comb])
    yield "comb joined left", np.hstack([np.ones((71, 1), bool), comb.T])
    yield "spiral", spiral(67)
    yield "mirrored spiral", spiral(67)[:, ::-1]
    yield "checkerboard", np.indices((40, 66)).sum(axis=0) % 2 == 0
    yield "diagonals", np.indices((66, 40)).sum(axis=0) % 3 == 0
    yield "full", np.ones((65, 40), bool)
    yield "empty", np.zeros((65, 40), bool)
    yield "single pixels", grid(64, 70, 2)
    yield "frame of border pixels", borders
    yield "corners of tiles", corners
    yield "cross on the seams", across
    yield "one tile", grid(32, 32, 3)
    yield "less than a tile", grid(9, 20, 2)
    for density in (0.001, 0.05, 0.3, 0.5, 0.9):
        yield f"density {density}", np.random.default_rng(0).random((60, 101)) < density


def run_extract(simulation, values, contract, shape, extraction, *, seed=0, code=None):
    geometry = fit_geometry(shape, contract)
    stage = extract_stage(contract, geometry, extraction)
    outcome = simulation.run(stage, {"confidence": values}, seed=seed, code=code)
    return stage, geometry, outcome


def measured(outcome):
    return outcome.buffers["targets"][: outcome.buffers["counts"][1]]


def assert_extracted(simulation, values, *, shape=None, extraction=None, seed=0):
    """The kernels' targets are those of `extract`, bit for bit."""
    contract = FrameContract(*values.shape)
    extraction = extraction or Extraction(threshold=0.48)
    stage, geometry, outcome = run_extract(
        simulation, values, contract, shape or values.shape, extraction, seed=seed
    )
    assert not outcome.faults
    assert is_complete(outcome.buffers["counts"], stage)
    targets = to_targets(
        measured(outcome), stride=contract.width, geometry=geometry, extraction=extraction
    )
    expected = extract(values, geometry, extraction)
    assert targets.found == expected.found
    for column in COLUMNS:
        np.testing.assert_array_equal(getattr(targets, column), getattr(expected, column), column)
        assert getattr(targets, column).dtype == np.float32
    return outcome


def assert_same_partition(outcome, values, threshold):
    components = connect(values > threshold)
    roots = outcome.buffers["labels"][components.rows, components.columns]
    parents = outcome.buffers["parents"]
    while roots.size and not np.array_equal(roots, above := parents[roots]):
        roots = above
    pairs = np.unique(np.stack([roots, components.labels]), axis=1)
    assert pairs.shape[1] == components.count == np.unique(pairs[0]).size


@pytest.mark.parametrize("mask", [pytest.param(mask, id=name) for name, mask in shapes()])
def test_extract_of_every_shape(simulation, mask):
    values = map_of(mask)
    outcome = assert_extracted(simulation, values, extraction=Extraction(0.48, max_targets=1200))
    assert_same_partition(outcome, values, 0.48)


@pytest.mark.parametrize("seed", range(1, 6))
def test_no_order_of_threads_and_blocks_changes_the_targets(simulation, seed):
    mask = np.random.default_rng(7).random((70, 70)) < 0.35
    assert_extracted(simulation, map_of(mask), seed=seed)


def test_extract_in_the_sensors_pixels(simulation):
    values = map_of(np.random.default_rng(1).random((40, 50)) < 0.1)
    assert_extracted(simulation, values, shape=(123, 77))
    extraction = Extraction(0.48, min_area=12.0, max_targets=5)
    assert_extracted(simulation, values, shape=(123, 77), extraction=extraction)


def test_equal_scores_come_in_scan_order(simulation):
    values = np.where(grid(40, 40, 3), np.float32(0.7), np.float32(0))
    assert_extracted(simulation, values, extraction=Extraction(max_targets=50))


def test_padding_is_not_searched(simulation):
    values = np.ones((40, 72), np.float32)
    contract = FrameContract(40, 72, fit="pad")
    _, _, outcome = run_extract(simulation, values, contract, (33, 35), Extraction())
    assert not outcome.faults
    (whole,) = measured(outcome)
    assert (whole["area"], whole["right"], whole["bottom"]) == (33 * 35, 34, 32)


def test_nan_is_background_and_the_threshold_itself_too(simulation):
    values = np.zeros((20, 20), np.float32)
    values[3, 3], values[8, 8], values[8, 9] = np.nan, 0.5, np.nextafter(np.float32(0.5), 1)
    outcome = assert_extracted(simulation, values, extraction=Extraction(0.5))
    assert outcome.buffers["counts"].tolist() == [1, 1, 1]


def test_what_is_no_confidence_is_counted_where_the_frame_lies(simulation):
    values = np.zeros((40, 72), np.float32)
    values[5, 3:7] = np.nan, np.inf, -np.inf, np.finfo(np.float32).max
    values[39, 30] = values[0, 70] = np.nan  # in the padding
    contract = FrameContract(40, 72, fit="pad")
    _, _, outcome = run_extract(simulation, values, contract, (33, 35), Extraction())
    assert outcome.buffers["counts"][2] == 3


def test_faint_confidence_keeps_centroids_to_a_thousandth_of_a_pixel(simulation):
    rng = np.random.default_rng(3)
    values = (1e-6 + 1e-4 * rng.random((50, 80))).astype(np.float32)
    extraction = Extraction(threshold=5e-7)
    contract = FrameContract(50, 80)
    _, geometry, outcome = run_extract(simulation, values, contract, (50, 80), extraction)
    (target,) = to_targets(measured(outcome), stride=80, geometry=geometry, extraction=extraction)
    (expected,) = extract(values, geometry, extraction)
    assert abs(target.row - expected.row) < 1e-3
    assert abs(target.column - expected.column) < 1e-3
    assert target.score == pytest.approx(expected.score, rel=1e-3)


@pytest.mark.parametrize("side", [71, 137])  # 1296 targets and pieces, 4761
def test_a_list_too_short_is_told(simulation, side):
    values = np.where(grid(side, side, 2), np.float32(0.9), np.float32(0))
    stage, _, outcome = run_extract(
        simulation, values, FrameContract(side, side), (side, side), Extraction(), seed=2
    )
    assert not outcome.faults
    places, records = stage.buffer("pieces").shape[0], stage.buffer("targets").shape[0]
    there = ((side + 1) // 2) ** 2
    assert outcome.buffers["counts"].tolist() == [there, min(there, places), 0]
    assert there > records
    assert (there > places) == (side == 137)
    assert not is_complete(outcome.buffers["counts"], stage)


def test_small_components_take_no_place_in_the_list(simulation):
    mask = grid(71, 71, 2)
    mask[10:14, 10:14] = True
    values = np.where(mask, np.float32(0.9), np.float32(0))
    outcome = assert_extracted(simulation, values, extraction=Extraction(min_area=2.0))
    assert outcome.buffers["counts"][1] == 1


def test_extract_of_a_whole_map(simulation):
    mask = np.zeros((512, 512), bool)
    for place in [(0, 0), (30, 62), (255, 255), (500, 509), (100, 300)]:
        mask[place[0] : place[0] + 4, place[1] : place[1] + 5] = True
    assert_extracted(simulation, map_of(mask), shape=(512, 640))
