import numpy as np
import pytest

from irstd.runtime import Detector, Extraction, FrameContract
from irstd.runtime.clip import Clip, Numbering, Step, prepare_input
from irstd.runtime.errors import EngineError
from irstd.runtime.frame import ClipContract, Geometry, fit_geometry, prepare
from irstd.runtime.scene import Scene, SceneOptions
from irstd.runtime.sources import SourceFrame

SIZE = (64, 80)
CONTRACT = FrameContract(*SIZE, bit_depth=14, fit="pad", clip=ClipContract(3, 2))
WHOLE = Geometry(1.0, 1.0, *SIZE)


def numbered(value, shape=SIZE):
    return np.full((1, 1, *shape), value, np.float32)


def textured(seed=0, shape=SIZE):
    """A wide smooth texture that frames are cut out of at whole pixels."""
    rng = np.random.default_rng(seed)
    noise = np.fft.rfft2(rng.normal(size=(shape[0] + 64, shape[1] + 64)))
    rows, columns = np.fft.fftfreq(shape[0] + 64)[:, None], np.fft.rfftfreq(shape[1] + 64)[None]
    smooth = np.fft.irfft2(noise * np.exp(-((rows**2 + columns**2) / 0.02)))
    return (0.5 + 0.1 * smooth / smooth.std()).astype(np.float32)


def view(texture, row, column, shape=SIZE):
    return np.ascontiguousarray(texture[row : row + shape[0], column : column + shape[1]])[
        None, None
    ]


def scene_frames(count, **options):
    scene = Scene(SceneOptions(*SIZE, bit_depth=14, drift=0.6, **options), seed=4)
    return [scene.frame(index).frame for index in range(count)]


def test_contract_says_span_and_shape():
    assert ClipContract(9, 2).span == 17
    assert ClipContract(2).span == 2
    assert FrameContract(32, 40).input_shape == (1, 1, 32, 40)
    assert FrameContract(32, 40, clip=ClipContract(8)).input_shape == (1, 8, 32, 40)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"length": 1}, "a clip of 1 frames is none, expected 2 or more"),
        ({"length": 3, "stride": 0}, "stride of the clip is 0"),
        ({"length": 3, "registration": "affine"}, "registration is 'affine'"),
        ({"length": 3, "defects": "never"}, "defects is 'never', expected 'each frame' or"),
    ],
)
def test_contract_refuses(arguments, said):
    with pytest.raises(ValueError, match=said):
        ClipContract(**arguments)


def test_every_second_frame_the_newest_last():
    clip = Clip(ClipContract(3, 2, "none"))
    missing = [clip.add(numbered(value), WHOLE).frames_missing for value in range(7)]
    assert missing == [4, 3, 2, 1, 0, 0, 0]
    stack = clip.stack()
    assert stack.shape == (1, 3, *SIZE)
    assert stack[0, :, 5, 5].tolist() == [2, 4, 6]


def test_a_stack_needs_the_whole_clip():
    clip = Clip(ClipContract(3))
    with pytest.raises(ValueError, match="the clip has 0 of 3 frames"):
        clip.stack()
    clip.add(numbered(0.5), WHOLE)
    with pytest.raises(ValueError, match="the clip has 1 of 3 frames"):
        clip.stack()


def test_older_frames_come_to_lie_on_the_newest_one():
    texture, clip = textured(), Clip(ClipContract(4))
    places = [(20, 20), (21, 20), (24, 17), (24, 12)]
    states = [clip.add(view(texture, *place), WHOLE) for place in places]
    moves = [(0, 0), *np.subtract(places[:-1], places[1:])]
    assert states[0].shift is None
    for state, moved in zip(states[1:], moves[1:], strict=True):
        assert state.shift.is_trusted
        assert (state.shift.row, state.shift.column) == pytest.approx(tuple(moved), abs=0.1)
    stack = clip.stack()[0]
    for older in stack[:-1]:
        np.testing.assert_allclose(older, stack[-1], atol=0.05)


def test_what_an_older_frame_did_not_see_is_the_newest_frames_own():
    texture, clip = textured(), Clip(ClipContract(2))
    clip.add(view(texture, 20, 20), WHOLE)
    clip.add(view(texture, 30, 20), WHOLE)  # the camera moved by 10 rows
    older, newest = clip.stack()[0]
    np.testing.assert_array_equal(older[-10:], newest[-10:])
    assert not np.array_equal(older[:-11], newest[:-11])


def test_frames_are_resampled_once_however_long_they_are_kept():
    texture, clip = textured(), Clip(ClipContract(9))
    frame = view(texture, 20, 20)
    for step in range(9):
        clip.add(frame if step % 2 else view(texture, 20, 21), WHOLE)
    assert np.ptp(clip.stack()[0, 0] - clip.stack()[0, 2]) < 0.05


def passing(contract, count=5):
    """A clip of a passing scene, a defect at (30, 40), and a point that comes to (50, 60)."""
    texture, clip = textured(), Clip(contract.clip)
    for step in range(count):
        frame = np.rint(80 + 50 * view(texture, 20 + step, 20)[0, 0]).astype(np.uint8)
        frame[30, 40] = 255
        frame[50, 60] = 255 if step == count - 1 else frame[50, 60]
        clip.add(prepare(frame, contract), WHOLE)
    return clip.stack()[0]


@pytest.mark.parametrize("registration", ["translation", "none"])
def test_over_time_a_defect_is_told_from_a_point_that_comes(registration):
    contract = FrameContract(*SIZE, clip=ClipContract(3, 2, registration, defects="over time"))
    newest = passing(contract)[-1]
    assert newest[50, 60] == 1.0
    assert newest[30, 40] == np.delete(newest[29:32, 39:42].ravel(), 4).max()
    each = passing(FrameContract(*SIZE, clip=ClipContract(3, 2, registration)))[-1]
    assert each[30, 40] < 0.9 and each[50, 60] < 0.9  # by its looks the point is a defect too


def test_where_an_older_frame_did_not_see_a_defect_is_repaired_too():
    contract = FrameContract(*SIZE, clip=ClipContract(5, defects="over time"))
    clip, texture = Clip(contract.clip), textured()
    for step in range(5):
        frame = view(texture, 20, 20 + 5 * step)
        frame[0, 0, 30, 70] = 1.0
        clip.add(frame, WHOLE)
    stack = clip.stack()[0]
    assert stack[0, 30, 70] == stack[-1, 30, 70] < 0.95


def test_padding_is_alike_in_all_frames():
    texture, clip = textured(shape=(40, 50)), Clip(ClipContract(3))
    contract = FrameContract(64, 64, fit="pad", clip=ClipContract(3))
    geometry = fit_geometry((40, 50), contract)
    for step in range(3):
        frame = (view(texture, 10 + 3 * step, 10, (40, 50))[0, 0] * 255).astype(np.uint8)
        clip.add(prepare(frame, contract), geometry)
    stack = clip.stack()[0]
    for older in stack[:-1]:
        np.testing.assert_array_equal(older[40:], stack[-1][40:])
        np.testing.assert_array_equal(older[:, 50:], stack[-1][:, 50:])


def test_gain_and_level_of_the_sensor_may_change():
    texture, clip = textured(), Clip(ClipContract(3))
    for gain, offset in ((1.0, 0.0), (0.7, 0.2), (1.3, -0.1)):
        clip.add(gain * view(texture, 20, 20) + offset, WHOLE)
    for older in clip.stack()[0, :-1]:
        np.testing.assert_allclose(older, clip.stack()[0, -1], atol=0.03)


def noise(seed):
    return np.random.default_rng(seed).random((1, 1, *SIZE), np.float32)


def states_of(clip, frames):
    return [clip.add(frame, WHOLE) for frame in frames]


def test_a_scene_cut_is_doubted_at_once_and_empties_the_clip_when_it_is_sure():
    old, new = textured(0), textured(1)
    places = [(20 + step, 20) for step in range(11)]
    frames = [view(new if step >= 6 else old, *place) for step, place in enumerate(places)]
    clip = Clip(ClipContract(5))
    states = states_of(clip, frames)
    assert [state.frames_missing for state in states] == [4, 3, 2, 1, 0, 0, 0, 3, 2, 1, 0]
    assert [state.is_cut for state in states] == [step == 7 for step in range(11)]
    assert [state.is_doubtful for state in states] == [step == 6 for step in range(11)]
    assert [state.is_whole for state in states] == [step in (4, 5, 10) for step in range(11)]
    assert [state.shift.is_trusted for state in states[1:]] == [step != 6 for step in range(1, 11)]
    assert (states[6].shift.row, states[6].shift.column) == (0.0, 0.0)
    assert states[6].shift.reason
    for older in clip.stack()[0, :-1]:
        np.testing.assert_allclose(older, clip.stack()[0, -1], atol=0.05)


def test_a_clip_that_was_cut_has_no_stack():
    clip = Clip(ClipContract(3))
    states_of(clip, [view(textured(seed), 20, 20) for seed in (0, 0, 0, 1, 1)])
    with pytest.raises(ValueError, match="the clip has 2 of 3 frames"):
        clip.stack()


@pytest.mark.parametrize("clip", [ClipContract(3), ClipContract(3, registration="none")])
def test_what_a_network_takes_is_none_where_the_scene_is_cut(clip):
    contract = FrameContract(*SIZE, clip=clip)
    old, new = ((view(textured(seed), 20, 20)[0, 0] * 255).astype(np.uint8) for seed in (0, 1))
    assert prepare_input([new, old, old, old], contract).shape == (1, 3, *SIZE)
    cut = prepare_input([old, new, new], contract)
    assert (cut is None) == (clip.registration != "none")  # who registers nothing sees no cut
    cut = prepare_input([old, old, new], contract)
    assert (cut is None) == (clip.registration != "none")
    with pytest.raises(ValueError, match="the clip has 2 of 3 frames"):
        prepare_input([old, old], contract)


@pytest.mark.parametrize("bad", [1, 3])
def test_bad_frames_are_bridged(bad):
    """Shifts add up over them, and nothing that was kept is dropped."""
    texture, clip = textured(), Clip(ClipContract(6))
    places = [(20 + step, 20 - 2 * step) for step in range(7)]
    frames = [view(texture, *place) for place in places]
    frames[3 : 3 + bad] = [noise(seed) for seed in range(bad)]
    states = states_of(clip, frames)
    assert not any(state.is_cut for state in states)
    assert states[-1].frames_missing == 0
    assert [state.shift.is_trusted for state in states[3 : 4 + bad]] == [False] * bad + [True]
    assert [state.is_doubtful for state in states] == [step == 3 for step in range(7)]
    bridged = states[3 + bad].shift
    assert (bridged.row, bridged.column) == pytest.approx((-1 - bad, 2 + 2 * bad), abs=0.3)
    total = sum(state.shift.row for state in states[1:])
    assert total == pytest.approx(-6, abs=0.3)
    stack = clip.stack()[0]
    for place in (0, 1):
        np.testing.assert_allclose(stack[place], stack[-1], atol=0.05)


def test_a_closed_shutter_is_bridged():
    texture, clip = textured(), Clip(ClipContract(5))
    frames = [view(texture, 20, 20), view(texture, 20, 21), *[numbered(0.4)] * 2]
    states = states_of(clip, [*frames, view(texture, 20, 24)])
    assert (states[-1].shift.row, states[-1].shift.column) == pytest.approx((0, -3), abs=0.1)
    assert not states[-1].is_cut
    np.testing.assert_allclose(clip.stack()[0, 0], clip.stack()[0, -1], atol=0.05)


def test_where_nothing_can_be_registered_nothing_is_dropped(monkeypatch):
    clip = Clip(ClipContract(4))
    states = states_of(clip, [noise(seed) for seed in range(9)])
    assert [state.frames_missing for state in states] == [3, 2, 1] + 6 * [0]
    assert not any(state.is_cut or (state.shift and state.shift.is_trusted) for state in states)
    assert all(state.is_whole for state in states[3:])
    asked = []
    estimate = clip._alignment._registration.estimate_shift
    monkeypatch.setattr(
        clip._alignment._registration,
        "estimate_shift",
        lambda *pair: asked.append(pair) or estimate(*pair),
    )
    clip.add(noise(9), WHOLE)
    assert len(asked) == 1  # no search for a scene that the clip has long lost


def test_a_scene_that_comes_out_of_noise_drops_nothing():
    clip, texture = Clip(ClipContract(3)), textured()
    frames = [*[noise(seed) for seed in range(5)], *[view(texture, 20, 20)] * 3]
    states = states_of(clip, frames)
    assert [state.frames_missing for state in states] == [2, 1, 0, 0, 0, 0, 0, 0]
    assert states[-1].shift.is_trusted


def test_constant_frames_are_a_clip_too():
    clip = Clip(ClipContract(3))
    for value in (0.0, 0.5, 0.5):
        state = clip.add(numbered(value), WHOLE)
    assert not state.shift.is_trusted
    assert (clip.stack() == 0.5).all()


def test_reset_begins_a_new_clip():
    texture, clip = textured(), Clip(ClipContract(2))
    clip.add(view(texture, 20, 20), WHOLE)
    clip.reset()
    state = clip.add(view(texture, 21, 20), WHOLE)
    assert (state.frames_missing, state.shift) == (1, None)


def test_frames_of_another_size_need_a_reset():
    clip = Clip(ClipContract(2))
    clip.add(numbered(0.1), WHOLE)
    with pytest.raises(ValueError, match="32x40, .* before it are 64x80; call reset"):
        clip.add(numbered(0.1, (32, 40)), Geometry(1.0, 1.0, 32, 40))
    clip.reset()
    assert clip.add(numbered(0.1, (32, 40)), Geometry(1.0, 1.0, 32, 40)).frames_missing == 1


class Newness:
    """An engine whose confidence is how far the newest frame exceeds the mean of the others."""

    description = "newness"
    input_shape = CONTRACT.input_shape

    def __init__(self):
        self.runs = 0

    def run(self, stack):
        self.runs += 1
        return (3 * (stack[0, -1] - stack[0, :-1].mean(axis=0))).clip(0, 1)

    def close(self):
        pass


def test_a_detector_waits_for_its_clip_and_says_so():
    engine = Newness()
    detector = Detector(engine, CONTRACT, Extraction())
    results = [detector(frame) for frame in scene_frames(6)]
    assert [result.clip.frames_missing for result in results] == [4, 3, 2, 1, 0, 0]
    assert all(len(result) == 0 for result in results[:4])
    assert results[0].clip.shift is None
    assert all(result.clip.shift.is_trusted for result in results[1:])
    assert engine.runs == 2
    detector.reset()
    assert detector(scene_frames(1)[0]).clip.frames_missing == 4


@pytest.mark.parametrize("ahead", [1, 3])
def test_a_new_scene_gets_no_targets_out_of_the_old_ones_clip(ahead):
    engine, contract = Newness(), FrameContract(*SIZE, clip=ClipContract(4))
    engine.input_shape = contract.input_shape
    detector = Detector(engine, contract, Extraction(0.3))
    levels = [(255 * view(textured(seed), 20, 20)[0, 0]).astype(np.uint8) for seed in (0, 1)]
    items = [SourceFrame(n, str(n), levels[n >= 6]) for n in range(11)]
    results = list(detector.stream(items, ahead=ahead))
    assert [result.targets.clip.is_doubtful for result in results].index(True) == 6
    assert [result.targets.clip.frames_missing for result in results[6:]] == [0, 2, 1, 0, 0]
    assert sum(len(result.targets) for result in results) == 0
    assert engine.runs == 5


def test_a_target_that_comes_is_found_in_the_newest_frames_own_pixels():
    frames = scene_frames(5, targets=0, defects=0)
    frames[-1] = frames[-1].copy()
    frames[-1][30:33, 50:53] = frames[-1].max() + 600
    detector = Detector(Newness(), CONTRACT, Extraction(threshold=0.3))
    *_, targets = [detector(frame) for frame in frames]
    best = targets[0]
    assert (best.row, best.column) == pytest.approx((31, 51), abs=0.3)


def test_a_refused_frame_leaves_the_clip_as_it_was():
    detector = Detector(Newness(), CONTRACT, Extraction())
    first, second = scene_frames(2)
    detector(first)
    with pytest.raises(TypeError, match="NaN"):
        detector(np.full(SIZE, np.nan, np.float32))
    with pytest.raises(ValueError, match="50x60, the frames of the clip before it are 64x80"):
        detector(first[:50, :60])
    assert detector(second).clip.frames_missing == 3


def test_a_detector_for_single_frames_has_no_clip():
    class Echo(Newness):
        input_shape = (1, 1, *SIZE)

        def run(self, stack):
            return stack[0, 0]

    detector = Detector(Echo(), FrameContract(*SIZE, bit_depth=14), Extraction())
    detector.reset()
    assert detector(scene_frames(1)[0]).clip is None


def test_engine_and_contract_must_agree_on_the_length():
    with pytest.raises(EngineError, match=r"\(1, 3, 64, 80\).*\(1, 4, 64, 80\)"):
        Detector(Newness(), FrameContract(*SIZE, clip=ClipContract(4)), Extraction())


@pytest.mark.parametrize(
    ("numbers", "steps"),
    [
        ((7, 8, 9), "next next next"),
        ((0, 2, 4, 6, 10, 12), "next next next next gap next"),  # one of every second
        ((0, 2, 4, 8, 12, 14), "next next next gap gap next"),
        ((1, 3, 4, 5, 6, 8), "next next next next next gap"),  # one missing between the first two
        ((0, 5, 10, 12, 17), "next next next next next"),  # one too early
        ((0, 5, 10, 25, 75), "next next next gap new"),  # two missing, and nine
        ((0, 10, 20, 30, 50, 20), "next new next next gap new"),
        ((1, 4, 5, 6, 30, 32, 34), "next next next next new next next"),
        ((1, 2, 2), "next next new"),
        ((5, 4, 3), "next new new"),
        ((1, 2, 11, 12), "next next gap next"),
        ((1, 2, 12, 13, 14), "next next new next next"),
    ],
)
def test_gaps_and_disorder_of_numbers(numbers, steps):
    numbering = Numbering(10)
    assert [numbering.follow(number) for number in numbers] == [
        Step(step) for step in steps.split()
    ]


def test_another_sequences_name_is_another_sequence():
    numbering = Numbering(10)
    places = (("a", 1), ("a", 2), ("b", 3), ("b", 5), ("b", 7), ("a", 8))
    steps = [numbering.follow(number, sequence=name).value for name, number in places]
    assert steps == ["next", "next", "new", "next", "next", "new"]
