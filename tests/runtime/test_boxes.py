import numpy as np
import pytest

from irstd.runtime.boxes import MOST, Boxes, on_sensor, overlaps, paint, read_boxes, suppress
from irstd.runtime.detector import Detector
from irstd.runtime.errors import OutputError
from irstd.runtime.evaluation import LabelledFrame, MaskEvaluation
from irstd.runtime.frame import ClipContract, FrameContract, Geometry
from irstd.runtime.targets import Extraction

GEOMETRY = Geometry(1.0, 1.0, 32, 48)


def boxes(*said):
    return np.array(said, np.float32).reshape(-1, 5)


def test_the_best_of_those_that_overlap_stays():
    said = boxes((0, 0, 4, 4, 0.5), (0, 0, 4, 5, 0.9), (0, 2, 4, 6, 0.7), (9, 9, 12, 12, 0.6))
    # 0.5 lies in 0.9 by 0.8 of both; 0.7 shares 12 of 24 pixels with it, which is not above half.
    assert suppress(said).values[:, 4].tolist() == pytest.approx([0.9, 0.7, 0.6])


def test_what_is_dropped_drops_nothing_itself():
    row = [(0, left, 4, left + 8, 0.9 - 0.1 * place) for place, left in enumerate((0, 2, 4))]
    # The middle one overlaps both others by 0.6, these one another by a third only.
    assert suppress(boxes(*row)).values[:, 1].tolist() == [0, 4]


def test_equal_scores_keep_their_order_and_the_faintest_vanish():
    said = boxes((0, 0, 1, 1, 0.5), (5, 5, 6, 6, 0.5), (8, 8, 9, 9, 0.0099))
    np.testing.assert_array_equal(suppress(said).values, said[:2])


def test_no_boxes_are_none():
    kept = suppress(boxes())
    assert kept.values.shape == (0, 5)
    assert len(read_boxes(kept, GEOMETRY, Extraction())) == 0


def test_overlaps_of_boxes_without_area_are_zero():
    flat = np.array([[2.0, 2.0, 2.0, 5.0], [3.0, 3.0, 1.0, 1.0]])
    assert overlaps(flat, flat).max() == 0.0


def test_a_flood_is_bounded_and_said():
    """Of 2000 boxes side by side, all above the threshold, half are looked at, and that is said."""
    place = np.arange(2000, dtype=np.float32)
    row, column = place // 50, place % 50
    said = np.stack([row, column, row + 1, column + 1, 0.6 + place / 1e4], axis=1)
    kept = suppress(said)
    assert len(kept.values) == MOST == 1000
    assert kept.left_out == pytest.approx(0.6999)
    geometry = Geometry(1.0, 1.0, 64, 64)
    targets = read_boxes(kept, geometry, Extraction(max_targets=10))
    assert (len(targets), targets.found, targets.is_truncated) == (10, 1000, True)
    assert "more than 1000 boxes are above the threshold of 0.5" in targets.note
    # Above what was left out nothing is missing.
    assert read_boxes(kept, geometry, Extraction(threshold=0.75)).note == ""


def test_targets_are_in_the_sensors_pixels():
    """A box over rows 3..4 and column 6 of the network, at twice and three times the size."""
    kept = Boxes(boxes((3, 6, 5, 7, 0.8), (1, 1, 2, 2, 0.4)))
    targets = read_boxes(kept, Geometry(2.0, 3.0, 32, 48), Extraction())
    (target,) = targets
    assert target.box == (5.5, 17.5, 9.5, 20.5)
    assert (target.row, target.column, target.area) == (7.5, 19.0, 12.0)
    assert target.peak == target.score == pytest.approx(0.8)


def test_a_box_around_one_pixel_is_what_a_component_of_it_would_be():
    (target,) = read_boxes(Boxes(boxes((3, 5, 4, 6, 0.9))), GEOMETRY, Extraction())
    assert target.box == (2.5, 4.5, 3.5, 5.5)
    assert (target.row, target.column, target.area) == (3.0, 5.0, 1.0)


def test_what_reaches_beyond_the_frame_is_cut_and_what_lies_there_is_none():
    kept = Boxes(boxes((-2, 0, 4, 3, 0.9), (30, 46, 40, 60, 0.8), (-9, 0, 2, 2, 0.7)))
    targets = read_boxes(kept, GEOMETRY, Extraction())
    assert [target.box for target in targets] == [(-0.5, -0.5, 3.5, 2.5)]
    assert on_sensor(kept, GEOMETRY).shape == (1, 5)


def test_small_ones_are_left_out_by_area():
    kept = Boxes(boxes((0, 0, 2, 2, 0.9), (9, 9, 12, 12, 0.8)))
    targets = read_boxes(kept, GEOMETRY, Extraction(min_area=5.0))
    assert targets.score.tolist() == pytest.approx([0.8])
    assert targets.found == 1


def test_boxes_are_painted_the_best_on_top():
    painted = paint(Boxes(boxes((1, 1, 3, 4, 0.9), (2, 3, 5, 5, 0.6))), (6, 6))
    expected = np.zeros((6, 6), np.float32)
    expected[2:5, 3:5] = 0.6
    expected[1:3, 1:4] = 0.9
    np.testing.assert_allclose(painted, expected)


def test_a_box_smaller_than_a_pixel_paints_the_one_it_lies_in():
    painted = paint(Boxes(boxes((2.1, 3.1, 2.3, 3.2, 0.9), (-3, 0, -1, 1, 0.8))), (4, 6))
    assert np.argwhere(painted).tolist() == [[2, 3]]


class Spots:
    """An engine that puts a box around every bright pixel of the newest frame."""

    description = "spots"

    def __init__(self, frames, size, *, columns=5):
        self.input_shape = (1, frames, *size)
        self.columns = columns

    def run(self, prepared):
        rows, columns = np.nonzero(prepared[0, -1] > 0.9)
        score = np.full(len(rows), 0.8)
        said = np.stack([rows, columns, rows + 1, columns + 1, score], axis=1)
        return said[:, : self.columns].astype(np.float32)

    def close(self):
        pass


def frame(row, column, size=(32, 48)):
    values = np.zeros(size, np.uint8)
    values[row, column] = 255
    return values


CLIP = ClipContract(2, registration="none")
CONTRACT = FrameContract(32, 48, normalisation="full-scale", fit="pad", clip=CLIP, answer="boxes")


def test_a_detector_of_clips_finds_boxes_of_the_newest_frame():
    with Detector(Spots(2, (32, 48)), CONTRACT, Extraction()) as detector:
        first = detector(frame(3, 4))
        assert (len(first), first.clip.frames_missing) == (0, 1)
        (target,) = detector(frame(20, 30))
        assert (target.row, target.column) == (20.0, 30.0)
        confidence = detector.confidence(frame(7, 8))
        assert np.argwhere(confidence.on_sensor()).tolist() == [[7, 8]]
        (again,) = detector.targets(confidence)
        assert (again.row, again.column) == (7.0, 8.0)


def test_masks_score_boxes_and_ap50_joins():
    detector = Detector(Spots(2, (32, 48)), CONTRACT, Extraction())
    evaluation = MaskEvaluation(detector)
    for number, (row, column) in enumerate([(3, 4), (9, 9), (11, 12)]):
        mask = frame(row, column) > 0
        mask[30, 40] = number == 2  # a target that is not seen
        evaluation.add(LabelledFrame(str(number), frame(row, column), mask, begins=number == 0))
    scores = evaluation.result()
    assert (scores.frames, scores.targets, scores.pd) == (2, 3, pytest.approx(2 / 3))
    assert evaluation.average_precision.result() == pytest.approx(2 / 3)


def test_an_engine_that_gives_no_boxes_is_refused():
    with Detector(Spots(2, (32, 48), columns=4), CONTRACT, Extraction()) as detector:
        detector(frame(1, 1))
        with pytest.raises(OutputError, match="expects boxes"):
            detector(frame(1, 1))


def test_another_kind_of_answer_is_refused():
    with pytest.raises(ValueError, match="expected 'confidence' or 'boxes'"):
        FrameContract(32, 32, answer="points")
