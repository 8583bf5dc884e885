import numpy as np
from samserve.bundles.bundle import load_bundle
from samserve.bundles.names import SHIPPED
from samserve.core.geometry import Size
from samserve.decoder.prompt import Prompt, check_all_inside, check_shape
from samserve.decoder.sam.mask_decoder import Candidates, ReadyImage
from samserve.variants.gate.masks import LEAST_CELLS, overlaps, prompts

SIZE = Size(512, 512)
NONE: dict[str, np.ndarray] = {}


class FixedDecoder:
    """Answers every prompt on two images in turn with squares, given by their sides in cells."""

    bundle = load_bundle(SHIPPED / "nano")

    def __init__(self, first: list[int], second: list[int]) -> None:
        self._images = iter([first, second])

    def prepare(self, embedding: object) -> object:
        return object()

    def decode(self, image: ReadyImage, prompts: list[Prompt]) -> list[Candidates]:
        logits = []
        for side in next(self._images):
            mask = np.full((256, 256), -8, np.float32)
            mask[:side, :side] = 8
            logits.append(mask)
        scores = np.ones(len(logits), np.float32)
        order = np.arange(len(logits))
        return [Candidates(np.stack(logits), scores, scores, order)] * len(prompts)


def test_candidates_that_swap_places_agree() -> None:
    decoder = FixedDecoder([20, 60, 90], [60, 20, 90])
    result = overlaps(decoder, NONE, NONE, SIZE)  # type: ignore[arg-type]
    assert set(result.ious) == {1.0}
    assert result.too_small == 0


def test_pairs_of_a_few_cells_are_counted_and_left_out() -> None:
    few = int(LEAST_CELLS**0.5) - 1
    decoder = FixedDecoder([few, 60, 90], [few - 1, 60, 90])
    result = overlaps(decoder, NONE, NONE, SIZE)  # type: ignore[arg-type]
    assert result.too_small == len(prompts(SIZE))
    assert set(result.ious) == {1.0}


def test_a_small_mask_that_became_large_counts() -> None:
    decoder = FixedDecoder([2, 60, 90], [30, 60, 90])
    result = overlaps(decoder, NONE, NONE, SIZE)  # type: ignore[arg-type]
    assert result.too_small == 0
    assert min(result.ious) < 0.1


def test_the_prompts_are_inside_every_image() -> None:
    for size in (Size(640, 480), Size(30, 900)):
        check_all_inside(prompts(size), size)
        for prompt in prompts(size):
            check_shape(prompt, "prompt")
