"""A sequence fitted without labels, block by block: frames in, targets and the loss out."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ...runtime.clip import ClipState, Numbering, Step, fit_older
from ...runtime.files import write_whole
from ...runtime.frame import FloatMap, FrameContract, Geometry, fit_geometry, prepare
from ...runtime.interpolation import move
from ...runtime.pipeline import Confidence
from ...runtime.registration import Shift, load_registration
from ...runtime.sinks import Sink, open_sink
from ...runtime.sources import BadFrame, SourceFrame, open_source
from ...runtime.targets import Extraction, extract
from .lowrank3d_fit import LEAST_FRAMES, Fit, FitOptions, Losses
from .rpca import ClipSolver
from .saliency import to_wide_logits, weigh

SINKS = {".csv": "csv", ".json": "json", ".jsonl": "json"}
TARGETS, MAPS, LOG = "targets.json", "maps", "loss.csv"  # in a folder
TERMS = ("nuclear", "sparse", "smooth")


@dataclass(frozen=True, slots=True)
class Block:
    """Frames that are fitted together, registered onto the middle one.

    Attributes:
        sources: the frames as they came.
        frames: (T, H, W) float32 in 0..1, levels and places those of the middle frame.
        seen: (T, H, W) float32, 1 where a frame saw what stands there.
        places: (rows, columns) that each frame was moved.
        shifts: how the scene moved from the frame before; None for the first.
        geometry: how they lie on the sensor's frames.
    """

    sources: tuple[SourceFrame, ...]
    frames: FloatMap
    seen: FloatMap
    places: tuple[tuple[float, float], ...]
    shifts: tuple[Shift | None, ...]
    geometry: Geometry


@dataclass(frozen=True, slots=True)
class Iterate:
    """An iteration of a block.

    Attributes:
        block: number, from 0.
        iteration: number, from 0.
        losses: its.
    """

    block: int
    iteration: int
    losses: Losses


def read_runs(folder: Path, *, span: int, say: Callable[[str], None]) -> list[list[SourceFrame]]:
    """Read a sequence's frames; a gap of `span` frames or more parts it.

    Args:
        folder: of images, or one with a folder frames/.
        span: frames that a gap may miss at most.
        say: receives a line for each gap.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: a frame cannot be read, frames change size or type, or a part has too few.
    """
    inside = folder / "frames"
    numbering, runs = Numbering(span), list[list[SourceFrame]]()
    with open_source(str(inside if inside.is_dir() else folder)) as source:
        for item in source:
            if isinstance(item, BadFrame):
                raise ValueError(f"{item.name}: {item.reason}")
            step = numbering.follow(item.number)
            if step is Step.GAP:
                say(f"{item.name}: frames are missing before it; the sequence goes on")
            if not runs or step is Step.NEW:
                runs.append([])
            runs[-1].append(item)
    for run in runs:
        _check_run(run)
    return runs


def _check_run(run: Sequence[SourceFrame]) -> None:
    first = run[0]
    if len(run) < LEAST_FRAMES:
        raise ValueError(
            f"{len(run)} frames in a row from {first.name} on, expected {LEAST_FRAMES} or more; "
            "pass a sequence without such gaps"
        )
    for one in run:
        if (one.frame.shape, one.frame.dtype) != (first.frame.shape, first.frame.dtype):
            raise ValueError(
                f"{one.name} is {_tell(one)}, the frames before it are {_tell(first)}; one "
                "sequence has one size"
            )


def _tell(source: SourceFrame) -> str:
    return f"{'x'.join(map(str, source.frame.shape))} {source.frame.dtype}"


def cut_blocks(count: int, most: int) -> list[range]:
    """Split a run into blocks as even as can be.

    Example:
        >>> cut_blocks(100, 80)
        [range(0, 50), range(50, 100)]
    """
    blocks = -(-count // most)
    return [range(count * n // blocks, count * (n + 1) // blocks) for n in range(blocks)]


def register_block(sources: Sequence[SourceFrame], size: tuple[int, int] | None) -> Block:
    """Prepare frames and move them onto the middle one.

    Args:
        sources: of one size and type, one after another.
        size: (height, width) to fit them to; None leaves their own.
    """
    first = sources[0].frame
    height, width = (first.shape[0], first.shape[1]) if size is None else size
    # Stretched frames are the same at any bit depth.
    contract = FrameContract(height, width, bit_depth=8 if first.dtype == np.uint8 else 16)
    prepared = [prepare(source.frame, contract)[0, 0] for source in sources]
    shifts = _measure_shifts(prepared)
    path = np.cumsum([(0.0, 0.0), *((one.row, one.column) for one in shifts)], axis=0)
    middle = len(prepared) // 2
    places = [(float(row), float(column)) for row, column in path[middle] - path]
    whole, nothing = np.ones_like(prepared[0]), np.zeros_like(prepared[0])
    return Block(
        sources=tuple(sources),
        frames=np.stack(
            [
                fit_older(frame, prepared[middle], place)
                for frame, place in zip(prepared, places, strict=True)
            ]
        ),
        seen=np.stack([move(whole, place, outside=nothing) for place in places]),
        places=tuple(places),
        shifts=(None, *shifts),
        geometry=fit_geometry((first.shape[0], first.shape[1]), contract),
    )


def _measure_shifts(prepared: Sequence[FloatMap]) -> list[Shift]:
    registration = load_registration()
    textures = [registration.extract_texture(frame) for frame in prepared]
    return [
        registration.estimate_shift(older, newer)
        for older, newer in zip(textures[:-1], textures[1:], strict=True)
    ]


def find_confidence(block: Block, background: FloatMap) -> Iterator[Confidence]:
    """The confidence of each frame in its own pixels, by the same map as temporal-rpca's.

    Args:
        block: fitted.
        background: (T, H, W), of the registered frames.
    """
    nothing = np.zeros_like(block.frames[0])
    for place, frame in enumerate(block.frames):
        row, column = block.places[place]
        rest = (frame - background[place]) * block.seen[place]
        images = [
            torch.from_numpy(move(one, (-row, -column), outside=nothing))[None, None]
            for one in (rest, frame)
        ]
        target = weigh(images[0], images[1])
        logits = to_wide_logits(target, sigmas=ClipSolver.sigmas)
        source = block.sources[place].frame
        yield Confidence(
            logits.sigmoid()[0, 0].numpy(),
            block.geometry,
            (source.shape[0], source.shape[1]),
            ClipState(0, block.shifts[place]),
        )


class SequenceFit:
    """The fits of all blocks of a sequence, one after another.

    Attributes:
        blocks: of frames, in order.
        options: of each fit.
    """

    def __init__(
        self,
        runs: Sequence[Sequence[SourceFrame]],
        options: FitOptions,
        *,
        size: tuple[int, int] | None = None,
        device: str = "cpu",
    ) -> None:
        self.blocks = [
            register_block([run[place] for place in part], size)
            for run in runs
            for part in cut_blocks(len(run), options.block)
        ]
        self.options = options
        self._device = device
        self._backgrounds: list[FloatMap] = []
        self._log: list[Iterate] = []

    @property
    def iterations(self) -> int:
        """Of all blocks together."""
        return len(self.blocks) * self.options.iterations

    def steps(self) -> Iterator[Iterate]:
        """Fit; block after block.

        Raises:
            TrainingError: a loss is not finite.
        """
        for number, block in enumerate(self.blocks):
            frames, seen = (
                torch.from_numpy(stack).to(self._device) for stack in (block.frames, block.seen)
            )
            fit = Fit(frames, seen, self.options)
            for iteration, losses in enumerate(fit):
                self._log.append(Iterate(number, iteration, losses))
                yield self._log[-1]
            assert fit.background is not None
            self._backgrounds.append(fit.background.cpu().numpy())

    def confidences(self) -> Iterator[tuple[SourceFrame, Confidence]]:
        """Every frame and its confidence, once all is fitted."""
        for block, background in zip(self.blocks, self._backgrounds, strict=True):
            yield from zip(block.sources, find_confidence(block, background), strict=True)

    def write(self, output: Path, *, threshold: float) -> None:
        """Write targets, and the losses beside them.

        Args:
            output: a file that ends in .json, .jsonl or .csv, or a folder, which also gets the
                confidence as .npy.
            threshold: confidence of a target.

        Raises:
            OSError: it cannot be written.
        """
        extraction = Extraction(threshold)
        with ExitStack() as stack:
            sinks: list[Sink] = [
                stack.enter_context(open_sink(text)) for text in list_sinks(output)
            ]
            for source, confidence in self.confidences():
                found = extract(confidence.values, confidence.geometry, extraction)
                for sink in sinks:
                    sink.write(source, replace(found, clip=confidence.clip), confidence.on_sensor())
        write_whole(log_path(output), self._table().encode())

    def _table(self) -> str:
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(("block", "iteration", "loss", *TERMS))
        for one in self._log:
            terms = (one.losses.whole, *(getattr(one.losses, term) for term in TERMS))
            table.writerow((one.block, one.iteration, *(f"{term:.6g}" for term in terms)))
        return text.getvalue()


def check_output(output: Path) -> None:
    """Refuse an output that is no list of targets and no folder.

    Raises:
        ValueError: it ends in something else.
    """
    if output.suffix and output.suffix not in SINKS and not output.is_dir():
        raise ValueError(
            f"output is {output.name}, expected a folder, or a file that ends in {', '.join(SINKS)}"
        )


def list_sinks(output: Path) -> list[str]:
    """The sinks that an output means; its folder is made."""
    is_file = output.suffix in SINKS
    (output.parent if is_file else output).mkdir(parents=True, exist_ok=True)
    if is_file:
        return [f"{SINKS[output.suffix]}:{output}"]
    return [f"json:{output / TARGETS}", f"maps-npy:{output / MAPS}"]


def log_path(output: Path) -> Path:
    """Where the losses of an output go."""
    if output.suffix in SINKS:
        return output.with_name(f"{output.stem}-{LOG}")
    return output / LOG
