"""What irstd-detect found in a sequence against what is true, as a table and a picture."""

import json
import sys
from pathlib import Path

import numpy as np

from irstd.runtime import Detector
from irstd.runtime.bundle import read_manifest
from irstd.runtime.datasets import open_dataset
from irstd.runtime.media_cv2 import draw_overlay, read_image, write_image
from irstd.runtime.scoring import PointScorer, match

found_file, sequence, bundle = map(Path, sys.argv[1:])
lines = [json.loads(line) for line in found_file.read_text().splitlines()]
found = {line["frame"]: line["targets"] for line in lines}
samples = list(open_dataset(sequence))
scorer = PointScorer()
print(f"{'frame':<8}{'true':>6}{'found':>7}{'false':>7}   largest error of position")
for number, sample in enumerate(samples):
    points = np.array([(t["row"], t["column"]) for t in found[sample.name]]).reshape(-1, 2)
    truth = np.array(sample.points)
    pairs = match(points, truth)
    scorer.add(points, sample.points)
    if number % 5 == 0:
        gaps = np.hypot(*(points[pairs[:, 0]] - truth[pairs[:, 1]]).T)
        print(
            f"{sample.name:<8}{len(truth):>6}{len(pairs):>7}{len(points) - len(pairs):>7}   "
            + (f"{gaps.max():.2f} px" if len(gaps) else "-")
        )
scores = scorer.result()
print(
    f"{scores.frames} frames: Pd {scores.pd:.3f}, {scores.false_alarms_per_frame:.2f} false/frame"
)
with Detector.load(bundle, precision=read_manifest(bundle).precision) as detector:
    frame = read_image(samples[-1].image)
    picture = draw_overlay(frame, detector(frame), truth=samples[-1].points)
write_image(found_file.parent / "demo.png", picture)
print(f"the last frame, circles for the truth: {found_file.parent / 'demo.png'}")
