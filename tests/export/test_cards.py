from __future__ import annotations

import hashlib

import msgspec
import pytest
from click.testing import CliRunner

from irstd.export import cards
from irstd.export.cards import (
    BEGIN,
    END,
    Card,
    Followed,
    Scored,
    card_path,
    measure,
    models_table,
    put_between,
    read_card,
)
from irstd.train.checkpoint import Weights, save_weights
from irstd.train.zoo import MODELS, Model, find_model


def card(model: str = "lrrnet-edge") -> Card:
    native = Scored("SIRST val", 85, "native", 0.7512, 0.71, 0.98, 12.3)
    network = Scored("SIRST val", 85, "network", 0.7399, 0.7, 0.98, 11.0)
    return Card(
        model=model, sha256="0" * 64, parameters=638_968, gflop={"256": 1.17, "512": 4.68},
        latency_ms={"256": (20.2, 20.0, 21.0), "512": (80.7, 79.0, 90.0)}, machine="a processor",
        training={"training.seed": "0"}, command="irstd-train", scores=[native, network],
        sequences=[Followed("sequence9", 100, 0.5, 1.25)],
    )  # fmt: skip


def test_the_table_by_hand() -> None:
    lines = models_table([card()]).splitlines()
    assert lines[2] == (
        "| lrrnet-edge | 0.64 M | 1.2, 4.7 | 20, 81 | SIRST val (85 frames) "
        "| 0.751 | 0.710 | 0.980 | 12 | 0.740 |"
    )
    assert lines[-1] == "Milliseconds: medians on a processor."


def test_a_second_list_leaves_the_first_columns_blank() -> None:
    two = msgspec.structs.replace(
        card(),
        scores=[
            Scored(name, 1, resolution, 0.5, 0.5, 0.5, 1.0)
            for name in ("A val", "B val")
            for resolution in ("native", "network")
        ],
    )
    assert models_table([two]).splitlines()[3].startswith("| | | | | B val")


def test_put_between_keeps_the_rest() -> None:
    text = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert put_between(text, "new") == f"before\n{BEGIN}\nnew\n{END}\nafter\n"


@pytest.mark.parametrize("text", ["", BEGIN, END, f"{END} {BEGIN}"])
def test_a_readme_without_marks(text: str) -> None:
    with pytest.raises(ValueError, match="lacks the marks"):
        put_between(text, "new")


def test_a_card_comes_back(tmp_path) -> None:
    path = tmp_path / "a.card.json"
    path.write_bytes(msgspec.json.encode(card()))
    assert read_card(path) == card()
    path.write_text("{}")
    with pytest.raises(ValueError, match="is no model card"):
        read_card(path)


def test_measuring_a_model(tmp_path, masks_dataset, monkeypatch) -> None:
    monkeypatch.setattr(cards, "SIZES", (64,))
    monkeypatch.setattr(cards, "RUNS", 2)
    zoo = find_model("lrrnet-edge")
    model = Model(zoo.name, zoo.build, zoo.stride, (64, 64), zoo.source)
    weights = tmp_path / "w.safetensors"
    notes = {"training.seed": "3", "val.x.iou": "0.5"}
    save_weights(weights, Weights(model.build().state_dict(), notes))
    monkeypatch.setattr(Model, "weights", property(lambda self: weights))
    measured = measure(model, [masks_dataset], [], command="train it")
    assert measured.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert measured.training == {"training.seed": "3"}
    assert [one.resolution for one in measured.scores] == ["native", "network"]
    assert measured.parameters == 638_968 and measured.gflop["64"] > 0
    least, most = measured.latency_ms["64"][1:]
    assert 0 < least <= measured.latency_ms["64"][0] <= most


def test_shipped_cards_describe_the_shipped_weights() -> None:
    shipped = [model for model in MODELS.values() if model.weights.is_file()]
    assert shipped
    for model in shipped:
        known = read_card(card_path(model))
        assert known.model == model.name
        assert known.sha256 == hashlib.sha256(model.weights.read_bytes()).hexdigest()
    assert sum(model.weights.stat().st_size for model in shipped) <= 30 * 2**20


def test_the_readme_has_the_cards_of_all_shipped_weights(tmp_path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"{BEGIN}\n{END}\n")
    outcome = CliRunner().invoke(cards.main, ["tables", "--readme", str(readme)])
    assert outcome.exit_code == 0, outcome.output
    shipped = [model.name for model in MODELS.values() if model.weights.is_file()]
    assert all(f"| {name} |" in readme.read_text() for name in shipped)
    ours = cards.card_path(find_model("lrrnet")).parents[2] / "README.md"
    table = readme.read_text().split(BEGIN)[1].split(END)[0]
    assert table in ours.read_text(), "run `make models`"
