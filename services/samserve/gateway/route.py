"""Routes of a surface: bounded JSON bodies, and errors in the form that its clients read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from samserve.gateway.json_body import parse_json
from samserve.gateway.problem import Problem, problem_of

Handler = Callable[[Request], Coroutine[Any, Any, Response]]

REFUSAL = "samserve.refusal"  # in a request's scope: the error to answer it with


def surface(
    write: Callable[[Problem], Response],
    *,
    json_parts: int,
    prepare: Callable[[bytes], bytes] | None = None,
) -> type[APIRoute]:
    """Return the class of a surface's routes, for `APIRouter(route_class=...)`.

    Args:
        write: Writes a failure in the surface's form.
        json_parts: Limit of the values in a JSON body.
        prepare: Shortens a JSON body before it is parsed; called in a thread.
    """

    class SurfaceRequest(Request):
        async def json(self) -> Any:
            if not hasattr(self, "_json"):
                body = await self.body()
                if prepare is not None:
                    body = await asyncio.to_thread(prepare, body)
                self._json = parse_json(body, json_parts)
            return self._json

    class SurfaceRoute(APIRoute):
        def get_route_handler(self) -> Handler:
            handle = super().get_route_handler()

            async def answer(request: Request) -> Response:
                try:
                    if REFUSAL in request.scope:
                        raise request.scope[REFUSAL]
                    return await handle(SurfaceRequest(request.scope, request.receive))
                except Exception as error:
                    return write(problem_of(error))

            return answer

    return SurfaceRoute
