"""A bundle: the folder that carries a model to a device, whole, hashed and described."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from .frame import FrameContract
from .plans import PlanRecord
from .plans import Precision as Precision

SCHEMA = 4
MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output of the network."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What a file of the bundle must be, to the byte."""

    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class WeightsRecord:
    """Where the parameters came from.

    Attributes:
        file: name of the weights file.
        sha256: of that file.
        notes: what its training wrote into it; empty for foreign weights.
    """

    file: str
    sha256: str
    notes: dict[str, str]


@dataclass(frozen=True, slots=True)
class SolverRecord:
    """How a solver became a graph, and what that costs against the exact solver.

    Attributes:
        iterations: N, all of them in the graph.
        inner_iterations: K, the most steps of a singular value thresholding; 0 without one.
        coefficients: of these steps, by name.
        form: of these steps, "quick", "gram" or "rectangular".
        exact_iterations: after which the exact solver came to rest.
        frames: on which both were compared.
        target_error: difference of the target images over the exact one.
        iou: of their segmentations.
    """

    iterations: int
    inner_iterations: int
    coefficients: str
    form: str
    exact_iterations: int
    frames: int
    target_error: float
    iou: float


@dataclass(frozen=True, slots=True)
class Parity:
    """How far ONNX Runtime's confidence lies from torch's.

    Attributes:
        frames: frames compared.
        max_difference: largest absolute difference of confidence over all of them.
        tolerance: above this the export refuses.
    """

    frames: int
    max_difference: float
    tolerance: float


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Scores of one precision on labelled frames; None where a score is undefined.

    Attributes:
        precision: of the graph that was scored.
        engine: what ran it, for a person to read.
        dataset: the labelled frames, by name.
        frames: how many.
        iou, niou, pd: fractions.
        fa_per_mpix: false-alarm pixels per million.
    """

    precision: Precision
    engine: str
    dataset: str
    frames: int
    iou: float | None
    niou: float | None
    pd: float | None
    fa_per_mpix: float


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds of a run: the median over several, the least and the most."""

    median: float
    least: float
    most: float


@dataclass(frozen=True, slots=True)
class CpuChoice:
    """What ONNX Runtime runs on a CPU, where a lower precision may be slower than FP32.

    Attributes:
        precision: of the graph that runs there, unless the user names another.
        reason: why, for a person to read, wherever the bundle is.
        latency_ms: of each graph, measured in turn at the export.
        machine: what that was measured on: processor, library, threads.
    """

    precision: Precision
    reason: str
    latency_ms: dict[Precision, Latency]
    machine: str


@dataclass(frozen=True, slots=True)
class Calibration:
    """Where the ranges of a lower precision came from.

    Attributes:
        method: that made ranges of values, by name.
        source: of the frames, for a person to read.
        frames: how many were run.
        offered: how many the source had.
        labelled: whether their targets were labelled ones; else targets were injected.
        sha256: over these frames and those that they were chosen from.
        share: part of the FLOP of convolutions and matrix products in the lower precision, 0..1.
    """

    method: str
    source: str
    frames: int
    offered: int
    labelled: bool
    sha256: str
    share: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.share <= 1.0:
            raise ValueError(f"share is {self.share}, expected 0 to 1")


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything a device must know about a bundle; `manifest.json`.

    Attributes:
        schema: version of this layout.
        model: name in the zoo.
        source: paper.
        precision: that TensorRT builds from, and that the bundle is named for.
        graphs: name of the ONNX file of each precision; fp32, the reference, is always there.
        cpu: the precision that runs on a CPU, and why.
        weights: where the parameters came from; None for a model that has none.
        solver: how a solver was unrolled; None for what is no solver.
        frame: what the network expects.
        threshold: confidence above which a pixel belongs to a target, unless the user says else.
        input: of the graph.
        output: of the graph: "confidence" (1, 1, H, W), or "boxes" (1, A, 5), as `frame.answer`.
        operators: how often each ONNX operator occurs in the graph of `precision`.
        layers: precision of each convolution and matrix product of that graph, by node name.
        parity: torch against ONNX Runtime, fp32.
        accuracy: before and after a change of precision, the last is of `precision`.
        calibration: of that change; None where there was nothing to calibrate.
        versions: of what made the bundle.
        plans: what each TensorRT plan needs, by file name.
        files: every other file of the bundle, by name.
        seal: sha256 over all the other fields: finds edits by hand and damage, no forgery.
    """

    schema: int
    model: str
    source: str
    precision: Precision
    graphs: dict[Precision, str]
    cpu: CpuChoice
    weights: WeightsRecord | None
    solver: SolverRecord | None
    frame: FrameContract
    threshold: float
    input: TensorSpec
    output: TensorSpec
    operators: dict[str, int]
    layers: dict[str, Precision]
    parity: Parity
    accuracy: tuple[Accuracy, ...]
    calibration: Calibration | None
    versions: dict[str, str]
    plans: dict[str, PlanRecord]
    files: dict[str, FileRecord]
    seal: str = ""

    def __post_init__(self) -> None:
        for precision in ("fp32", self.precision, self.cpu.precision):
            if precision not in self.graphs:
                there = ", ".join(self.graphs) or "none"
                raise ValueError(f"it lacks the {precision} graph among its graphs ({there})")
        for name, plan in self.plans.items():
            graph = self.files.get(self.graphs.get(plan.precision, ""))
            if self.files and (graph is None or graph.sha256 != plan.graph_sha256):
                raise ValueError(f"the plan {name} was built from another graph than it holds")


def read_manifest(folder: Path) -> Manifest:
    """Read and check a bundle's manifest, but none of its files.

    Raises:
        FileNotFoundError: the folder is missing or is no bundle.
        ValueError: the manifest is damaged, edited, or of another schema.
    """
    path = folder / MANIFEST
    if not folder.is_dir():
        raise FileNotFoundError(f"bundle {folder} does not exist; make one with irstd-export")
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is no bundle: it holds no {MANIFEST}")
    text = path.read_bytes()
    _check_schema(text, path)
    try:
        manifest = msgspec.json.decode(text, type=Manifest)
    except (msgspec.DecodeError, ValueError) as err:
        raise ValueError(f"{path} is damaged: {err}; export the bundle again") from err
    if manifest.seal != _seal(manifest):
        raise ValueError(
            f"{path} was edited or damaged after the export (its seal does not fit); "
            "export the bundle again, or pass other settings when loading it"
        )
    return manifest


def _check_schema(text: bytes, path: Path) -> None:
    try:
        fields = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as err:
        raise ValueError(f"{path} is no JSON: {err}; export the bundle again") from err
    schema = fields.get("schema") if isinstance(fields, dict) else None
    if not isinstance(schema, int) or isinstance(schema, bool):
        raise ValueError(f"{path} names no schema version; export the bundle again")
    if schema != SCHEMA:
        advice = "update irstd" if schema > SCHEMA else "export the bundle again"
        raise ValueError(f"{path} has schema {schema}, this irstd reads {SCHEMA}; {advice}")


def read_file(folder: Path, manifest: Manifest, name: str) -> bytes:
    """Read a file of a bundle and check that it is the one that was exported.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: it is not in the manifest, or its hash is wrong.
    """
    record = manifest.files.get(name)
    if record is None or name != Path(name).name:
        raise ValueError(f"{folder / MANIFEST} lists no file {name!r}; export the bundle again")
    path = folder / name
    if not path.is_file():
        raise FileNotFoundError(f"bundle {folder} lacks {name}; export or copy it again")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != record.sha256:
        raise ValueError(
            f"{path} is not the file that was exported ({len(content)} bytes, its sha256 differs "
            f"from the manifest's {record.bytes}); export or copy the bundle again"
        )
    return content


@contextmanager
def stage_bundle(folder: Path) -> Iterator[Path]:
    """Give a temporary folder beside `folder`; it becomes `folder` if all goes well, else vanishes.

    An older bundle at that place is replaced at the end, not before.

    Raises:
        FileExistsError: something that is no bundle lies there already.
        OSError: the place cannot be written.
    """
    folder = folder.absolute()
    _check_free(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield stage
        stage.chmod(0o755)  # mkdtemp makes it private
        _swap_in(stage, folder)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _check_free(folder: Path) -> None:
    if not folder.exists() and not folder.is_symlink():
        return
    if folder.is_dir() and ((folder / MANIFEST).is_file() or not any(folder.iterdir())):
        return
    raise FileExistsError(f"{folder} exists and is no bundle; name another --output")


def _swap_in(stage: Path, folder: Path) -> None:
    if not folder.exists():
        os.replace(stage, folder)
        return
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as old:
        os.replace(folder, Path(old) / folder.name)
        try:
            os.replace(stage, folder)
        except OSError:
            os.replace(Path(old) / folder.name, folder)
            raise


def seal_bundle(stage: Path, manifest: Manifest) -> Manifest:
    """Hash every file of a staged bundle and write the manifest that names them all."""
    files = {
        path.name: FileRecord(_sha256(path), path.stat().st_size)
        for path in sorted(stage.iterdir())
        if path.name != MANIFEST
    }
    # As it reads back: an int where a float belongs would not fit the seal.
    text = msgspec.json.encode(replace(manifest, files=files))
    manifest = msgspec.json.decode(text, type=Manifest)
    manifest = replace(manifest, seal=_seal(manifest))
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    (stage / MANIFEST).write_bytes(text + b"\n")
    return manifest


def _seal(manifest: Manifest) -> str:
    fields = msgspec.json.encode(replace(manifest, seal=""), order="deterministic")
    return hashlib.sha256(fields).hexdigest()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
