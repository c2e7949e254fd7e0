"""The pictures of docs/solvers.md: error of thresholding, and of whole solvers, by iterations.

    python tests/solvers_curves.py --output docs

Everything is measured on synthetic scenes, in float32 against float64, and takes a minute.
"""

from pathlib import Path

import click
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from irstd.export.solvers.coefficients import STEPS
from irstd.export.solvers.minimax import NEWTON_SCHULZ
from irstd.export.solvers.thresholding import multiply_out
from irstd.export.unroll import measure_cost, tell_cost, unroll
from irstd.runtime.frame import FrameContract, prepare
from irstd.runtime.scene import Scene, SceneOptions
from irstd.train.solvers.algebra import EXACT, PatchGrid
from irstd.train.solvers.patch_frames import cut_frame
from irstd.train.zoo import MODELS

SIDE = 128
SEEDS = (0, 1, 2)  # a sky, a terrain, a sea
RATIOS = (0.1, 0.03, 0.01)  # threshold over the largest singular value
CUBIC = (1.5, -0.5, 0.0)  # Newton-Schulz of the third order
SEQUENCES = {
    "cubic Newton-Schulz": (CUBIC,),
    "quintic Newton-Schulz": (NEWTON_SCHULZ,),
    "minimax from 0.01": STEPS[0.01],
    "minimax from 0.001": STEPS[0.001],
}
MOST_STEPS = 16
SOLVERS = {"ipi": 20, "pstnn": 20, "ript": 16, "temporal-rpca": 20}  # iterations drawn
ROUNDING = 1e-8  # bottom of a logarithmic axis
DIVERGED = 10.0  # its top: what is there has left the interval


def shoot(seed, *, frames=1):
    """Prepared frames (1, T, SIDE, SIDE) of a scene with two targets."""
    options = SceneOptions(
        height=SIDE, width=SIDE, bit_depth=8, targets=2, scr=(10.0, 10.0), drift=0.0, defects=0
    )
    scene = Scene(options, seed=seed)
    contract = FrameContract(SIDE, SIDE)
    shots = [prepare(scene.frame(index).frame, contract) for index in range(frames)]
    return torch.from_numpy(np.concatenate(shots, axis=1))


def threshold_by(matrix, threshold, steps):
    """Singular value thresholding by polar and sign iterations of given steps."""
    scale = 1.001 * torch.linalg.matrix_norm(matrix, ord=2, keepdim=True)
    factor = scaled = matrix / scale
    for step in steps:
        factor = multiply_out(factor, step)
    size = factor.mT @ scaled
    shifted = 0.5 * (size + size.mT) - threshold / scale * torch.eye(size.shape[-1])
    sign = shifted
    for step in steps:
        sign = multiply_out(sign, step)
    return scale * (factor @ (0.5 * (shifted + shifted @ sign)))


def thresholding_errors():
    """Relative errors by ratio, then by sequence, one for each number of steps."""
    frame = shoot(SEEDS[1])
    matrix = cut_frame(EXACT, frame - frame.mean(), PatchGrid(50, 10))
    largest = torch.linalg.matrix_norm(matrix.double(), ord=2, keepdim=True)
    errors = {}
    for ratio in RATIOS:
        exact = EXACT.threshold_matrix(matrix.double(), ratio * largest, ratio=ratio)
        for name, sequence in SEQUENCES.items():
            # After its last step a sequence goes on with that one, which keeps what is at 1 there.
            steps = (*sequence, *(sequence[-1],) * MOST_STEPS)
            found = [
                threshold_by(matrix, (ratio * largest).float(), steps[: count + 1])
                for count in range(MOST_STEPS)
            ]
            errors[ratio, name] = [float((one - exact).norm() / exact.norm()) for one in found]
    return errors


def unrolling_costs():
    """Cost of each solver, on a frame or clip of every scene."""
    costs = {}
    for name, iterations in SOLVERS.items():
        model = MODELS[name]
        solver = model.build()
        clips = [shoot(seed, frames=model.clip.length if model.clip else 1) for seed in SEEDS]
        costs[name] = measure_cost(solver, unroll(solver, iterations=iterations), clips)
        click.echo(f"{name}, taken {solver.steps}: {tell_cost(costs[name])}")
    return costs


def draw_thresholding(errors, path):
    """A panel for each ratio."""
    figure = make_figure(11, 3.6)
    panels = figure.subplots(1, len(RATIOS), sharey=True)
    counts = range(1, MOST_STEPS + 1)
    for axes, ratio in zip(panels, RATIOS, strict=True):
        for name in SEQUENCES:
            # What overflowed, or was fed above 1, is drawn at the top.
            shown = np.nan_to_num(errors[ratio, name], nan=DIVERGED, posinf=DIVERGED)
            axes.semilogy(counts, shown.clip(ROUNDING, DIVERGED), marker=".", label=name)
        axes.set(title=f"threshold {ratio:g} of the norm", xlabel="steps of polar and of sign")
        axes.set_xticks(range(2, MOST_STEPS + 1, 2))
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("relative error")
    panels[0].legend(fontsize=8)
    figure.savefig(path, dpi=80, metadata={"Software": None})


def draw_unrolling(costs, path):
    """Error of the target image, and IoU of its segmentation."""
    figure = make_figure(9, 3.8)
    error, iou = figure.subplots(1, 2)
    for name, cost in costs.items():
        counts = [one.iterations for one in cost.curve]
        taken = counts.index(MODELS[name].build().steps)
        for axes, values in (
            (error, [one.error for one in cost.curve]),
            (iou, [one.iou for one in cost.curve]),
        ):
            (line,) = axes.plot(counts, values, label=name)
            axes.plot(counts[taken], values[taken], "o", color=line.get_color())
    error.set(yscale="log", title="error of the target image", xlabel="iterations")
    iou.set(ylim=(0, 1.03), title="IoU of the segmentation", xlabel="iterations")
    for axes in (error, iou):
        axes.grid(alpha=0.3)
        axes.set_xticks(range(0, max(SOLVERS.values()) + 1, 4))
    iou.legend(fontsize=8)
    figure.savefig(path, dpi=80, metadata={"Software": None})


def make_figure(width, height):
    """An empty figure that needs no screen."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


@click.command()
@click.option("--output", required=True, type=click.Path(path_type=Path, file_okay=False))
def main(output):
    """Measure, draw and print."""
    torch.set_num_threads(1)
    output.mkdir(parents=True, exist_ok=True)
    errors = thresholding_errors()
    for (ratio, name), values in errors.items():
        found = " ".join(f"{values[count - 1]:.0e}" for count in (4, 6, 8, 12, 16))
        click.echo(f"threshold {ratio:g}, {name}, after 4, 6, 8, 12, 16 steps: {found}")
    draw_thresholding(errors, output / "solvers-thresholding.png")
    draw_unrolling(unrolling_costs(), output / "solvers-unrolling.png")


if __name__ == "__main__":
    main()
