"""How fast clips for training are generated, and how far the flight's registration errs on them.

    python tests/clips_study.py --backgrounds BACKGROUND

Speed is counted in CPU seconds of one thread, after the paintings are made. The error of the
registration is that of a step from frame to frame, against the camera's true motion, on scenes of
256x256 pixels in 8 bits without a layer of clouds and without zoom, which have no one motion.
"""

import time
from pathlib import Path

import click
import numpy as np

from irstd.runtime.frame import ClipContract, FrameContract, prepare
from irstd.runtime.registration import load_registration
from irstd.train import moving
from irstd.train.clip_data import part_backgrounds
from irstd.train.clips import GeneratedClips
from irstd.train.moving import MovingOptions, MovingScene
from irstd.train.recipe import Recipe

CONTRACT = FrameContract(256, 256)


@click.command()
@click.option("--backgrounds", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--scenes", default=16, help="That registration is measured on, of 5 frames each.")
def main(backgrounds, scenes):
    """Measure and print."""
    frames, _ = part_backgrounds((backgrounds,), CONTRACT)
    for crop in (96, 128):
        made = GeneratedClips(frames, ClipContract(8, stride=2), Recipe(crop=crop))
        click.echo(f"{count_clips(made):.0f} clips of 8 frames of {crop}x{crop} a CPU second")
    errors = np.abs(measure_registration(frames, scenes))
    click.echo(
        f"registration, {len(errors)} steps: median {np.median(errors):.4f} px, 90 % below "
        f"{np.quantile(errors, 0.9):.4f}, largest {errors.max():.4f}"
    )


def count_clips(made, warm=64, counted=64):
    """Clips a CPU second."""
    for number in range(warm):
        made.draw(number)
    begun = time.process_time()
    for number in range(warm, warm + counted):
        made.draw(number)
    return counted / (time.process_time() - begun)


def measure_registration(frames, scenes):
    """(steps, 2) pixels; a step that is not believed counts as no motion."""
    moving.CLOUDS = moving.ZOOMING = 0.0
    options = MovingOptions(size=(256, 256), frames=5, bit_depths=(8,))
    registration = load_registration()
    errors = []
    for index in range(scenes):
        scene = MovingScene(options, frames, seed=3, index=index)
        textures = [
            registration.extract_texture(prepare(scene.frame(number).frame, CONTRACT)[0, 0])
            for number in range(options.frames)
        ]
        for number in range(1, options.frames):
            shift = registration.estimate_shift(textures[number - 1], textures[number])
            true = np.subtract(scene.camera(number), scene.camera(number - 1))
            errors.append((shift.row - true[0], shift.column - true[1]))
    return np.array(errors)


if __name__ == "__main__":
    main()
