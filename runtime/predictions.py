"""Results of other tools: confidence maps or masks on disk, one file a frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .dataset_files import sequence_of
from .frame import FloatMap
from .media_cv2 import read_image

SUFFIXES = (".png", ".npy", ".bmp", ".tif", ".tiff")


def find_prediction(folder: Path, name: str) -> Path:
    """The file of a folder that holds the prediction for a sample.

    Args:
        folder: one file a frame, named like the frame, those of a sequence in its sub-folder.
        name: of the sample; of "test/XDU3" the file is test/XDU3.png or XDU3.png, of "Sequence1/3"
            Sequence1/3.png alone.

    Raises:
        FileNotFoundError: there is none; a missing prediction must not pass as an empty one.
    """
    # Frames of several sequences share their stems.
    stem = name.rsplit("/", maxsplit=1)[-1] if sequence_of(name) is None else name
    for suffix in SUFFIXES:
        for place in (name, stem):
            if (path := folder / f"{place}{suffix}").is_file():
                return path
    raise FileNotFoundError(
        f"{folder} holds no prediction for {name}; expected {stem}.png or {stem}.npy "
        "(all zero where nothing was found)"
    )


def read_prediction(path: Path) -> FloatMap:
    """Read a confidence map or a mask.

    Args:
        path: an image, whose full scale means confidence 1 (a mask is 0/255), or `.npy` with
            (H, W) numbers 0..1 or booleans.

    Returns:
        (H, W) float32, 0..1.

    Raises:
        ValueError: no map, or values that are NaN or outside 0..1.
    """
    if path.suffix != ".npy":
        image = read_image(path)
        scale = np.float32(1.0 / np.iinfo(image.dtype).max)
        return np.asarray(image * scale, np.float32)
    try:
        values = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as err:
        raise ValueError(f"{path} is no .npy file of numbers: {err}") from err
    if values.ndim != 2 or values.dtype.kind not in "fbui":
        raise ValueError(
            f"{path} holds {values.dtype} of shape {values.shape}, expected numbers (height, width)"
        )
    confidence: FloatMap = values.astype(np.float32)
    if not ((confidence >= 0) & (confidence <= 1)).all():  # NaN fails too
        raise ValueError(f"{path} holds NaN or values outside 0..1; write confidence, not logits")
    return confidence
