"""The engine for machines without TensorRT: ONNX Runtime on the CPU."""

from __future__ import annotations

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as states

from .errors import EngineError
from .frame import FloatMap
from .outputs import check_output

# ONNX Runtime's exceptions share no base class of their own.
FAILURES = (
    states.EPFail,
    states.Fail,
    states.InvalidArgument,
    states.InvalidGraph,
    states.InvalidProtobuf,
    states.NoSuchFile,
    states.NotImplemented,
    states.RuntimeException,
)


class OnnxRuntimeEngine:
    """Runs an ONNX model with a fixed number of threads that sleep while there is nothing to do."""

    def __init__(self, model: bytes, *, threads: int, is_optimised: bool = True) -> None:
        """Load a model.

        Args:
            model: serialised ONNX with one input (1, T, H', W') and one output: "boxes"
                (1, A, 5), or confidence (1, 1, H', W').
            threads: threads inside an operator.
            is_optimised: whether ONNX Runtime may rewrite the graph. If not, INT8 is rounded
                exactly where the graph says and computed in FP32: the truth to measure against.

        Raises:
            EngineError: ONNX Runtime cannot load the model.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Spinning threads steal the cores from the camera and from each other.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if not is_optimised:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4  # errors come as exceptions
        try:
            self._session = onnxruntime.InferenceSession(
                model, options, providers=["CPUExecutionProvider"]
            )
        except FAILURES as err:
            raise EngineError(f"ONNX Runtime cannot load the model: {_first_line(err)}") from err
        self._input = self._session.get_inputs()[0]
        self._output: str = self._session.get_outputs()[0].name
        self._threads = threads
        self._is_optimised = is_optimised

    @property
    def description(self) -> str:
        """Library, version, device and threads."""
        rewritten = "" if self._is_optimised else ", graph as written"
        return f"ONNX Runtime {onnxruntime.__version__}, CPU, {self._threads} threads{rewritten}"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the prepared frame or clip."""
        return tuple(self._input.shape)

    def run(self, prepared: FloatMap) -> FloatMap:
        """Map (1, T, H', W') float32 to confidence (H', W') or boxes (A, 5), float32."""
        try:
            (output,) = self._session.run(None, {self._input.name: prepared})
        except FAILURES as err:
            raise EngineError(f"ONNX Runtime failed: {_first_line(err)}") from err
        return check_output(output, self._output, prepared.shape[-2:])

    def close(self) -> None:
        """Free the session."""
        del self._session


def _first_line(err: Exception) -> str:
    return str(err).strip().splitlines()[0] if str(err).strip() else type(err).__name__
