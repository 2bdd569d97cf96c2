"""The page at `/`: a few files that come with the package, and what a browser may do with them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
INDEX = "index.html"
HEADERS = {
    # Nothing from elsewhere, nothing inline: a model's words that got into the page as markup could still do nothing.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    # A door of another version brings another page.
    "cache-control": "no-cache",
}


def page_routes() -> list[BaseRoute]:
    """`/` and `/page/FILE`; the files are read once."""
    found = {
        file.name: file.read_bytes()
        for file in (files("serving.endpoint") / "page").iterdir()
        if file.name.rpartition(".")[2] in TYPES
    }
    return [
        Route("/" if name == INDEX else f"/page/{name}", _serving(name, data), methods=["GET"], include_in_schema=False)
        for name, data in sorted(found.items())
    ]


def _serving(name: str, data: bytes) -> Callable[[Request], Awaitable[Response]]:
    kind = TYPES[name.rpartition(".")[2]]

    async def serve(request: Request) -> Response:
        return Response(data, media_type=kind, headers=HEADERS)

    return serve
