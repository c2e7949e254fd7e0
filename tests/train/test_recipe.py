from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path

import pytest

from irstd.train.recipe import FINE_TUNING, Augmentation, Recipe, flatten, read_recipe


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


# --- what a recipe may hold -----------------------------------------------------------------------


def test_the_defaults_are_in_range_and_documented() -> None:
    assert read_recipe(None, []) == Recipe()
    for kind in (Recipe, Augmentation):
        for field in fields(kind):
            assert f"    {field.name}: " in (kind.__doc__ or "")


def test_a_fine_tuning_has_defaults_of_its_own(tmp_path: Path) -> None:
    tuned = read_recipe(None, [], defaults=FINE_TUNING)
    assert tuned == Recipe(
        epochs=3, learning_rate=2e-5, start_share=0.0, cross_entropy=0.0, validate_every=1
    )
    path = write(tmp_path, "epochs = 9\nstart_share = 0.1\n[augmentation]\nnoise = 1\n")
    said = read_recipe(path, ["start_share=0.2", "batch=4"], defaults=FINE_TUNING)
    assert (said.epochs, said.learning_rate, said.start_share) == (9, 2e-5, 0.2)
    assert (said.batch, said.augmentation.noise) == (4, 1.0)
    assert read_recipe(path, []).learning_rate == Recipe().learning_rate


@pytest.mark.parametrize("name", ["epochs", "batch", "validate_every"])
@pytest.mark.parametrize("value", [0, -3])
def test_counts_are_positive(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"^{name} is {value}, expected 1 or more$"):
        Recipe(**{name: value})  # type: ignore[arg-type]


def test_the_smallest_crop() -> None:
    assert Recipe(crop=16).crop == 16
    with pytest.raises(ValueError, match="^crop is 15, expected 16 pixels or more$"):
        Recipe(crop=15)


@pytest.mark.parametrize("name", ["target_share", "batch_share", "start_share", "averaging"])
@pytest.mark.parametrize("value", [-0.01, 1.01, math.nan])
def test_shares(name: str, value: float) -> None:
    Recipe(**{name: 0.0})  # type: ignore[arg-type]
    Recipe(**{name: 1.0})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"^{name} is {value}, expected 0 to 1$"):
        Recipe(**{name: value})  # type: ignore[arg-type]


def test_a_mosaic_needs_an_even_side() -> None:
    Recipe(crop=33)
    with pytest.raises(ValueError, match=r"^crop is 33, expected an even one for augmentation\.mo"):
        Recipe(crop=33, augmentation=Augmentation(mosaic=0.1))


@pytest.mark.parametrize("value", [0.0, -1e-3, math.nan])
def test_the_learning_rate_is_positive(value: float) -> None:
    with pytest.raises(ValueError, match=f"^learning_rate is {value}, expected more than 0$"):
        Recipe(learning_rate=value)


@pytest.mark.parametrize(
    "name", ["weight_decay", "target_weight", "reconstruction_weight", "sparsity_weight"]
)
@pytest.mark.parametrize("value", [-1e-3, math.nan])
def test_weights_are_not_negative(name: str, value: float) -> None:
    Recipe(**{name: 0.0})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"^{name} is {value}, expected 0 or more$"):
        Recipe(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["learning_rate", "target_weight"])
def test_no_number_is_infinite(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is inf"):
        Recipe(**{name: math.inf})  # type: ignore[arg-type]


def test_the_seed_is_not_negative() -> None:
    with pytest.raises(ValueError, match="^seed is -1, expected 0 or more$"):
        Recipe(seed=-1)


@pytest.mark.parametrize(
    ("name", "lowest", "highest", "outside"),
    [
        ("zoom", 1.0, 4.0, (0.99, 4.01, math.nan)),
        ("lowest_scr", 0.01, 12.0, (0.0, 12.1, math.nan)),
        ("share", 0.0, 1.0, (-0.1, 1.1, math.nan)),
        ("sharper_sensors", 0.0, 1.0, (-0.1, 1.1, math.nan)),
        ("mosaic", 0.0, 1.0, (-0.1, 1.1, math.nan)),
        ("gain", 0.0, 1.0, (-0.1, 1.1, math.nan)),
        ("symbols", 0.0, 1.0, (-0.1, 1.1, math.nan)),
        ("defects", 0.0, 1.0, (-0.1, 1.1, math.nan)),
        ("finer_levels", 0.0, 1.0, (-0.1, 1.1, math.nan)),
        ("empty_share", 0.0, 1.0, (-0.1, 1.1, math.nan)),
        ("transplants", 0.0, 20.0, (-0.1, 20.1, math.nan)),
        ("injected", 0.0, 20.0, (-0.1, 20.1, math.nan)),
        ("blur", 0.0, 2.0, (-0.1, 2.1, math.nan)),
        ("noise", 0.0, 255.0, (-0.1, 255.1, math.nan)),
    ],
)
def test_ranges_of_the_augmentation(
    name: str, lowest: float, highest: float, outside: tuple[float, ...]
) -> None:
    for value in (lowest, highest):
        assert getattr(Augmentation(**{name: value}), name) == value
    for value in outside:
        with pytest.raises(ValueError, match=f"^augmentation.{name} is {value}, expected "):
            Augmentation(**{name: value})


def test_every_part_of_the_augmentation_has_a_range_test() -> None:
    (mark,) = test_ranges_of_the_augmentation.pytestmark  # type: ignore[attr-defined]
    assert {case[0] for case in mark.args[1]} == {field.name for field in fields(Augmentation)}


# --- files and overrides --------------------------------------------------------------------------


def test_a_file_and_its_overrides(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        'epochs = 7\narithmetic = "bf16"\nlearning_rate = 1\n[augmentation]\nzoom = 2.5\n',
    )
    read = read_recipe(path, [])
    expected = Recipe(
        epochs=7, arithmetic="bf16", learning_rate=1.0, augmentation=Augmentation(zoom=2.5)
    )
    assert read == expected
    changed = read_recipe(path, ["epochs=8", "augmentation.noise=0", "arithmetic=fp32"])
    assert (changed.epochs, changed.arithmetic) == (8, "fp32")
    assert changed.augmentation == Augmentation(zoom=2.5, noise=0.0)


def test_later_overrides_win() -> None:
    assert read_recipe(None, ["batch=8", "crop=64", "batch=4"]).batch == 4


@pytest.mark.parametrize(
    ("override", "name", "value"),
    [
        ("batch=8", "batch", 8),
        ("learning_rate=1e-3", "learning_rate", 1e-3),
        ("learning_rate=1", "learning_rate", 1.0),
        ("arithmetic=bf16", "arithmetic", "bf16"),
        ("arithmetic='bf16'", "arithmetic", "bf16"),
    ],
)
def test_how_values_are_written(override: str, name: str, value: object) -> None:
    assert getattr(read_recipe(None, [override]), name) == value


def test_an_override_below_a_table() -> None:
    augmentation = read_recipe(None, ["augmentation.noise=0"]).augmentation
    assert augmentation == Augmentation(noise=0.0)


@pytest.mark.parametrize(
    "name", ["epoch", "augmentation.nois", "augmentation", "noise", "epochs.x", "", "batch "]
)
def test_unknown_names_in_overrides(name: str) -> None:
    with pytest.raises(ValueError, match=f"^a recipe has no '{name}'; known: epochs, batch, ") as e:
        read_recipe(None, [f"{name}=1"])
    assert "augmentation.noise" in str(e.value)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("epoch = 7", "epoch"),
        ("[augmentation]\nnois = 1", "augmentation.nois"),
        ("augmentation = 3", "augmentation"),
        ("[training]\nepochs = 1", "training"),
    ],
)
def test_unknown_names_in_files(tmp_path: Path, text: str, name: str) -> None:
    with pytest.raises(ValueError, match=f"^a recipe has no '{name}'; known: "):
        read_recipe(write(tmp_path, text), [])


@pytest.mark.parametrize("text", ['"augmentation.noise" = 0', "[training]", "[augmentation.more]"])
def test_nothing_in_a_file_is_ignored(tmp_path: Path, text: str) -> None:
    # A quoted key is one name, dots included; it reaches no table.
    with pytest.raises(ValueError, match="a recipe has no"):
        read_recipe(write(tmp_path, text), [])


@pytest.mark.parametrize("text", ["epochs 7", "epochs = 7\nepochs = 8", "[augmentation"])
def test_no_toml(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"recipe\.toml is no TOML: "):
        read_recipe(write(tmp_path, text), [])


def test_no_text(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(b"epochs = \xff")
    with pytest.raises(ValueError, match=r"recipe\.toml is no TOML: "):
        read_recipe(path, [])


def test_a_missing_file(tmp_path: Path) -> None:
    for path in (tmp_path / "recipe.toml", tmp_path):
        with pytest.raises(FileNotFoundError, match="^recipe .* does not exist$"):
            read_recipe(path, [])


@pytest.mark.parametrize("override", ["batch", "", "batch:8"])
def test_what_is_no_override(override: str) -> None:
    with pytest.raises(ValueError, match=f"^override '{override}' is no NAME=VALUE, e.g. batch=8$"):
        read_recipe(None, [override])


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("epochs=many", r"Expected `int`, got `str` - at `\$\.epochs`"),
        ("epochs=", r"Expected `int`, got `str`"),
        ("epochs=1.5", r"Expected `int`, got `float`"),
        ("epochs=true", r"Expected `int`, got `bool`"),
        ("epochs=[1]", r"Expected `int`, got `array`"),
        ("learning_rate=fast", r"Expected `float`, got `str`"),
        ("arithmetic=fp8", r"Invalid enum value 'fp8'"),
        ("augmentation.noise=loud", r"Expected `float`, got `str` - at `\$\.augmentation\.noise`"),
        ("batch=0", r"batch is 0, expected 1 or more"),
        ("augmentation.zoom=9", r"augmentation\.zoom is 9\.0, expected 1 to 4"),
    ],
)
def test_wrong_values(override: str, said: str) -> None:
    with pytest.raises(ValueError, match=f"^recipe: {said}"):
        read_recipe(None, [override])


def test_flatten() -> None:
    assert flatten({"a": 1, "b": {"c": 2, "d": {"e": 3}}}) == {"a": 1, "b.c": 2, "b.d.e": 3}
    assert flatten({"b": {}}) == {}
