from dataclasses import replace
from pathlib import Path

import pytest

from irstd.export import plan_order
from irstd.export.plan import PlanOptions
from irstd.export.plan_order import (
    AHEAD,
    name_plan,
    order_plan,
    order_target,
    read_capabilities,
    write_command,
)
from irstd.runtime import EngineError
from irstd.runtime.bundle import read_manifest
from irstd.runtime.plans import Gpu, Machine
from irstd.tests.tensorrt_api.fake import LISTINGS, fake_tensorrt

ORIN = Gpu("Orin", "8.7", 8 * 2**30)
RTX4090 = Gpu("NVIDIA GeForce RTX 4090", "8.9", 24 * 2**30)
BOTH = {"tensorrt": "10.3.0", "tensorrt-rtx": "1.7.1.116"}
ONLY_RTX = {"tensorrt-rtx": "1.7.1.116"}
BARE = Machine(None, (), ONLY_RTX, "no driver")
JETSON = Machine("12.6", (ORIN,), {"tensorrt": "10.3.0"})
DESKTOP = Machine("13.0", (RTX4090,), BOTH)
(RTX,) = (name for name in LISTINGS if "rtx" in name)


@pytest.fixture(autouse=True)
def libraries(monkeypatch):
    """Both libraries can be imported; what they need is not asked."""
    listed = {"tensorrt": "tensorrt-10.3.0", "tensorrt-rtx": RTX}
    monkeypatch.setattr(plan_order, "import_tensorrt", lambda name: fake_tensorrt(listed[name]))


@pytest.mark.parametrize(
    ("machine", "library", "capabilities", "gpu"),
    [
        (JETSON, "tensorrt", ("8.7",), ORIN),
        (DESKTOP, "tensorrt", ("8.9",), RTX4090),
        (replace(DESKTOP, libraries=ONLY_RTX), "tensorrt-rtx", ("8.9",), None),
        (BARE, "tensorrt-rtx", AHEAD, None),
        (replace(BARE, libraries=BOTH), "tensorrt-rtx", AHEAD, None),
    ],
)
def test_the_library_is_the_one_that_can(machine, library, capabilities, gpu):
    order = order_plan(machine, PlanOptions())
    assert (order.library, order.compute_capabilities, order.gpu) == (library, capabilities, gpu)
    assert order_target("auto", machine, PlanOptions()).library == library


def test_gpus_can_be_named_on_any_machine():
    options = PlanOptions(compute_capabilities=("8.6", "12.1"))
    for order in (
        order_plan(DESKTOP, options),
        order_plan(BARE, options, library="tensorrt-rtx"),
        order_target("auto", DESKTOP, options),
    ):
        assert order.library == "tensorrt-rtx"
        assert order.compute_capabilities == order.options.compute_capabilities == ("8.6", "12.1")


@pytest.mark.parametrize(
    ("machine", "target"),
    [
        (JETSON, "onnx"),
        (DESKTOP, "onnx"),
        (BARE, "onnx"),
        (replace(BARE, libraries={}), "auto"),
        (replace(BARE, libraries={"tensorrt": "10.3.0"}), "auto"),
        # TensorRT for RTX has nothing for an Orin.
        (replace(JETSON, libraries=ONLY_RTX), "auto"),
    ],
)
def test_targets_that_add_nothing(machine, target):
    assert order_target(target, machine, PlanOptions()) is None


@pytest.mark.parametrize("capability", ["8.7", "9.0", "11.0"])
def test_what_rtx_cannot_build_for_is_sent_to_the_device(capability):
    options = PlanOptions(compute_capabilities=("8.6", capability))
    with pytest.raises(ValueError) as caught:
        order_target("tensorrt-rtx", BARE, options)
    assert str(caught.value) == (
        "TensorRT for RTX 1.7.1.116 builds for compute capability 7.5, 8.0, 8.6, 8.9, 12.0, 12.1, "
        f"not for {capability}; on a device with that GPU install TensorRT and run "
        "irstd-build BUNDLE"
    )


def test_the_gpu_of_this_machine_is_refused_alike():
    with pytest.raises(ValueError, match="not for 8.7; on a device with that GPU"):
        order_plan(replace(JETSON, libraries=ONLY_RTX), PlanOptions())


@pytest.mark.parametrize(
    ("machine", "library", "options", "error", "said"),
    [
        (
            BARE,
            "tensorrt",
            {},
            EngineError,
            r"TensorRT is not installed \(here is TensorRT for RTX",
        ),
        (JETSON, "tensorrt-rtx", {}, EngineError, r"RTX is not installed \(here is TensorRT\)"),
        (replace(BARE, libraries={}), None, {}, EngineError, r"pip install 'irstd\[rtx\]'"),
        (
            replace(BARE, libraries=BOTH),
            "tensorrt",
            {},
            EngineError,
            r"here is none \(no driver\); run irstd-build BUNDLE on the device",
        ),
        (
            JETSON,
            "tensorrt",
            {"compute_capabilities": ("8.7",)},
            ValueError,
            "leave it out and run",
        ),
        (BARE, None, {"is_version_compatible": True}, ValueError, "no version-compatible plans"),
        (BARE, None, {"dla_core": 0}, ValueError, "knows no DLA"),
        (
            BARE,
            None,
            {"is_hardware_compatible": True, "compute_capabilities": ("8.6",)},
            ValueError,
            "leave out --compute-capability",
        ),
    ],
)
def test_what_cannot_be_ordered_is_told(machine, library, options, error, said):
    with pytest.raises(error, match=said):
        order_plan(machine, PlanOptions(**options), library=library)


def test_hardware_compatible_plans_say_what_runs_them():
    options = PlanOptions(is_hardware_compatible=True)
    ahead = order_plan(BARE, options)
    assert ahead.compute_capabilities == ("8.0", "8.6", "8.9", "12.0", "12.1")
    assert ahead.options.compute_capabilities == ()  # naming none is how RTX is asked for it
    here = order_plan(DESKTOP, options)
    assert here.gpu == RTX4090
    assert {"8.0", "8.6", "8.9", "9.0"} <= set(here.compute_capabilities)
    assert "8.7" not in here.compute_capabilities


def test_timing_is_kept_for_each_gpu_and_version(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kept = order_plan(DESKTOP, PlanOptions()).options.timing_cache
    assert kept.parent == tmp_path / "irstd" / "timing"
    assert kept.name == "tensorrt-10.3.0-NVIDIA-GeForce-RTX-4090-8.9.timing"
    assert order_plan(JETSON, PlanOptions()).options.timing_cache != kept
    own = PlanOptions(timing_cache=Path("own.timing"))
    assert order_plan(DESKTOP, own).options.timing_cache == Path("own.timing")
    assert order_plan(BARE, own).options.timing_cache is None


def test_capabilities_are_read_as_versions():
    assert read_capabilities(None) == ()
    assert read_capabilities("12.0,8.9, 8.6,8.9") == ("8.6", "8.9", "12.0")


@pytest.mark.parametrize(
    ("machine", "options", "name"),
    [
        (BARE, {}, "rtx1.7.1-sm86-sm89-sm120"),
        (BARE, {"is_hardware_compatible": True}, "rtx1.7.1-sm80plus"),
        (JETSON, {}, "trt10.3.0-sm87"),
        (JETSON, {"dla_core": 1}, "trt10.3.0-sm87-dla1"),
        (DESKTOP, {"is_hardware_compatible": True}, "trt10.3.0-sm80plus"),
        (DESKTOP, {"is_version_compatible": True}, "trt10.3.0-sm89-vc"),
    ],
)
def test_names_tell_plans_apart(bundle_int8, machine, options, name):
    order = order_plan(machine, PlanOptions(**options))
    manifest = read_manifest(bundle_int8)
    made = name_plan(manifest, "int8", order, order.trt.__version__)
    assert made == f"bright-spot-int8-64x64-{name}.plan"


def test_the_command_builds_the_plan_again():
    options = PlanOptions(
        workspace_mib=512,
        level=4,
        dla_core=0,
        is_hardware_compatible=True,
        is_version_compatible=True,
    )
    assert write_command(order_plan(DESKTOP, options), "fp16") == (
        "irstd-build BUNDLE --library tensorrt --precision fp16 --workspace 512 --level 4 --dla 0 "
        "--hardware-compatible --version-compatible"
    )
    assert write_command(order_plan(BARE, PlanOptions()), "int8") == (
        "irstd-build BUNDLE --library tensorrt-rtx --precision int8 "
        "--compute-capability 8.6,8.9,12.0"
    )
