"""Files that torch.save wrote, read without running any code in them."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from samserve.export.checkpoints.checkpoint import BadCheckpoint, State


def load_torch_file(path: Path) -> State:
    """The tensors in a file of weights, or under "model" or "state_dict" in it; memory is mapped where it can be.

    Raises BadCheckpoint.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        AttributeError,
    ) as problem:
        what = (str(problem).strip().splitlines() or ["it ends too early"])[0]
        raise BadCheckpoint(
            f"{path} is not a whole file of weights written by torch.save: {what[:120]}"
        ) from problem
    for wrapper in ("model", "state_dict"):
        if isinstance(found, dict) and isinstance(found.get(wrapper), dict):
            found = found[wrapper]
    if not isinstance(found, dict) or not all(
        isinstance(tensor, Tensor) for tensor in found.values()
    ):
        raise BadCheckpoint(
            f"{path} should hold weights by their names, but it holds a {type(found).__name__}"
        )
    return {str(name): tensor for name, tensor in found.items()}
