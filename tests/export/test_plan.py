"""The builder against the API of every version, and against the one that runs without a GPU."""

import signal

import pytest

from irstd.export.plan import PlanOptions, build_plan, known_capabilities
from irstd.export.plan_audit import audit_layers
from irstd.runtime import EngineError
from irstd.tests.tensorrt_api.fake import LISTINGS, Node, fake_tensorrt, plan_bytes

FULL = [name for name in LISTINGS if "rtx" not in name]
(RTX,) = (name for name in LISTINGS if "rtx" in name)
TYPED = [name for name in LISTINGS if "8.6" not in name]
MODEL = b"a graph"


def build(trt, precision="fp32", options=None, *, said=None, watch=None):
    return build_plan(
        trt,
        MODEL,
        precision,
        options or PlanOptions(),
        say=[].append if said is None else said.append,
        watch=watch or (lambda text: None),
    )


def flags_of(trt):
    return {flag.name for (flag,) in trt.called("IBuilderConfig.set_flag")}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("name", LISTINGS)
def test_every_version_builds_in_every_precision(name, precision):
    trt = fake_tensorrt(name)
    built = build(trt, precision, PlanOptions(workspace_mib=256, level=2))
    assert (built.content, built.version) == (plan_bytes(trt), trt.__version__)
    assert trt.called("OnnxParser.parse") == [(MODEL,)]
    workspace = (trt.MemoryPoolType.WORKSPACE, 256 * 2**20)
    assert trt.called("IBuilderConfig.set_memory_pool_limit") == [workspace]
    assert trt.called("IBuilderConfig.builder_optimization_level") == [(2,)]
    assert trt.called("IBuilderConfig.profiling_verbosity") == [(trt.ProfilingVerbosity.DETAILED,)]


def test_networks_are_typed_where_the_version_knows_that():
    def flags(name):
        trt = fake_tensorrt(name)
        build(trt)
        ((flags,),) = trt.called("Builder.create_network")
        return flags

    assert [flags(name) for name in sorted(FULL, key=lambda name: int(name.split(".")[0][9:]))] == [
        1,  # 8.6: explicit batch
        3,  # 10.3, 10.13, 10.16: explicit batch, strongly typed
        3,
        3,
        1,  # 11.4: strongly typed, another integer for the same name
    ]
    assert flags(RTX) == 1


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("name", TYPED)
def test_no_precision_is_allowed_where_types_are_strong(name, precision):
    trt = fake_tensorrt(name)
    build(trt, precision)
    assert flags_of(trt) == set()


@pytest.mark.parametrize(
    ("precision", "flags"),
    [
        ("fp32", set()),
        ("fp16", {"FP16", "OBEY_PRECISION_CONSTRAINTS"}),
        ("int8", {"INT8"}),
    ],
)
def test_weak_types_get_what_the_precision_needs(precision, flags):
    trt = fake_tensorrt("tensorrt-8.6.1")
    build(trt, precision)
    assert flags_of(trt) == flags


def test_weakly_typed_layers_are_held_to_the_types_of_the_graph():
    nodes = (
        Node("half", dtype="HALF"),
        Node("mean", type="REDUCE", dtype="FLOAT"),
        Node("cast", type="CAST", dtype="FLOAT"),
        Node("weights", type="CONSTANT", dtype="HALF"),
        Node("shape", type="SHAPE", dtype="INT32"),
    )
    trt = fake_tensorrt("tensorrt-8.6.1", nodes=nodes)
    build(trt, "fp16")
    held = [
        (call.owner.name, call.given[0].name)
        for call in trt.calls
        if call.name == "ILayer.precision ="
    ]
    assert held == [("half", "HALF"), ("mean", "FLOAT")]
    kinds = [(index, kind.name) for index, kind in trt.called("ILayer.set_output_type")]
    assert kinds == [(0, "HALF"), (0, "FLOAT")]


@pytest.mark.parametrize("name", LISTINGS)
def test_fp32_is_no_tf32(name):
    trt = fake_tensorrt(name)
    build(trt, "fp32")
    assert trt.called("IBuilderConfig.clear_flag") == [(trt.BuilderFlag.TF32,)]
    trt = fake_tensorrt(name)
    build(trt, "fp16")
    assert trt.called("IBuilderConfig.clear_flag") == []


@pytest.mark.parametrize("name", FULL)
def test_compatible_plans_are_asked_for_by_name(name):
    trt = fake_tensorrt(name)
    build(trt, options=PlanOptions(is_hardware_compatible=True, is_version_compatible=True))
    level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    assert trt.called("IBuilderConfig.hardware_compatibility_level") == [(level,)]
    assert flags_of(trt) == {"VERSION_COMPATIBLE"}
    assert trt.called("Runtime.engine_host_code_allowed") == [(True,)]
    trt = fake_tensorrt(name)
    build(trt)
    assert trt.called("IBuilderConfig.hardware_compatibility_level") == []
    assert trt.called("Runtime.engine_host_code_allowed") == []


def test_rtx_is_told_the_gpus_to_build_for():
    trt = fake_tensorrt(RTX)
    build(trt, options=PlanOptions(compute_capabilities=("8.6", "12.0")))
    assert trt.called("IBuilderConfig.num_compute_capabilities") == [(2,)]
    assert [
        (number, member.name)
        for member, number in trt.called("IBuilderConfig.set_compute_capability")
    ] == [(0, "SM86"), (1, "SM120")]
    assert known_capabilities(trt) == ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
    assert trt.called("Runtime.__init__") == []  # it would want a GPU


@pytest.mark.parametrize("name", FULL)
def test_the_layers_are_asked_of_the_finished_engine(name):
    trt = fake_tensorrt(name)
    built = build(trt)
    (layers,) = built.variants
    assert audit_layers(layers, {"conv": "fp32"}) == {"fp32": 1}
    assert built.device_memory_bytes == (1 << 20) + len(built.content)


# --- DLA ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FULL)
def test_a_dla_gets_what_it_can_and_the_rest_is_told_before(name):
    nodes = (Node("conv"), Node("resize", type="RESIZE"), Node("conv2"))
    trt = fake_tensorrt(name, nodes=nodes)
    trt.answers["Builder.num_DLA_cores"] = lambda builder: 2
    trt.answers["IBuilderConfig.can_run_on_DLA"] = lambda config, layer: layer.name != "resize"
    said = []
    build(trt, "int8", PlanOptions(dla_core=1), said=said)
    assert said == ["DLA core 1 takes 2 of 3 layers; the GPU computes resize"]
    assert trt.called("IBuilderConfig.default_device_type") == [(trt.DeviceType.DLA,)]
    assert trt.called("IBuilderConfig.DLA_core") == [(1,)]
    assert "GPU_FALLBACK" in flags_of(trt)
    # Where there are flags for precisions, types stay weak: no DLA takes strong ones there.
    assert ("INT8" in flags_of(trt)) == hasattr(trt.BuilderFlag, "INT8")


def test_what_all_falls_back_is_told_in_short():
    trt = fake_tensorrt(FULL[0], nodes=tuple(Node(f"n{number}") for number in range(8)))
    trt.answers["Builder.num_DLA_cores"] = lambda builder: 1
    trt.answers["IBuilderConfig.can_run_on_DLA"] = lambda config, layer: False
    said = []
    build(trt, "fp16", PlanOptions(dla_core=0), said=said)
    assert said == [
        "DLA core 0 takes 0 of 8 layers; the GPU computes n0, n1, n2, n3, n4 and 3 more"
    ]


def test_a_dla_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="DLA core is 0, .* counts 0 here; leave out --dla"):
        build(fake_tensorrt(FULL[0]), "int8", PlanOptions(dla_core=0))
    with pytest.raises(ValueError, match="INT8 and FP16 only"):
        build(fake_tensorrt(FULL[0]), "fp32", PlanOptions(dla_core=0))


# --- timing cache ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FULL)
def test_measured_kernels_are_kept_for_the_next_build(name, tmp_path):
    path = tmp_path / "new" / "kernels.timing"
    trt = fake_tensorrt(name)
    build(trt, options=PlanOptions(timing_cache=path))
    assert trt.called("IBuilderConfig.create_timing_cache") == [(b"",)]
    kept = path.read_bytes()
    assert kept
    build(trt, options=PlanOptions(timing_cache=path))
    assert trt.called("IBuilderConfig.create_timing_cache")[-1] == (kept,)
    assert [ignore for _, ignore in trt.called("IBuilderConfig.set_timing_cache")] == [False] * 2


@pytest.mark.parametrize("name", FULL)
@pytest.mark.parametrize("is_made", [True, False])
def test_a_timing_cache_of_another_machine_is_replaced(name, is_made, tmp_path):
    path = tmp_path / "kernels.timing"
    path.write_bytes(b"of another machine")
    trt = fake_tensorrt(name)
    if is_made:
        trt.answers["IBuilderConfig.set_timing_cache"] = lambda config, cache, ignore_mismatch: (
            False
        )
        trt.answers["IBuilderConfig.get_timing_cache"] = lambda config: trt.make("ITimingCache")
    else:
        make = lambda config, content: None if content else trt.make("ITimingCache")  # noqa: E731
        trt.answers["IBuilderConfig.create_timing_cache"] = make
    said = []
    build(trt, options=PlanOptions(timing_cache=path), said=said)
    assert said == [
        f"the timing cache {path} is damaged or of another machine; it will be replaced"
    ]
    assert trt.called("IBuilderConfig.create_timing_cache")[-1] == (b"",)
    assert path.read_bytes() != b"of another machine"


def test_a_timing_cache_that_cannot_be_written_stops_nothing(tmp_path):
    (tmp_path / "file").write_text("in the way")
    said = []
    path = tmp_path / "file" / "kernels.timing"
    assert build(fake_tensorrt(FULL[0]), options=PlanOptions(timing_cache=path), said=said).content
    assert said[0].startswith("the timing cache cannot be kept")


# --- progress and errors --------------------------------------------------------------------------


@pytest.mark.parametrize("name", LISTINGS)
def test_progress_is_told_where_the_version_tells_it(name):
    trt = fake_tensorrt(name)
    seen = []
    build(trt, watch=seen.append)
    expected = ["Building 0/2", "Building 1/2", "Building 2/2"]
    assert seen == (expected if hasattr(trt, "IProgressMonitor") else [])


@pytest.mark.parametrize("name", TYPED)
def test_the_user_can_stop_it(name):
    seen = []

    def interrupt(text):
        seen.append(text)
        if len(seen) == 1:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        build(fake_tensorrt(name), watch=interrupt)
    assert seen == ["Building 0/2", "Building 1/2"]


@pytest.mark.parametrize("name", LISTINGS)
def test_what_cannot_be_parsed_is_told_with_the_operator(name):
    trt = fake_tensorrt(name)
    trt.answers |= {
        "OnnxParser.parse": lambda parser, model: False,
        "OnnxParser.num_errors": lambda parser: 1,
        "OnnxParser.get_error": lambda parser, index: trt.make("ParserError"),
        "ParserError.node_operator": lambda error: "DFT",
        "ParserError.node_name": lambda error: "/body/DFT",
        "ParserError.node": lambda error: 7,
        "ParserError.desc": lambda error: "Plugin not found",
    }
    with pytest.raises(EngineError) as caught:
        build(trt)
    told = "node number 7: Plugin not found"
    if name in TYPED:
        told = "operator DFT, node '/body/DFT': Plugin not found"
    assert f"{trt.__version__} cannot read the graph: {told}; export" in str(caught.value)


@pytest.mark.parametrize("name", LISTINGS)
def test_what_cannot_be_built_is_told_with_the_librarys_own_words(name):
    trt = fake_tensorrt(name)

    def fail(builder, network, config):
        logger = builder.__dict__["values"]["arguments"][0]
        severity = trt.ILogger.Severity
        logger.log(severity.INFO, "not this")
        logger.log(severity.ERROR, "catchCudaError nor this")
        logger.log(severity.ERROR, "Out of memory for /body/Conv")

    trt.answers["Builder.build_serialized_network"] = fail
    with pytest.raises(EngineError) as caught:
        build(trt)
    assert str(caught.value).endswith(
        "cannot build the graph: Out of memory for /body/Conv; a lower --workspace may help"
    )


@pytest.mark.parametrize("name", LISTINGS)
def test_a_library_that_cannot_start_is_told(name):
    trt = fake_tensorrt(name)

    def fail(builder, logger):
        logger.log(trt.ILogger.Severity.ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    trt.answers["Builder.__init__"] = fail
    with pytest.raises(EngineError, match="cannot start: CUDA initialization failure.*: 35; look"):
        build(trt)


@pytest.mark.parametrize("name", FULL)
def test_a_plan_that_its_own_library_cannot_load_is_refused(name):
    trt = fake_tensorrt(name)
    trt.answers["Runtime.deserialize_cuda_engine"] = lambda runtime, content: None
    with pytest.raises(EngineError, match="cannot load what it built: it does not say why"):
        build(trt)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"workspace_mib": 0}, "workspace is 0 MiB"),
        ({"level": 6}, "level is 6, expected 0 to 5"),
        ({"dla_core": -1}, "DLA core is -1"),
        ({"compute_capabilities": ("8.6", "sm89")}, "compute capability is 'sm89'"),
        ({"compute_capabilities": ("",)}, "compute capability is ''"),
    ],
)
def test_options_are_checked(values, said):
    with pytest.raises(ValueError, match=said):
        PlanOptions(**values)


def test_what_an_older_version_lacks_is_told():
    trt = fake_tensorrt("tensorrt-8.6.1")
    for listed, gone in (
        ("IBuilderConfig", "builder_optimization_level"),
        ("BuilderFlag", "VERSION_COMPATIBLE"),
        ("", "HardwareCompatibilityLevel"),
    ):
        owner = trt if not listed else getattr(trt, listed)
        if listed == "BuilderFlag":
            members = {name: int(flag) for name, flag in owner.__members__.items() if name != gone}
            trt.BuilderFlag = trt._enum("BuilderFlag", members)
        else:
            delattr(owner, gone)
    for option, said in (
        (PlanOptions(level=3), "--level"),
        (PlanOptions(is_version_compatible=True), "--version-compatible"),
        (PlanOptions(is_hardware_compatible=True), "--hardware-compatible"),
    ):
        with pytest.raises(ValueError, match=f"8.6.1 knows nothing like {said}; leave it out"):
            build(trt, options=option)
    assert build(trt).content
