import copy
import json
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from irstd.runtime.bundle import (
    MANIFEST,
    SCHEMA,
    Calibration,
    read_file,
    read_manifest,
    seal_bundle,
    stage_bundle,
)


def rewrite(bundle, change):
    path = bundle / MANIFEST
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))


def test_a_bundle_reads_back(bundle):
    manifest = read_manifest(bundle)
    assert manifest.schema == SCHEMA
    assert manifest.frame.height == 64
    assert set(manifest.files) == {"model.onnx"}
    assert len(read_file(bundle, manifest, "model.onnx")) == manifest.files["model.onnx"].bytes


def test_a_bundle_names_a_graph_for_each_precision(bundle, bundle_int8):
    assert read_manifest(bundle).graphs == {"fp32": "model.onnx"}
    manifest = read_manifest(bundle_int8)
    assert manifest.graphs == {"fp32": "model.onnx", "int8": "model.int8.onnx"}
    assert (manifest.precision, manifest.cpu.precision) == ("int8", "fp32")
    assert manifest.cpu.latency_ms["int8"].median == 6.0


CALIBRATION = Calibration("entropy", "frames", 24, 100, True, "0" * 64, 0.9)


@pytest.mark.parametrize("share", [0, 0.93, 1])
def test_a_calibration_reads_back_with_its_share(bundle, share):
    manifest = replace(
        read_manifest(bundle), calibration=replace(CALIBRATION, share=share), seal=""
    )
    sealed = seal_bundle(bundle, manifest)
    assert read_manifest(bundle) == sealed
    assert sealed.calibration == replace(CALIBRATION, share=share)


@pytest.mark.parametrize("share", [-0.1, 1.1, 93, float("nan")])
def test_a_share_is_a_fraction(share):
    with pytest.raises(ValueError, match="expected 0 to 1"):
        replace(CALIBRATION, share=share)


def test_rewriting_without_a_change_of_content_is_no_edit(bundle):
    rewrite(bundle, lambda fields: None)
    read_manifest(bundle)


def set_field(name, value):
    return lambda fields: fields.__setitem__(name, value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (set_field("threshold", 0.9), "was edited or damaged"),
        (set_field("model", "other"), "was edited or damaged"),
        (set_field("seal", ""), "was edited or damaged"),
        (lambda fields: fields["frame"].__setitem__("bit_depth", 12), "was edited or damaged"),
        (lambda fields: fields["frame"].__setitem__("bit_depth", 40), "bit depth is 40"),
        (lambda fields: fields.pop("frame"), "damaged"),
        (set_field("threshold", "high"), "damaged"),
        (set_field("schema", SCHEMA + 1), "this irstd reads 4; update irstd"),
        (set_field("schema", SCHEMA - 1), "this irstd reads 4; export the bundle again"),
        (set_field("schema", True), "no schema version"),
        (set_field("schema", "1"), "no schema version"),
        (lambda fields: fields.pop("schema"), "no schema version"),
    ],
)
def test_an_edited_manifest_is_refused(bundle, change, said):
    rewrite(bundle, change)
    with pytest.raises(ValueError, match=said):
        read_manifest(bundle)


@pytest.mark.parametrize(
    ("change", "lacking"),
    [
        (lambda fields: fields["graphs"].pop("fp32"), "fp32"),
        (lambda fields: fields["graphs"].pop("int8"), "int8"),
        (lambda fields: fields["graphs"].clear(), "fp32"),
        (set_field("precision", "fp16"), "fp16"),
        (lambda fields: fields["cpu"].__setitem__("precision", "fp16"), "fp16"),
    ],
)
def test_a_manifest_that_lacks_a_graph_it_needs_is_refused(bundle_int8, change, lacking):
    rewrite(bundle_int8, change)
    said = f"is damaged: it lacks the {lacking} graph.*export the bundle again"
    with pytest.raises(ValueError, match=said):
        read_manifest(bundle_int8)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"schema": 1}'])
def test_what_is_no_manifest_is_refused(bundle, content):
    (bundle / MANIFEST).write_bytes(content)
    with pytest.raises(ValueError, match="export the bundle again"):
        read_manifest(bundle)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_mutation_is_refused_in_one_line_and_nothing_else_escapes(bundle, data):
    text = (bundle / MANIFEST).read_bytes()
    fields = json.loads(text)
    mutated = copy.deepcopy(fields)
    place = mutated
    name = data.draw(st.sampled_from(sorted(place)))
    while isinstance(place[name], dict) and place[name] and data.draw(st.booleans()):
        place = place[name]
        name = data.draw(st.sampled_from(sorted(place)))
    if data.draw(st.booleans()):
        del place[name]
    else:
        place[name] = data.draw(JSON)
    try:
        (bundle / MANIFEST).write_text(json.dumps(mutated))
        manifest = read_manifest(bundle)
    except (ValueError, FileNotFoundError) as err:
        assert "\n" not in str(err)
    else:
        assert json.loads(json.dumps(mutated)) == fields or manifest == read_manifest(bundle)
    finally:
        (bundle / MANIFEST).write_bytes(text)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 10**6), value=st.integers(0, 255))
def test_any_flipped_byte_is_refused_or_harmless(bundle, place, value):
    text = (bundle / MANIFEST).read_bytes()
    expected = read_manifest(bundle)
    flipped = bytearray(text)
    flipped[place % len(text)] = value
    try:
        (bundle / MANIFEST).write_bytes(bytes(flipped))
        assert read_manifest(bundle) == expected  # white space
    except ValueError as err:
        assert "\n" not in str(err)
    finally:
        (bundle / MANIFEST).write_bytes(text)


def test_missing_bundles_and_files(bundle, tmp_path):
    with pytest.raises(FileNotFoundError, match="make one with irstd-export"):
        read_manifest(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="holds no manifest"):
        read_manifest(tmp_path)
    manifest = read_manifest(bundle)
    (bundle / "model.onnx").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks model\.onnx"):
        read_file(bundle, manifest, "model.onnx")


@pytest.mark.parametrize("name", ["other.onnx", "../bundle/model.onnx", "/etc/hostname"])
def test_only_listed_names_are_read(bundle, name):
    with pytest.raises(ValueError, match="lists no file"):
        read_file(bundle, read_manifest(bundle), name)


def test_a_changed_file_is_refused(bundle):
    manifest = read_manifest(bundle)
    content = bytearray((bundle / "model.onnx").read_bytes())
    content[100] ^= 1
    (bundle / "model.onnx").write_bytes(content)
    with pytest.raises(ValueError, match="is not the file that was exported"):
        read_file(bundle, manifest, "model.onnx")


def test_a_failure_while_staging_leaves_the_older_bundle(bundle):
    before = sorted(path.name for path in bundle.parent.iterdir())
    with pytest.raises(OSError, match="No space"), stage_bundle(bundle) as stage:
        (stage / "model.onnx").write_bytes(b"half")
        raise OSError(28, "No space left on device")
    assert sorted(path.name for path in bundle.parent.iterdir()) == before
    read_file(bundle, read_manifest(bundle), "model.onnx")


def test_a_bundle_appears_whole_even_where_its_parent_is_missing(tmp_path):
    folder = tmp_path / "a" / "b" / "bundle"
    with stage_bundle(folder) as stage:
        assert stage.parent == folder.parent
        assert not folder.exists()
        (stage / "file").write_text("x")
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]
    assert (folder / "file").read_text() == "x"


def test_what_is_no_bundle_is_not_replaced(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("keep")
    (tmp_path / "file").write_text("keep")
    for name in ("mine", "file"):
        with pytest.raises(FileExistsError, match="is no bundle"), stage_bundle(tmp_path / name):
            pass
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "keep"


def test_an_empty_folder_becomes_a_bundle(tmp_path):
    (tmp_path / "empty").mkdir()
    with stage_bundle(tmp_path / "empty") as stage:
        (stage / "file").write_text("x")
    assert (tmp_path / "empty" / "file").is_file()
