import json
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from checkpoints import (
    SAM2_SIZES,
    SAM_SIZES,
    drawn,
    hf_config,
    hf_folder,
    meta_sam,
    meta_sam2,
    sam2_shapes,
    sam_shapes,
)
from safetensors.torch import load_file, save_file
from samserve.export.checkpoints.checkpoint import Checkpoint
from samserve.export.checkpoints.read import read_checkpoint, sha256_of_all
from samserve.export.families import SAM, SAM2
from samserve.export.weights import BadCheckpoint

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@pytest.fixture(scope="module")
def sam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return meta_sam(tmp_path_factory.mktemp("sam") / "mini.pth")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hf_folder(tmp_path_factory.mktemp("hf") / "mini", "sam", "mini")


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_metas_file_is_recognised(sam: Path) -> None:
    checkpoint = read_checkpoint(sam)
    assert (checkpoint.family.name, checkpoint.frame) == ("sam", 256)
    assert checkpoint.family.core.resize == "longest"
    assert (checkpoint.pixel_mean, checkpoint.pixel_std) == (MEAN, STD)
    assert checkpoint.source.file == "mini.pth"
    assert checkpoint.source.sha256 == sha256_of_all([sam])
    assert checkpoint.licence == "unknown"


@pytest.mark.parametrize("size", SAM_SIZES)
def test_sizes_of_sam_are_read_from_shapes(size: str) -> None:
    with torch.device("meta"):
        state = {name: torch.empty(shape) for name, shape in sam_shapes(size).items()}
    config, expected = SAM.read_config(state), hf_config("sam", size)
    for part in ("vision_config", "prompt_encoder_config", "mask_decoder_config"):
        ours, theirs = getattr(config, part).to_dict(), getattr(expected, part).to_dict()
        assert {
            k: v for k, v in ours.items() if k in theirs and list_of(v) != list_of(theirs[k])
        } == {}
    model = SAM.empty_model(config)
    assert {
        n: t.shape for n, t in model.state_dict().items() if not n.startswith("shared_image")
    } == {n: t.shape for n, t in SAM.rename(state).items()}


@pytest.mark.parametrize("size", [size for size in SAM2_SIZES if size != "mini"])
def test_sizes_of_sam_2_are_read_from_shapes_and_a_table(size: str) -> None:
    with torch.device("meta"):
        state = {name: torch.empty(shape) for name, shape in sam2_shapes(size).items()}
    config, expected = SAM2.read_config(state), hf_config("sam2", size)
    assert (
        config.vision_config.backbone_config.to_diff_dict()
        == expected.vision_config.backbone_config.to_diff_dict()
    )
    model = SAM2.empty_model(config)
    assert {
        n: t.shape for n, t in model.state_dict().items() if not n.startswith("shared_image")
    } == {n: t.shape for n, t in SAM2.rename(state).items()}


def list_of(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def test_every_weight_of_metas_file_is_in_the_model_once(sam: Path) -> None:
    raw, model = torch.load(sam), read_checkpoint(sam).build()
    ours = {tensor.double().sum().item() for tensor in model.state_dict().values()}
    assert {tensor.double().sum().item() for tensor in raw.values()} == ours


def test_weights_are_renamed_to_those_of_the_same_modules(sam: Path) -> None:
    raw, state = torch.load(sam), read_checkpoint(sam).state
    for ours, theirs in {
        "vision_encoder.patch_embed.projection.weight": "image_encoder.patch_embed.proj.weight",
        "vision_encoder.layers.1.attn.qkv.bias": "image_encoder.blocks.1.attn.qkv.bias",
        "vision_encoder.layers.0.layer_norm2.weight": "image_encoder.blocks.0.norm2.weight",
        "vision_encoder.neck.layer_norm2.bias": "image_encoder.neck.3.bias",
        "shared_image_embedding.positional_embedding": (
            "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
        ),
        "prompt_encoder.point_embed.2.weight": "prompt_encoder.point_embeddings.2.weight",
        "prompt_encoder.mask_embed.layer_norm2.weight": "prompt_encoder.mask_downscaling.4.weight",
        "mask_decoder.upscale_conv2.bias": "mask_decoder.output_upscaling.3.bias",
        "mask_decoder.transformer.layers.0.layer_norm4.bias": (
            "mask_decoder.transformer.layers.0.norm4.bias"
        ),
        "mask_decoder.transformer.layer_norm_final_attn.weight": (
            "mask_decoder.transformer.norm_final_attn.weight"
        ),
        "mask_decoder.output_hypernetworks_mlps.3.proj_in.weight": (
            "mask_decoder.output_hypernetworks_mlps.3.layers.0.weight"
        ),
        "mask_decoder.iou_prediction_head.layers.0.weight": (
            "mask_decoder.iou_prediction_head.layers.1.weight"
        ),
        "mask_decoder.iou_prediction_head.proj_out.bias": (
            "mask_decoder.iou_prediction_head.layers.2.bias"
        ),
    }.items():
        assert torch.equal(state[ours], raw[theirs]), ours


def test_sam_2s_file_is_read_without_its_video_weights(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(meta_sam2(tmp_path / "tiny.pt"))
    raw = torch.load(tmp_path / "tiny.pt")["model"]
    kinds = torch.cat(
        [raw[f"sam_prompt_encoder.point_embeddings.{kind}.weight"] for kind in range(4)]
    )
    assert (checkpoint.family.name, checkpoint.frame) == ("sam2", 1024)
    assert checkpoint.family.core.resize == "stretch"
    assert checkpoint.source.format == "SAM 2.1"
    assert torch.equal(checkpoint.state["prompt_encoder.point_embed.weight"], kinds)
    assert torch.equal(
        checkpoint.state["mask_decoder.transformer.layers.1.self_attn.o_proj.weight"],
        raw["sam_mask_decoder.transformer.layers.1.self_attn.out_proj.weight"],
    )
    assert torch.equal(
        checkpoint.state["vision_encoder.backbone.blocks.3.mlp.proj_out.bias"],
        raw["image_encoder.trunk.blocks.3.mlp.layers.1.bias"],
    )
    assert not [name for name in checkpoint.state if "memory_attention" in name]


def test_sam_hqs_file_is_recognised_by_its_token(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(meta_sam(tmp_path / "hq.pth", hq=True))
    assert checkpoint.family.name == "sam_hq"
    assert checkpoint.config.mask_decoder_config.vit_dim == 64


@pytest.mark.parametrize(
    ("model_type", "size", "family"),
    [
        ("sam", "mini", "sam"),
        ("sam_hq", "mini", "sam_hq"),
        ("sam2", "mini", "sam2"),
        ("sam2_video", "mini", "sam2"),
    ],
)
def test_transformers_folders_are_read(
    model_type: str, size: str, family: str, tmp_path: Path
) -> None:
    checkpoint = read_checkpoint(hf_folder(tmp_path / "mine", model_type, size))
    assert (checkpoint.family.name, checkpoint.frame) == (family, 256)
    assert checkpoint.source.file == "mine/model.safetensors"
    assert checkpoint.source.format == f"transformers {model_type}"
    assert len(checkpoint.build().state_dict()) == len(checkpoint.state)


def same(first: Checkpoint, second: Checkpoint) -> bool:
    return first.state.keys() == second.state.keys() and all(
        torch.equal(tensor, second.state[name]) for name, tensor in first.state.items()
    )


def test_weights_in_several_files_are_the_same_as_in_one(copy: Path, folder: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    names = list(weights)
    parts = {
        "model-00001-of-00002.safetensors": names[::2],
        "model-00002-of-00002.safetensors": names[1::2],
    }
    for file, held in parts.items():
        save_file({name: weights[name] for name in held}, copy / file)
    where = {name: file for file, held in parts.items() for name in held}
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    assert same(read_checkpoint(copy), read_checkpoint(folder))
    (copy / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(
        BadCheckpoint,
        match=r"model-00002-of-00002\.safetensors is missing; .*index\.json refers to it",
    ):
        read_checkpoint(copy)


def test_weights_written_by_torch_are_the_same(copy: Path, folder: Path) -> None:
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    assert same(read_checkpoint(copy), read_checkpoint(folder))


def test_the_processors_statistics_and_the_cards_licence_are_used(copy: Path) -> None:
    settings = {
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.25, 0.25, 0.2],
        "size": {"longest_edge": 256},
    }
    (copy / "preprocessor_config.json").write_text(json.dumps(settings))
    (copy / "README.md").write_text(
        "---\ntags:\n- vision\nlicense: apache-2.0\n---\n# A model\nlicense: mit\n"
    )
    checkpoint = read_checkpoint(copy)
    assert (checkpoint.pixel_mean, checkpoint.pixel_std) == (
        (127.5, 127.5, 127.5),
        (63.75, 63.75, 51.0),
    )
    assert checkpoint.licence == "apache-2.0"


def test_a_processor_for_another_frame_is_refused(copy: Path) -> None:
    (copy / "preprocessor_config.json").write_text(json.dumps({"size": {"longest_edge": 1024}}))
    with pytest.raises(
        BadCheckpoint, match=r"longest_edge is 1024 pixels in .*, but the encoder's frame is 256"
    ):
        read_checkpoint(copy)


def test_another_kind_of_model_is_refused(copy: Path) -> None:
    (copy / "config.json").write_text(json.dumps({"model_type": "sam9"}))
    with pytest.raises(
        BadCheckpoint,
        match=r"unsupported model_type 'sam9' in .*; "
        r"supported: sam, sam2, sam2_video, sam3_video, sam_hq",
    ):
        read_checkpoint(copy)


def test_an_incomplete_configuration_is_refused(copy: Path) -> None:
    (copy / "config.json").write_text(json.dumps({"model_type": "sam", "vision_config": {}}))
    with pytest.raises(BadCheckpoint, match="no prompt_encoder_config"):
        read_checkpoint(copy)


def test_sizes_that_contradict_the_weights_are_refused(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["vision_config"]["mlp_dim"] = 128
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        BadCheckpoint,
        match=r"layers.0.mlp.lin1.weight is \[160, 64\], expected \[128, 64\].*3 more",
    ):
        read_checkpoint(copy)


def test_truncated_weights_are_refused(copy: Path) -> None:
    weights = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(BadCheckpoint, match="damaged safetensors file"):
        read_checkpoint(copy)


def test_a_folder_without_weights_or_without_a_configuration_is_refused(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    with pytest.raises(BadCheckpoint, match="no weights in"):
        read_checkpoint(copy)
    (copy / "config.json").unlink()
    with pytest.raises(BadCheckpoint, match=r"config\.json is missing"):
        read_checkpoint(copy)


def damaged(kind: str, sam: Path, path: Path) -> Path:
    file = path / "checkpoint.pth"
    weights = torch.load(sam)
    whole = sam.read_bytes()
    match kind:
        case "truncated":
            file.write_bytes(whole[: len(whole) // 2])
        case "text":
            file.write_text("<!DOCTYPE html><title>404</title>")
        case "empty":
            file.touch()
        case "a zip":
            with zipfile.ZipFile(file, "w") as archive:
                archive.writestr("readme.txt", "hello")
        case "code":
            file.write_bytes(pickle.dumps(pytest.raises))
        case "a tensor":
            torch.save(torch.zeros(3), file)
        case "another model":
            torch.save({"conv1.weight": torch.zeros(3), "conv1.bias": torch.zeros(3)}, file)
        case "a weight missing":
            del weights["mask_decoder.iou_token.weight"]
            torch.save(weights, file)
        case "a size missing":
            del weights["image_encoder.pos_embed"]
            torch.save(weights, file)
        case "an extra weight":
            torch.save(weights | {"head.weight": torch.zeros(3)}, file)
        case "a wrong shape":
            torch.save(weights | {"mask_decoder.iou_token.weight": torch.zeros(1, 8)}, file)
        case "windows of two sizes":
            name = "image_encoder.blocks.1.attn.rel_pos_h"
            torch.save(weights | {name: torch.zeros(3, 32)}, file)
        case "an unknown SAM 2":
            torch.save({"model": drawn(sam2_shapes("mini"))}, file)
    return file


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("absent", "does not exist"),
        ("truncated", "not a complete file of weights"),
        ("text", "not a complete file of weights"),
        ("empty", "not a complete file of weights"),
        ("a zip", "not a complete file of weights"),
        ("code", "not a complete file of weights"),
        ("a tensor", "expected tensors by name, found Tensor"),
        ("another model", "weights conv1.weight, conv1.bias; supported: SAM, SAM 2, SAM 3, SAM-HQ"),
        ("a weight missing", "missing: mask_decoder.iou_token.weight"),
        ("a size missing", r"invalid SAM checkpoint .*: missing: image_encoder.pos_embed"),
        ("an extra weight", "unexpected: head.weight"),
        ("a wrong shape", r"mask_decoder.iou_token.weight is \[1, 8\], expected \[1, 256\]"),
        ("windows of two sizes", r"blocks with windows of \[2, 5\] cells"),
        ("an unknown SAM 2", "width 16, 6 blocks; supported: tiny 96 x 12, small 96 x 16"),
    ],
)
def test_an_invalid_checkpoint_is_refused_with_the_reason(
    kind: str, reason: str, sam: Path, tmp_path: Path
) -> None:
    with pytest.raises(BadCheckpoint, match=reason) as refused:
        read_checkpoint(damaged(kind, sam, tmp_path))
    assert "\n" not in str(refused.value)


def test_a_safetensors_file_without_its_configuration_is_refused(copy: Path) -> None:
    with pytest.raises(BadCheckpoint, match="give the folder"):
        read_checkpoint(copy / "model.safetensors")
