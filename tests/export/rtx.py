"""Graphs as TensorRT for RTX reads and builds them, on machines without a GPU too."""

import pytest

GPUS = ("8.6", "8.9", "12.0")  # laptops and desktops: RTX 30, 40 and 50


class Parsed:
    """A graph that TensorRT for RTX has read; where it is not installed the test is skipped.

    Attributes:
        trt: the library.
        network: what the parser made.
    """

    def __init__(self, model):
        self.trt = pytest.importorskip(
            "tensorrt_rtx", reason="TensorRT for RTX is not installed: pip install tensorrt-rtx"
        )
        self._log = self.trt.Logger(self.trt.Logger.ERROR)
        self._builder = self.trt.Builder(self._log)
        self.network = self._builder.create_network(0)
        self._parser = self.trt.OnnxParser(self.network, self._log)
        is_read = self._parser.parse(model.SerializeToString())
        errors = range(self._parser.num_errors)
        assert is_read, [str(self._parser.get_error(number)) for number in errors]

    def build(self):
        """The plan, for all of `GPUS`."""
        config = self._builder.create_builder_config()
        config.num_compute_capabilities = len(GPUS)
        for index, one in enumerate(GPUS):
            member = getattr(self.trt.ComputeCapability, f"SM{one.replace('.', '')}")
            config.set_compute_capability(member, index)
        plan = self._builder.build_serialized_network(self.network, config)
        assert plan is not None
        return plan
