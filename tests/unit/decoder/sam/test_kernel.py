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
