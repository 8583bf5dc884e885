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
from samserve.core.image_request import ImageRequest
from samserve.decoder.admission import DecodeQueue
from samserve.decoder.image_source import SourcedImage
from samserve.decoder.registry import ModelRegistry, ServedModel
from samserve.decoder.sam.kernel_decoder import PreparedImage
from samserve.decoder.sam.mask_decoder import ReadyImage
from samserve.decoder.segmenter import FoundImage, Segmenter
from samserve.infra.cache import CacheKey
from samserve.infra.stages import StageClock

NAME = "ab" * 32


@dataclass
class Decoder:
    """A decoder with a bundle that cannot decode."""

    bundle: Bundle


@dataclass
class Finder:
    """Finds every image under the requested version; remembers the requests."""

    asked: list[tuple[CacheKey, str, frozenset[str]]] = field(default_factory=list)

    def version_served(self, model: ServedModel) -> str:
        return model.model_version

    async def find(self, key: CacheKey, model: ServedModel, data: bytes | None) -> SourcedImage:
        self.asked.append((key, model.name, model.versions))
        image = ReadyImage(
            Embedding(key.model_version, Size(4, 3), {}), PreparedImage(np.zeros(0, np.float32), {})
        )
        return SourcedImage(image, CacheStatus.HIT, {})


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


async def find(segmenter: Segmenter, model: str, version: str) -> FoundImage:
    request = ImageRequest("public", model, None, NAME, model_version=version)
    return await segmenter.find(request, segmenter.resolve(model), StageClock())


def test_a_model_is_resolved_by_its_name(models: ModelRegistry) -> None:
    assert models.resolve("twin").name == "twin"
    assert models.resolve("") is models.resolve("nano")
    assert models.resolve("nano").versions == {"nano-fp32", "nano-int8"}
    with pytest.raises(ModelNotFound) as caught:
        models.resolve("sam9")
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
        found = await find(Segmenter(finder, models, pool, DecodeQueue(2, 8)), model, version)
    versions = models.resolve(of).versions
    assert finder.asked == [(CacheKey("public", looked_for, NAME), of, versions)]
    assert found.ready.model_version == looked_for


@pytest.mark.parametrize(
    ("model", "version"), [("twin", "nano-fp32"), ("", "twin-fp32"), ("nano", "nano-old")]
)
async def test_a_reference_of_another_model_or_of_no_known_version_is_refused(
    models: ModelRegistry, model: str, version: str
) -> None:
    finder = Finder()
    with ThreadPoolExecutor(1) as pool, pytest.raises(ModelVersionMismatch) as caught:
        await find(Segmenter(finder, models, pool, DecodeQueue(2, 8)), model, version)
    assert caught.value.asked == version
    assert not finder.asked


async def test_a_variant_added_later_is_accepted_without_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "nano"
    shutil.copytree(SHIPPED / "nano", place)
    models = ModelRegistry([Decoder(load_bundle(place))])
    with ThreadPoolExecutor(1) as pool:
        segmenter = Segmenter(Finder(), models, pool, DecodeQueue(2, 8))
        with pytest.raises(ModelVersionMismatch):
            await find(segmenter, "nano", "nano-later")
        variant = place / VARIANTS / "fp16-sm89"
        variant.mkdir(parents=True)
        (variant / FACTS).write_text(json.dumps({"model_version": "nano-later"}))
        before = models.resolve("nano")
        assert await models.refresh(before) is None  # it has just been looked at
        monkeypatch.setattr("samserve.decoder.registry.REFRESH_INTERVAL", 0.0)
        found = await find(segmenter, "nano", "nano-later")
        assert found.ready.model_version == "nano-later"
        assert "nano-later" in models.resolve("nano").versions
        assert await models.refresh(before) is models.resolve("nano")
        with pytest.raises(ModelVersionMismatch):
            await find(segmenter, "nano", "nano-never")


def test_the_size_of_mask_input_depends_on_the_model(models: ModelRegistry) -> None:
    with ThreadPoolExecutor(1) as pool:
        segmenter = Segmenter(Finder(), models, pool, DecodeQueue(2, 8))
        assert [segmenter.resolve(model).low_res for model in ("", "nano", "twin")] == [
            256,
            256,
            128,
        ]


def test_metrics_name_every_accepted_version(models: ModelRegistry) -> None:
    models.publish_metrics()
    for model, version in (("nano", "nano-fp32"), ("nano", "nano-int8"), ("twin", "twin-fp32")):
        labels = {"model": model, "version": version, "variant": "", "backend": ""}
        assert REGISTRY.get_sample_value("samserve_model_info", labels) == 1
