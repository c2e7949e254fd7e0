"""A bundle, a frame, its targets. Copy them into onboard software."""

import sys
from pathlib import Path

from irstd.runtime import Detector
from irstd.runtime.media_cv2 import read_image  # a camera driver gives the same: (H, W) uint16

bundle, image = sys.argv[1:]
with Detector.load(bundle, threads=2) as detector:
    targets = detector(read_image(Path(image)))
    for target in targets:
        print(f"row {target.row:.1f}, column {target.column:.1f}, score {target.score:.2f}")
    print(f"{len(targets)} of {targets.found} targets")
