"""What `/openapi.json` says that FastAPI cannot know: replies are structs, and every error has the one envelope."""

from typing import Any, Final

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from msgspec import Struct

from app.api.errors import ErrorEnvelope

_REF: Final = "#/components/schemas/{name}"
_STATUSES: Final = {
    400: "A field is missing, unknown, or has a wrong value.",
    401: "No key was shown that is good, or no session was named.",
    403: "The key lacks the scope for this, or is confined to something else.",
    404: "There is no such thing for this session.",
    409: "The run was cancelled; or the run, conversation or key is not in a state for this. See the code.",
    413: "The body is too large.",
    429: "The model's endpoint is at its limit; see retry-after.",
    500: "The agent's code failed, or ours did.",
    502: "The model's endpoint failed or refused the request.",
    503: "The database is away, or the server is stopping; see retry-after.",
    504: "The model's endpoint, or the run, took too long.",
}

type_of: dict[str, type[Struct]] = {"ErrorEnvelope": ErrorEnvelope}
"""Structs that routes have named, by their name in the document."""


def replies(
    kind: type[Struct], *statuses: int, ok: int = 200, description: str = "Done."
) -> dict[int | str, dict[str, Any]]:
    """Return a route's replies: what it says when all is well, and the errors it may answer."""
    documented: dict[int | str, dict[str, Any]] = {ok: {"description": description, "content": content(kind)}}
    return documented | failures(*statuses)


def failures(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the errors a route may answer; any other status has the same envelope."""
    named: dict[int | str, dict[str, Any]] = {
        status: {"description": _STATUSES[status], "content": content(ErrorEnvelope)} for status in statuses
    }
    return named | {"default": {"description": "Any other error.", "content": content(ErrorEnvelope)}}


def describe(app: FastAPI) -> dict[str, Any]:
    """Return the document, made once."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes, tags=app.openapi_tags
        )
        _, schemas = msgspec.json.schema_components(list(type_of.values()), ref_template=_REF)
        document.setdefault("components", {}).setdefault("schemas", {}).update(schemas)
        app.openapi_schema = document
    return app.openapi_schema


def content(*kinds: type[Struct]) -> dict[str, Any]:
    """Return a JSON body that is one of the kinds."""
    type_of.update({kind.__name__: kind for kind in kinds})
    references = [{"$ref": _REF.format(name=kind.__name__)} for kind in kinds]
    return {"application/json": {"schema": references[0] if len(references) == 1 else {"anyOf": references}}}
