"""Weights on disk: safetensors of our own, foreign pickles only as plain tensors, keys strict."""

from __future__ import annotations

import json
import math
import os
import pickle
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

FOREIGN_SUFFIXES = (".pkl", ".pth", ".pt")
SHOWN_KEYS = 4
HEADER_SIZE = 8  # bytes that hold the length of a safetensors header
RANGES = "int8_ranges"  # the entry of a safetensors header that holds them, as JSON

# torch's restricted unpickler checks what it may run, not what it reads: a damaged file ends it in
# any of these.
UNREADABLE = (
    pickle.UnpicklingError,
    struct.error,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
)


@dataclass(frozen=True, slots=True)
class Weights:
    """A state dict and what is known about it.

    Attributes:
        tensors: parameters by key.
        notes: text by name: the model, its frame contract, how it was trained; empty for
            foreign files, which say nothing.
        ranges: largest magnitude that a convolution reads without being clipped, by module name,
            of those that a quantisation-aware training rounded; empty for any other training.
    """

    tensors: Mapping[str, Tensor]
    notes: Mapping[str, str] = field(default_factory=dict)
    ranges: Mapping[str, float] = field(default_factory=dict)


def save_weights(path: Path, weights: Weights) -> None:
    """Write safetensors under a temporary name, then rename: the file is whole or absent."""
    partial = path.with_name(path.name + ".partial")
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in weights.tensors.items()}
    notes = dict(weights.notes)
    if weights.ranges:
        notes[RANGES] = json.dumps(dict(weights.ranges), sort_keys=True)
    try:
        # Not save_file(), which lets nobody but the owner read the file.
        partial.write_bytes(_in_order(save(tensors, metadata=notes)))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _in_order(content: bytes) -> bytes:
    """Sort the header of a safetensors file: equal weights and notes then give equal bytes."""
    start = HEADER_SIZE + int.from_bytes(content[:HEADER_SIZE], "little")
    header = json.dumps(json.loads(content[HEADER_SIZE:start]), sort_keys=True).encode()
    header += b" " * (-len(header) % HEADER_SIZE)  # tensors stay aligned
    return len(header).to_bytes(HEADER_SIZE, "little") + header + content[start:]


def read_weights(path: Path) -> Weights:
    """Read a state dict: `.safetensors`, or `.pkl`, `.pth`, `.pt` with nothing but tensors.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another suffix, a damaged file, or a pickle that holds more than tensors.
    """
    if not path.is_file():
        raise FileNotFoundError(f"weights {path} do not exist")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in FOREIGN_SUFFIXES:
        return Weights(_read_pickle(path))
    raise ValueError(
        f"weights {path.name} end in {path.suffix!r}, expected .safetensors or one of "
        f"{', '.join(FOREIGN_SUFFIXES)}"
    )


def _read_safetensors(path: Path) -> Weights:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}
            notes = dict(file.metadata() or {})
    except SafetensorError as err:
        raise ValueError(f"weights {path} are damaged: {err}") from err
    ranges = notes.pop(RANGES, None)
    return Weights(tensors, notes, {} if ranges is None else _read_ranges(ranges, path))


def _read_ranges(text: str, path: Path) -> dict[str, float]:
    try:
        ranges = {str(name): float(value) for name, value in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError) as err:
        raise ValueError(
            f"weights {path} are damaged: {RANGES} is {text[:40]!r}, expected numbers by module"
        ) from err
    for name, value in ranges.items():
        if not 0.0 < value < math.inf:
            raise ValueError(
                f"weights {path} are damaged: the range of {name} is {value}, expected more than 0"
            )
    return ranges


def _read_pickle(path: Path) -> Mapping[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (*UNREADABLE, OSError) as err:
        raise ValueError(
            f"weights {path} are no plain state dict (damaged, or they would run code when "
            "loaded); save them again with torch.save(network.state_dict(), FILE)"
        ) from err
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"weights {path} hold {type(state).__name__}, expected tensors by key")
    # DataParallel writes this prefix before every key.
    return {str(key).removeprefix("module."): tensor for key, tensor in state.items()}


def load_into(network: nn.Module, tensors: Mapping[str, Tensor], *, name: str) -> None:
    """Load a state dict strictly.

    Args:
        network: receives the parameters.
        tensors: the state dict.
        name: what the weights are called in an error.

    Raises:
        ValueError: keys are missing or unexpected, or a shape differs; the text names them.
    """
    expected = network.state_dict()
    missing = [key for key in expected if key not in tensors]
    unexpected = [key for key in tensors if key not in expected]
    reshaped = [
        f"{key} {tuple(tensors[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in expected
        if key in tensors and tensors[key].shape != expected[key].shape
    ]
    problems = [
        f"{len(keys)} {what} ({_shorten(keys)})"
        for what, keys in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", reshaped),
        )
        if keys
    ]
    if problems:
        raise ValueError(f"{name} does not fit {type(network).__name__}: {'; '.join(problems)}")
    network.load_state_dict(dict(tensors), strict=True)


def _shorten(keys: list[str]) -> str:
    more = len(keys) - SHOWN_KEYS
    return ", ".join(keys[:SHOWN_KEYS]) + (f", and {more} more" if more > 0 else "")
