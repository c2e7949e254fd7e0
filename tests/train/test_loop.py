from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from irstd.runtime.evaluation import LabelledFrame
from irstd.runtime.frame import FrameContract
from irstd.runtime.scoring import Scores
from irstd.train.loop import WARM_UP, Training, TrainingError, fitness
from irstd.train.recipe import Recipe
from irstd.train.state import read_state, save_state
from irstd.train.zoo import Model

pytestmark = pytest.mark.usefixtures("one_thread")

CONTRACT = FrameContract(height=16, width=16, normalisation="full-scale")
STEPS = 10


class Pointwise(nn.Module):
    """The smallest network of the zoo's form: both outputs are a line in the pixel's value."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Conv2d(1, 2, 1)
        with torch.no_grad():
            self.line.weight.copy_(torch.tensor([0.5, 2.0])[:, None, None, None])
            self.line.bias.copy_(torch.tensor([0.1, -1.0]))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        reconstruction, logits = self.line(x).split(1, dim=1)
        return reconstruction, logits


class BrighterThan(nn.Module):
    """Takes every pixel above a limit for a target."""

    def __init__(self, limit: float = 0.5) -> None:
        super().__init__()
        self.limit = nn.Parameter(torch.tensor(limit))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x - self.limit


class Refusing(Pointwise):
    """Raises what it is given."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        raise self.error


class Steep(Pointwise):
    """A finite loss, and a gradient that is not: the square root at zero."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        reconstruction, logits = super().forward(x)
        return reconstruction, logits + (0.0 * self.line.weight).sum().sqrt()


def batch(count: int = 4, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Dim noise, one bright 3x3 target a frame."""
    generator = torch.Generator().manual_seed(seed)
    frames = 0.2 * torch.rand(count, 1, 16, 16, generator=generator)
    masks = torch.zeros(count, 1, 16, 16)
    for number in range(count):
        row, column = (int(value) for value in torch.randint(0, 13, (2,), generator=generator))
        frames[number, 0, row : row + 3, column : column + 3] = 0.9
        masks[number, 0, row : row + 3, column : column + 3] = 1
    return frames, masks


def training(
    fabric: Fabric, network: nn.Module, *, steps: int = STEPS, **changes: float
) -> Training:
    options: dict[str, float] = {"learning_rate": 0.05, "crop": 16, "batch": 4, **changes}
    return Training(fabric, network, Recipe(**options), steps=steps)  # type: ignore[arg-type]


def built(model: Model) -> nn.Module:
    torch.manual_seed(0)
    return model.build()


def course(given: Training, steps: int) -> list[float]:
    return [given.advance(*batch(seed=given.step)) for _ in range(steps)]


def copied(network: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in network.state_dict().items()}


def assert_same(ours: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for key, value in expected.items():
        torch.testing.assert_close(ours[key], value, rtol=0, atol=0, equal_nan=True)


# --- the loss -------------------------------------------------------------------------------------


def loss_by_hand(network: Pointwise, recipe: Recipe, *, fading: float) -> float:
    """The loss of `batch()` in float64 numpy."""
    frames, masks = (part.numpy()[:, 0].astype(np.float64) for part in batch())
    slope, offset = (
        value.detach().numpy().astype(np.float64).ravel()
        for value in (network.line.weight, network.line.bias)
    )
    p = 1 / (1 + np.exp(-(slope[1] * frames + offset[1])))
    both, either = p * masks, p + masks - p * masks
    crops = 1 - np.mean((both.sum(axis=(1, 2)) + 1) / (either.sum(axis=(1, 2)) + 1))
    whole = 1 - (both.sum() + 1) / (either.sum() + 1)
    reconstruction = np.mean((slope[0] * frames + offset[0] - frames) ** 2)
    found, cleared = masks * np.log(p), (1 - masks) * np.log(1 - p)
    start = -np.mean(recipe.target_weight * found + cleared)
    total = (1 - recipe.batch_share) * crops + recipe.batch_share * whole
    total += recipe.reconstruction_weight * reconstruction + recipe.sparsity_weight * p.mean()
    return float(total - recipe.cross_entropy * np.mean(found + cleared) + fading * start)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_crops_and_the_batch_share_the_loss(fabric: Fabric, share: float) -> None:
    network = Pointwise()
    given = training(fabric, network, batch_share=share)
    expected = loss_by_hand(network, given.recipe, fading=1.0)
    assert given.advance(*batch()) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("target_weight", [1.0, 25.0])
def test_the_start_fades_to_nothing(fabric: Fabric, target_weight: float) -> None:
    network = Pointwise()
    given = training(fabric, network, start_share=0.5, target_weight=target_weight)
    for fading in (1.0, 0.8, 0.6, 0.4, 0.2, 0.0, 0.0):
        expected = loss_by_hand(network, given.recipe, fading=fading)
        assert given.advance(*batch()) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("weight", [0.0, 3.0])
def test_without_a_start_the_cross_entropy_stays(fabric: Fabric, weight: float) -> None:
    network = Pointwise()
    given = training(fabric, network, start_share=0.0, cross_entropy=weight)
    for _ in range(3):
        expected = loss_by_hand(network, given.recipe, fading=0.0)
        assert given.advance(*batch()) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("name", "channel"), [("reconstruction", 0), ("sparsity", 1)])
def test_weighted_terms(fabric: Fabric, name: str, channel: int) -> None:
    moved = []
    for weight in (0.0, 0.5, 50.0):
        terms = {"reconstruction_weight": 0.0, "sparsity_weight": 0.0, f"{name}_weight": weight}
        network = Pointwise()
        given = training(fabric, network, start_share=0.5, **terms)
        expected = loss_by_hand(network, given.recipe, fading=1.0)
        assert given.advance(*batch()) == pytest.approx(expected, abs=1e-4)
        assert network.line.weight.grad is not None
        moved.append(float(network.line.weight.grad[channel]))
    # The start and SoftIoU say nothing about the reconstruction; the terms reach their channel.
    assert (moved[0] == 0.0) == (name == "reconstruction")
    assert moved[0] != moved[1] != moved[2]


# --- a step ---------------------------------------------------------------------------------------


def test_the_loss_falls(fabric: Fabric) -> None:
    # Without the fading start the loss is the same function at every step.
    given = training(fabric, Pointwise(), steps=60, start_share=0.0, learning_rate=0.5)
    losses = course(given, 60)
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[1:6])
    assert (given.step, given.steps) == (60, 60)


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 9, 10, 11, 20, 30])
def test_any_number_of_steps(fabric: Fabric, steps: int) -> None:
    assert all(map(math.isfinite, course(training(fabric, Pointwise(), steps=steps), steps)))


def test_the_seed_decides_the_course(fabric: Fabric, tiny: Model) -> None:
    courses = [course(training(fabric, built(tiny), seed=seed), 5) for seed in (3, 3, 4)]
    assert courses[0] == courses[1] != courses[2]  # dropout differs


def test_seeds_as_large_as_a_recipe_takes_them(fabric: Fabric) -> None:
    assert len(course(training(fabric, Pointwise(), seed=2**62), 1)) == 1


def test_the_learning_rate_is_that_of_the_last_step(fabric: Fabric) -> None:
    given = training(fabric, Pointwise(), learning_rate=0.3)
    optimiser = AdamW(Pointwise().parameters(), lr=0.3)
    schedule = OneCycleLR(optimiser, 0.3, total_steps=STEPS, pct_start=WARM_UP)
    for step in range(STEPS):
        (expected,) = schedule.get_last_lr()
        if step == 0:
            assert given.learning_rate == expected
        course(given, 1)
        assert given.learning_rate == expected
        optimiser.step()
        schedule.step()


def test_a_huge_gradient_is_clipped(fabric: Fabric) -> None:
    network = Pointwise()
    assert course(training(fabric, network, reconstruction_weight=1e6), 1)[0] > 1e3
    squares = [float(one.grad.square().sum()) for one in network.parameters()]  # type: ignore[union-attr]
    assert math.sqrt(sum(squares)) == pytest.approx(1, abs=1e-4)


def test_only_convolution_weights_decay(fabric: Fabric, tiny: Model) -> None:
    networks = [built(tiny) for _ in range(2)]
    before = copied(networks[0])
    for network, decay in zip(networks, (0.0, 0.3), strict=True):
        given = training(fabric, network, weight_decay=decay)
        rate = given.learning_rate
        course(given, 1)
    free, decayed = map(copied, networks)
    for key, value in before.items():
        share = 0.3 * rate if key in ("body.0.weight", "head.weight") else 0
        torch.testing.assert_close(free[key] - decayed[key], share * value, rtol=1e-3, atol=1e-6)


def test_the_network_in_bfloat16_the_weights_in_float32(tiny: Model) -> None:
    losses = []
    for precision in ("32-true", "bf16-mixed"):
        network = built(tiny)
        given = training(Fabric(accelerator="cpu", devices=1, precision=precision), network)
        losses.append(course(given, 3)[0])
        assert {value.dtype for value in network.parameters()} == {torch.float32}
    assert losses[0] != losses[1] == pytest.approx(losses[0], rel=0.02)


# --- the average ----------------------------------------------------------------------------------


def test_the_average_by_hand(fabric: Fabric, tiny: Model) -> None:
    network = built(tiny)
    given = training(fabric, network, averaging=0.25)
    average = copied(network)
    for decay in (2 / 11, 3 / 12, 0.25, 0.25):  # (1 + step) / (10 + step), and no more than asked
        course(given, 1)
        for key, value in copied(network).items():
            if value.is_floating_point():
                average[key] = decay * average[key] + (1 - decay) * value
    average["body.1.num_batches_tracked"] = torch.tensor(4)
    for key, value in given.averaged().items():
        torch.testing.assert_close(value, average[key])


# --- what cannot go on ----------------------------------------------------------------------------


def nan_batch() -> tuple[Tensor, Tensor]:
    frames, masks = batch()
    return frames * math.nan, masks


def test_a_loss_that_is_not_finite(fabric: Fabric) -> None:
    network = Pointwise()
    given = training(fabric, network)
    course(given, 2)
    before, average = copied(network), given.averaged()
    with pytest.raises(TrainingError, match="^the loss is nan in step 3 of 10; .*--learning-rate"):
        given.advance(*nan_batch())
    assert given.step == 2
    assert_same(copied(network), before)
    assert_same(given.averaged(), average)


def test_nothing_is_learned_from_a_bad_batch(fabric: Fabric, tiny: Model) -> None:
    network = built(tiny)
    given = training(fabric, network)
    course(given, 2)
    before = copied(network)  # running statistics too
    with pytest.raises(TrainingError):
        given.advance(*nan_batch())
    assert_same(copied(network), before)


def test_a_gradient_that_is_not_finite(fabric: Fabric) -> None:
    network = Steep()
    given = training(fabric, network)
    before = copied(network)
    with pytest.raises(TrainingError, match="step 1 of 10"):
        given.advance(*batch())
    assert_same(copied(network), before)


@pytest.mark.parametrize(
    "text",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB.",
        "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: not enough memory: you tried to",
    ],
)
def test_out_of_memory(fabric: Fabric, text: str) -> None:
    given = training(fabric, Refusing(RuntimeError(text)), batch=8)
    with pytest.raises(
        TrainingError, match="^out of memory in step 1 with 8 crops of 16x16; lower --batch or"
    ):
        given.advance(*batch())


def test_really_out_of_memory(fabric: Fabric) -> None:
    class Huge(Pointwise):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x.new_empty(2**55)

    with pytest.raises(TrainingError, match="^out of memory in step 1"):
        training(fabric, Huge()).advance(*batch())


def test_other_errors_stay_what_they_are(fabric: Fabric) -> None:
    with pytest.raises(RuntimeError, match="^sizes do not match$") as caught:
        training(fabric, Refusing(RuntimeError("sizes do not match"))).advance(*batch())
    assert not isinstance(caught.value, TrainingError)


# --- validation -----------------------------------------------------------------------------------


def labelled() -> list[LabelledFrame]:
    """A target of four pixels of which three are bright, and four bright pixels that are none."""
    hit, false = np.zeros((2, 16, 16), np.uint8)
    mask = np.zeros((16, 16), np.bool_)
    mask[2:4, 2:4] = True
    hit[2:4, 2:4] = ((200, 200), (200, 20))
    false[10:12, 10:12] = 200
    return [LabelledFrame("hit", hit, mask), LabelledFrame("false", false, np.zeros_like(mask))]


def test_validate_by_hand(fabric: Fabric) -> None:
    given = training(fabric, BrighterThan())
    both, first = given.validate(BrighterThan(9.0), [labelled(), labelled()[:1]], CONTRACT)
    assert both.iou == pytest.approx(3 / 8)
    assert both.niou == pytest.approx((3 / 4 + 0) / 2)
    assert (both.pd, both.targets, both.frames) == (1, 1, 2)
    assert both.fa_per_mpix == pytest.approx(1e6 * 4 / 512)
    assert (first.iou, first.frames) == (3 / 4, 1)


def test_the_average_is_validated_as_in_flight(fabric: Fabric, tiny: Model) -> None:
    network, validated = built(tiny), built(tiny)
    given = training(fabric, network, averaging=0.9)
    course(given, 4)
    before = copied(network)
    first = given.validate(validated, [labelled()], CONTRACT)
    assert not validated.training  # no dropout, running statistics
    assert_same(copied(validated), given.averaged())
    assert given.validate(validated, [labelled()], CONTRACT) == first
    assert_same(copied(network), before)


def score(iou: float) -> Scores:
    return Scores(
        iou=iou, niou=0.5, precision=1, recall=1, f1=1, pd=0.25, fa_per_mpix=12.3,
        frames=1, targets=4, false_alarms_per_frame=0,
    )  # fmt: skip


def test_fitness() -> None:
    assert fitness([score(0.2), score(0.6)]) == pytest.approx(0.4)
    assert fitness([score(0.2), score(math.nan)]) == 0.2
    # Nothing predicted and nothing true leaves the IoU undefined; the training must not be lost.
    assert fitness([score(math.nan)]) == fitness([]) == 0.0


# --- state ----------------------------------------------------------------------------------------


def test_a_restored_training_goes_on_to_the_bit(
    fabric: Fabric, tiny: Model, tmp_path: Path
) -> None:
    network = built(tiny)
    given = training(fabric, network)
    course(given, 4)
    given.best = 0.625
    save_state(tmp_path / "state", given.state([0.5, 0.25], {"model": "tiny"}))
    expected = course(given, 6)

    taken_up = tiny.build()
    again = training(fabric, taken_up)
    state = read_state(tmp_path / "state", {"model": "tiny"})
    assert state.losses == (0.5, 0.25)
    again.restore(state)
    assert (again.step, again.best) == (4, 0.625)
    assert course(again, 6) == expected
    assert_same(copied(taken_up), copied(network))
    assert_same(again.averaged(), given.averaged())
    assert again.learning_rate == given.learning_rate
