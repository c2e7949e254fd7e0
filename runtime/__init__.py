"""What flies: frame preparation, engines, target extraction, scores, sources and sinks."""

from .detector import Detector
from .errors import EngineError
from .frame import FrameContract
from .pipeline import Confidence
from .streaming import Detection
from .targets import Extraction, Target, Targets

__all__ = [
    "Confidence",
    "Detection",
    "Detector",
    "EngineError",
    "Extraction",
    "FrameContract",
    "Target",
    "Targets",
]
