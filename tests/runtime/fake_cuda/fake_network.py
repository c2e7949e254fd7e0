"""Fakes of TensorRT that compute: ONNX Runtime, on a fake driver's memory and streams."""

from __future__ import annotations

import numpy as np
import onnxruntime

from irstd.tests.runtime.fake_cuda.driver import Driver
from irstd.tests.runtime.fake_cuda.parts import CudaError, Span
from irstd.tests.tensorrt_api.fake import Tensor, fake_tensorrt, plan_bytes


def computing_tensorrt(name: str, driver: Driver, model: bytes, *, is_half: bool = False):
    """A module out of a listing whose contexts run an ONNX graph, and the plan that it takes.

    Args:
        name: one of `LISTINGS`.
        driver: whose memory and streams it works on.
        model: a graph (1, T, H, W) in float32; with `is_half` its input is rounded.
        is_half: whether the plan takes FP16.
    """
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    taken, given = session.get_inputs()[0], session.get_outputs()[0]
    shape = tuple(taken.shape)
    tensors = (
        Tensor(taken.name, "INPUT", shape, "HALF" if is_half else "FLOAT"),
        Tensor(given.name, "OUTPUT", tuple(given.shape), "FLOAT"),
    )
    trt = fake_tensorrt(name, tensors=tensors)
    dtype = np.dtype(np.float16 if is_half else np.float32)

    def set_address(context, tensor, memory):
        context.__dict__["values"][tensor] = memory
        return True

    def execute(context, stream_handle):
        # The addresses of now: a capture keeps them.
        source, target = (context.__dict__["values"][tensor.name] for tensor in tensors)
        sizes = int(np.prod(shape)) * dtype.itemsize, int(np.prod(given.shape)) * 4

        def run():
            values = driver.view(source, sizes[0]).view(dtype).reshape(shape)
            (seen,) = session.run(None, {taken.name: values.astype(np.float32)})
            driver.view(target, sizes[1]).view(np.float32)[:] = seen.reshape(-1)

        spans = [Span(source, sizes[0], False), Span(target, sizes[1], True)]
        try:
            driver.enqueue("network", spans, run, stream_handle)
        except CudaError:
            return False  # as TensorRT tells it
        return True

    trt.answers["IExecutionContext.set_tensor_address"] = set_address
    trt.answers["IExecutionContext.execute_async_v3"] = execute
    return trt, plan_bytes(trt)
