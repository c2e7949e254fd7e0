"""The engine on NVIDIA GPUs: TensorRT, or TensorRT for RTX, which is called the same way.

Only calls that TensorRT 8.6 to 11 and TensorRT for RTX share are used, with what one of them lacks
asked for by name. Who loads a plan has made sure that it fits this machine (`plans.why_not`):
TensorRT itself may end the process where there is no driver.
"""

from __future__ import annotations

import importlib
import logging
from contextlib import ExitStack
from math import prod
from types import ModuleType

import numpy as np
import numpy.typing as npt

from .clip_gpu import open_device_pipeline
from .device import Device, Memory, Stream
from .errors import DeviceError, EngineError
from .frame import FloatMap, FrameContract
from .outputs import check_output, wrong_shape
from .pipeline_gpu import DevicePipeline, on_device
from .plans import INSTALL, INSTALLED_AS, TITLES, Library
from .stage_gpu import Exchange
from .targets import Extraction

LOG = logging.getLogger(__name__)


def import_tensorrt(library: Library) -> ModuleType:
    """Import TensorRT, or TensorRT for RTX.

    Raises:
        EngineError: it is not installed, or does not load.
    """
    module, _ = INSTALLED_AS[library]
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as err:
        raise EngineError(
            f"{TITLES[library]} cannot be loaded ({' '.join(str(err).split())}); install it: "
            f"{INSTALL[library]}"
        ) from err


class TensorRtEngine:
    """Runs a plan; a `Network` on its device, and an `Engine` for frames prepared by the host.

    Attributes:
        device: where it runs; closed with the engine.
        is_half: whether the network takes FP16.
        input_shape, output_shape: of the plan.
    """

    def __init__(self, plan: bytes, device: Device, trt: ModuleType) -> None:
        """Load a plan.

        Args:
            plan: a file of a bundle that was checked: its hash, and that it fits this machine.
            device: the GPU; the engine closes it.
            trt: from `import_tensorrt`.

        Raises:
            DeviceError: the GPU's memory is full, or the GPU failed.
            EngineError: TensorRT refuses the plan, or it is no network of this SDK.
        """
        self.device = device
        self._kept = ExitStack()  # what `run` takes, from its first call on
        self._on_host: _FromHost | None = None
        self._trt = trt
        self._said = _Said(trt)
        with on_device(device):
            # TensorRT 8 runs some layers by plugins, which it finds only when told so.
            trt.init_libnvinfer_plugins(self._said.logger, "")
            self._runtime = trt.Runtime(self._said.logger)
            self._engine = self._runtime.deserialize_cuda_engine(plan)
            if self._engine is None:
                said = self._said.with_reason(f"{self._name} refuses the plan")
                raise EngineError(f"{said}; build it again: irstd-build BUNDLE")
            self._input, self._output = self._tensors()
            self.input_shape = tuple(self._engine.get_tensor_shape(self._input))
            self.is_half = self._dtype(self._input) == trt.DataType.HALF
            self._check_types()
            self._context = self._engine.create_execution_context()
        if self._context is None:
            raise DeviceError(self._said.with_reason(self._need()))

    def _tensors(self) -> tuple[str, str]:
        """Names of the one input and the one output."""
        engine, mode = self._engine, self._trt.TensorIOMode
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == mode.INPUT]
        outputs = [name for name in names if engine.get_tensor_mode(name) == mode.OUTPUT]
        if (len(inputs), len(outputs)) != (1, 1):
            raise EngineError(
                f"the plan has the inputs {inputs} and the outputs {outputs}, expected one of "
                "each; export the bundle again"
            )
        return inputs[0], outputs[0]

    def _check_types(self) -> None:
        types, taken = self._trt.DataType, self._dtype(self._input)
        given, shape = self._dtype(self._output), tuple(self._engine.get_tensor_shape(self._output))
        if taken not in (types.FLOAT, types.HALF) or given != types.FLOAT:
            raise EngineError(
                f"the plan maps {taken} to {given}, expected FLOAT or HALF to FLOAT; export the "
                "bundle again"
            )
        is_fixed = -1 not in (*self.input_shape, *shape)
        why = wrong_shape(shape, self._output, self.input_shape[2:])
        if len(self.input_shape) != 4 or why or not is_fixed:
            raise EngineError(
                f"the plan maps {self.input_shape} to {shape}, expected (1, T, H, W) to H x W "
                "pixels or to boxes (1, A, 5), all sizes fixed; export the bundle again"
            )
        self.output_shape = shape

    def _dtype(self, name: str) -> object:
        return self._engine.get_tensor_dtype(name)

    def _need(self) -> str:
        with on_device(self.device):
            free, total = self.device.memory_info()
        # The first lacks in TensorRT 8, the second in TensorRT 11.
        needed = getattr(self._engine, "device_memory_size_v2", None)
        needed = self._engine.device_memory_size if needed is None else needed
        return (
            f"{self._name} gets no memory to run in: activations take {needed >> 20} MiB, "
            f"{free >> 20} MiB of the GPU's {total >> 20} are free; close other programs that use "
            "it, or export with --int8, --fp16 or a smaller --size"
        )

    @property
    def _name(self) -> str:
        library = "TensorRT for RTX" if self._trt.__name__ == "tensorrt_rtx" else "TensorRT"
        return f"{library} {self._trt.__version__}"

    @property
    def description(self) -> str:
        """Library, version and device."""
        return f"{self._name}, {self.device.description}"

    def open_pipeline(self, contract: FrameContract, extraction: Extraction) -> DevicePipeline:
        """Frames in, targets out, all on the device."""
        return open_device_pipeline(self, contract, extraction)

    def queue(self, prepared: Memory, confidence: Memory, stream: Stream) -> None:
        """Queue a run.

        Raises:
            DeviceError: TensorRT cannot; so it tells that a device is lost, too.
        """
        is_queued = (
            self._context.set_tensor_address(self._input, prepared.address)
            and self._context.set_tensor_address(self._output, confidence.address)
            and self._context.execute_async_v3(stream.handle)
        )
        if not is_queued:
            raise DeviceError(self._said.with_reason(f"{self._name} cannot run the plan"))

    def run(self, prepared: FloatMap) -> FloatMap:
        """Map what the host prepared, (1, T, H', W') float32, to confidence or boxes."""
        if prepared.shape != self.input_shape:
            raise EngineError(f"the plan takes {self.input_shape}, got {prepared.shape}")
        with on_device(self.device):
            if self._on_host is None:
                self._on_host = _FromHost(self, self._kept)
            values = self._on_host.run(prepared)
        return check_output(values, self._output, prepared.shape[-2:])

    def close(self) -> None:
        """Free what `run` took, context, engine and runtime, in this order, and the device."""
        with ExitStack() as stack:
            stack.callback(self.device.close)
            stack.enter_context(on_device(self.device))
            stack.callback(self._drop)
            stack.enter_context(self._kept)

    def _drop(self) -> None:
        del self._context, self._engine, self._runtime


class _FromHost:
    """Stream, event and buffers for frames that the host prepared, allocated once."""

    def __init__(self, engine: TensorRtEngine, stack: ExitStack) -> None:
        """Allocate; `stack` frees."""
        self._engine = engine
        self._device = device = engine.device
        self._dtype: npt.DTypeLike = np.float16 if engine.is_half else np.float32
        with ExitStack() as opened:
            self._stream = device.create_stream()
            opened.callback(self._stream.close)
            self._done = device.create_event()
            opened.callback(self._done.close)
            pixels = prod(engine.input_shape)
            self._taken = Exchange(device, pixels * np.dtype(self._dtype).itemsize, opened)
            self._given = Exchange(device, prod(engine.output_shape) * 4, opened)
            stack.enter_context(opened.pop_all())

    def run(self, prepared: FloatMap) -> FloatMap:
        """Copy in, run, copy out."""
        device, stream = self._device, self._stream
        self._taken.array.view(self._dtype).reshape(prepared.shape)[...] = prepared
        try:
            self._taken.upload(stream)
            self._engine.queue(self._taken.memory, self._given.memory, stream)
            self._given.download(stream)
        finally:  # nothing may be under way when the buffers are written or freed again
            device.record(self._done, stream)
            device.synchronise(self._done)
        values: FloatMap = (
            self._given.array.view(np.float32).reshape(self._engine.output_shape).copy()
        )
        return values


class _Said:
    """Keeps TensorRT's last error, which says why a call gave nothing, and logs the rest."""

    def __init__(self, trt: ModuleType) -> None:
        self.last = ""
        severity = trt.ILogger.Severity
        levels = {
            severity.INTERNAL_ERROR: logging.ERROR,
            severity.ERROR: logging.ERROR,
            severity.WARNING: logging.WARNING,
        }

        class Logger(trt.ILogger):  # type: ignore[name-defined,misc]
            def __init__(self, said: _Said) -> None:
                trt.ILogger.__init__(self)
                self.said = said

            def log(self, severity: object, msg: str) -> None:
                level = levels.get(severity, logging.DEBUG)
                if level == logging.ERROR:
                    self.said.last = " ".join(msg.split())
                LOG.log(level, "%s", msg)

        self.logger = Logger(self)

    def with_reason(self, text: str) -> str:
        """The text, and TensorRT's own if it said any."""
        last, self.last = self.last, ""
        return f"{text} ({last})" if last else text
