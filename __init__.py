"""irstd: infrared small-target detection, from training to the aircraft."""

import os

# From 1.29 on ONNX Runtime reports every process and session to a server, and keeps an identifier
# in the home folder, unless this is set before its first import. Nothing that flies does that.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
