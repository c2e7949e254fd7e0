"""Speed on a GPU, measured: preparation, clips, extraction, whole detectors, in one run and file.

python tests/bench_gpu.py [FILE.json]; without an NVIDIA GPU it says so and measures nothing.

What preparation must cost follows from arithmetic alone: it is bound by memory, so by reading the
sensor's frame once where the second reading comes out of a cache, twice where it does not, and by
writing the network's input. `bound_us` says it for any bus; the first lines of the output say it
for a Jetson AGX Orin, 204.8 GB/s in theory, and a 640x512 frame of two bytes a pixel.
"""

import json
import platform
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from irstd.runtime.clip import Placed
from irstd.runtime.clip_gpu import to_table
from irstd.runtime.detector import Detector
from irstd.runtime.device import open_device
from irstd.runtime.errors import DeviceError, EngineError
from irstd.runtime.frame import ClipContract, FrameContract, fit_geometry
from irstd.runtime.launches import clip_stages, extract_stage, prepare_stage
from irstd.runtime.pipeline_gpu import on_device
from irstd.runtime.plans import probe_machine
from irstd.runtime.scene import Scene, SceneOptions
from irstd.runtime.sources import SourceFrame
from irstd.runtime.targets import Extraction
from irstd.tests.runtime.gpu_runner import COPY, CopyNetwork, GpuRunner
from irstd.tests.runtime.test_kernels import assert_extracted, assert_prepared
from irstd.tests.runtime.test_kernels_clip import assert_stacked

ORIN_GB_S = 204.8  # LPDDR5 of a Jetson AGX Orin, in theory; an Orin NX has half
SENSORS = [(512, 640), (1024, 1280)]
SIZE = (512, 512)
REPEATS = 200
COPIED = 2**26  # floats
FRAMES = 300
CLIP, CLIP_SIZE = ClipContract(8), (256, 256)


def traffic(shape, size, *, is_half, reads):
    """Bytes that preparation moves: a frame of uint16 read so often, the input written once."""
    return reads * 2 * shape[0] * shape[1] + (2 if is_half else 4) * size[0] * size[1]


def bound_us(shape, size, *, is_half, reads, gb_s=ORIN_GB_S):
    """What that takes at least, in microseconds."""
    return traffic(shape, size, is_half=is_half, reads=reads) / (gb_s * 1e3)


def say_arithmetic():
    print(f"By arithmetic, at {ORIN_GB_S} GB/s (Jetson AGX Orin), into {SIZE[0]}x{SIZE[1]}:")
    for shape in SENSORS:
        for is_half in (False, True):
            once, twice = (bound_us(shape, SIZE, is_half=is_half, reads=reads) for reads in (1, 2))
            print(
                f"  prepare {shape[1]}x{shape[0]} uint16 to {'FP16' if is_half else 'FP32'}: "
                f"{once:.1f} us if the frame is read once from memory, {twice:.1f} us if twice"
            )


def time_stage(runner, stage, given, *, repeats=REPEATS):
    """Microseconds of a stage on the GPU's own clock, launches taken out where graphs are."""
    device = runner.device
    with on_device(device), ExitStack() as stack:
        bound, stream, _ = runner.bind(stage, given, stack)
        start, end = device.create_event(), device.create_event()
        stack.callback(start.close)
        stack.callback(end.close)

        def queue():
            for _ in range(repeats):
                bound.queue(stream)

        queue()
        try:
            graph = device.capture(queue, stream)
        except DeviceError:
            run = queue
        else:
            stack.callback(graph.close)
            run = lambda: device.replay(graph, stream)  # noqa: E731
        run()
        device.record(start, stream)
        run()
        device.record(end, stream)
        device.synchronise(end)
        return device.milliseconds(start, end) * 1e3 / repeats


def measure_copy(device, *, count=COPIED, repeats=20):
    """GB/s of copying on the card, read and written bytes both counted."""
    with on_device(device), ExitStack() as stack:
        stream = device.create_stream()
        kernel = device.load(COPY, (), ["copy"])["copy"]
        memories = [device.allocate(4 * count) for _ in range(2)]
        start, end = device.create_event(), device.create_event()
        for thing in (stream, *memories, start, end):
            stack.callback(thing.close)
        arguments = (*(np.uintp(memory.address) for memory in memories), np.int32(count))
        for _ in range(2):  # the first round warms up
            device.record(start, stream)
            for _ in range(repeats):
                kernel((-(-count // 256), 1), (256, 1), arguments, stream)
        device.record(end, stream)
        device.synchronise(end)
        return 2 * 4 * count * repeats / (device.milliseconds(start, end) * 1e6)


def measure_stages(device, *, sensors=SENSORS, size=SIZE, counts=(3, 500), repeats=REPEATS):
    """Preparation and extraction, checked against numpy and timed."""
    runner, results = GpuRunner(device), []
    for shape in sensors:
        frame = Scene(SceneOptions(height=shape[0], width=shape[1]), seed=1).frame(0).frame
        contract = FrameContract(*size, bit_depth=14)
        for is_half in (False, True):
            assert_prepared(runner, frame, contract, is_half=is_half)
            stage = prepare_stage(shape, contract, is_half=is_half)
            given = {"frame": frame.view(np.uint8).reshape(shape[0], -1)}
            taken = time_stage(runner, stage, given, repeats=repeats)
            moved = traffic(shape, size, is_half=is_half, reads=2)
            results.append(
                {
                    "stage": "prepare",
                    "frame": f"{shape[1]}x{shape[0]} uint16",
                    "network": f"{size[0]}x{size[1]} {'FP16' if is_half else 'FP32'}",
                    "us": taken,
                    "gb_s": moved / (taken * 1e3),
                }
            )
    for count in counts:
        values = confidence_with(count, size)
        assert_extracted(runner, values)
        contract = FrameContract(*size)
        stage = extract_stage(contract, fit_geometry(size, contract), Extraction())
        taken = time_stage(runner, stage, {"confidence": values}, repeats=repeats)
        results.append(
            {
                "stage": "extract",
                "network": f"{size[0]}x{size[1]}, {count} targets placed",
                "us": taken,
                "gb_s": values.nbytes / (taken * 1e3),
            }
        )
    return results


def measure_clips(device, *, size=CLIP_SIZE, clip=CLIP, repeats=REPEATS):
    """Keeping a frame and stacking the clip, checked against numpy and timed."""
    runner, results = GpuRunner(device), []
    contract = FrameContract(*size, fit="pad", clip=clip)
    geometry = fit_geometry(size, contract)
    table = to_table([Placed(n * clip.stride, 0.4 * n, -0.3 * n) for n in range(clip.length)], size)
    frame = np.random.default_rng(0).random(size, np.float32)
    for is_half in (False, True):
        assert_stacked(runner, contract, size, shifts=[(0.4, -0.3)] * clip.span, is_half=is_half)
        keep, stack = clip_stages(contract, geometry, is_half=is_half)
        ring = np.broadcast_to(frame, stack.buffer("ring").shape)
        match = np.ones((clip.length - 1, 2), np.float32)
        given = {"places": table, "ring": ring, "match": match, "prepared": frame}
        moved = clip.length * (4 + (2 if is_half else 4)) * frame.size
        for name, stage, nbytes in (("keep", keep, 2 * frame.nbytes), ("stack", stack, moved)):
            names = {buffer.name for buffer in stage.buffers}
            held = {name: values for name, values in given.items() if name in names}
            taken = time_stage(runner, stage, held, repeats=repeats)
            results.append(
                {
                    "stage": f"clip, {name}",
                    "network": f"{clip.length}x{size[0]}x{size[1]} {'FP16' if is_half else 'FP32'}",
                    "us": taken,
                    "gb_s": nbytes / (taken * 1e3),
                }
            )
    return results


class OnHost:
    """An engine without its device's way: frames are prepared, kept and stacked by numpy."""

    def __init__(self, engine):
        self.description, self.input_shape = engine.description, engine.input_shape
        self.run, self.close = engine.run, engine.close


def measure_clip_ways(open_one, *, shape=SENSORS[0], size=CLIP_SIZE, clip=CLIP, frames=FRAMES):
    """Whole clips without a network behind them, on the GPU and by the host."""
    contract, results = FrameContract(*size, bit_depth=14, clip=clip), []
    scene = Scene(SceneOptions(*shape, bit_depth=14, drift=0.6), seed=1)
    shown = [scene.frame(index).frame for index in range(8)]
    for name, way in (("on the GPU", lambda engine: engine), ("by the host", OnHost)):
        engine = CopyNetwork(open_one(), size, length=clip.length)
        with Detector(way(engine), contract, Extraction()) as detector:
            said = f"clips of {clip.length} at {size[0]}x{size[1]}, no network, {name}"
            results.append(measure_detector(said, detector, detector.stream, shown, frames=frames))
    return results


def confidence_with(count, size):
    rng = np.random.default_rng(count)
    values = np.zeros(size, np.float32)
    for row, column in rng.integers(2, min(size) - 3, (count, 2)):
        values[row - 1 : row + 2, column - 1 : column + 2] = rng.random((3, 3)) * 0.5 + 0.5
    return values


def measure_detector(name, detect, stream, shown, *, frames=FRAMES):
    """Latency of frames one by one, and throughput."""
    for index in range(20):
        detect(shown[index % len(shown)])
    times = []
    for index in range(frames):
        began = time.perf_counter()
        detect(shown[index % len(shown)])
        times.append((time.perf_counter() - began) * 1e3)
    p50, p99 = np.percentile(times, [50, 99], method="higher").tolist()
    result = {"detector": name, "p50_ms": p50, "p99_ms": p99, "fps": 1e3 / np.mean(times)}
    if stream is not None:
        items = [
            SourceFrame(index, str(index), shown[index % len(shown)]) for index in range(frames)
        ]
        list(stream(items[:20]))
        began = time.perf_counter()
        list(stream(items))
        result["throughput_fps"] = frames / (time.perf_counter() - began)
    return result


def measure_detectors(machine):
    """Whatever engine runs here against eager torch, in one run; what fails is told."""
    from irstd.tests.bench_gpu_networks import contestants

    results = []
    shown = [Scene(SceneOptions(height=512, width=640), seed=n).frame(0).frame for n in range(8)]
    for name, opened in contestants(machine, SIZE):
        try:
            with opened as (detect, stream):
                results.append(measure_detector(name, detect, stream, shown))
        except Exception as err:  # one engine that fails must not hide the others
            results.append({"detector": name, "failed": f"{type(err).__name__}: {err}"})
        print(f"  {describe(results[-1])}", flush=True)
    return results


def describe(result):
    if "failed" in result:
        return f"{result['detector']}: FAILED, {result['failed']}"
    if "stage" in result:
        what = " ".join(result[key] for key in ("stage", "frame", "network") if key in result)
        return f"{what}: {result['us']:.1f} us, {result['gb_s']:.0f} GB/s"
    through = result.get("throughput_fps")
    more = f", {through:.0f} FPS with frames under way" if through else ""
    return (
        f"{result['detector']}: p50 {result['p50_ms']:.2f} ms, p99 {result['p99_ms']:.2f} ms, "
        f"{result['fps']:.0f} FPS one by one{more}"
    )


def main(place):
    say_arithmetic()
    machine = probe_machine()
    if not machine.gpus:
        raise SystemExit(
            f"no NVIDIA GPU here ({machine.problem}): nothing was measured, no file was written"
        )
    try:
        device = open_device()
    except EngineError as err:
        raise SystemExit(str(err)) from err
    print(device.description)
    copied = measure_copy(device)
    print(f"copying on the card: {copied:.0f} GB/s", flush=True)
    stages = measure_stages(device) + measure_clips(device)
    for result in stages:
        print(f"  {describe(result)}, {result['gb_s'] / copied:.0%} of the copy's")
    device.close()
    clips = measure_clip_ways(open_device)
    for result in clips:
        print(f"  {describe(result)}", flush=True)
    report = {
        "gpu": machine.gpus[0].name,
        "device": device.description,
        "driver": machine.driver,
        "libraries": machine.libraries,
        "python": platform.python_version(),
        "copy_gb_s": copied,
        "stages": stages,
        "detectors": clips + measure_detectors(machine),
    }
    Path(place).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {place}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "bench-gpu.json")
