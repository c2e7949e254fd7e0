import pytest

from irstd.export.plan_report import describe_plans, replace_plans
from irstd.runtime.plans import PlanRecord


def record(**changes):
    fields = {
        "library": "tensorrt-rtx",
        "version": "1.7.1.116",
        "precision": "int8",
        "compute_capabilities": ("8.6", "8.9"),
        "gpu": "",
        "is_hardware_compatible": False,
        "is_version_compatible": False,
        "needs_host_code": False,
        "device_memory_bytes": 3 * 2**20,
        "graph_sha256": "",
        "layers": {"fp32": 2, "int8": 20},
        "command": "",
    }
    return PlanRecord(**fields | changes)


@pytest.mark.parametrize(
    ("plan", "row"),
    [
        (
            record(),
            "| `a.plan` | TensorRT for RTX 1.7.1.116 | compute capability 8.6, 8.9 "
            "| 2 fp32, 20 int8 | 3 MiB |",
        ),
        (
            record(is_hardware_compatible=True, device_memory_bytes=None, layers={}),
            "| `a.plan` | TensorRT for RTX 1.7.1.116 | compute capability 8.6, 8.9 and newer "
            "| - | - |",
        ),
        (
            record(library="tensorrt", version="10.3.0", gpu="Orin", compute_capabilities=("8.7",)),
            "| `a.plan` | TensorRT 10.3.0 | Orin (8.7) | 2 fp32, 20 int8 | 3 MiB |",
        ),
    ],
)
def test_a_plan_is_a_row(plan, row):
    assert row in describe_plans({"a.plan": plan}).splitlines()


def test_the_section_is_written_anew_and_the_rest_left_alone():
    before = f"# a\n\ntext\n\n{describe_plans({})}## On a CPU\nmore\n"
    after = replace_plans(before, {"b.plan": record(), "a.plan": record()})
    assert after.count("## TensorRT plans") == 1
    assert "None was built" not in after
    assert after.index("a.plan") < after.index("b.plan")
    assert after.startswith("# a\n\ntext\n\n## TensorRT plans\n")
    assert after.endswith("\n\n## On a CPU\nmore\n")
    assert replace_plans(after, {}) == before


@pytest.mark.parametrize("report", ["", "# a\n", "# a\n\n## On a CPU\nmore"])
def test_a_report_without_the_section_gets_it(report):
    after = replace_plans(report, {"a.plan": record()})
    assert after.startswith(report.rstrip())
    assert after.count("`a.plan`") == 1
    assert replace_plans(after, {"a.plan": record()}) == after
