"""What several tests of the training share: a tiny network, a tiny dataset, one thread."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from irstd.tests.train.session_jobs import RECIPE
from irstd.train.session import Job
from irstd.train.zoo import Model

Found = dict[str, object]
# Around what each of two processes does: it reads `given` and fills `found`.
MEET = """
import sys
import torch
from torch import distributed

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
distributed.init_process_group(
    "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
)
given, found = torch.load(f"{folder}/given.pt", weights_only=False), {}
"""
PART = """
torch.save(found, f"{folder}/found{rank}.pt")
distributed.destroy_process_group()
"""


class Tiny(nn.Module):
    """A network of the zoo's form with all that has a state: norm, running statistics, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Dropout2d(0.2),
        )
        self.head = nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        reconstruction, logits = self.head(self.body(x)).split(1, dim=1)
        return reconstruction, logits


@pytest.fixture(scope="session")
def tiny() -> Model:
    """`Tiny` as an entry of the zoo."""
    return Model(name="tiny", build=Tiny, stride=1, size=(32, 32), source="tests")


@pytest.fixture
def fabric() -> Fabric:
    """One process on the CPU."""
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    return fabric


@pytest.fixture
def dataset(masks_dataset: Path) -> Path:
    """Four frames to train on, two of them to validate on."""
    (masks_dataset / "train.txt").write_text("0001\n0002\n0003\n0004\n")
    return masks_dataset


@pytest.fixture
def job(tiny: Model, dataset: Path, tmp_path: Path) -> Job:
    """A whole training of the tiny network, done in a blink."""
    return Job(tiny, RECIPE, (dataset,), (), None, tmp_path / "runs" / "best.safetensors", 0)


@pytest.fixture(scope="session")
def run_twice(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, object], list[Found]]:
    """Run a program in two processes that train together; gives what each `found`."""

    def run(program: str, given: object) -> list[Found]:
        folder = tmp_path_factory.mktemp("two")
        torch.save(given, folder / "given.pt")
        whole = MEET + program + PART
        processes = [
            subprocess.Popen([sys.executable, "-c", whole, str(rank), str(folder)])
            for rank in range(2)
        ]
        try:
            assert [process.wait(timeout=60) for process in processes] == [0, 0]
        finally:
            for process in processes:
                process.kill()
        return [torch.load(folder / f"found{rank}.pt") for rank in range(2)]

    return run
