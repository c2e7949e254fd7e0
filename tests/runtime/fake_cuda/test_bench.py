"""The measurements of bench_gpu.py, tried on a fake device with small frames."""

import pytest

from irstd.runtime.frame import ClipContract
from irstd.runtime.plans import Machine
from irstd.tests import bench_gpu
from irstd.tests.bench_gpu_table import write_tables


def test_arithmetic_by_hand():
    # 640 * 512 * 2 = 655,360 bytes; 512 * 512 * 4 = 1,048,576.
    assert bench_gpu.traffic((512, 640), (512, 512), is_half=False, reads=1) == 1_703_936
    assert bench_gpu.bound_us((512, 640), (512, 512), is_half=False, reads=1) == pytest.approx(8.32)
    assert bench_gpu.bound_us((512, 640), (512, 512), is_half=True, reads=2) == pytest.approx(8.96)


def test_without_a_gpu_it_says_so(monkeypatch, capsys, tmp_path):
    machine = Machine(None, (), {}, "there is no driver")
    monkeypatch.setattr(bench_gpu, "probe_machine", lambda: machine)
    place = tmp_path / "result.json"
    with pytest.raises(SystemExit, match=r"no NVIDIA GPU here \(there is no driver\): nothing was"):
        bench_gpu.main(place)
    assert not place.exists()
    assert "prepare 640x512 uint16 to FP32: 8.3 us if the frame is read once" in (
        capsys.readouterr().out
    )


def test_stages_are_measured(bench, library):
    bench.install(library)
    device = bench.open()
    results = bench_gpu.measure_stages(
        device, sensors=[(32, 36)], size=(24, 24), counts=(2,), repeats=2
    )
    assert [result["stage"] for result in results] == ["prepare", "prepare", "extract"]
    assert all(result["us"] > 0 and result["gb_s"] > 0 for result in results)
    assert "prepare 36x32 uint16 24x24 FP32: " in bench_gpu.describe(results[0])
    assert bench_gpu.measure_copy(device, count=300, repeats=1) > 0
    bench.driver.assert_clean()


def test_clips_are_measured(bench, library):
    bench.install(library)
    results = bench_gpu.measure_clips(bench.open(), size=(24, 28), clip=ClipContract(3), repeats=2)
    assert [result["stage"] for result in results] == 2 * ["clip, keep", "clip, stack"]
    assert all(result["us"] > 0 and result["gb_s"] > 0 for result in results)
    assert "clip, stack 3x24x28 FP16: " in bench_gpu.describe(results[3])
    bench.driver.assert_clean()


def test_both_ways_of_clips_are_measured(bench):
    bench.install("cupy")
    results = bench_gpu.measure_clip_ways(
        bench.open, shape=(32, 36), size=(24, 28), clip=ClipContract(3), frames=3
    )
    assert [result["detector"].split(", ")[-1] for result in results] == [
        "on the GPU",
        "by the host",
    ]
    assert all(result["fps"] > 0 and result["throughput_fps"] > 0 for result in results)
    bench.driver.assert_clean()


def test_detectors_are_measured():
    result = bench_gpu.measure_detector("one", len, lambda items: map(id, items), ["f"], frames=5)
    assert result["p50_ms"] <= result["p99_ms"]
    assert result["fps"] > 0
    assert "one: p50 " in bench_gpu.describe(result)
    assert "FAILED, no" in bench_gpu.describe({"detector": "one", "failed": "no"})


def test_the_readmes_tables_are_made_of_the_file():
    detector = {"detector": "lrrnet, fp16", "p50_ms": 2.5, "p99_ms": 3.125, "fps": 390.2}
    report = {
        "gpu": "Orin", "device": "Orin (sm_87), CuPy 14", "driver": "12.6", "copy_gb_s": 200.0,
        "libraries": {"tensorrt": "10.3.0"},
        "stages": [{"stage": "extract", "network": "512x512", "us": 5.25, "gb_s": 150.0}],
        "detectors": [
            detector, detector | {"throughput_fps": 611.0}, {"detector": "two", "failed": "no"}
        ],
    }  # fmt: skip
    written = write_tables(report)
    assert written.startswith("Orin, driver for CUDA 12.6, Orin (sm_87), CuPy 14, tensorrt 10.3.0;")
    rows = [line for line in written.splitlines() if line.startswith("| ")]
    assert rows[1] == "| extract 512x512 | 5.2 | 150 | 75% |"
    assert rows[3:] == [
        "| lrrnet, fp16 | 2.50 ms | 3.12 ms | 390 |  |",
        "| lrrnet, fp16 | 2.50 ms | 3.12 ms | 390 | 611 |",
        "| two | failed: no | | | |",
    ]
