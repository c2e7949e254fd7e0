"""irstd: infrared small-target detection, from training to the aircraft."""

__version__ = "0.1.0"
