"""Real 8-bit frames as a 14-bit camera would give them: are the targets the same?

python tests/bit_depth_on_real_frames.py BUNDLE DATASET [SPLIT]

Each frame gets a gain and an offset, is quantised to 14 bits, and loses isolated pixels to defects:
dead (0), hot (16383). Targets are the same when they pair up within a pixel, one to one.
"""

import sys
from pathlib import Path

import numpy as np

from irstd.runtime import Detector
from irstd.runtime.bundle import read_manifest
from irstd.runtime.datasets import open_dataset
from irstd.runtime.evaluation import read_labelled
from irstd.runtime.scoring import match

DEFECTS_PER_FRAME = 20
APART = 4  # pixels from a target or another defect; what lies on a target is truly lost


def as_14_bit(labelled, *, defects, rng):
    """A 14-bit version of an 8-bit frame, with dead and hot pixels where they hide no target."""
    gain, offset = rng.uniform(4.0, 30.0), rng.uniform(500.0, 6000.0)
    frame = np.rint(labelled.frame * gain + offset).astype(np.uint16)
    free = np.ones(frame.shape, bool)
    for row, column in np.argwhere(labelled.mask):
        free[max(row - APART, 0) : row + APART + 1, max(column - APART, 0) : column + APART + 1] = 0
    for place in range(defects):
        row, column = rng.choice(np.argwhere(free))
        frame[row, column] = 16383 if place % 2 else 0
        free[max(row - APART, 0) : row + APART + 1, max(column - APART, 0) : column + APART + 1] = 0
    return frame


def points(targets):
    return np.stack([targets.row, targets.column], axis=1)


def compare(bundle, dataset, *, defects):
    """Counts of frames, frames with the same targets, targets in 8 bits, and those found again."""
    rng = np.random.default_rng(0)
    same = total = again = frames = 0
    own = read_manifest(Path(bundle)).precision  # not what a CPU runs in its place
    with (
        Detector.load(bundle, engine="onnxruntime", precision=own) as plain,
        Detector.load(bundle, engine="onnxruntime", precision=own, bit_depth=14) as deep,
    ):
        for labelled in read_labelled(dataset):
            before = plain(labelled.frame)
            after = deep(as_14_bit(labelled, defects=defects, rng=rng))
            pairs = match(points(after), points(before), distance=1.0)
            frames += 1
            total += len(before)
            again += len(pairs)
            same += len(pairs) == len(before) == len(after)
    return frames, same, total, again


if __name__ == "__main__":
    dataset = open_dataset(Path(sys.argv[2]), split=(sys.argv[3:] or [None])[0])
    for defects in (0, DEFECTS_PER_FRAME):
        frames, same, total, again = compare(sys.argv[1], dataset, defects=defects)
        print(
            f"{defects} defects a frame: the same targets in {same} of {frames} frames; "
            f"{again} of {total} targets found again"
        )
