import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import REGISTRY
from samserve.bundles.bundle import Bundle, load_bundle
from samserve.bundles.names import SHIPPED
from samserve.bundles.variant import FACTS, VARIANTS
from samserve.core.cache_status import CacheStatus
from samserve.core.embedding import Embedding
from samserve.core.errors import ModelNotFound, ModelVersionMismatch
from samserve.core.geometry import Size
from samserve.decoder.admission import DecodeQueue
from samserve.decoder.image_source import Found
from samserve.decoder.registry import ModelRegistry
from samserve.decoder.sam.kernel_decoder import PreparedImage
from samserve.decoder.sam.mask_decoder import ReadyImage
from samserve.decoder.segmenter import ImageOrder, Segmenter
from samserve.infra.cache import CacheKey
from samserve.infra.stages import StageClock

NAME = "ab" * 32


@dataclass
class Decoder:
    """Has a bundle, and decodes nothing."""

    bundle: Bundle


@dataclass
class Finder:
    """Finds any image, embedded by the version asked for; remembers what it was asked."""

    asked: list[tuple[CacheKey, str, frozenset[str]]] = field(default_factory=list)

    def version_served(self, model: str, expected: str) -> str:
        return expected

    async def find(
        self, key: CacheKey, model: str, versions: frozenset[str], data: bytes | None
    ) -> Found:
        self.asked.append((key, model, versions))
        image = ReadyImage(
            Embedding(key.model_version, Size(4, 3), {}), PreparedImage(np.zeros(0, np.float32), {})
        )
        return Found(image, CacheStatus.HIT, {})


@pytest.fixture(scope="module")
def models() -> ModelRegistry:
    nano = load_bundle(SHIPPED / "nano")
    fast = replace(nano.variant, model_version="nano-int8")
    nano = replace(nano, variant=fast, versions=frozenset({"nano-fp32", "nano-int8"}))
    coarse = replace(nano.variant, model_version="twin-fp32")
    twin = replace(
        nano, name="twin", variant=coarse, versions=frozenset({"twin-fp32"}), low_res=128
    )
    return ModelRegistry([Decoder(nano), Decoder(twin)])


def order(model: str = "", version: str = "") -> ImageOrder:
    return ImageOrder("public", model, None, NAME, "", version)


def test_a_model_is_found_by_its_name_and_by_any_of_its_versions(models: ModelRegistry) -> None:
    assert models.named("twin").bundle.name == "twin"
    assert models.named("").bundle.name == models.named("nano").bundle.name == "nano"
    owners = [
        models.of_version(version).bundle.name
        for version in ("nano-fp32", "nano-int8", "twin-fp32")
    ]
    assert owners == ["nano", "nano", "twin"]
    with pytest.raises(ModelNotFound) as caught:
        models.named("sam9")
    assert caught.value.known == ["nano", "twin"]


@pytest.mark.parametrize(
    ("model", "version", "looked_for", "of"),
    [
        ("", "", "nano-int8", "nano"),  # the variant served
        ("nano", "nano-fp32", "nano-fp32", "nano"),  # another variant, of the same decoder
        ("twin", "", "twin-fp32", "twin"),
    ],
)
async def test_an_image_is_looked_for_under_the_version_of_its_reference(
    models: ModelRegistry, model: str, version: str, looked_for: str, of: str
) -> None:
    finder = Finder()
    with ThreadPoolExecutor(1) as pool:
        found = await Segmenter(finder, models, pool, DecodeQueue(2, 8)).find(
            order(model, version), StageClock()
        )
    assert finder.asked == [(CacheKey("public", looked_for, NAME), of, models.versions(of))]
    assert found.ready.model_version == looked_for


@pytest.mark.parametrize(
    ("model", "version"), [("twin", "nano-fp32"), ("", "twin-fp32"), ("nano", "nano-old")]
)
async def test_a_reference_of_another_model_or_of_no_known_version_is_refused(
    models: ModelRegistry, model: str, version: str
) -> None:
    finder = Finder()
    with ThreadPoolExecutor(1) as pool, pytest.raises(ModelVersionMismatch) as caught:
        await Segmenter(finder, models, pool, DecodeQueue(2, 8)).find(
            order(model, version), StageClock()
        )
    assert caught.value.asked == version
    assert not finder.asked


async def test_a_variant_that_comes_later_is_taken_without_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "nano"
    shutil.copytree(SHIPPED / "nano", place)
    models = ModelRegistry([Decoder(load_bundle(place))])
    with ThreadPoolExecutor(1) as pool:
        segmenter = Segmenter(Finder(), models, pool, DecodeQueue(2, 8))
        with pytest.raises(ModelVersionMismatch):
            await segmenter.find(order("nano", "nano-later"), StageClock())
        variant = place / VARIANTS / "fp16-sm89"
        variant.mkdir(parents=True)
        (variant / FACTS).write_text(json.dumps({"model_version": "nano-later"}))
        assert not await models.learn("nano")  # it has just been looked at
        monkeypatch.setattr("samserve.decoder.registry.LEAST_BETWEEN", 0.0)
        found = await segmenter.find(order("nano", "nano-later"), StageClock())
        assert found.ready.model_version == "nano-later"
        assert models.of_version("nano-later") is models.named("nano")
        with pytest.raises(ModelVersionMismatch):
            await segmenter.find(order("nano", "nano-never"), StageClock())


def test_the_size_of_a_mask_to_refine_is_the_models_own(models: ModelRegistry) -> None:
    with ThreadPoolExecutor(1) as pool:
        segmenter = Segmenter(Finder(), models, pool, DecodeQueue(2, 8))
        assert [segmenter.low_res(model) for model in ("", "nano", "twin")] == [256, 256, 128]


def test_metrics_name_every_version_whose_embeddings_are_taken(models: ModelRegistry) -> None:
    models.tell()
    for model, version in (("nano", "nano-fp32"), ("nano", "nano-int8"), ("twin", "twin-fp32")):
        labels = {"model": model, "version": version, "variant": "", "backend": ""}
        assert REGISTRY.get_sample_value("samserve_model_info", labels) == 1
