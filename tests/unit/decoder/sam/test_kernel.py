import ctypes
from collections.abc import Iterator

import numpy as np
import pytest
from samserve.bundles.bundle import load_bundle
from samserve.bundles.names import SHIPPED
from samserve.core.embedding import Embedding
from samserve.core.geometry import Size
from samserve.decoder.prompt import Prompt
from samserve.decoder.sam import kernel
from samserve.decoder.sam.mask_decoder import Candidates, MaskDecoder
from samserve.decoder.sam.threads import Threads
from samserve.native import loader


@pytest.fixture
def fresh_library() -> Iterator[None]:
    kernel._library.cache_clear()
    yield
    kernel._library.cache_clear()


def decoded() -> Candidates:
    bundle = load_bundle(SHIPPED / "nano")
    decoder = MaskDecoder(bundle, Threads(1))
    noise = np.random.default_rng(0).normal(size=(256, 64, 64)).astype(np.float16)
    image = decoder.prepare(Embedding(bundle.model_version, Size(640, 480), {"embedding": noise}))
    rough = np.random.default_rng(1).normal(size=(256, 256)).astype(np.float32)
    click = np.array([[200, 100]], np.float32)
    (answer,) = decoder.decode(
        image, [Prompt(click, np.ones(1, np.float32), None, rough, multimask=True)]
    )
    return answer


def test_every_instruction_set_gives_the_same_masks(
    fresh_library: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = []
    for level, flags in loader.LEVELS.items():
        if flags <= loader.processor_flags():
            monkeypatch.setattr(loader, "LEVELS", {level: flags})
            kernel._library.cache_clear()
            answers.append(decoded())
    assert answers
    for answer in answers[1:]:
        assert np.allclose(
            answer.logits, answers[0].logits, atol=1e-4 * np.abs(answers[0].logits).max()
        )
        assert np.allclose(answer.predicted_iou, answers[0].predicted_iou, atol=1e-5)


def test_a_cpu_without_avx2_is_refused(
    fresh_library: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "processor_flags", lambda: {"sse2"})
    with pytest.raises(OSError, match="AVX2"):
        kernel._library()


def test_both_languages_see_the_same_structures() -> None:
    library = kernel._library()
    assert ctypes.sizeof(kernel.structs.Weights) == library.weights_bytes()
    assert ctypes.sizeof(kernel.structs.Job) == library.job_bytes()


def test_an_array_with_gaps_is_refused() -> None:
    with pytest.raises(ValueError, match="gaps"):
        kernel.gelu(np.zeros((4, 4), np.float32)[:, ::2])


@pytest.mark.parametrize("count", [1, 15, 16, 33, 1000])
def test_gelu_is_exact(count: int) -> None:
    from math import erf

    x = np.random.default_rng(count).normal(0, 3, count).astype(np.float32)
    wanted = np.array([0.5 * v * (1 + erf(v / 2**0.5)) for v in x.astype(float)])
    kernel.gelu(x)
    assert np.abs(x - wanted).max() < 2e-6


@pytest.mark.parametrize(
    ("rows", "inner"), [(1, 16), (6, 7), (7, 16), (8, 56), (13, 64), (56, 112)]
)
def test_products_of_any_number_of_rows_are_right(rows: int, inner: int) -> None:
    rng = np.random.default_rng(rows)
    weight, x = (
        rng.normal(size=shape).astype(np.float32) for shape in ((rows, inner), (3, inner, 64))
    )
    out = np.zeros((3, rows, 64), np.float32)
    kernel.project(weight, x, out, 64, 192)
    assert not out[0].any()
    assert np.allclose(out[1:], weight @ x[1:], atol=1e-4)


@pytest.mark.parametrize("cells_first", [False, True])
def test_integers_keep_fifteen_bits_of_each_row(cells_first: bool) -> None:
    x = (
        np.random.default_rng(0).normal(size=(4, 128, 64)).astype(np.float32)
        * np.logspace(-3, 3, 128)[:, None]
    )
    x = x.astype(np.float32)
    x[:, 5] = 0
    small, scale = kernel.quantise(x, cells_first)
    back = small.reshape(4, 64, 128).transpose(0, 2, 1) if cells_first else small
    error = np.abs(back * scale[:, None] - x).max((0, 2))
    assert (error <= np.abs(x).max((0, 2)) / 32767 * 0.51).all()


def job(**changes: np.ndarray | None) -> kernel.DecodeJob:
    """A job on an image of one tile, with some arrays changed, or missing if None."""
    cells, tokens, masks = 64, 6, 3
    projections = kernel.layout.PROJECTIONS
    arrays = {
        **{name: np.zeros((1, 128, 64), np.int16) for name in projections},
        **{f"{name}_scale": np.ones(128, np.float32) for name in projections},
        "upscaled": np.zeros((1, 256, 64), np.int16),
        "upscaled_scale": np.ones(256, np.float32),
        **{name: np.ones((1, 64), np.float32) for name in ("square0", "square1", "cross1")},
        "dense_rows": np.zeros((0, 0, 64), np.float32),
        **{name: np.zeros((8 * tokens, cells), np.float32) for name in ("s1", "s2")},
        **{name: np.zeros(cells, np.float32) for name in ("r1", "r2")},
        "logits": np.zeros((masks, 32, 32), np.float32),
        "ious": np.zeros(64, np.float32),
    } | changes
    given = {name: array for name, array in arrays.items() if array is not None}
    tokens_array = np.zeros((tokens, 256), np.float32)
    return kernel.DecodeJob(kernel.structs.Weights(), tokens_array, [1, 2, 3], given)


def test_arrays_of_the_sizes_that_the_kernel_relies_on_are_taken() -> None:
    job()
    job(fine_1=np.zeros((1, 256, 64), np.float16), fine_0=np.zeros((1, 512, 64), np.float16))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"key1": np.zeros((1, 127, 64), np.int16)}, "key1"),
        ({"key1": np.zeros((1, 128, 64), np.float32)}, "key1"),
        ({"key1": np.zeros((1, 128, 128), np.int16)[:, :, ::2]}, "gaps"),
        ({"upscaled_scale": np.ones(128, np.float32)}, "upscaled_scale"),
        ({"square0": np.ones((2, 64), np.float32)}, "square0"),
        ({"square0": np.ones((1, 64), np.float64)}, "square0"),
        ({"dense_rows": np.zeros((1, 16, 64), np.float32)}, "mask prompt"),
        ({"s1": np.zeros((40, 64), np.float32)}, "s1"),
        ({"r1": np.zeros(128, np.float32)}, "square"),
        ({"r1": np.zeros(60, np.float32)}, "tiles"),
        ({"logits": np.zeros((3, 31, 31), np.float32)}, "logits"),
        ({"ious": np.zeros(4, np.float32)}, "ious"),
        ({"fine_0": np.zeros((1, 512, 64), np.float32)}, "fine_0"),
        ({"cross1": None}, "cross1"),
    ],
)
def test_an_array_of_another_size_or_type_never_reaches_the_kernel(
    changes: dict[str, np.ndarray], problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        job(**changes)


def test_a_pass_is_refused_sums_of_another_size_and_cells_outside_the_image() -> None:
    one = job()
    with pytest.raises(ValueError, match="sums"):
        one.run_pass("first", 0, 64, np.zeros((48, 17), np.float32))
    with pytest.raises(ValueError, match="sums"):
        one.run_pass("first", 0, 64)
    with pytest.raises(ValueError, match="cells"):
        one.run_pass("masks", 0, 128)
    with pytest.raises(ValueError, match="cells"):
        one.run_pass("masks", 32, 64)
    with pytest.raises(ValueError, match="sums"):
        one.run_tokens("first", [np.zeros((47, 18), np.float32)])
    with pytest.raises(ValueError, match="sums"):
        one.run_tokens("second", [])


@pytest.mark.parametrize(
    ("weight", "x", "out"),
    [
        ((8, 16), (64, 16, 64), (1, 8, 64)),  # an entry of another shape, before it was checked
        ((8, 16), (1, 15, 64), (1, 8, 64)),
        ((8, 16), (1, 16, 64), (1, 7, 64)),
        ((8, 16), (1, 16, 32), (1, 8, 32)),
        ((8, 16, 1), (1, 16, 64), (1, 8, 64)),
    ],
)
def test_a_projection_of_other_shapes_is_refused(
    weight: tuple[int, ...], x: tuple[int, ...], out: tuple[int, ...]
) -> None:
    arrays = [np.zeros(shape, np.float32) for shape in (weight, x, out)]
    with pytest.raises(ValueError, match="shapes"):
        kernel.project(*arrays, 0, 64)


def test_a_projection_beyond_the_last_cell_is_refused() -> None:
    arrays = [np.zeros(shape, np.float32) for shape in ((8, 16), (1, 16, 64), (1, 8, 64))]
    with pytest.raises(ValueError, match="cells"):
        kernel.project(*arrays, 0, 4096)


def test_more_rows_than_quantise_takes_are_refused() -> None:
    with pytest.raises(ValueError, match="rows"):
        kernel.quantise(np.zeros((1, 257, 64), np.float32), cells_first=False)
