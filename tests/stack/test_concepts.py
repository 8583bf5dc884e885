"""Text prompts through the real stack, with a small SAM 3 of random weights."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import triton_api
from checkpoints_sam3 import hf_sam3
from PIL import Image
from samserve.client import CachedImage, Click, Client, Concept, Example, Findings
from samserve.core.cache_status import CacheStatus
from samserve.core.errors import EmbeddingNotCached, InvalidInput, NoConcepts, Unavailable
from samserve.core.tokens import unpack_vocabulary
from samserve.export.checkpoints.checkpoint import Checkpoint
from samserve.export.checkpoints.read import read_checkpoint
from samserve.export.compare import sample_image
from samserve.export.convert import convert
from samserve.local.stack import Stack, StackOptions
from stacks import CAP, Photos, metric, started

MODEL = "tiny3"
HEAD, TEXT = f"{MODEL}-concepts", f"{MODEL}-text"
LOW = 0.05  # random weights give scores below the usual threshold


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return read_checkpoint(hf_sam3(tmp_path_factory.mktemp("sam3") / "folder"))


@pytest.fixture(scope="module")
def stack(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("concepts")
    convert(checkpoint, MODEL, folder / "bundles" / MODEL, print)
    options = StackOptions(
        models=(MODEL, "nano"),
        bundles=folder / "bundles",
        cache_coding="exact",
        triton_control=True,
    )
    with started(options, folder) as stack:
        yield stack


def runs(stack: Stack, model: str) -> int:
    return triton_api.encoded(stack, model).runs


def hits(stack: Stack, cache: str = "hit") -> float:
    address = stack.addresses.decoder_metrics
    return metric(address, "samserve_concepts_total", model=MODEL, cache=cache)


def scores(found: Findings, index: int = 0) -> list[float]:
    return [each.score for each in found.results[index].instances]


def test_concepts_are_found_as_transformers_finds_them(
    stack: Stack, client: Client, checkpoint: Checkpoint
) -> None:
    concepts = checkpoint.family.concepts
    assert concepts is not None
    judge = concepts.reference(checkpoint.build())
    side = checkpoint.frame
    levels = sample_image(side)
    mean, std = torch.tensor(checkpoint.pixel_mean), torch.tensor(checkpoint.pixel_std)
    pixels = ((torch.from_numpy(levels).float() - mean) / std).permute(2, 0, 1)[None]
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "PNG")

    box = (0.2 * side, 0.3 * side, 0.5 * side, 0.8 * side)
    found = client.find(
        file.getvalue(),
        ["coin", Concept("table", [Example(box)]), Concept(examples=[Example(box)])],
        threshold=LOW,
        low_res_logits=True,
    )
    vocabulary = unpack_vocabulary(checkpoint.vocabulary)
    with torch.no_grad():
        features = judge.features(judge.trunk(pixels))
        shown = torch.tensor([[[0.35, 0.55, 0.3, 0.5]]])
        for index, (phrase, boxes) in enumerate(
            [("coin", shown[:, :0]), ("table", shown), ("visual", shown)]
        ):
            text = judge.text(torch.tensor([vocabulary.encode(phrase)]))
            labels = torch.ones(boxes.shape[:2], dtype=torch.long)
            wanted, presence, corners, masks = judge.find(features, text, boxes, labels)
            corners = corners.clamp(0, 1)
            result = found.results[index]
            assert result.presence == pytest.approx(float(presence), abs=1e-3)
            best = wanted.argsort(descending=True)[:50]
            assert len(result.instances) == int((wanted[best] >= LOW).sum()) > 0
            assert result.cut_off  # a random model finds more than it can tell
            assert scores(found, index) == pytest.approx(wanted[best].tolist(), abs=1e-3)
            top = result.instances[0]
            nearest = (side * corners - torch.tensor(top.box)).abs().amax(1).argmin()
            assert np.abs(top.box - side * corners[nearest].numpy()).max() < 0.5
            logits = masks[nearest].numpy()
            sent = top.mask.low_res_array().astype(np.float32)
            assert np.abs(sent - logits).max() <= 1e-2 * np.abs(logits).max()


def test_another_threshold_or_format_costs_no_inference(
    stack: Stack, client: Client, new_photo: Photos
) -> None:
    photo = new_photo()
    images, heads, phrases = runs(stack, MODEL), runs(stack, HEAD), runs(stack, TEXT)
    first = client.find(photo, "red dot", threshold=LOW)
    assert first.results[0].cache is CacheStatus.MISS
    before = hits(stack)
    again = client.find(photo, " RED  dot ", threshold=0.1, formats=["polygons"])
    assert again.results[0].cache is CacheStatus.HIT
    assert scores(again) == [score for score in scores(first) if score >= 0.1]
    assert hits(stack) == before + 1
    assert runs(stack, HEAD) == heads + 1
    assert runs(stack, TEXT) == phrases + 1

    # A click on an instance: both from one encode.
    x0, y0, x1, y1 = first.results[0].instances[0].box
    answer = client.segment(photo, [Click((x0 + x1) / 2, (y0 + y1) / 2)])
    assert answer.cache is CacheStatus.HIT
    assert runs(stack, MODEL) == images + 1


def test_a_phrase_on_another_image_is_not_embedded_again(
    stack: Stack, client: Client, new_photo: Photos
) -> None:
    client.find(new_photo(), "coin table")
    phrases, heads = runs(stack, TEXT), runs(stack, HEAD)
    client.find(new_photo(), ["coin table", "table coin"])
    assert runs(stack, TEXT) == phrases + 1
    assert runs(stack, HEAD) == heads + 1  # both concepts in one run


def test_an_instances_logits_are_refined_by_a_click(client: Client, new_photo: Photos) -> None:
    photo = new_photo()
    found = client.find(photo, "coin", threshold=LOW, low_res_logits=True, max_masks=1)
    (best,) = found.results[0].instances
    logits = best.mask.low_res_logits
    assert client.segment(photo, [Click(30, 30)], mask_input=logits).masks


def test_calls_that_want_one_concept_at_once_share_a_run(
    stack: Stack, client: Client, new_photo: Photos
) -> None:
    photo = new_photo()
    client.embed(photo)
    heads = runs(stack, HEAD)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: client.find(photo, "dot", threshold=LOW), range(4)))
    assert len({tuple(scores(answer)) for answer in answers}) == 1
    assert runs(stack, HEAD) == heads + 1


def test_a_bad_concept_fails_alone_and_a_model_without_any_says_so(
    client: Client, new_photo: Photos
) -> None:
    photo = new_photo()
    outside = Concept("coin", [Example((0, 0, 5000, 5000))])
    found = client.find(photo, ["coin", "coin " * 31, outside])
    good, long, beyond = found.results
    assert good.error is None
    assert isinstance(long.error, InvalidInput) and isinstance(beyond.error, InvalidInput)
    assert (long.error.field, str(long.error)) == (
        "concepts[1].text",
        "concepts[1].text: 31 tokens; the limit is 30: use a short noun phrase",
    )
    assert beyond.error.field == "concepts[2].examples[0].box"
    with pytest.raises(NoConcepts, match=f"models that do: {MODEL}"):
        client.using(model="nano").find(photo, "coin")
    assert [model.concepts for model in client.models()] == [True, False]


def test_an_unknown_image_needs_its_bytes(client: Client) -> None:
    with pytest.raises(EmbeddingNotCached):
        client.find(CachedImage("ab" * 32), "coin")


def test_another_tenant_shares_nothing(stack: Stack, client: Client, new_photo: Photos) -> None:
    photo = new_photo()
    client.find(photo, "coin")
    heads = runs(stack, HEAD)
    other = client.using(tenant="other").find(photo, "coin")
    assert other.results[0].cache is CacheStatus.MISS
    assert runs(stack, HEAD) == heads + 1


def test_the_command_writes_json_and_an_overlay(
    stack: Stack, new_photo: Photos, tmp_path: Path
) -> None:
    (tmp_path / "photo.png").write_bytes(new_photo())
    addresses = {
        "DECODER_URL": stack.addresses.decoder,
        "EMBEDDING_URL": stack.addresses.embedding,
    }
    command = ["find", "photo.png", "--text", "coin", "--text", "table", "--threshold", "0.1"]
    done = subprocess.run(
        [sys.executable, "-m", "samserve.cli.main", *command, "--out", "overlay.png", "--json"],
        env={**os.environ, **addresses},
        cwd=tmp_path,
        capture_output=True,
        check=True,
    )
    assert len(json.loads(done.stdout)["results"]) == 2
    with Image.open(tmp_path / "overlay.png") as drawing:
        assert drawing.size == (320, 200)


def test_without_the_head_cached_concepts_and_clicks_are_answered(
    stack: Stack, client: Client, new_photo: Photos
) -> None:
    photo = new_photo()
    known = client.find(photo, "coin", threshold=LOW)
    triton_api.unload(stack, HEAD)
    try:
        assert scores(client.find(photo, "coin", threshold=LOW)) == scores(known)
        assert client.segment(photo, [Click(50, 50)]).masks
        assert client.segment(new_photo(), [Click(50, 50)]).masks
        both = client.find(photo, ["coin", "table"], threshold=LOW)
        assert scores(both) == scores(known)
        assert isinstance(both.results[1].error, Unavailable)
        with pytest.raises(Unavailable):
            client.using(timeout=3).find(photo, "table")
    finally:
        triton_api.load(stack, HEAD)
    assert client.find(photo, "table").results[0].error is None


def test_without_redis_the_answers_are_the_same(
    stack: Stack, client: Client, new_photo: Photos
) -> None:
    photo = new_photo()
    known = client.find(photo, ["coin", "table"], threshold=LOW)
    redis = stack.programs["redis"].pid
    os.kill(redis, signal.SIGSTOP)
    try:
        again = client.using(timeout=CAP).find(photo, ["coin", "table"], threshold=LOW)
    finally:
        os.kill(redis, signal.SIGCONT)
    assert scores(again) == pytest.approx(scores(known), abs=1e-5)
    assert scores(again, 1) == pytest.approx(scores(known, 1), abs=1e-5)
    areas = [[each.mask.area for each in answer.results[0].instances] for answer in (known, again)]
    assert areas[0] == pytest.approx(areas[1], rel=0.01, abs=5)
