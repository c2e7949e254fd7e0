"""A synthetic 14-bit sequence with its truth, to try things on: frames, masks, centroids.csv."""

import sys
from pathlib import Path

from irstd.runtime.media_cv2 import write_sequence
from irstd.runtime.scene import Scene, SceneOptions

folder = Path(sys.argv[1])
scene = Scene(SceneOptions(height=256, width=256, bit_depth=14, scr=(8.0, 16.0)), seed=0)
write_sequence(folder, scene, frames=30)
print(f"{folder}: 30 frames of a synthetic {scene.kind}, 14 bits, 3 moving targets, with truth")
