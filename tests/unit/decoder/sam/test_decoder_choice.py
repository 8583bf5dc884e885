"""Which prompts go to the kernel, and which to the model's own graph."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from safetensors.numpy import load_file, save_file
from samserve.bundles.bundle import DECODER, WEIGHTS, Bundle, load_bundle
from samserve.bundles.files import BrokenBundle
from samserve.bundles.names import SHIPPED
from samserve.core.embedding import Embedding
from samserve.core.family import FAMILIES
from samserve.core.geometry import Size
from samserve.decoder.prompt import Prompt
from samserve.decoder.sam.kernel_weights import group_by_cell
from samserve.decoder.sam.mask_decoder import MaskDecoder
from samserve.decoder.sam.support import rename_sam2_weights, supports
from samserve.decoder.sam.threads import Threads

NANO = load_bundle(SHIPPED / "nano")
HQ = {
    "embedding": np.full((256, 64, 64), 2, np.float16),
    "hq": np.full((1, 256, 256), 3, np.float16),
}


def weights() -> dict[str, np.ndarray]:
    return load_file(NANO.weights)


def bundle(path: Path, family: str, tensors: dict[str, np.ndarray]) -> Bundle:
    """Make a bundle whose graph returns `hq` + mask as logits, and the point count as IoUs."""
    save_file(tensors, path / WEIGHTS)
    inputs = {
        "embedding": [1, 256, 64, 64],
        "hq": [1, 1, 256, 256],
        "points": [1, "k", 2],
        "labels": [1, "k"],
        "mask_input": [1, 1, 256, 256],
        "has_mask": [1],
    }
    nodes = [
        helper.make_node("Add", ["hq", "mask_input"], ["one"]),
        helper.make_node("Concat", ["one"] * 4, ["low_res_logits"], axis=1),
        helper.make_node("Shape", ["labels"], ["shape"], start=1),
        helper.make_node("Cast", ["shape"], ["count"], to=TensorProto.FLOAT),
        helper.make_node("Expand", ["count", "four"], ["predicted_iou"]),
    ]
    graph = helper.make_graph(
        nodes,
        "decoder",
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in inputs.items()
        ],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
            for name in ("low_res_logits", "predicted_iou")
        ],
        [helper.make_tensor("four", TensorProto.INT64, [2], [1, 4])],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9),
        path / DECODER,
    )
    shapes = {name: tensor.shape for name, tensor in HQ.items()}
    return replace(NANO, path=path, family=family, embedding=shapes)


@pytest.mark.parametrize("family", ["sam_hq", "sam2"])
def test_models_that_the_kernel_does_not_support_go_to_the_graph_with_all_tensors(
    family: str, tmp_path: Path
) -> None:
    foreign = weights() | {"mask_decoder.mask_tokens.weight": np.zeros((5, 256), np.float16)}
    decoder = MaskDecoder(bundle(tmp_path, family, foreign), Threads(1))
    embedding = Embedding("v", Size(1024, 1024), HQ)
    image = decoder.prepare(embedding)
    assert image.nbytes == embedding.nbytes
    points, rough = np.ones((30, 2), np.float32), np.full((256, 256), 4, np.float32)
    (got,) = decoder.decode(
        image, [Prompt(points, np.ones(30, np.float32), None, rough, multimask=True)]
    )
    assert got.logits.shape == (3, 256, 256)
    assert (got.logits == 7).all()
    assert got.predicted_iou.tolist() == [31] * 3


def test_a_bundle_of_an_unknown_family_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        BrokenBundle, match=r"unknown family 'sam9'; supported: sam, sam2, sam3, sam_hq"
    ):
        MaskDecoder(bundle(tmp_path, "sam9", weights()), Threads(1))


def test_the_kernel_supports_sams_decoder_and_no_wider_or_deeper_one() -> None:
    sam, seen = FAMILIES["sam"], (NANO.embedding, NANO.low_res)
    assert supports(weights(), sam, *seen)
    assert not supports(weights(), FAMILIES["sam_hq"], *seen)
    block = "mask_decoder.transformer.layers"
    assert not supports(
        weights() | {f"{block}.2.mlp.lin1.weight": np.zeros((2048, 256))}, sam, *seen
    )
    assert not supports(
        weights() | {f"{block}.1.mlp.lin1.weight": np.zeros((1024, 256))}, sam, *seen
    )
    assert not supports({}, sam, *seen)


@pytest.mark.parametrize(
    ("family", "shapes", "supported"),
    [
        ("sam", {"embedding": (256, 32, 32)}, False),
        ("sam", {"embedding": (128, 64, 64)}, False),
        ("sam", {"embedding": (256, 64, 64), "hq": (32, 256, 256)}, False),
        (
            "sam2",
            {"embedding": (256, 64, 64), "fine_1": (64, 128, 128), "fine_0": (32, 256, 256)},
            True,
        ),
        (
            "sam2",
            {"embedding": (256, 64, 64), "fine_1": (32, 128, 128), "fine_0": (16, 256, 256)},
            False,
        ),
        ("sam2", {"embedding": (256, 64, 64)}, False),
    ],
)
def test_the_kernel_supports_embeddings_of_its_own_shapes_only(
    family: str, shapes: dict[str, tuple[int, ...]], supported: bool
) -> None:
    assert supports(weights(), FAMILIES[family], shapes, 256) == supported


@pytest.mark.parametrize(
    ("cells", "supported"), [(32, True), (60, False), (72, True)]
)  # 60 x 60 cells are no whole tiles
def test_the_kernel_supports_embeddings_of_whole_tiles(cells: int, supported: bool) -> None:
    shapes = {"embedding": (256, cells, cells)}
    assert supports(weights(), FAMILIES["sam"], shapes, 4 * cells) == supported


def test_sam_2s_weights_get_the_names_that_sams_have() -> None:
    kinds = np.arange(8, dtype=np.float32).reshape(4, 2)
    one = np.zeros(1, np.float32)
    block = "mask_decoder.transformer.layers.0"
    theirs = {"prompt_encoder.point_embed.weight": kinds, f"{block}.mlp.proj_in.bias": one}
    named = rename_sam2_weights(
        theirs
        | {
            f"{block}.self_attn.o_proj.bias": one,
            "mask_decoder.iou_prediction_head.proj_in.bias": one,
        }
    )
    assert set(named) == {
        *(f"prompt_encoder.point_embed.{kind}.weight" for kind in range(4)),
        f"{block}.mlp.lin1.bias",
        f"{block}.self_attn.out_proj.bias",
        "mask_decoder.iou_prediction_head.proj_in.bias",
    }
    assert named["prompt_encoder.point_embed.2.weight"].tolist() == [[4, 5]]
    assert set(rename_sam2_weights(weights())) == set(weights())


@pytest.mark.parametrize("finer", [2, 4])
def test_a_finer_map_lies_by_cells_quarter_by_quarter(finer: int) -> None:
    cells, channels = 8, 3
    fine = (
        np.arange(channels * (finer * cells) ** 2)
        .reshape(channels, finer * cells, finer * cells)
        .astype(np.float16)
    )
    rows = group_by_cell(fine, cells)
    assert rows.shape == (1, finer**2 * channels, 64)
    y, x = 5, 2
    pixels = fine[:, y * finer : (y + 1) * finer, x * finer : (x + 1) * finer]
    if finer == 2:
        order = [(0, 0), (0, 1), (1, 0), (1, 1)]
    else:
        order = [
            (2 * a + c, 2 * b + d) for a in (0, 1) for b in (0, 1) for c in (0, 1) for d in (0, 1)
        ]
    wanted = np.concatenate([pixels[:, down, across] for down, across in order])
    assert rows[0, :, y * cells + x].tolist() == wanted.tolist()
