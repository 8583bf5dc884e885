import numpy as np
import pytest
import torch
from samserve.export.graphs.decoder import DecoderGraph
from samserve.training import prompts
from samserve.training.losses import first_ranked, mask_losses, true_iou
from samserve.training.network import Nano
from samserve.training.train import STAGES, parameter_groups, stage_at


@pytest.fixture
def mask() -> np.ndarray:
    mask = np.zeros((64, 64), bool)
    mask[20:41, 10:31] = True
    return mask


def test_the_deepest_pixel_is_the_middle(mask: np.ndarray) -> None:
    assert prompts.deepest(mask) == (20, 30)


def test_clicks_lie_on_the_mask_and_a_box_replaces_the_padding(mask: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    clicked, boxed = prompts.prompt(rng, mask, 3, False), prompts.prompt(rng, mask, 1, True)
    assert clicked.labels.tolist() == [1, 1, 1, -1]
    assert boxed.labels.tolist() == [1, 2, 3]
    assert all(mask[int(y), int(x)] for x, y in clicked.points[:3])


def test_a_tight_box_bounds_the_mask(mask: np.ndarray) -> None:
    assert prompts.tight_box(mask).tolist() == [[10, 20], [31, 41]]


@pytest.mark.parametrize(("answer", "label"), [("empty", 1), ("everything", 0)])
def test_a_corrective_click_says_whether_it_adds_or_removes(
    mask: np.ndarray, answer: str, label: int
) -> None:
    answered = np.zeros_like(mask) if answer == "empty" else np.ones_like(mask)
    before = prompts.Tokens(np.zeros((1, 2), np.float32), np.array([-1], np.float32))
    after = prompts.corrective(np.random.default_rng(0), mask, answered, before)
    x, y = after.points[0]
    assert after.labels.tolist() == [label, -1]
    assert mask[int(y), int(x)] == bool(label)


def test_the_mask_ranked_first_weighs_stability() -> None:
    logits = torch.zeros(1, 4, 4, 4)
    logits[0, 1:] = 5
    logits[0, 2, :3] = 0.5  # within the margin: unstable
    ious = torch.tensor([[1.0, 0.5, 0.9, 0.4]])
    assert first_ranked(logits, ious).tolist() == [1]


def test_a_right_mask_costs_little_and_has_an_iou_of_one() -> None:
    target = torch.zeros(2, 8, 8)
    target[:, :4] = 1
    right = (target - 0.5) * 40
    assert mask_losses(right, target).max() < 0.01
    assert mask_losses(-right, target).min() > 1
    assert true_iou(right, target).tolist() == [1, 1]


def test_positions_in_a_window_are_those_of_the_whole_frame() -> None:
    decoder = Nano().decoder
    whole = DecoderGraph(decoder.prompt_encoder, decoder.mask_decoder).grid_encoding()
    assert torch.allclose(decoder.grid_encoding(), whole, atol=1e-5)
    decoder.set_window(256, (8, 16))
    assert torch.allclose(decoder.grid_encoding(), whole[..., 16:32, 8:24], atol=1e-5)


def test_pretrained_parts_learn_more_slowly() -> None:
    model = Nano()
    groups = parameter_groups(list(model.named_parameters()))
    assert [group["share"] for group in groups] == [0.3, 1.0, 0.5]


def test_stages_cover_the_run_and_end_with_the_whole_frame() -> None:
    assert stage_at(0.0) is STAGES[0] and stage_at(0.999) is STAGES[-1]
    assert max(view.side for view in STAGES[-1].views) == 1024
    assert all(len(stage.views) == len(stage.chances) for stage in STAGES)
    assert all(sum(stage.chances) == pytest.approx(1) for stage in STAGES)
