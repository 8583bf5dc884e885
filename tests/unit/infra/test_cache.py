from samserve.infra.cache import CacheKey
from samserve.infra.cache_options import CacheOptions

KEY = CacheKey("public", "v1", "ab" * 32)


def test_entries_of_another_image_range_have_another_name() -> None:
    full = CacheOptions("redis://127.0.0.1", 60, 1)
    auto = CacheOptions("redis://127.0.0.1", 60, 1, "auto")
    assert full.name(KEY) == str(KEY)
    assert auto.name(KEY) == f"{KEY}:auto"
