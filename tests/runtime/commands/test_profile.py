import json

import pytest

from irstd.runtime.commands.profile import profile_command


def test_profile_on_its_own_scene(run, bundle14, tmp_path):
    path = tmp_path / "profile.json"
    outcome = run(profile_command, bundle14, "--frames", 12, "--warm-up", 2, "--json", path)
    assert outcome.exit_code == 0
    assert "FPS over 12 frames" in outcome.stdout
    measured = json.loads(path.read_text())
    assert measured["frames"] == 12
    assert measured["rate_hz"] is None
    assert measured["precision"] == "fp32"
    assert tuple(measured["stages"]) == ("read", "prepare", "engine", "extract", "total")
    assert measured["throughput_fps"] is None  # a CPU takes one frame after another
    for latency in measured["stages"].values():
        assert 0 <= latency["p50_ms"] <= latency["p90_ms"] <= latency["p99_ms"] <= latency["max_ms"]
    assert measured["stages"]["total"]["max_ms"] >= measured["stages"]["engine"]["p50_ms"]
    assert measured["peak_memory_mib"] > 10


@pytest.mark.parametrize(
    ("options", "precision"), [((), "fp32"), (("--precision", "int8"), "int8")]
)
def test_the_precision_is_chosen_and_named(run, bundle_int8, tmp_path, options, precision):
    path = tmp_path / "profile.json"
    ask = ("--frames", 2, "--warm-up", 0, "--json", path)
    outcome = run(profile_command, bundle_int8, *ask, *options)
    assert f"threads, {precision}; frames 64x64" in outcome.stdout
    assert json.loads(path.read_text())["precision"] == precision
    assert ("fp32 was faster" in outcome.stderr) == (not options)


def test_the_engine_is_chosen_or_named(run, bundle, openvino_installed):
    ask = (profile_command, bundle, "--frames", 2, "--warm-up", 0)
    assert " ms against " in run(*ask).stderr
    named = run(*ask, "--engine", "openvino")
    assert named.stdout.startswith("OpenVINO ")
    assert " ms against " not in named.stderr


def test_a_source_is_read_again_when_it_ends(run, bundle14, sequence):
    outcome = run(profile_command, bundle14, sequence / "frames", "--frames", 10, "--json", "-")
    assert json.loads(outcome.stdout)["frame_shape"] == [64, 64]


def test_rate_paces_the_frames(run, bundle14):
    ask = ("--frames", 5, "--warm-up", 1, "--rate", 50, "--json", "-")
    measured = json.loads(run(profile_command, bundle14, *ask).stdout)
    assert measured["fps"] < 70  # five frames start over 80 ms
    assert measured["rate_hz"] == 50


@pytest.mark.parametrize("option", [("--frames", 0), ("--rate", 0), ("--warm-up", -1)])
def test_refusals(refused, bundle14, option):
    assert "expected" in refused(profile_command, bundle14, *option)


def test_a_network_for_sequences_is_warmed_up_with_a_whole_clip(run, bundle_clip):
    outcome = run(profile_command, bundle_clip, "--frames", 3, "--warm-up", 0)
    assert outcome.exit_code == 0, outcome.stderr
    assert "engine" in outcome.stdout
