"""What credentials allow, and what each call needs. Pure."""

from __future__ import annotations

from enum import StrEnum


class Scope(StrEnum):
    """What credentials allow."""

    PREDICT = "predict"  # masks of images, with their embeddings on the way
    EMBED = "embed"  # embeddings, without masks
    DELETE = "delete"  # the deletion of an image
    ADMIN = "admin"  # the deletion of the whole tenant


ALL = frozenset(Scope)
DEFAULT = frozenset({Scope.PREDICT, Scope.EMBED, Scope.DELETE})

_DELETIONS = {
    "/samserve.v1.EmbeddingService/DeleteEmbedding": Scope.DELETE,
    "/samserve.v1.EmbeddingService/DeleteImage": Scope.DELETE,
    "/samserve.v1.EmbeddingService/DeleteTenant": Scope.ADMIN,
}
_EMBEDDING = "/samserve.v1.EmbeddingService/"
_IMAGES = "/v1/images"


def scopes_for(method: str, path: str) -> frozenset[Scope]:
    """Return the scopes of which a call needs one.

    The clients of masks embed images on the way, so `predict` allows that, too.

    Args:
        method: Of HTTP.
        path: Without the query.
    """
    if path in _DELETIONS:
        return frozenset({_DELETIONS[path]})
    if method == "DELETE":
        return frozenset({Scope.ADMIN if path.startswith("/v1/tenants/") else Scope.DELETE})

    is_embedding = path.startswith(_EMBEDDING) or path == _IMAGES or path.endswith("/embedding")
    if is_embedding or path.endswith("/embed_image"):
        return frozenset({Scope.EMBED, Scope.PREDICT})
    return frozenset({Scope.PREDICT})


def parse_scopes(names: list[str]) -> frozenset[Scope]:
    """Return the scopes with these names.

    Raises:
        ValueError: One is unknown.
    """
    unknown = sorted(set(names) - set(ALL))
    if unknown:
        raise ValueError(f"unknown scope {unknown[0]!r}; available: {', '.join(sorted(ALL))}")
    return frozenset(Scope(name) for name in names)
