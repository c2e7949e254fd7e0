"""Sensitivity: which layers are left out first, and the search over mixes with a fake measure."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from irstd.calibration.gate import CalibrationError, Limits
from irstd.calibration.sensitivity import (
    Layers,
    choose_layers,
    measure_damage,
    measure_mix,
    search_mix,
)
from irstd.runtime.errors import OutputError
from irstd.runtime.scoring import Scores

BEFORE = Scores(
    iou=0.7, niou=0.7, precision=0.8, recall=0.8, f1=0.8, pd=0.95, fa_per_mpix=20.0, frames=10,
    targets=20, false_alarms_per_frame=0.1,
)  # fmt: skip

# --- choose_layers --------------------------------------------------------------------------------

COST = {"a": 50, "b": 30, "c": 15, "d": 5}


@pytest.mark.parametrize(
    ("share", "left_out"),
    [
        (1.0, ""),
        (0.96, ""),  # d alone is more than may stay
        (0.95, "d"),
        (0.85, "d"),  # c does not fit beside d
        (0.8, "dc"),
        (0.5, "dcb"),
        (0.49, "dcb"),  # a is too large
        (0.0, "dcba"),
    ],
)
def test_the_most_harmful_for_their_cost_are_left_out(share, left_out):
    damage = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}  # 1/50, 1/15, 1/5, 4/5
    assert choose_layers(damage, COST, share=share) == set(COST) - set(left_out)


def test_a_layer_too_large_to_be_left_out_is_passed_over():
    damage = {"a": 900.0, "b": 0.3, "c": 0.2, "d": 0.01}
    # a is left out only if half may be; else c, which does more for its cost than b, then d.
    assert choose_layers(damage, COST, share=0.54) == {"a", "d"}
    assert choose_layers(damage, COST, share=0.7) == {"a", "b"}
    assert choose_layers(damage, COST, share=0.5) == {"b", "c", "d"}


def test_damage_counts_by_cost():
    # b does more harm than d, but not for each operation.
    damage = {"a": 0.0, "b": 2.0, "c": 0.0, "d": 1.0}
    assert choose_layers(damage, COST, share=0.7) == {"a", "b"}  # d, and c after b did not fit
    assert choose_layers(damage, COST, share=0.65) == {"a", "c"}


def test_shares_that_binary_fractions_miss():
    # 1 - 0.9 is a little less than a tenth.
    cost = {str(number): 100 for number in range(10)}
    damage = {name: float(name) for name in cost}
    for left_out in range(11):
        chosen = choose_layers(damage, cost, share=(10 - left_out) / 10)
        assert chosen == {str(number) for number in range(10 - left_out)}


layers_with_costs = st.dictionaries(
    st.text("abcdefghij", min_size=1, max_size=2),
    st.tuples(st.integers(1, 10**9), st.floats(0, 1e6)),
    min_size=1,
)
shares = st.floats(0, 1)


@given(layers_with_costs, shares)
def test_the_share_is_never_below_what_is_asked(layers, share):
    cost = {name: pair[0] for name, pair in layers.items()}
    damage = {name: pair[1] for name, pair in layers.items()}
    chosen = choose_layers(damage, cost, share=share)
    total, lowered = sum(cost.values()), sum(cost[name] for name in chosen)
    assert chosen <= cost.keys()
    assert lowered >= share * total
    # What stays lowered would have passed the share, when its turn came and so now.
    assert all(lowered - cost[name] < share * total for name in chosen)


@given(layers_with_costs, shares)
def test_what_is_left_out_does_most_harm_for_its_cost(layers, share):
    cost = {name: pair[0] for name, pair in layers.items()}
    damage = {name: pair[1] for name, pair in layers.items()}
    chosen = choose_layers(damage, cost, share=share)
    for kept in chosen:
        for left in cost.keys() - chosen:
            # Only a layer that costs more is passed over for one that does less harm.
            worse = damage[kept] / cost[kept] > damage[left] / cost[left]
            assert not worse or cost[kept] > cost[left]


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=12), shares, shares)
def test_a_smaller_share_of_equal_layers_leaves_out_more(damages, first, second):
    damage = {str(number): value for number, value in enumerate(damages)}
    cost = dict.fromkeys(damage, 7)
    low, high = sorted((first, second))
    few, many = (choose_layers(damage, cost, share=share) for share in (low, high))
    assert few <= many


@given(layers_with_costs)
def test_the_ends_of_the_scale(layers):
    cost = {name: pair[0] for name, pair in layers.items()}
    damage = {name: pair[1] for name, pair in layers.items()}
    assert choose_layers(damage, cost, share=1.0) == cost.keys()
    assert choose_layers(damage, cost, share=0.0) == frozenset()


# --- measure_damage -------------------------------------------------------------------------------


def gains(**factors):
    """confidence = clip(frame * first * second * third)."""
    names = ["frame", "a", "b", "c", "confidence"]
    shape = (1, 1, 2, 2)
    nodes = [
        helper.make_node("Mul", [source, factor], [result], name=factor)
        for source, factor, result in zip(names, factors, names[1:], strict=False)
    ]
    nodes.append(helper.make_node("Clip", ["c", "low", "high"], ["confidence"]))
    values = factors | {"low": 0, "high": 1}
    graph = helper.make_graph(
        nodes,
        "gains",
        [helper.make_tensor_value_info("frame", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("confidence", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.float32(value), name) for name, value in values.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


LOWERED = {"first": 1.0, "second": 0.5, "third": 1.25}


def lower_gains(layers):
    """A layer in the lower precision loses, in turn, nothing, half and a quarter too much."""
    return gains(**{name: LOWERED[name] if name in layers else 1.0 for name in LOWERED})


def test_damage_is_the_mean_square_of_what_the_confidence_loses():
    frames = [
        np.full((1, 1, 2, 2), 0.4, np.float32),
        np.array([[[[0.0, 0.8], [0.0, 0.8]]]], np.float32),
    ]
    lines = []
    found = measure_damage(
        lower_gains(()), lower_gains, ["third", "first", "second"], frames, say=lines.append
    )
    assert list(found) == ["third", "first", "second"]
    # Of 0.4: 0.1 and 0.2; of 0.8: 0.2 and 0.4, at half of the pixels.
    expected = {"first": 0.0, "second": (0.04 + 0.08) / 2, "third": (0.01 + 0.02) / 2}
    assert found == pytest.approx(expected, rel=1e-6)
    assert not lines


def test_layers_are_lowered_one_at_a_time_and_the_work_is_announced():
    asked, lines = [], []

    def lower(layers):
        asked.append(list(layers))
        return lower_gains(())

    names = [str(number) for number in range(45)]
    frame = np.zeros((1, 1, 2, 2), np.float32)
    found = measure_damage(lower_gains(()), lower, names, [frame], say=lines.append)
    assert asked == [[name] for name in names]
    assert found == dict.fromkeys(names, 0.0)
    assert lines == ["  20 of 45 layers", "  40 of 45 layers"]


def test_a_layer_that_leaves_no_confidence_does_infinite_damage():
    def lower(layers):
        return gains(first=1.0, second=1.0, third=np.inf if layers == ["third"] else 1.0)

    frame = np.zeros((1, 1, 2, 2), np.float32)  # 0 times infinity is no number
    found = measure_damage(lower(()), lower, ["first", "third"], [frame], say=print)
    assert found == {"first": 0.0, "third": np.inf}
    assert choose_layers(found, {"first": 1, "third": 9}, share=0.1) == {"first"}


# --- Layers and mixes -----------------------------------------------------------------------------


class Bench:
    """Layers of a network whose Pd is what a table says, and what was asked of it."""

    def __init__(self, pd, *, cost=None):
        self.pd = pd  # by what is left out
        self.asked, self.measured = 0, []
        damage = {"a": 0.0, "b": 0.1, "c": 1.0, "d": 1.0}
        self.layers = Layers(self.lower, cost or COST, lambda: self.damage(damage))

    def damage(self, damage):
        self.asked += 1
        return damage

    def lower(self, layers):
        return onnx.ModelProto(doc_string="".join(sorted(COST.keys() - set(layers))))

    def measure(self, graph):
        self.measured.append(graph.doc_string)
        return {"set": replace(BEFORE, pd=self.pd[graph.doc_string])}

    def search(self, *shares, limits=None):
        rounds = [share if isinstance(share, tuple) else (share,) for share in shares]
        return search_mix(
            self.layers,
            rounds,
            before={"set": BEFORE},
            measure=self.measure,
            limits=limits or Limits(),
        )


def test_shares_of_layers_are_by_cost():
    layers = Bench({}).layers
    assert layers.share(["a", "d"]) == 0.55
    assert layers.share(COST) == 1
    assert layers.share(()) == 0


def test_a_mix_knows_its_share_and_scores():
    bench = Bench({"bd": 0.9})
    mix = measure_mix(bench.layers, frozenset("ac"), bench.measure)
    assert (mix.layers, mix.share) == (frozenset("ac"), 0.65)
    assert mix.scores == {"set": replace(BEFORE, pd=0.9)}
    assert bench.measured == ["bd"]


def test_the_first_share_is_taken_if_it_passes():
    bench = Bench({"": 0.95})
    found = bench.search(1.0, 0.8)
    assert found.chosen.layers == COST.keys() and found.chosen.share == 1
    assert found.tried == (found.chosen,)
    assert bench.measured == [""]


def test_nobody_asks_for_damage_that_lowers_everything():
    bench = Bench({"": 0.95})
    bench.search(1.0, 0.9, 0.8)
    assert bench.asked == 0
    bench = Bench({"": 0.0, "d": 0.95})
    bench.search(1.0, 0.95)
    assert bench.asked == 1


def test_shares_are_stepped_down_until_one_passes():
    bench = Bench({"": 0.2, "d": 0.5, "cd": 0.946, "bcd": 0.95})
    found = bench.search(1.0, 0.95, 0.8, 0.5)
    assert [mix.share for mix in found.tried] == [1.0, 0.95, 0.8]
    assert [mix.scores["set"].pd for mix in found.tried] == [0.2, 0.5, 0.946]
    assert found.chosen is found.tried[-1] and found.chosen.layers == {"a", "b"}


def test_of_a_round_the_highest_iou_is_taken():
    bench = Bench({})
    iou = {"": 0.696, "d": 0.699, "cd": 0.698, "bcd": 0.7}
    bench.measure = lambda graph: {"set": replace(BEFORE, iou=iou[graph.doc_string])}
    found = bench.search((1.0, 0.95, 0.8), 0.5)
    assert [mix.share for mix in found.tried] == [1.0, 0.95, 0.8]
    assert found.chosen is found.tried[1]


def test_a_round_is_left_only_when_none_of_it_passes():
    bench = Bench({"": 0.2, "d": 0.95, "cd": 0.94})
    assert bench.search((1.0, 0.95), 0.8).chosen.share == 0.95
    bench = Bench({"": 0.2, "d": 0.3, "cd": 0.95})
    found = bench.search((1.0, 0.95), 0.8)
    assert found.chosen.share == 0.8 and len(found.tried) == 3


def test_limits_decide_what_passes():
    bench = Bench({"": 0.2, "d": 0.5, "cd": 0.9})
    assert bench.search(1.0, 0.95, 0.8, limits=Limits(drop_pd=0.45)).chosen.share == 0.95


def test_equal_mixes_are_measured_once():
    bench = Bench({"": 0.2, "d": 0.5, "cd": 0.95})
    found = bench.search(1.0, 0.97, 0.95, 0.9, 0.85, 0.8)
    assert bench.measured == ["", "d", "cd"]
    assert len(found.tried) == 3


def test_limits_hold_on_every_labelled_set():
    bench = Bench({})
    pd = {"": (0.95, 0.2), "d": (0.5, 0.95), "cd": (0.95, 0.95)}

    def measure(graph):
        return {
            name: replace(BEFORE, pd=one)
            for name, one in zip(("day", "night"), pd[graph.doc_string], strict=True)
        }

    before = {"day": BEFORE, "night": BEFORE}
    rounds = [[1.0], [0.95], [0.8]]
    found = search_mix(bench.layers, rounds, before=before, measure=measure, limits=Limits())
    assert found.chosen.layers == {"a", "b"}
    with pytest.raises(CalibrationError) as caught:
        search_mix(bench.layers, rounds[:2], before=before, measure=measure, limits=Limits())
    assert str(caught.value).splitlines()[1:3] == [
        "  100% lowered: Pd 0.9500 -> 0.2000 (limit -0.005) on night",
        "  95% lowered: Pd 0.9500 -> 0.5000 (limit -0.005) on day",
    ]


def test_of_several_sets_the_one_that_loses_most_iou_decides():
    bench = Bench({})
    iou = {"": (0.71, 0.296), "d": (0.699, 0.299), "cd": (0.697, 0.31)}  # of 0.7 and 0.3

    def measure(graph):
        day, night = iou[graph.doc_string]
        return {"day": replace(BEFORE, iou=day), "night": replace(BEFORE, iou=night)}

    before = {"day": BEFORE, "night": replace(BEFORE, iou=0.3)}
    found = search_mix(
        bench.layers, [[1.0, 0.95, 0.8]], before=before, measure=measure, limits=Limits()
    )
    assert found.chosen is found.tried[1]


def test_a_refusal_tells_every_try_and_what_to_do():
    bench = Bench({"": 0.2, "d": 0.5, "cd": 0.9})
    with pytest.raises(CalibrationError) as caught:
        bench.search(1.0, 0.97, 0.95, 0.8)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("the lower precision loses targets")
    assert lines[1:4] == [
        "  100% lowered: Pd 0.9500 -> 0.2000 (limit -0.005)",
        "  95% lowered: Pd 0.9500 -> 0.5000 (limit -0.005)",
        "  80% lowered: Pd 0.9500 -> 0.9000 (limit -0.005)",
    ]
    for option in ("--frames", "--labelled", "--max-drop-pd", "--max-drop-iou", "--max-rise-fa"):
        assert option in lines[-1]


def test_a_mix_without_a_confidence_is_passed_over():
    bench = Bench({"d": 0.95})

    def measure(graph):
        if not graph.doc_string:
            raise OutputError("the network's output holds NaN")
        return bench.measure(graph)

    rounds = [[1.0], [0.95]]
    found = search_mix(
        bench.layers, rounds, before={"set": BEFORE}, measure=measure, limits=Limits()
    )
    assert [mix.share for mix in found.tried] == [1.0, 0.95]
    assert found.tried[0].scores == {}
    with pytest.raises(CalibrationError, match="100% lowered: the output holds NaN"):
        search_mix(bench.layers, [[1.0]], before={"set": BEFORE}, measure=measure, limits=Limits())


def test_a_refusal_tells_every_loss_of_a_try():
    bench = Bench({})
    bench.measure = lambda _: {"set": replace(BEFORE, pd=0.1, iou=0.2, fa_per_mpix=900.0)}
    with pytest.raises(CalibrationError) as caught:
        bench.search(1.0)
    assert str(caught.value).splitlines()[1].count("->") == 3


def test_frames_without_target_decide_nothing():
    bench = Bench({"": 0.95})
    before = {"set": replace(BEFORE, targets=0)}
    with pytest.raises(ValueError, match="hold no target"):
        search_mix(bench.layers, [[1.0]], before=before, measure=bench.measure, limits=Limits())
