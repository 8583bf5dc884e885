import numpy as np
from samserve.core.embedding import Embedding
from samserve.core.geometry import Size
from samserve.decoder.image_lru import ImageLru
from samserve.decoder.sam.kernel_decoder import PreparedImage
from samserve.decoder.sam.mask_decoder import ReadyImage
from samserve.infra.cache import CacheKey


def key(name: str, version: str = "v") -> CacheKey:
    return CacheKey("public", version, name)


def of_bytes(count: int) -> ReadyImage:
    embedding = Embedding("v", Size(1, 1), {"embedding": np.zeros(count // 4, np.float16)})
    return ReadyImage(
        embedding,
        PreparedImage(np.zeros(0, np.float32), {"key0": np.zeros(count // 8, np.float32)}),
    )


def test_the_least_recently_used_goes_first() -> None:
    resident = ImageLru(300)
    for name in "abc":
        resident.put(key(name), of_bytes(100))
    assert resident.get(key("a")) is not None
    resident.put(key("d"), of_bytes(100))
    assert [name for name in "abcd" if resident.get(key(name))] == ["a", "c", "d"]


def test_an_image_larger_than_the_bound_is_not_kept() -> None:
    resident = ImageLru(100)
    resident.put(key("a"), of_bytes(60))
    resident.put(key("b"), of_bytes(200))
    assert len(resident) == 1
    assert resident.get(key("a")) is not None


def test_putting_an_entry_twice_counts_it_once() -> None:
    resident = ImageLru(250)
    for name in "aaab":
        resident.put(key(name), of_bytes(100))
    assert len(resident) == 2


def test_one_bound_holds_for_all_models_together() -> None:
    resident = ImageLru(250)
    for version in ("nano-1", "twin-1", "huge-1"):
        resident.put(key("a", version), of_bytes(100))
    assert [v for v in ("nano-1", "twin-1", "huge-1") if resident.get(key("a", v))] == [
        "twin-1",
        "huge-1",
    ]
