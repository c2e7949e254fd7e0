"""The frozen listings, and the modules made of them, are what the real versions are."""

import pytest

from irstd.tests.tensorrt_api import fake, freeze


@pytest.fixture(params=fake.LISTINGS)
def trt(request):
    return fake.fake_tensorrt(request.param)


def test_there_is_a_listing_of_every_version():
    rtx = [name for name in fake.LISTINGS if name.startswith(freeze.RTX)]
    assert len(rtx) == 1
    assert {*fake.LISTINGS} - {*rtx} == {f"tensorrt-{version}" for version in freeze.BINDINGS}


def test_a_signature_is_read():
    text = "f(self: a.B, flags: typing.SupportsInt = 0, x: list[tuple[int, a.C]]) -> a.C\n\n more"
    assert freeze.overloads("f", text) == ["flags=, x -> C"]
    both = "f(*args)\nOverloaded function.\n\n1. f(self: B) -> int\n\n2. f(self: B, a: str) -> str"
    assert freeze.overloads("f", both) == [" -> int", "a -> str"]


def test_the_listing_of_rtx_is_what_is_installed():
    rtx = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    (name,) = (name for name in fake.LISTINGS if name.startswith(freeze.RTX))
    if name != f"{freeze.RTX}-{rtx.__version__}":
        pytest.skip(f"{rtx.__version__} is installed, the listing is {name}: run freeze.py")
    there = freeze.describe(rtx)
    listing = fake.fake_tensorrt(name).listing
    assert {key: listing[key] for key in there} == there


def test_integers_are_those_of_the_version():
    flags = {
        name: fake.fake_tensorrt(name).listing["enums"]["NetworkDefinitionCreationFlag"]
        for name in fake.LISTINGS
    }
    assert flags["tensorrt-8.6.1"] == {"EXPLICIT_BATCH": 0, "EXPLICIT_PRECISION": 1}
    assert flags["tensorrt-10.3.0"] == {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}
    assert flags["tensorrt-11.4.0.106"]["STRONGLY_TYPED"] == 0
    old, new = fake.fake_tensorrt("tensorrt-8.6.1"), fake.fake_tensorrt("tensorrt-10.3.0")
    assert (int(old.BuilderFlag.REFIT), int(new.BuilderFlag.REFIT)) == (5, 4)


def test_what_a_version_lacks_is_told():
    trt = fake.fake_tensorrt("tensorrt-11.4.0.106")
    with pytest.raises(AttributeError, match=r"tensorrt 11\.4\.0\.106 has no IInt8Calibrator"):
        trt.IInt8Calibrator  # noqa: B018
    with pytest.raises(AttributeError, match=r"11\.4\.0\.106: BuilderFlag has no FP16"):
        trt.BuilderFlag.FP16  # noqa: B018
    builder = trt.Builder(trt.Logger())
    with pytest.raises(AttributeError, match="Builder has no platform_has_fast_fp16"):
        builder.platform_has_fast_fp16  # noqa: B018
    config = builder.create_builder_config()
    with pytest.raises(AttributeError, match="IBuilderConfig has no max_workspace_size"):
        config.max_workspace_size = 1
    with pytest.raises(AttributeError):
        builder.num_DLA_cores = 3  # read only
    with pytest.raises(TypeError, match=r"Builder\.create_network takes \(flags="):
        builder.create_network(1, 2)
    with pytest.raises(TypeError, match="create_network"):
        builder.create_network(strongly_typed=True)
    assert not hasattr(trt, "IInt8Calibrator")
    assert not hasattr(trt.BuilderFlag, "FP16")
    with pytest.raises(match=r"add it to freeze\.CLASSES"):
        trt.Refitter  # noqa: B018


def test_a_network_goes_through_every_version(trt):
    class Log(trt.ILogger):
        def __init__(self):
            trt.ILogger.__init__(self)
            self.lines = []

        def log(self, severity, msg):
            self.lines.append(msg)

    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(0)
    assert trt.OnnxParser(network, log).parse(b"")
    plan = bytes(builder.build_serialized_network(network, builder.create_builder_config()))
    runtime = trt.Runtime(log)
    assert runtime.deserialize_cuda_engine(plan[:-1]) is None
    engine = runtime.deserialize_cuda_engine(plan)
    assert network.get_input(0).name == "frame"
    assert network.get_output(0).dtype is trt.DataType.FLOAT
    assert network.get_layer(0).type is trt.LayerType.CONVOLUTION
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    assert names == ["frame", "confidence"]
    assert engine.get_tensor_mode("frame") is trt.TensorIOMode.INPUT
    context = engine.create_execution_context()
    assert all(context.set_tensor_address(name, 1) for name in names)
    assert context.execute_async_v3(7)
    assert trt.called("IExecutionContext.execute_async_v3") == [(7,)]


def test_answers_can_be_changed(trt):
    trt.answers["OnnxParser.parse"] = lambda parser, model: False
    network = trt.Builder(trt.Logger()).create_network(0)
    assert not trt.OnnxParser(network, trt.Logger()).parse(b"")
    config = trt.Builder(trt.Logger()).create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    assert trt.called("IBuilderConfig.profiling_verbosity") == [(trt.ProfilingVerbosity.DETAILED,)]
