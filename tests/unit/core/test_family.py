import pytest
from samserve.core.family import FAMILIES, SAM, SAM2, SAM3, SAM_HQ, UnknownFamily, family_named


@pytest.mark.parametrize(
    ("family", "finer"),
    [
        (SAM, {}),
        (SAM2, {"fine_1": (64, 128, 128), "fine_0": (32, 256, 256)}),
        (SAM_HQ, {"hq": (32, 256, 256)}),
    ],
)
def test_an_embedding_has_the_maps_of_its_family(
    family: str, finer: dict[str, tuple[int, ...]]
) -> None:
    shapes = FAMILIES[family].embedding_shapes(256, 64)
    assert list(shapes.items()) == [("embedding", (256, 64, 64)), *finer.items()]
    assert FAMILIES[family].fine_maps == tuple(finer)


def test_a_family_is_found_by_its_name() -> None:
    assert {name: family_named(name).name for name in FAMILIES} == {
        name: name for name in (SAM, SAM2, SAM3, SAM_HQ)
    }


def test_an_unknown_family_is_refused_with_those_supported() -> None:
    with pytest.raises(UnknownFamily, match=r"'sam9'; supported: sam, sam2, sam3, sam_hq"):
        family_named("sam9")
