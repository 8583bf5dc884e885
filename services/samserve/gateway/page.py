"""The page for people: the files that `make web` builds, with the headers that they need."""

from __future__ import annotations

import hashlib
import mimetypes
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse, PlainTextResponse
from starlette.exceptions import HTTPException

from samserve.gateway.rest.answers import problem_response
from samserve.gateway.rest.embedding import accepts_gzip
from samserve.gateway.route import surface
from samserve.gateway.service import Service

BUILT = Path(__file__).resolve().parents[1] / "web"
NOT_BUILT = "The page is not built: run `make web`, then start the gateway again.\n"

INDEX = "index.html"
HASHED = "assets/"  # below it, a file's name has a digest of its contents
FOREVER = "public, max-age=31536000, immutable"
ASK_EACH_TIME = "no-cache"  # by its ETag

# Everything comes from the gateway itself; WebAssembly is compiled; images are read from disk.
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; "
    "style-src 'self'; img-src 'self' blob: data:; font-src 'self'; "
    "connect-src 'self' blob: data:; manifest-src 'self'; base-uri 'none'; form-action 'none'"
)

TYPES = {
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
}


@dataclass(frozen=True, slots=True)
class PageFile:
    """A file of the page.

    Attributes:
        path: On disk.
        kind: Its media type.
        etag: A digest of its contents.
        packed: The same compressed, which the build leaves beside it, or None.
    """

    path: Path
    kind: str
    etag: str
    packed: Path | None


def page_files(folder: Path) -> dict[str, PageFile]:
    """Return the files in a folder by their paths in it; none if the page is not built."""
    if not (folder / INDEX).is_file():
        return {}

    found = {}
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        if path.suffix == ".gz" and path.with_suffix("").is_file():
            continue
        packed = path.with_name(f"{path.name}.gz")
        found[path.relative_to(folder).as_posix()] = PageFile(
            path=path,
            kind=TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "text/plain",
            etag=hashlib.sha256(path.read_bytes()).hexdigest()[:32],
            packed=packed if packed.is_file() else None,
        )
    return found


def page_headers(embedders: tuple[str, ...]) -> dict[str, str]:
    """Return the headers of every file.

    Args:
        embedders: Origins whose pages may show this one in a frame. If there are any, the page is
            not isolated, because an isolated page cannot be framed by them.
    """
    ancestors = " ".join(embedders) or "'none'"
    headers = {
        "content-security-policy": f"{POLICY}; frame-ancestors {ancestors}",
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "vary": "accept-encoding",
    }
    if not embedders:
        headers["cross-origin-opener-policy"] = "same-origin"
        headers["cross-origin-embedder-policy"] = "require-corp"
        headers["cross-origin-resource-policy"] = "same-origin"
    return headers


def routes(service: Service, folder: Path = BUILT) -> APIRouter:
    """Return a route for the page, for its assets, and for each other file of it."""
    settings = service.settings
    router = APIRouter(
        include_in_schema=False,
        route_class=surface(problem_response, json_parts=settings.max_json_parts),
    )
    files = page_files(folder)
    headers = page_headers(settings.page_embedders)

    def answer(name: str, request: Request) -> Response:
        file = files.get(name)
        if file is None:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        return _answer(file, request, headers, FOREVER if HASHED in name else ASK_EACH_TIME)

    @router.api_route("/", methods=["GET", "HEAD"])
    async def page(request: Request) -> Response:
        if not files:
            return PlainTextResponse(NOT_BUILT, HTTPStatus.NOT_FOUND)
        return answer(INDEX, request)

    @router.api_route("/assets/{name:path}", methods=["GET", "HEAD"])
    async def asset(name: str, request: Request) -> Response:
        return answer(HASHED + name, request)

    def add(name: str) -> None:
        async def file(request: Request) -> Response:
            return answer(name, request)

        router.add_api_route(f"/{name}", file, methods=["GET", "HEAD"])

    for name in files:
        if not name.startswith(HASHED):
            add(name)
    return router


def _answer(file: PageFile, request: Request, headers: dict[str, str], cache: str) -> Response:
    packed = file.packed if accepts_gzip(request) else None
    etag = f'"{file.etag}{"-gz" if packed else ""}"'
    headers = {**headers, "cache-control": cache, "etag": etag}
    if etag in [tag.strip() for tag in request.headers.get("if-none-match", "").split(",")]:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)

    if packed:
        headers["content-encoding"] = "gzip"
    return FileResponse(packed or file.path, headers=headers, media_type=file.kind)
