"""The page at `/`: type a text, see what each model answers, how sure it is, in what time, and on which words it rests.

    application.include_router(page_routes())

A few files without a framework, which ask nothing of another host: index.html, page.css, page.js, and all texts in strings.js.
"""

from pathlib import Path

from fastapi import APIRouter
from starlette.responses import Response

PAGE_DIRECTORY = Path(__file__).parent
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def page_routes() -> APIRouter:
    """GET / and the files that it names."""
    router = APIRouter(include_in_schema=False)
    # Read once, and served by name from here: no path of a request ever becomes a path on the disk.
    files = {path.name: (path.read_bytes(), KINDS[path.suffix]) for path in PAGE_DIRECTORY.iterdir() if path.suffix in KINDS}

    def add(path: str, name: str) -> None:
        content, kind = files[name]

        @router.get(path)
        async def file() -> Response:
            return Response(content, media_type=kind, headers=HEADERS)

    add("/", "index.html")
    for name in files:
        add(f"/page/{name}", name)
    return router
