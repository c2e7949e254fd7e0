"""Builds plans with whichever TensorRT is installed: 8.6, 10, 11, and TensorRT for RTX.

Never imports torch or onnx: it runs on the device. What a version lacks is asked for by name and
left out, or refused where the user wants it; no version is told by its number.

What is asked of every version is one thing, that the plan computes what the graph says: networks
are strongly typed where the library knows that. TensorRT 8.6 does not; there the precisions are
allowed by flags, and for FP16 each layer is held to the type that the graph gives it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

from ..runtime.bundle import Precision
from ..runtime.errors import EngineError
from ..runtime.files import write_whole
from ..runtime.plans import TITLES, Library
from .plan_audit import Layer, read_dump, read_inspector
from .plan_log import BuildLog, Progress, Watch, make_logger, make_monitor

Foreign: TypeAlias = Any  # of TensorRT, which has no types

HIGHEST_LEVEL = 5
SHOWN_LAYERS = 5
# Types that a weakly typed layer is held to, and layers whose work is to change the type.
HELD, CHANGING = ("FLOAT", "HALF"), ("CAST", "CONSTANT", "IDENTITY", "QUANTIZE", "DEQUANTIZE")


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """How to build.

    Attributes:
        workspace_mib: device memory that a layer may borrow; None leaves it to the library.
        level: of optimisation, 0 (builds fast) to 5 (runs fast); None leaves it to the library.
        dla_core: of a Jetson's accelerator to build for, with the GPU for what it cannot; None
            builds for the GPU.
        is_hardware_compatible: runs on newer GPUs too.
        is_version_compatible: runs on newer versions of the library too.
        compute_capabilities: to build for ahead of time, e.g. ("8.6", "8.9"), with TensorRT for
            RTX alone.
        timing_cache: file of measured kernels, read and written; None measures all again.
    """

    workspace_mib: int | None = None
    level: int | None = None
    dla_core: int | None = None
    is_hardware_compatible: bool = False
    is_version_compatible: bool = False
    compute_capabilities: tuple[str, ...] = ()
    timing_cache: Path | None = None

    def __post_init__(self) -> None:
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise ValueError(f"workspace is {self.workspace_mib} MiB, expected 1 or more")
        if self.level is not None and not 0 <= self.level <= HIGHEST_LEVEL:
            raise ValueError(f"level is {self.level}, expected 0 to {HIGHEST_LEVEL}")
        if self.dla_core is not None and self.dla_core < 0:
            raise ValueError(f"DLA core is {self.dla_core}, expected 0 or more")
        for one in self.compute_capabilities:
            if not re.fullmatch(r"\d+\.\d", one):
                raise ValueError(f"compute capability is {one!r}, expected a number like 8.6")


@dataclass(frozen=True, slots=True)
class BuiltPlan:
    """A plan and what its builder tells of it.

    Attributes:
        content: the bytes, as `trtexec --loadEngine` takes them.
        version: of the library.
        variants: the layers, once for each GPU that the builder told them for.
        device_memory_bytes: of weights and activations; None where the builder does not say.
    """

    content: bytes
    version: str
    variants: tuple[tuple[Layer, ...], ...]
    device_memory_bytes: int | None


def build_plan(
    trt: ModuleType,
    model: bytes,
    precision: Precision,
    options: PlanOptions,
    *,
    say: Callable[[str], None],
    watch: Watch,
) -> BuiltPlan:
    """Build a plan from an ONNX graph.

    Where the library measures kernels, which all but TensorRT for RTX do, it needs the GPU; asking
    it without one may end the process, so ask `probe_machine` before.

    Args:
        trt: the library, from `import_tensorrt`.
        model: the serialised ONNX graph, its casts and Q/DQ pairs inside.
        precision: of that graph.
        options: how to build.
        say: receives a line before what takes long.
        watch: receives the newest progress, often.

    Raises:
        ValueError: the library has not what an option asks for.
        EngineError: the library cannot start, or cannot parse or build the graph.
        KeyboardInterrupt: the user stopped it.
    """
    progress = Progress(watch)
    with progress.stopped_by_user():
        return _parse_and_build(trt, model, precision, options, say=say, progress=progress)


def _parse_and_build(
    trt: ModuleType,
    model: bytes,
    precision: Precision,
    options: PlanOptions,
    *,
    say: Callable[[str], None],
    progress: Progress,
) -> BuiltPlan:
    log = BuildLog()
    logger = make_logger(trt, log)
    try:
        builder = trt.Builder(logger)
    except TypeError as err:  # how the bindings tell that the library gave none
        raise EngineError(
            f"{_title(trt)} cannot start: {log.tell_errors()}; look whether the NVIDIA driver is "
            "as new as it needs"
        ) from err
    network, is_weak = _create_network(trt, builder, is_for_dla=options.dla_core is not None)
    _parse(trt, network, model, logger)
    work = _Work(trt, builder, network, builder.create_builder_config())
    work.config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if is_weak:
        _allow(work, precision)
    if precision == "fp32":
        # TF32 keeps 10 bits of a factor, which is not what parity was measured with.
        work.config.clear_flag(trt.BuilderFlag.TF32)
    _apply(work, options)
    if options.dla_core is not None:
        _use_dla(work, options.dla_core, precision, say=say)
    if options.timing_cache is not None:
        _read_timing_cache(work.config, options.timing_cache, say=say)
    content = _build(work, log, progress)
    if options.timing_cache is not None:
        _write_timing_cache(work.config, options.timing_cache, say=say)
    return _inspect(trt, content, options, logger, log)


@dataclass(frozen=True, slots=True)
class _Work:
    """What one build works with, all of the library's own types."""

    trt: ModuleType
    builder: Foreign
    network: Foreign
    config: Foreign


def _create_network(trt: ModuleType, builder: Foreign, *, is_for_dla: bool) -> tuple[Foreign, bool]:
    """An empty network, and whether its types are mere suggestions to the builder."""
    flags, known = 0, trt.NetworkDefinitionCreationFlag
    if hasattr(known, "EXPLICIT_BATCH"):
        flags |= 1 << int(known.EXPLICIT_BATCH)
    has_precision_flags = hasattr(trt.BuilderFlag, "FP16")
    # The accelerator of a Jetson takes no strongly typed network where there is a choice.
    is_typed = hasattr(known, "STRONGLY_TYPED") and not (is_for_dla and has_precision_flags)
    if is_typed:
        flags |= 1 << int(known.STRONGLY_TYPED)
    return builder.create_network(flags), has_precision_flags and not is_typed


def _parse(trt: ModuleType, network: Foreign, model: bytes, logger: object) -> None:
    parser = trt.OnnxParser(network, logger)
    if parser.parse(model):
        return
    errors = [_describe(parser.get_error(index)) for index in range(parser.num_errors)]
    raise EngineError(
        f"{_title(trt)} cannot read the graph: {'; '.join(errors) or 'it does not say why'}; "
        "export the bundle again with this irstd, whose lint names the operator"
    )


def _describe(error: Foreign) -> str:
    """An error of the parser, with the operator and the node where the version tells them."""
    if hasattr(error, "node_operator"):
        return f"operator {error.node_operator()}, node {error.node_name()!r}: {error.desc()}"
    return f"node number {error.node()}: {error.desc()}"


def _allow(work: _Work, precision: Precision) -> None:
    """Allow a lower precision to a weakly typed network; INT8 is where the graph's Q/DQ say."""
    trt, config = work.trt, work.config
    if precision == "int8":
        config.set_flag(trt.BuilderFlag.INT8)
    if precision != "fp16":
        return
    config.set_flag(trt.BuilderFlag.FP16)
    config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    held = {getattr(trt.DataType, name) for name in HELD}
    changing = {getattr(trt.LayerType, name) for name in CHANGING if hasattr(trt.LayerType, name)}
    for layer in _layers(work.network):
        types = [layer.get_output(index).dtype for index in range(layer.num_outputs)]
        if layer.type in changing or not held.issuperset(types):
            continue
        layer.precision = types[0]
        for index, dtype in enumerate(types):
            layer.set_output_type(index, dtype)


def _apply(work: _Work, options: PlanOptions) -> None:
    trt, config = work.trt, work.config
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    if options.level is not None:
        _require(trt, config, "builder_optimization_level", "--level")
        config.builder_optimization_level = options.level
    if options.is_version_compatible:
        _require(trt, trt.BuilderFlag, "VERSION_COMPATIBLE", "--version-compatible")
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if builds_ahead(trt):
        _set_capabilities(trt, config, options)
    elif options.is_hardware_compatible:
        _require(trt, trt, "HardwareCompatibilityLevel", "--hardware-compatible")
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS


def _require(trt: ModuleType, owner: object, name: str, option: str) -> None:
    if not hasattr(owner, name):
        raise ValueError(f"{_title(trt)} knows nothing like {option}; leave it out")


def builds_ahead(trt: ModuleType) -> bool:
    """Whether a library builds for GPUs that are not here."""
    return hasattr(trt, "ComputeCapability")


def known_capabilities(trt: ModuleType) -> tuple[str, ...]:
    """The compute capabilities that a library builds for ahead of time, oldest first."""
    numbers = sorted(
        int(name[2:]) for name in trt.ComputeCapability.__members__ if name.startswith("SM")
    )
    return tuple(f"{number // 10}.{number % 10}" for number in numbers)


def _set_capabilities(trt: ModuleType, config: Foreign, options: PlanOptions) -> None:
    """Name the GPUs to build for; naming none makes a plan for Ampere and all that came later."""
    if options.is_hardware_compatible:
        return
    config.num_compute_capabilities = len(options.compute_capabilities)
    for index, one in enumerate(options.compute_capabilities):
        member = getattr(trt.ComputeCapability, f"SM{one.replace('.', '')}")
        config.set_compute_capability(member, index)


def _use_dla(work: _Work, core: int, precision: Precision, *, say: Callable[[str], None]) -> None:
    """Build for a Jetson's accelerator, and say beforehand what it will leave to the GPU."""
    trt, config, cores = work.trt, work.config, work.builder.num_DLA_cores
    if precision == "fp32":
        raise ValueError("the DLA computes in INT8 and FP16 only; build from another --precision")
    if core >= cores:
        raise ValueError(
            f"DLA core is {core}, {_title(trt)} counts {cores} here; leave out --dla to build for "
            "the GPU"
        )
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    layers = _layers(work.network)
    falling = [layer.name for layer in layers if not config.can_run_on_DLA(layer)]
    named = ", ".join(falling[:SHOWN_LAYERS])
    more = f" and {len(falling) - SHOWN_LAYERS} more" if len(falling) > SHOWN_LAYERS else ""
    left = f"; the GPU computes {named}{more}" if falling else ""
    say(f"DLA core {core} takes {len(layers) - len(falling)} of {len(layers)} layers{left}")


def _layers(network: Foreign) -> list[Foreign]:
    return [network.get_layer(index) for index in range(network.num_layers)]


def _read_timing_cache(config: Foreign, path: Path, *, say: Callable[[str], None]) -> None:
    """Give the builder what was measured before; a file of another machine is left aside."""
    kept = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(kept)
    if cache is None or not config.set_timing_cache(cache, False):
        say(f"the timing cache {path} is damaged or of another machine; it will be replaced")
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _write_timing_cache(config: Foreign, path: Path, *, say: Callable[[str], None]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, bytes(memoryview(config.get_timing_cache().serialize())))
    except OSError as err:
        say(f"the timing cache cannot be kept, the next build will be as slow: {err}")


def _build(work: _Work, log: BuildLog, progress: Progress) -> bytes:
    if hasattr(work.trt, "IProgressMonitor"):
        work.config.progress_monitor = make_monitor(work.trt, progress)
    made = work.builder.build_serialized_network(work.network, work.config)
    if progress.is_cancelled:
        raise KeyboardInterrupt
    if made is None:
        said = log.tell_errors()
        hint = "; a lower --workspace may help" if "memory" in said.lower() else ""
        raise EngineError(f"{_title(work.trt)} cannot build the graph: {said}{hint}")
    return bytes(memoryview(made))


def _inspect(
    trt: ModuleType, content: bytes, options: PlanOptions, logger: object, log: BuildLog
) -> BuiltPlan:
    version = str(trt.__version__)
    if builds_ahead(trt):
        variants = tuple(read_dump(dump) for dump in log.dumps)
        return BuiltPlan(content, version, variants, log.memory_bytes)
    runtime = trt.Runtime(logger)
    if options.is_version_compatible:
        runtime.engine_host_code_allowed = True  # it was built a moment ago, by us
    engine = runtime.deserialize_cuda_engine(content)
    if engine is None:
        raise EngineError(f"{_title(trt)} cannot load what it built: {log.tell_errors()}")
    inspector = engine.create_engine_inspector()
    told = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    activations = getattr(engine, "device_memory_size_v2", None) or engine.device_memory_size
    return BuiltPlan(content, version, (read_inspector(told),), activations + len(content))


def _title(trt: ModuleType) -> str:
    library: Library = "tensorrt-rtx" if builds_ahead(trt) else "tensorrt"
    return f"{TITLES[library]} {trt.__version__}"
