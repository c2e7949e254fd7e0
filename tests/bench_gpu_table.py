"""The README's tables of speed on a GPU, out of the file that `make bench-gpu` writes.

python tests/bench_gpu_table.py bench-gpu.json
"""

import json
import sys
from pathlib import Path


def write_tables(report):
    """Markdown: what was measured with, stages beside the card's own copy, detectors."""
    libraries = ", ".join(f"{name} {version}" for name, version in report["libraries"].items())
    copied = report["copy_gb_s"]
    stages = "".join(_stage(result, copied) for result in report["stages"])
    detectors = "".join(_detector(result) for result in report["detectors"])
    return f"""{report["gpu"]}, driver for CUDA {report["driver"]}, {report["device"]}, \
{libraries or "no TensorRT"}; copying on the card: {copied:.0f} GB/s.

| stage | µs | GB/s | of the copy's |
|---|---|---|---|
{stages}
| whole detector, 640x512 in | p50 | p99 | frames a second, one by one | several under way |
|---|---|---|---|---|
{detectors}"""


def _stage(result, copied):
    what = " ".join(result[key] for key in ("stage", "frame", "network") if key in result)
    share = result["gb_s"] / copied
    return f"| {what} | {result['us']:.1f} | {result['gb_s']:.0f} | {share:.0%} |\n"


def _detector(result):
    if "failed" in result:
        return f"| {result['detector']} | failed: {result['failed']} | | | |\n"
    through = result.get("throughput_fps")
    return (
        f"| {result['detector']} | {result['p50_ms']:.2f} ms | {result['p99_ms']:.2f} ms | "
        f"{result['fps']:.0f} | {'' if through is None else f'{through:.0f}'} |\n"
    )


if __name__ == "__main__":
    print(write_tables(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))), end="")
