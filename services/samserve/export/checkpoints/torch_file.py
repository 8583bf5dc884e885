"""Reads files written by torch.save, without running any code they contain."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from samserve.export.weights import BadCheckpoint, State


def load_torch_file(path: Path) -> State:
    """Load the weights of a file, which may be under "model" or "state_dict" in it.

    Zip files are mapped into memory instead of read.

    Raises:
        BadCheckpoint: The file is damaged or contains no weights.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            contents = torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        AttributeError,
    ) as error:
        reason = (str(error).strip().splitlines() or ["unexpected end of file"])[0]
        raise BadCheckpoint(
            f"{path} is not a complete file of weights written by torch.save: {reason[:120]}"
        ) from error

    for key in ("model", "state_dict"):
        if isinstance(contents, dict) and isinstance(contents.get(key), dict):
            contents = contents[key]
    if not isinstance(contents, dict) or not all(
        isinstance(tensor, Tensor) for tensor in contents.values()
    ):
        raise BadCheckpoint(
            f"{path} contains no weights: expected tensors by name, found {type(contents).__name__}"
        )
    return {str(name): tensor for name, tensor in contents.items()}
