"""The worked example of docs/solvers.md, run as it stands there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from irstd.runtime.engine import load_engine
from irstd.runtime.frame import FrameContract, prepare
from irstd.runtime.scene import Scene, SceneOptions

GUIDE = Path(__file__).parent.parent / "docs" / "solvers.md"
FORBIDDEN = {"Loop", "If", "Scan", "SVD", "DFT", "NonZero", "TopK", "Shape", "Gather"}


@pytest.fixture(scope="module")
def typed_in(tmp_path_factory):
    """The folder of the example after its run, and what it printed."""
    (block,) = re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.S | re.M)
    assert len(block.splitlines()) <= 60
    folder = tmp_path_factory.mktemp("guide")
    (folder / "pursuit.py").write_text(block, encoding="utf-8")
    paths = [str(Path(entry).resolve()) for entry in sys.path if entry]
    done = subprocess.run(
        [sys.executable, "pursuit.py"],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_the_example_says_what_unrolling_costs(typed_in):
    said = re.match(
        r"25 iterations leave the target image ([\d.]+)% from the exact one "
        r"\((\d+) iterations on 3 frames\), IoU of its segmentation ([\d.]+)\n",
        typed_in[1],
    )
    assert said, typed_in[1]
    assert float(said[1]) < 3.0 and int(said[2]) > 25 and float(said[3]) >= 0.97


def test_its_graph_finds_the_targets(typed_in):
    graph = onnx.load(typed_in[0] / "pursuit.onnx")
    assert not {node.op_type for node in graph.graph.node} & FORBIDDEN
    options = SceneOptions(height=96, width=96, bit_depth=8, targets=2, scr=(15.0, 15.0), defects=0)
    shot = Scene(options, seed=4).frame(0)
    engine = load_engine(graph.SerializeToString(), threads=1)
    confidence = engine.run(prepare(shot.frame, FrameContract(96, 96)))
    engine.close()
    found = confidence > 0.5
    for row, column in np.round(shot.points).astype(int):
        assert found[row - 2 : row + 3, column - 2 : column + 3].any()
    assert (found & ~shot.mask).sum() < found.sum()
