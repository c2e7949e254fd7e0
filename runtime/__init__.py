"""What flies: frame preparation, engines, target extraction, scores, sources and sinks."""

from .detector import Confidence, Detector
from .errors import EngineError
from .frame import FrameContract
from .targets import Extraction, Target, Targets

__all__ = [
    "Confidence",
    "Detector",
    "EngineError",
    "Extraction",
    "FrameContract",
    "Target",
    "Targets",
]
