"""`read_checkpoint`: from a path to a Checkpoint."""

from __future__ import annotations

import hashlib
from pathlib import Path

from samserve.core.geometry import LONGEST, STRETCH
from samserve.export.catalog import PUBLISHED
from samserve.export.checkpoints import hugging_face
from samserve.export.checkpoints.checkpoint import (
    PIXEL_MEAN,
    PIXEL_STD,
    SAM,
    SAM2,
    SAM_HQ,
    UNKNOWN,
    BadCheckpoint,
    Checkpoint,
    Source,
    complete,
    listed,
)
from samserve.export.checkpoints.meta_sam import HQ_TOKEN, sam_config, sam_state
from samserve.export.checkpoints.meta_sam2 import FRAME, OF_2_1, TRUNK, sam2_config, sam2_state
from samserve.export.checkpoints.torch_file import load_torch_file

META_LICENCE = "Apache-2.0"  # of all that Meta publishes of SAM and SAM 2
CHUNK = 2**20


def read_checkpoint(path: Path) -> Checkpoint:
    """A file as SAM's, SAM-HQ's or SAM 2's authors publish it, or a folder that transformers wrote.

    Raises BadCheckpoint for anything else.
    """
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise BadCheckpoint(f"there is no {path}")
    if path.suffix == ".safetensors":
        raise BadCheckpoint(
            f"{path} does not say what it is: give the folder that holds it and its config.json"
        )
    return _read_file(path)


def _read_file(path: Path) -> Checkpoint:
    raw = load_torch_file(path)
    digest = digest_of([path])
    try:
        if f"{TRUNK}.patch_embed.proj.weight" in raw:
            kind = "SAM 2.1" if OF_2_1 in raw else "SAM 2"
            family, config, state, frame = SAM2, sam2_config(raw), sam2_state(raw), FRAME
        elif "image_encoder.patch_embed.proj.weight" in raw:
            family, kind = (SAM_HQ, "SAM-HQ") if HQ_TOKEN in raw else (SAM, "SAM")
            config, state = sam_config(raw, family), sam_state(raw)
            frame = config.vision_config.image_size
        else:
            raise BadCheckpoint(
                f"{path} is no checkpoint of SAM, SAM-HQ or SAM 2: their weights are named image_encoder..., "
                f"but these {listed(list(raw))}"
            )
    except KeyError as missing:
        raise BadCheckpoint(
            f"{path} looks like a checkpoint of {kind}, but it lacks {missing.args[0]}"
        ) from missing
    return Checkpoint(
        family=family,
        config=config,
        state=complete(family, config, state, str(path)),
        frame=frame,
        resize=STRETCH if family == SAM2 else LONGEST,
        pixel_mean=PIXEL_MEAN,
        pixel_std=PIXEL_STD,
        source=Source(path.name, digest, kind),
        licence=META_LICENCE if digest in {one.sha256 for one in PUBLISHED.values()} else UNKNOWN,
    )


def _read_folder(folder: Path) -> Checkpoint:
    family, kind, config = hugging_face.read_config(folder)
    frame = config.prompt_encoder_config.image_size
    mean, std = hugging_face.read_pixels(folder, frame)
    files = hugging_face.weight_files(folder)
    state = hugging_face.read_weights(files, family)
    return Checkpoint(
        family=family,
        config=config,
        state=complete(family, config, state, str(folder)),
        frame=frame,
        resize=STRETCH if family == SAM2 else LONGEST,
        pixel_mean=mean,
        pixel_std=std,
        source=Source(
            f"{folder.resolve().name}/{files[0].name}", digest_of(files), f"transformers {kind}"
        ),
        licence=hugging_face.read_licence(folder),
    )


def digest_of(files: list[Path]) -> str:
    """SHA-256 of the files one after the other, in hexadecimal."""
    whole = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while chunk := stream.read(CHUNK):
                whole.update(chunk)
    return whole.hexdigest()
