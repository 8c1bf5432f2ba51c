"""The page that shows the API, with everything it needs: nothing is loaded from another host."""

from importlib import resources
from typing import Final

from fastapi import APIRouter
from starlette.responses import Response

from app.api.errors import HttpError

router = APIRouter(include_in_schema=False)

_FOLDER: Final = resources.files("app.ui") / "swagger"
_TYPES: Final = {
    "swagger-ui.css": "text/css; charset=utf-8",
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "docs.js": "text/javascript; charset=utf-8",
}
# Styles that the library writes into elements, and its pictures as data.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@router.get("/docs")
def docs() -> Response:
    """Return the page."""
    page = (_FOLDER / "docs.html").read_bytes()
    return Response(page, media_type="text/html; charset=utf-8", headers={"content-security-policy": _POLICY})


@router.get("/docs/{name}")
def docs_file(name: str) -> Response:
    """Return a file of the page."""
    kind = _TYPES.get(name)
    if kind is None:
        raise HttpError(404, "unknown_url", "There is no such file.")
    content = (_FOLDER / name).read_bytes()
    return Response(content, media_type=kind, headers={"cache-control": "public, max-age=86400"})
