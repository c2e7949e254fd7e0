"""Which engine runs a bundle on this CPU: measured once, checked, and remembered."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import msgspec
import numpy as np

from .. import __version__
from .bundle import Latency, Manifest, Precision, read_file
from .engine import (
    Engine,
    EngineName,
    count_threads,
    load_as_written,
    load_engine,
    processor_name,
)
from .errors import EngineError
from .files import user_cache, write_whole
from .frame import FloatMap, FrameContract, prepare
from .outputs import scores_of
from .scene import Scene, SceneOptions
from .timing import time_in_turn, warm_up

FORMAT = 1  # of what is remembered, and of how it is chosen
TITLES: dict[EngineName, str] = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
PACKAGES: dict[EngineName, tuple[str, ...]] = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "openvino": ("openvino",),
}
TIE = 0.9  # OpenVINO runs where it takes less than this part of ONNX Runtime's time
BUDGET_S = 1.0  # of timing, all engines together; slow networks get FEWEST rounds
FEWEST, MOST = 3, 10
# Largest share of the confidence that OpenVINO may put elsewhere. Measured: 2e-5, 5e-4 and 5e-3;
# in INT8 3e-2 and more on a CPU without VNNI, where OpenVINO's sums overflow.
MOVED: dict[Precision, float] = {"fp32": 2e-4, "fp16": 5e-3, "int8": 2e-2}
TRIALS = 3  # scenes: a sky, a terrain, a sea

ReadGraph = Callable[[Precision], bytes]


class Candidate(msgspec.Struct, frozen=True):
    """An engine, and the graph of the bundle that it would run."""

    name: EngineName
    precision: Precision

    def __str__(self) -> str:
        return f"{TITLES[self.name]} {self.precision}"


class Choice(msgspec.Struct, frozen=True):
    """What runs, and why, for a person to read; as it is remembered.

    Attributes:
        key: everything that the choice follows from; the file's name says the same.
        chosen: what runs.
        reason: what was measured.
    """

    key: str
    chosen: Candidate
    reason: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """An engine with a bundle's graph in it.

    Attributes:
        engine: the engine.
        precision: of the graph.
        reason: why this one; empty where nothing is to say.
        note: what every result must say, see `Targets.note`.
    """

    engine: Engine
    precision: Precision
    reason: str
    note: str = ""


def load_for(
    folder: Path,
    manifest: Manifest,
    *,
    name: EngineName | None,
    precision: Precision | None,
    threads: int | None,
) -> Loaded:
    """Load a bundle's graph into an engine of this machine.

    Args:
        folder: the bundle.
        manifest: of the bundle.
        name: of the engine; None takes OpenVINO where it is installed, faster than ONNX Runtime
            and of one mind with it, else ONNX Runtime. An engine that is named is not checked.
        precision: of the graph; None takes what is fastest, in an engine that is named what is
            known to be: in ONNX Runtime from the export, in OpenVINO the bundle's own.
        threads: CPU threads; None takes those this process may use.

    Raises:
        EngineError: the engine is not installed, or cannot run the bundle.
        FileNotFoundError: the bundle lacks a file.
        ValueError: a file was changed, the bundle lacks the precision, or an argument is wrong.
    """
    if precision is not None and precision not in manifest.graphs:
        raise ValueError(
            f"bundle {folder} has no graph in {precision}, only in {', '.join(manifest.graphs)}; "
            "take one of these, or export the bundle again"
        )

    def read(precision: Precision) -> bytes:
        return read_file(folder, manifest, manifest.graphs[precision])

    count = count_threads(threads)
    by_default = manifest.precision if name == "openvino" else manifest.cpu.precision
    plain = Candidate(name or "onnxruntime", precision or by_default)
    is_stand_in = precision is None and plain.precision != manifest.precision
    known = manifest.cpu.reason if is_stand_in else ""
    if name is not None or find_version("openvino") is None:
        return _load(plain, read, threads=count, reason=known)
    others = [Candidate("openvino", one) for one in manifest.graphs if precision in (None, one)]
    return _load_fastest([plain, *others], manifest, read, threads=count, known=known)


def find_version(name: EngineName) -> str | None:
    """Version of an engine's package, without importing it; None where it is not installed."""
    for package in PACKAGES[name]:
        with suppress(metadata.PackageNotFoundError):
            return metadata.version(package)
    return None


def _load(candidate: Candidate, read: ReadGraph, *, threads: int, reason: str) -> Loaded:
    model = read(candidate.precision)
    engine = load_engine(model, threads=threads, name=candidate.name)
    return Loaded(engine, candidate.precision, reason)


def _load_fastest(
    candidates: Sequence[Candidate],
    manifest: Manifest,
    read: ReadGraph,
    *,
    threads: int,
    known: str,
) -> Loaded:
    """Load what is remembered as the fastest, or what is measured as such now."""
    key = choice_key(candidates, manifest, threads=threads)
    remembered = read_choice(key)
    if remembered is not None and remembered.chosen in candidates:
        with suppress(EngineError):  # damaged since: chosen anew below
            return _load(remembered.chosen, read, threads=threads, reason=remembered.reason)
    with ExitStack() as stack:
        engines, failures = _open(candidates, read, threads=threads, stack=stack)
        if len(engines) == 1:  # nothing measured, nothing to remember
            reason = "; ".join(filter(None, (*failures, known)))
            return _load(candidates[0], read, threads=threads, reason=reason)
        latency_ms = _time(engines)
        trials = _trial_inputs(manifest.frame)

        def object_to(candidate: Candidate) -> str:
            truth = load_as_written(read(candidate.precision), threads=threads)
            with closing(truth):
                return find_objection(candidate, engines[candidate], truth, trials)

        chosen, reason = choose(latency_ms, object_to)
    kept = known if chosen == candidates[0] else ""
    choice = Choice(key, chosen, "; ".join(filter(None, (reason, *failures, kept))))
    write_choice(choice)
    return _load(chosen, read, threads=threads, reason=choice.reason)


def _open(
    candidates: Sequence[Candidate], read: ReadGraph, *, threads: int, stack: ExitStack
) -> tuple[dict[Candidate, Engine], list[str]]:
    """Load and run the candidates; those of OpenVINO that fail are left out, and why is said."""
    engines: dict[Candidate, Engine] = {}
    failures: list[str] = []
    for candidate in candidates:
        model = read(candidate.precision)
        try:
            engine = load_engine(model, threads=threads, name=candidate.name)
            stack.callback(engine.close)
            warm_up(engine, runs=1)
        except EngineError as err:
            if candidate.name == "onnxruntime":
                raise
            failures.append(f"{candidate} is left out: {err}")
            continue
        engines[candidate] = engine
    return engines, failures


def _time(engines: Mapping[Candidate, Engine]) -> dict[Candidate, Latency]:
    taken = sum(warm_up(engine, runs=1) for engine in engines.values())
    rounds = max(FEWEST, min(MOST, int(BUDGET_S / taken)))
    return time_in_turn(engines, rounds=rounds)


def choose(
    latency_ms: Mapping[Candidate, Latency], object_to: Callable[[Candidate], str]
) -> tuple[Candidate, str]:
    """Choose the fastest candidate that nothing speaks against.

    Args:
        latency_ms: of each candidate, ONNX Runtime's first: nothing speaks against that one.
        object_to: what speaks against a candidate; empty if nothing does. Asked of those alone
            that are faster than the first.

    Returns:
        The candidate, and the figures that speak for it.
    """
    plain, *others = latency_ms
    fast = [one for one in others if latency_ms[one].median < TIE * latency_ms[plain].median]
    chosen, objections = plain, []
    for candidate in sorted(fast, key=lambda one: latency_ms[one].median):
        if not (objection := object_to(candidate)):
            chosen = candidate
            break
        objections.append(objection)
    beaten = [
        f"{latency.median:.1f} ms in {candidate}"
        for candidate, latency in latency_ms.items()
        if candidate != chosen
    ]
    figures = f"{latency_ms[chosen].median:.1f} ms against {', '.join(beaten)}"
    return chosen, "; ".join((figures, *objections))


def find_objection(
    candidate: Candidate, engine: Engine, truth: Engine, trials: Sequence[FloatMap]
) -> str:
    """What speaks against a candidate's answers; empty if nothing does.

    Args:
        candidate: whose answers they are.
        engine: the candidate, loaded.
        truth: computes the same graph as it is written.
        trials: prepared frames with targets.
    """
    try:
        answers = [
            np.stack([scores_of(one.run(trial)) for trial in trials]) for one in (engine, truth)
        ]
    except EngineError as err:
        return f"{candidate} is left out: {err}"
    share, limit = moved(*answers), MOVED[candidate.precision]
    if share <= limit:
        return ""
    return (
        f"{candidate} is left out: {share:.2g} of its confidence lies elsewhere than in the graph "
        f"as written (limit {limit:g})"
    )


def moved(confidence: FloatMap, truth: FloatMap) -> float:
    """The share of the confidence that lies elsewhere than in truth.

    The largest difference would not do: where INT8 rounds the edge of a target the other way, a
    pixel moves by half, and no target is lost.

    Example:
        >>> truth = np.array([[1.0, 0.5, 0.5, 0.0]], np.float32)
        >>> round(moved(np.array([[1.0, 0.5, 0.0, 0.1]], np.float32), truth), 3)
        0.3
    """
    # At least one pixel's worth: frames without targets have next to none.
    return float(np.abs(confidence - truth).sum() / max(1.0, float(truth.sum())))


def _trial_inputs(contract: FrameContract) -> list[FloatMap]:
    """Prepared synthetic frames with strong targets, or clips of such frames as they come."""
    options = SceneOptions(
        height=max(32, contract.height),
        width=max(32, contract.width),
        bit_depth=contract.bit_depth,
        targets=8,
        scr=(10.0, 30.0),
    )
    inputs: list[FloatMap] = []
    for seed in range(TRIALS):
        scene = Scene(options, seed=seed)
        shown = [scene.frame(index).frame for index in range(contract.input_shape[1])]
        frames = [frame[: contract.height, : contract.width] for frame in shown]
        inputs.append(np.concatenate([prepare(frame, contract) for frame in frames], axis=1))
    return inputs


def choice_key(candidates: Sequence[Candidate], manifest: Manifest, *, threads: int) -> str:
    """Hash everything that a choice follows from: another graph, version or CPU is another key."""
    parts = [f"format {FORMAT}, irstd {__version__}, {processor_name()}, {threads} threads"]
    for candidate in candidates:
        graph = manifest.files.get(manifest.graphs[candidate.precision])
        parts.append(f"{candidate} {find_version(candidate.name)} {graph}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def read_choice(key: str) -> Choice | None:
    """What is remembered; None where that is nothing, or the file is damaged or another's."""
    try:
        found = msgspec.json.decode(_path(key).read_bytes(), type=Choice)
    except (OSError, ValueError):
        return None
    return found if found.key == key else None


def write_choice(choice: Choice) -> None:
    """Remember a choice; where the cache cannot be written, the next load measures again."""
    with suppress(OSError):
        path = _path(choice.key)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, msgspec.json.encode(choice))


def _path(key: str) -> Path:
    return user_cache("engines") / f"{key}.json"
