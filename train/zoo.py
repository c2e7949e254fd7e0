"""The models by name: how to build one, what size it takes, where its weights lie."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ..runtime.frame import Answer, ClipContract
from .models import drtenet, lrrnet, lrrnet_edge, tenrpcanet, tridos
from .models.drpcanet import DRPCANet
from .models.drtenet import DRTENet
from .models.lrrnet import LRRNet
from .models.lrrnet_edge import LRRNetEdge
from .models.rpcanet import RPCANet
from .models.tenrpcanet import TenRPCANet
from .models.tridos import Tridos
from .sequences.lowrank3d import FRAMES, LowRank3d
from .sequences.median import MedianDifference
from .sequences.rpca import TemporalRpca, TensorRpca
from .solvers.ipi import FastIpi, Ipi
from .solvers.mpcm import Mpcm
from .solvers.pstnn import Pstnn
from .solvers.ript import Ript
from .solvers.top_hat import TopHat

WEIGHTS_FOLDER = Path(__file__).parent / "weights"


@dataclass(frozen=True, slots=True)
class Model:
    """An entry of the zoo.

    Attributes:
        name: what users type.
        build: makes the network with fresh parameters; its forward maps (N, 1, H, W) in 0..1 to
            (reconstruction, target logits), or is a `BoxNetwork`'s; in training more than one map
            of logits may come, each of which is held to the mask, and the first of which flies.
        stride: H and W must be multiples of this.
        size: (height, width) of the network's input unless the user asks for another.
        source: paper, for the manifest.
        is_trained: whether it has parameters; solvers and filters have none.
        clip: that it takes in place of one frame, as (N, T, H, W); None for a single frame.
        answer: confidence of each pixel, or boxes.
    """

    name: str
    build: Callable[[], nn.Module]
    stride: int
    size: tuple[int, int]
    source: str
    is_trained: bool = True
    clip: ClipContract | None = None
    answer: Answer = "confidence"

    @property
    def weights(self) -> Path:
        """Where the shipped weights lie; not every model has some."""
        return WEIGHTS_FOLDER / f"{self.name}.safetensors"


MODELS = {
    model.name: model
    for model in (
        Model(
            name="lrrnet",
            build=LRRNet,
            stride=lrrnet.STRIDE,
            size=(256, 256),
            source="LRRNet, IEEE TGRS 2025, doi 10.1109/TGRS.2025.3608239",
        ),
        Model(
            name="lrrnet-edge",
            build=LRRNetEdge,
            stride=lrrnet_edge.STRIDE,
            size=(512, 512),
            source="irstd: LRRNet's idea (IEEE TGRS 2025) rebuilt for engines",
        ),
        Model(
            name="rpcanet",
            build=RPCANet,
            stride=1,
            size=(256, 256),
            source="RPCANet, WACV 2024, arXiv 2311.00917",
        ),
        Model(
            name="drpcanet",
            build=DRPCANet,
            stride=1,
            size=(256, 256),
            source="DRPCA-Net, IEEE TGRS 2025, doi 10.1109/TGRS.2025.3588392",
        ),
        Model(
            name="drtenet",
            build=DRTENet,
            stride=drtenet.STRIDE,
            size=(256, 256),
            source="DRTENet, IEEE TGRS 2025, doi 10.1109/TGRS.2025.3603991",
        ),
        Model(
            name="tenrpcanet",
            build=TenRPCANet,
            stride=tenrpcanet.STRIDE,
            size=(256, 256),
            source="irstd: TenRPCANet's idea (arXiv 2509.07654) re-created",
            clip=ClipContract(tenrpcanet.FRAMES, stride=2),
        ),
        Model(
            name="ipi",
            build=Ipi,
            stride=1,
            size=(256, 256),
            source="Infrared Patch-Image Model, IEEE TIP 2013, doi 10.1109/TIP.2013.2281420",
            is_trained=False,
        ),
        Model(
            name="ipi-fast",
            build=FastIpi,
            stride=1,
            size=(256, 256),
            source="Infrared Patch-Image Model, IEEE TIP 2013, doi 10.1109/TIP.2013.2281420, "
            "of fewer patches",
            is_trained=False,
        ),
        Model(
            name="pstnn",
            build=Pstnn,
            stride=1,
            size=(256, 256),
            source="Partial sum of the tensor nuclear norm, Remote Sensing 2019, "
            "doi 10.3390/rs11040382",
            is_trained=False,
        ),
        Model(
            name="ript",
            build=Ript,
            stride=1,
            size=(256, 256),
            source="Reweighted infrared patch-tensor model, IEEE JSTARS 2017, arXiv 1606.01510",
            is_trained=False,
        ),
        Model(
            name="top-hat",
            build=TopHat,
            stride=1,
            size=(256, 256),
            source="white top-hat; Soille, Morphological Image Analysis, 2nd ed., ch. 4",
            is_trained=False,
        ),
        Model(
            name="mpcm",
            build=Mpcm,
            stride=1,
            size=(256, 256),
            source="Multiscale patch-based contrast measure, Pattern Recognition 2016, "
            "doi 10.1016/j.patcog.2016.04.002",
            is_trained=False,
        ),
        Model(
            name="temporal-median",
            build=MedianDifference,
            stride=1,
            size=(256, 256),
            source="irstd: difference to the median of nine frames, weighed by the top-hat",
            is_trained=False,
            clip=ClipContract(9, registration="none"),
        ),
        Model(
            name="registered-median",
            build=MedianDifference,
            stride=1,
            size=(256, 256),
            source="irstd: difference to the median of nine registered frames, weighed by the "
            "top-hat",
            is_trained=False,
            clip=ClipContract(9, defects="over time"),
        ),
        Model(
            name="temporal-rpca",
            build=TemporalRpca,
            stride=1,
            size=(256, 256),
            source="robust PCA of a registered clip; Lin et al., arXiv 1009.5055",
            is_trained=False,
            clip=ClipContract(8, stride=2, defects="over time"),
        ),
        Model(
            name="tensor-rpca",
            build=TensorRpca,
            stride=1,
            size=(256, 256),
            source="Tensor robust PCA, IEEE TPAMI 2020, arXiv 1804.03728, of a registered clip",
            is_trained=False,
            clip=ClipContract(8, stride=2, defects="over time"),
        ),
        Model(
            name="lowrank3d",
            build=LowRank3d,
            stride=1,
            size=(256, 256),
            source="unsupervised 3-D CNN low-rank tensor model, unrolled; after HLRTF, CVPR 2022, "
            "and tensor RPCA, arXiv 1804.03728",
            clip=ClipContract(FRAMES, stride=2),
        ),
        Model(
            name="tridos",
            build=Tridos,
            stride=tridos.STRIDE,
            size=(256, 256),
            source="Tridos, IEEE TGRS 2024, doi 10.1109/TGRS.2024.3452175",
            clip=ClipContract(tridos.FRAMES, registration="none"),
            answer="boxes",
        ),
    )
}


def read_size(text: str) -> tuple[int, int]:
    """Read HEIGHTxWIDTH, e.g. "512x640".

    Raises:
        ValueError: the text is something else.
    """
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isascii() and side.isdigit() for side in sides):
        raise ValueError(f"size is {text!r}, expected HEIGHTxWIDTH, e.g. 512x640")
    return int(sides[0]), int(sides[1])


def find_model(name: str) -> Model:
    """Look a model up by name.

    Raises:
        ValueError: there is no such model; the text proposes the nearest name.
    """
    if name in MODELS:
        return MODELS[name]
    close = difflib.get_close_matches(name.lower(), MODELS, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise ValueError(f"unknown model {name!r}; {hint}known: {', '.join(sorted(MODELS))}")
