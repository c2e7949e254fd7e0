import tempfile
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from irstd.calibration import frames as module
from irstd.calibration.frames import (
    LEAST_FRAMES,
    MOST_FRAMES,
    SYNTHETIC_SEEDS,
    read_calibration,
    synthetic_calibration,
)
from irstd.runtime import evaluation
from irstd.runtime.frame import FrameContract
from irstd.runtime.media_cv2 import read_image, write_image, write_sequence
from irstd.runtime.scene import Scene, SceneOptions
from irstd.tests.calibration.frames_on_disk import CONTRACT, noise, plain, write


def names(chosen):
    return [one.name for one in chosen.frames]


# --- what is read ---------------------------------------------------------------------------------


def test_a_plain_folder_gets_synthetic_targets(tmp_path):
    chosen = read_calibration(plain(tmp_path / "flight_7", 12), CONTRACT, most=8)
    assert (chosen.source, chosen.offered, chosen.labelled) == ("folder flight_7", 12, False)
    assert len(set(names(chosen))) == len(chosen.frames) == 8
    for one in chosen.frames:
        recorded = read_image(tmp_path / "flight_7" / f"{one.name}.png")
        assert np.array_equal(one.empty, recorded)
        assert (one.frame > one.empty).any() and not (one.frame < one.empty).any()


def test_runs_in_folders_may_number_their_frames_alike(tmp_path):
    for place in range(10):
        write(tmp_path, [(f"run{1 + place % 2}/{place // 2:04d}.pgm", noise(place))])
    chosen = read_calibration(tmp_path, CONTRACT, most=8)
    assert (chosen.source, chosen.offered) == (f"folder {tmp_path.name}", 10)
    assert len({*names(chosen)}) == 8
    for one in chosen.frames:
        assert np.array_equal(one.empty, read_image(tmp_path / f"{one.name}.pgm"))


def test_sequences_in_folders_are_one_calibration_set(tmp_path):
    for place in range(10):
        write(tmp_path, [(f"run{1 + place % 2}/frames/{place // 2:04d}.png", noise(place))])
    for run in ("run1", "run2"):
        (tmp_path / run / "centroids.csv").write_text("frame,x,y\n0001,3,4\n")
    chosen = read_calibration(tmp_path, CONTRACT, most=8)
    assert (chosen.source, chosen.offered) == (f"sequence {tmp_path.name}, all", 10)
    assert not chosen.labelled
    assert {name.split("/")[0] for name in names(chosen)} == {"run1", "run2"}


def test_a_dataset_gives_its_own_targets(dataset):
    chosen = read_calibration(dataset, CONTRACT, most=8)
    assert (chosen.offered, chosen.labelled) == (12, True)
    assert chosen.source == f"dataset {dataset.name}, all"
    with_targets = [one for one in chosen.frames if int(one.name[1:]) % 3 == 0]
    assert len(with_targets) == 4  # all there are, half of the choice
    near = np.zeros((32, 32), np.bool_)
    near[13:19, 13:19] = True
    for one in chosen.frames:
        recorded = read_image(dataset / "images" / f"{one.name}.png")
        is_labelled = int(one.name[1:]) % 3 == 0
        assert np.array_equal(one.frame if is_labelled else one.empty, recorded)
        assert (one.frame != one.empty).any()
        if is_labelled:
            assert np.array_equal(one.frame[~near], one.empty[~near])
            assert one.empty.max() < 255


def test_a_dataset_without_any_target_is_not_labelled(dataset):
    for path in (dataset / "masks").iterdir():
        write_image(path, np.zeros((32, 32), np.uint8))
    chosen = read_calibration(dataset, CONTRACT)
    assert not chosen.labelled
    assert all((one.frame != one.empty).any() for one in chosen.frames)


def test_the_train_list_is_used_and_nothing_that_is_measured_on(dataset):
    (dataset / "val.txt").write_text("m0\nm1\n")
    (dataset / "test.txt").write_text("m2\n")
    chosen = read_calibration(dataset, CONTRACT)
    assert sorted(names(chosen)) == sorted(f"m{i}" for i in range(3, 12))
    (dataset / "train.txt").write_text("".join(f"m{i}\n" for i in range(2, 11)))
    chosen = read_calibration(dataset, CONTRACT)
    assert sorted(names(chosen)) == sorted(f"m{i}" for i in range(2, 11))
    assert chosen.source == f"dataset {dataset.name}, train"


def test_a_sequence_gives_its_frames_and_not_its_masks(tmp_path):
    options = SceneOptions(height=64, width=64, targets=1, defects=0)
    write_sequence(tmp_path, Scene(options, seed=0), frames=9)
    chosen = read_calibration(tmp_path, FrameContract(64, 64, bit_depth=14))
    assert (chosen.source, chosen.labelled) == (f"sequence {tmp_path.name}, all", False)
    assert sorted(names(chosen)) == [f"{i:04d}" for i in range(1, 10)]
    assert all(one.empty.dtype == np.uint16 for one in chosen.frames)


def test_frames_of_several_sizes(tmp_path):
    plain(tmp_path, 6)
    write(tmp_path, [(f"wide{i}.png", noise(i, shape=(20, 40))) for i in range(6)])
    chosen = read_calibration(tmp_path, CONTRACT)
    assert {one.frame.shape for one in chosen.frames} == {(32, 32), (20, 40)}
    assert len(chosen.frames) == 12


@pytest.mark.parametrize("bit_depth", [8, 10, 14, 16])
def test_depths(tmp_path, bit_depth):
    plain(tmp_path, bit_depth=bit_depth)
    chosen = read_calibration(tmp_path, FrameContract(32, 32, bit_depth=bit_depth, fit="pad"))
    for one in chosen.frames:
        assert one.frame.dtype == one.empty.dtype == (np.uint8 if bit_depth == 8 else np.uint16)
        assert one.frame.max() < 2**bit_depth


def test_the_limits_of_the_choice():
    assert (LEAST_FRAMES, MOST_FRAMES) == (8, 32)


# --- coverage -------------------------------------------------------------------------------------


def test_what_is_rare_is_chosen(tmp_path):
    """Of 30 frames much alike and three others, the three are among the first."""
    base = noise(0)
    rng = np.random.default_rng(1)
    alike = [base.astype(int) + rng.integers(-1, 2, base.shape) for _ in range(30)]
    images = [(f"a{i:02d}.png", one.clip(0, 255).astype(np.uint8)) for i, one in enumerate(alike)]
    spots = base.copy()
    spots[8:24:8, 8:24:8] = 255
    half = base.copy()
    half[:16] //= 4
    images += [("dark.png", base // 3), ("spots.png", spots), ("half.png", half)]
    chosen = read_calibration(write(tmp_path, images), CONTRACT, most=8)
    assert {"dark", "spots", "half"} <= set(names(chosen)[:5])


def test_a_long_recording_is_looked_at_in_even_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_LOOKED_AT", 10)
    plain(tmp_path, 19)
    chosen = read_calibration(tmp_path, CONTRACT)
    assert chosen.offered == 19
    # f10 follows f9: numbers count as numbers.
    assert sorted(names(chosen)) == sorted(f"f{i}" for i in range(0, 19, 2))


def test_one_frame_is_held_at_a_time(tmp_path, monkeypatch):
    plain(tmp_path, 20)
    before = []

    def read(path):
        assert not any(one() is not None for one in before[:20])
        frame = read_image(path)
        before.append(weakref.ref(frame))
        return frame

    monkeypatch.setattr(module, "read_image", read)
    read_calibration(tmp_path, CONTRACT, most=8)
    assert len(before) == 28


# --- what the choice and its hash depend on -------------------------------------------------------


def test_file_order_does_not_matter(tmp_path, monkeypatch):
    plain(tmp_path, 20)
    one = read_calibration(tmp_path, CONTRACT, most=8)
    forward = Path.glob
    monkeypatch.setattr(Path, "glob", lambda self, text: reversed(list(forward(self, text))))
    other = read_calibration(tmp_path, CONTRACT, most=8)
    assert (names(one), one.sha256) == (names(other), other.sha256)


def test_order_of_a_list_does_not_matter(dataset):
    (dataset / "train.txt").write_text("".join(f"m{i}\n" for i in range(12)))
    one = read_calibration(dataset, CONTRACT, most=8)
    (dataset / "train.txt").write_text("".join(f"m{i}\n" for i in reversed(range(12))))
    assert names(one) == names(read_calibration(dataset, CONTRACT, most=8))


@settings(max_examples=5, deadline=None)
@given(order=st.permutations(range(14)))
def test_names_do_not_matter(order):
    images = [noise(i) for i in range(14)]
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        write(Path(one), [(f"f{i}.png", image) for i, image in enumerate(images)])
        write(Path(other), [(f"{name}.png", images[i]) for name, i in enumerate(order)])
        first = read_calibration(Path(one), CONTRACT, most=8)
        second = read_calibration(Path(other), CONTRACT, most=8)
    assert first.sha256 == second.sha256
    assert [int(name[1:]) for name in names(first)] == [order[int(n)] for n in names(second)]


@settings(max_examples=5, deadline=None)
@given(
    place=st.tuples(st.integers(0, 7), st.integers(0, 31), st.integers(0, 31)),
    step=st.sampled_from([1, 255]),
)
def test_one_changed_pixel_changes_the_hash(place, step):
    images = [noise(i) for i in range(8)]
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), [(f"f{i}.png", image) for i, image in enumerate(images)])
        before = read_calibration(Path(folder), CONTRACT)
        images[place[0]][place[1:]] ^= np.uint8(step)
        write(Path(folder), [(f"f{i}.png", image) for i, image in enumerate(images)])
        after = read_calibration(Path(folder), CONTRACT)
    assert before.sha256 != after.sha256


def test_a_changed_frame_that_is_not_chosen_changes_the_hash_too(tmp_path):
    images = [noise(i) for i in range(14)]
    write(tmp_path, [(f"f{i}.png", image) for i, image in enumerate(images)])
    before = read_calibration(tmp_path, CONTRACT, most=8)
    unchosen = next(i for i in range(14) if f"f{i}" not in names(before))
    images[unchosen][0, 0] ^= np.uint8(1)
    write(tmp_path, [(f"f{i}.png", image) for i, image in enumerate(images)])
    after = read_calibration(tmp_path, CONTRACT, most=8)
    assert names(after) == names(before) and after.sha256 != before.sha256


def test_shape_type_and_label_are_hashed():
    frame = np.arange(128, dtype=np.uint8).reshape(8, 16)
    pair = module.CalibrationFrame("a", frame, frame)
    wide = replace(pair, frame=frame.view(np.uint16))  # the same bytes
    flat = replace(pair, frame=frame.reshape(16, 8))
    renamed = replace(pair, name="b")
    found = [module._hash([one], True, []) for one in (pair, wide, flat, renamed)]
    assert len(set(found)) == 3 and found[0] == found[3]
    assert module._hash([pair], False, []) != found[0]
    assert module._hash([pair, wide], True, []) == module._hash([wide, pair], True, [])
    swapped = replace(wide, frame=wide.empty, empty=wide.frame)
    assert module._hash([swapped], True, []) != module._hash([wide], True, [])
    assert module._hash([pair], True, [b"another"]) != found[0]


# --- synthetic ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def synthetic():
    return synthetic_calibration(FrameContract(48, 40, bit_depth=12), most=12)


def test_synthetic_frames(synthetic):
    assert (synthetic.source, synthetic.offered) == ("the synthetic scene set", 64)
    assert synthetic.labelled and len(set(names(synthetic))) == 12
    for one in synthetic.frames:
        assert one.frame.shape == one.empty.shape == (48, 40)
        assert one.frame.dtype == one.empty.dtype == np.uint16
        assert one.frame.max() < 4096
        added = np.count_nonzero(one.frame != one.empty)
        assert 0 < added <= 6 * 15 * 15


def test_synthetic_frames_are_the_same_each_time(synthetic):
    again = synthetic_calibration(FrameContract(48, 40, bit_depth=12), most=8)
    assert names(again) == names(synthetic)[:8]
    first = synthetic.frames[0]
    assert np.array_equal(first.frame, again.frames[0].frame)


def test_the_gate_is_measured_on_other_scenes():
    assert not set(SYNTHETIC_SEEDS) & set(evaluation.SYNTHETIC_SEEDS)
