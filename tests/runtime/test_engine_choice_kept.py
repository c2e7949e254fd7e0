import pytest

from irstd.runtime import Detector, engine_choice
from irstd.runtime.bundle import read_manifest
from irstd.runtime.engine import processor_name
from irstd.runtime.engine_choice import Choice, choice_key, find_version, read_choice, write_choice
from irstd.runtime.errors import EngineError
from irstd.tests.runtime.engine_trials import ORT32, OV8, OV32, kept, raising


def test_a_choice_is_remembered(bundle_int8, measured):
    said = []
    for figure in (27.0, 1.0):  # the second is not looked at
        measured[ORT32] = figure
        with Detector.load(bundle_int8, threads=1) as detector:
            said.append(detector.description)
    assert said[0] == said[1]
    assert measured.times == 1
    Detector.load(bundle_int8, threads=2).close()
    assert (measured.times, len(kept())) == (2, 2)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"key":"other","chosen":{"name":"openvino","precision":"fp32"},"reason":"old"}',
    ],
)
def test_a_damaged_file_is_measured_again_and_replaced(bundle, measured, content):
    Detector.load(bundle).close()
    (path,) = kept()
    whole = path.read_bytes()
    path.write_bytes(content)
    with Detector.load(bundle) as detector:
        assert detector.reason == "20.0 ms against 27.0 ms in ONNX Runtime fp32"
    assert measured.times == 2
    assert path.read_bytes() == whole


def test_a_choice_among_others_is_no_choice(bundle, measured):
    Detector.load(bundle).close()
    (path,) = kept()
    path.write_text(path.read_text().replace('"fp32"', '"int8"'))
    Detector.load(bundle).close()
    assert measured.times == 2


def test_a_remembered_engine_that_no_longer_loads_is_chosen_anew(bundle, measured, broken_openvino):
    Detector.load(bundle).close()
    broken_openvino(raising(EngineError("OpenVINO cannot be loaded (damaged since)")))
    with Detector.load(bundle) as detector:
        assert detector.description.startswith("ONNX Runtime ")
        assert "damaged since" in detector.reason


def test_a_cache_that_cannot_be_written_is_no_error(bundle, measured, monkeypatch, tmp_path):
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "taken"))
    Detector.load(bundle).close()
    Detector.load(bundle).close()
    assert measured.times == 2


def test_a_user_without_a_home_folder(bundle, measured, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("irstd.runtime.files.Path.home", raising_home)
    Detector.load(bundle).close()
    assert measured.times == 1


def raising_home():
    raise RuntimeError("Could not determine home directory.")


def test_the_key_follows_from_all_that_matters(bundle, bundle_int8, monkeypatch):
    manifest, other = read_manifest(bundle), read_manifest(bundle_int8)
    ask = ([ORT32, OV32], manifest)
    keys = [
        choice_key(*ask, threads=1),
        choice_key(*ask, threads=2),
        choice_key([ORT32], manifest, threads=1),
        choice_key([ORT32, OV8], other, threads=1),
    ]
    for name, value in (
        ("find_version", lambda name: "2031.1"),
        ("processor_name", lambda: "another CPU"),
        ("__version__", "9.9"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(engine_choice, name, value)
            keys.append(choice_key(*ask, threads=1))
    assert len(set(keys)) == len(keys)
    assert choice_key(*ask, threads=1) == keys[0]
    # The same graph in another bundle is the same choice.
    assert choice_key([ORT32, OV32], other, threads=1) == keys[0]


def test_a_choice_comes_back_as_it_was_written():
    choice = Choice("abc", OV8, "because")
    assert read_choice("abc") is None
    write_choice(choice)
    assert read_choice("abc") == choice
    assert [path.name for path in kept()] == ["abc.json"]


def test_versions_are_found_without_an_import(monkeypatch):
    assert find_version("onnxruntime")
    monkeypatch.setattr(engine_choice, "PACKAGES", {"openvino": ("no-such-package",)})
    assert engine_choice.find_version("openvino") is None


def test_the_processor_has_a_name():
    assert processor_name()
