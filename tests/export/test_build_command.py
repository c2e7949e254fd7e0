"""`irstd-build`, with TensorRT for RTX where a real plan matters, else with fakes."""

import json
import subprocess
import sys

import pytest

from irstd.export import bundle_plans, plan_order
from irstd.export.build_command import build_command
from irstd.runtime.bundle import MANIFEST, read_file, read_manifest
from irstd.runtime.frame import FrameContract
from irstd.runtime.plans import Gpu, Machine, choose_plan, why_not
from irstd.tests.conftest import write_bundle
from irstd.tests.tensorrt_api.fake import fake_tensorrt, plan_bytes

ORIN = Gpu("Orin", "8.7", 8 * 2**30)
JETSON = Machine("12.6", (ORIN,), {"tensorrt": "10.3.0"})


@pytest.fixture
def rtx(monkeypatch):
    """A machine without a GPU, whatever this one has."""
    rtx = pytest.importorskip(
        "tensorrt_rtx", reason="TensorRT for RTX is not installed: pip install tensorrt-rtx"
    )
    machine = Machine(None, (), {"tensorrt-rtx": rtx.__version__}, "no driver")
    monkeypatch.setattr("irstd.export.build_command.probe_machine", lambda: machine)
    return rtx


@pytest.fixture
def jetson(monkeypatch):
    """A Jetson with TensorRT 10.3; gives the library."""
    trt = fake_tensorrt("tensorrt-10.3.0")
    monkeypatch.setattr("irstd.export.build_command.probe_machine", lambda: JETSON)
    monkeypatch.setattr(plan_order, "import_tensorrt", lambda library: trt)
    return trt


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_plan_is_built_into_a_bundle(run, bundle_int8, rtx):
    before = contents(bundle_int8)
    outcome = run(build_command, bundle_int8, "--compute-capability", "8.9,8.6")
    assert outcome.exit_code == 0, outcome.output
    short = ".".join(rtx.__version__.split(".")[:3])
    name = f"bright-spot-int8-64x64-rtx{short}-sm86-sm89.plan"
    assert set(contents(bundle_int8)) == {*before, name}
    manifest = read_manifest(bundle_int8)
    record = manifest.plans[name]
    assert (record.library, record.version) == ("tensorrt-rtx", rtx.__version__)
    assert (record.precision, record.compute_capabilities) == ("int8", ("8.6", "8.9"))
    assert record.graph_sha256 == manifest.files["model.int8.onnx"].sha256
    assert (record.gpu, record.needs_host_code) == ("", False)
    assert read_file(bundle_int8, manifest, name)[32] == 0b1100
    assert f"{name}: " in outcome.stdout
    assert "building a plan in int8 with TensorRT for RTX" in outcome.stderr
    desktop = Machine("13.0", (Gpu("G", "8.6", 2**33),), {"tensorrt-rtx": rtx.__version__})
    assert choose_plan(manifest.plans, desktop, "int8") == name
    assert [path.name for path in bundle_int8.parent.iterdir()] == [bundle_int8.name]


def test_another_precision_is_another_plan(run, bundle_int8, rtx):
    for precision in ("int8", "fp32"):
        assert run(build_command, bundle_int8, "--precision", precision).exit_code == 0
    plans = read_manifest(bundle_int8).plans
    assert {record.precision for record in plans.values()} == {"int8", "fp32"}
    assert {record.compute_capabilities for record in plans.values()} == {("8.6", "8.9", "12.0")}


def test_an_older_plan_of_the_same_name_is_replaced(run, bundle, jetson):
    assert run(build_command, bundle, "--level", 1).exit_code == 0
    (name,) = read_manifest(bundle).plans
    assert name == "bright-spot-fp32-64x64-trt10.3.0-sm87.plan"
    jetson.answers["Builder.build_serialized_network"] = lambda *_: jetson.memory(b"newer")
    jetson.answers["Runtime.deserialize_cuda_engine"] = lambda *_: jetson.make("ICudaEngine")
    assert run(build_command, bundle, "--level", 5).exit_code == 0
    manifest = read_manifest(bundle)
    assert list(manifest.plans) == [name]
    assert read_file(bundle, manifest, name) == b"newer"
    assert manifest.plans[name].command.endswith("--level 5")


def test_a_jetson_builds_for_itself_with_every_option(run, bundle_int8, jetson, tmp_path):
    jetson.answers["Builder.num_DLA_cores"] = lambda builder: 2
    options = ("--workspace", 512, "--dla", 1, "--timing-cache", tmp_path / "kernels.timing")
    options = (*options, "--precision", "int8", "--library", "tensorrt")
    outcome = run(build_command, bundle_int8, *options)
    assert outcome.exit_code == 0, outcome.output
    ((name, record),) = read_manifest(bundle_int8).plans.items()
    assert name == "bright-spot-int8-64x64-trt10.3.0-sm87-dla1.plan"
    assert (record.gpu, record.compute_capabilities) == ("Orin", ("8.7",))
    assert why_not(record, JETSON) == ""
    assert (bundle_int8 / name).read_bytes() == plan_bytes(jetson)
    assert (tmp_path / "kernels.timing").is_file()
    assert "DLA core 1 takes 1 of 1 layers" in outcome.stderr
    assert "1 MiB of device memory" in outcome.stdout


def test_a_version_compatible_plan_is_one_that_irstd_refuses(run, bundle, jetson):
    assert run(build_command, bundle, "--version-compatible").exit_code == 0
    (record,) = read_manifest(bundle).plans.values()
    assert record.needs_host_code
    assert "CPU code" in why_not(record, JETSON)


def test_the_report_tells_of_the_plan(run, bundle, jetson):
    (bundle / "report.md").write_text("# bright-spot\n\n## On a CPU\nit runs\n")
    sealed = bundle_plans.seal_bundle(bundle, read_manifest(bundle))
    assert "report.md" in sealed.files
    assert run(build_command, bundle).exit_code == 0
    text = read_file(bundle, read_manifest(bundle), "report.md").decode()
    assert "`bright-spot-fp32-64x64-trt10.3.0-sm87.plan` | TensorRT 10.3.0 | Orin (8.7)" in text
    assert "## On a CPU\nit runs" in text


def test_what_the_user_put_into_the_bundle_stays_unlisted(run, bundle, jetson):
    (bundle / "notes.txt").write_text("mine")
    (bundle / "frames").mkdir()
    (bundle / "frames" / "1.png").write_text("a frame")
    assert run(build_command, bundle).exit_code == 0
    assert (bundle / "notes.txt").read_text() == "mine"
    assert (bundle / "frames" / "1.png").read_text() == "a frame"
    assert "notes.txt" not in read_manifest(bundle).files


def test_a_bundle_behind_a_link_is_built_into(run, bundle, jetson, tmp_path):
    (tmp_path / "link").symlink_to(bundle)
    assert run(build_command, tmp_path / "link").exit_code == 0
    assert (tmp_path / "link").is_symlink()
    assert len(read_manifest(bundle).plans) == 1


# --- refusals -------------------------------------------------------------------------------------


def fail(*_):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("step", ["seal_bundle", "replace_plans", "_keep_unlisted"])
def test_a_failure_half_way_leaves_the_bundle_as_it_was(refused, bundle, jetson, monkeypatch, step):
    (bundle / "report.md").write_text("# bright-spot\n")
    bundle_plans.seal_bundle(bundle, read_manifest(bundle))
    before = contents(bundle)
    monkeypatch.setattr(bundle_plans, step, fail)
    assert "No space left" in refused(build_command, bundle)
    assert contents(bundle) == before
    assert [path.name for path in bundle.parent.iterdir()] == [bundle.name]


def test_a_plan_that_computes_something_else_is_not_kept(refused, bundle, jetson):
    before = contents(bundle)
    jetson.layers = (
        {
            "Name": "conv",
            "LayerType": "CaskConvolution",
            "Inputs": [{"Name": "frame", "Format/Datatype": "Row major linear FP16"}],
        },
    )
    assert "computes conv in fp16 instead of fp32" in refused(build_command, bundle)
    assert contents(bundle) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--precision", "fp16"), "has no graph in fp16, only in fp32"),
        (("--library", "tensorrt-rtx"), "TensorRT for RTX is not installed (here is TensorRT)"),
        (("--dla", 0), "the DLA computes in INT8 and FP16 only"),
        (("--compute-capability", "8.7"), "TensorRT for RTX is not installed"),
        (("--compute-capability", "Orin"), "compute capability is 'Orin'"),
    ],
)
def test_what_cannot_be_built_is_told_in_one_line(refused, bundle, jetson, arguments, said):
    before = contents(bundle)
    assert said in refused(build_command, bundle, *arguments)
    assert contents(bundle) == before


def test_what_is_no_bundle_is_told(refused, tmp_path):
    assert "make one with irstd-export" in refused(build_command, tmp_path / "nothing")
    assert "holds no manifest" in refused(build_command, tmp_path)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def edit(path):
    fields = json.loads(path.read_text())
    fields["threshold"] = 0.9
    path.write_text(json.dumps(fields))


@pytest.mark.parametrize(
    ("name", "spoil", "said"),
    [
        ("model.onnx", flip, "is not the file that was exported"),
        (MANIFEST, edit, "was edited or damaged"),
    ],
)
def test_a_tampered_bundle_gets_no_plan(refused, bundle, jetson, name, spoil, said):
    spoil(bundle / name)
    before = contents(bundle)
    assert said in refused(build_command, bundle)
    assert contents(bundle) == before
    assert jetson.calls == []


# --- what a device refuses ------------------------------------------------------------------------


@pytest.fixture
def with_plan(run, bundle, jetson):
    """A bundle with a plan; gives folder, manifest and the plan's name."""
    assert run(build_command, bundle).exit_code == 0
    manifest = read_manifest(bundle)
    (name,) = manifest.plans
    return bundle, manifest, name


def test_every_flipped_byte_of_a_plan_is_refused(with_plan):
    folder, manifest, name = with_plan
    whole = read_file(folder, manifest, name)
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        (folder / name).write_bytes(flipped)
        with pytest.raises(ValueError, match="is not the file that was exported"):
            read_file(folder, manifest, name)


def test_a_plan_truncated_at_any_length_is_refused(with_plan):
    folder, manifest, name = with_plan
    whole = read_file(folder, manifest, name)
    for length in range(len(whole)):
        (folder / name).write_bytes(whole[:length])
        with pytest.raises(ValueError, match=rf"\({length} bytes, its sha256 differs"):
            read_file(folder, manifest, name)


def change_plan(field, value):
    def change(fields):
        (plan,) = fields["plans"].values()
        plan[field] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        change_plan("version", "8.6.1"),
        change_plan("gpu", "NVIDIA H100"),
        change_plan("compute_capabilities", ["9.0"]),
        change_plan("needs_host_code", True),
        change_plan("graph_sha256", "0" * 64),
        change_plan("precision", "int8"),
        change_plan("library", "openvino"),
        lambda fields: fields["plans"].clear(),
        lambda fields: fields.pop("plans"),
    ],
)
def test_an_edited_record_is_refused(with_plan, change):
    folder, _, _ = with_plan
    fields = json.loads((folder / MANIFEST).read_text())
    change(fields)
    (folder / MANIFEST).write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=r"edited or damaged|is damaged"):
        read_manifest(folder)


def test_a_plan_of_another_graph_cannot_be_sealed(with_plan):
    folder, manifest, name = with_plan
    (folder / "model.onnx").write_bytes(b"another graph")
    with pytest.raises(ValueError, match=f"the plan {name} was built from another graph"):
        bundle_plans.seal_bundle(folder, manifest)


# --- without torch and onnx -----------------------------------------------------------------------

BLOCKED = ("torch", "onnx", "onnxruntime", "cv2", "safetensors", "matplotlib")


def test_a_device_needs_neither_torch_nor_onnx(tmp_path):
    """In a process in which importing any of them fails."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    folder = write_bundle(tmp_path / "bundle", FrameContract(64, 64))
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({BLOCKED}))\n"
        "from irstd.export.build_command import build_command\n"
        "build_command()"
    )
    command = [sys.executable, "-c", program, str(folder), "--compute-capability", "8.6"]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    (record,) = read_manifest(folder).plans.values()
    assert record.compute_capabilities == ("8.6",)


def test_help_tells_what_compatibility_costs(run):
    said = " ".join(run(build_command, "--help").stdout.split())
    assert "Runs on every GPU since Ampere (no Jetson), at the cost of speed" in said
    assert "MB of code, which irstd refuses to run" in said
