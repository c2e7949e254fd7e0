import numpy as np

from irstd.export.inputs import prepare_inputs
from irstd.runtime.evaluation import LabelledFrame, synthetic_frames
from irstd.runtime.frame import ClipContract, FrameContract, prepare
from irstd.tests.runtime.test_clip import textured


def labelled(values, *, begins=()):
    mask = np.zeros((16, 16), np.bool_)
    return [
        LabelledFrame(str(place), np.full((16, 16), value, np.uint8), mask, place in begins)
        for place, value in enumerate(values)
    ]


def test_single_frames_are_spread():
    contract = FrameContract(16, 16, normalisation="full-scale")
    frames = labelled(range(0, 100, 10))
    inputs = prepare_inputs(frames, contract, most=2)
    assert [round(float(one[0, 0, 0, 0]) * 255) for one in inputs] == [0, 50]
    np.testing.assert_array_equal(inputs[1], prepare(frames[5].frame, contract))


def test_clips_do_not_reach_over_the_beginning_of_a_sequence():
    clip = ClipContract(2, 2, "none")
    contract = FrameContract(16, 16, normalisation="full-scale", clip=clip)
    frames = labelled([0, 10, 20, 30, 100, 110, 120], begins=(0, 4))
    inputs = prepare_inputs(frames, contract, most=9)
    levels = [(one[0, :, 0, 0] * 255).round().tolist() for one in inputs]
    assert levels == [[0, 20], [10, 30], [100, 120]]


def test_clips_do_not_reach_over_a_cut():
    scenes = [textured(seed, (64, 80))[:64, :80] for seed in (0, 0, 0, 1, 1, 1)]
    mask = np.zeros((64, 80), np.bool_)
    frames = [
        LabelledFrame(str(place), (255 * scene).astype(np.uint8), mask, False)
        for place, scene in enumerate(scenes)
    ]
    contract = FrameContract(64, 80, clip=ClipContract(3))
    # Of the four clips, the two that reach over the cut are left out.
    assert len(prepare_inputs(frames, contract, most=9)) == 2


def test_the_synthetic_set_holds_three_whole_clips_of_each_scene():
    clip = ClipContract(2, 3)
    frames = list(synthetic_frames(8, height=32, width=32, clip=clip))
    assert sum(frame.begins for frame in frames) == 8
    assert len(prepare_inputs(frames, FrameContract(32, 32, clip=clip), most=99)) == 24
