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
from typing import Literal, TypeAlias

import msgspec

from .frame import FrameContract

SCHEMA = 1
MANIFEST = "manifest.json"
Precision: TypeAlias = Literal["fp32", "fp16"]


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
        dataset: the labelled frames, by name.
        frames: how many.
        iou, niou, pd: fractions.
        fa_per_mpix: false-alarm pixels per million.
    """

    precision: Precision
    dataset: str
    frames: int
    iou: float | None
    niou: float | None
    pd: float | None
    fa_per_mpix: float


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything a device must know about a bundle; `manifest.json`.

    Attributes:
        schema: version of this layout.
        model: name in the zoo.
        source: paper.
        precision: of the graph that engines run.
        graph: name of that ONNX file.
        weights: where the parameters came from.
        frame: what the network expects.
        threshold: confidence above which a pixel belongs to a target, unless the user says else.
        input: of the graph.
        output: of the graph.
        operators: how often each ONNX operator occurs in the graph.
        layers: precision of each convolution and matrix product, by node name.
        parity: torch against ONNX Runtime, fp32.
        accuracy: before and after a change of precision, the last is what the bundle runs.
        versions: of what made the bundle.
        files: every other file of the bundle, by name.
        seal: sha256 over all the other fields: finds edits by hand and damage, no forgery.
    """

    schema: int
    model: str
    source: str
    precision: Precision
    graph: str
    weights: WeightsRecord
    frame: FrameContract
    threshold: float
    input: TensorSpec
    output: TensorSpec
    operators: dict[str, int]
    layers: dict[str, Precision]
    parity: Parity
    accuracy: tuple[Accuracy, ...]
    versions: dict[str, str]
    files: dict[str, FileRecord]
    seal: str = ""


def read_manifest(folder: Path) -> Manifest:
    """Read and check a bundle's manifest, but none of its files.

    Raises:
        FileNotFoundError: the folder is missing or is no bundle.
        ValueError: the manifest is damaged, edited, or of a newer schema.
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
    if schema > SCHEMA:
        raise ValueError(
            f"{path} has schema {schema}, this irstd reads up to {SCHEMA}; update irstd"
        )


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
    manifest = replace(manifest, files=files)
    manifest = replace(manifest, seal=_seal(manifest))
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    (stage / MANIFEST).write_bytes(text + b"\n")
    return manifest


def _seal(manifest: Manifest) -> str:
    fields = msgspec.json.encode(replace(manifest, seal=""), order="deterministic")
    return hashlib.sha256(fields).hexdigest()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
