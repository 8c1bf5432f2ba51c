"""What `/openapi.json` says that FastAPI cannot know: replies are structs, and every error has the one envelope."""

from typing import Any, Final

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from msgspec import Struct

from app.api.errors import ErrorEnvelope
from app.api.request_examples import REQUEST_EXAMPLES

_REF: Final = "#/components/schemas/{name}"
_STATUSES: Final = {
    400: "A field is missing, unknown, or has a wrong value.",
    401: "No key was shown that is good, or no session was named.",
    403: "The key lacks the scope for this, or is confined to something else.",
    404: "There is no such thing, or it is not yours.",
    408: "The body did not arrive in time.",
    409: "The run was cancelled; or the run, conversation or key is not in a state for this. See the code.",
    413: "The body is too large.",
    415: "The body is not JSON, or does not say so in its content-type.",
    429: "The model's endpoint, or this server, is at its limit; see retry-after.",
    500: "The agent's code failed, or ours did.",
    502: "The model's endpoint failed or refused the request.",
    503: "The database or the identity provider is away, or the server is stopping; see retry-after.",
    504: "The model's endpoint, or the run, took too long.",
}

_ALL: Final = (429, 500)
_GUARDED: Final = (401, 403, 503)
"""Who asks is looked up in the database; a key may lack the scope."""
_WITH_BODY: Final = (400, 408, 413, 415)
_SESSION: Final = "X-Session-Id"
_OPEN_PROBES: Final = frozenset({"/healthz", "/readyz"})
"""Answered however many requests are under way."""

EVENT_STREAM: Final[dict[str, Any]] = {
    "text/event-stream": {
        "itemSchema": {
            "type": "object",
            "properties": {name: {"type": "string"} for name in ("id", "event", "data")},
            "description": "One Server-Sent Event; its `data` is JSON.",
        },
    }
}
"""The content of a reply that is a stream."""

TAGS: Final[list[dict[str, Any]]] = [
    {"name": name, "description": description}
    for name, description in (
        ("responses", "OpenAI's Responses API: an agent is a model, a response is a run."),
        ("chat completions", "OpenAI's Chat Completions API, without a history unless a call asks for one."),
        ("embeddings", "Passed on to an upstream model, and accounted."),
        ("models", "Agents, and the upstream models that are allowed."),
        ("conversations", "Threads and their items: OpenAI's routes under /v1, a session's own under /api."),
        ("chat", "Messages of a session, answered whole or as a stream of events."),
        ("runs", "One input to its answer, with its events, started, watched and cancelled."),
        ("approvals", "Tool calls that a person must allow."),
        ("catalog", "What is served: agents and their tools."),
        ("ai sdk", "The AI SDK's UI message stream."),
        ("ag-ui", "The AG-UI protocol."),
        ("keys", "Projects and API keys of an organization."),
        ("usage", "Tokens and costs over time, as JSON or CSV."),
        ("webhooks", "Addresses that are told how runs ended."),
        ("events", "How sessions ended that did not run here."),
        ("service", "Whether the service is well."),
    )
]
"""The document's chapters, in order."""

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
    return named | {
        "default": {"description": "Any other error: 421 for a foreign host, say.", "content": content(ErrorEnvelope)}
    }


def describe(app: FastAPI) -> dict[str, Any]:
    """Return the document, made once."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes, tags=app.openapi_tags
        )
        _, schemas = msgspec.json.schema_components(list(type_of.values()), ref_template=_REF)
        document.setdefault("components", {}).setdefault("schemas", {}).update(schemas)
        for path, operations in document["paths"].items():
            for operation in operations.values():
                _complete(path, operation)
        _add_examples(document)
        app.openapi_schema = document
    return app.openapi_schema


def _complete(path: str, operation: dict[str, Any]) -> None:
    """Add the errors that a request may meet before and behind its route."""
    parameters = operation.get("parameters", [])
    statuses = {
        *(_ALL if path not in _OPEN_PROBES else ()),
        *(_GUARDED if "security" in operation else ()),
        *(_WITH_BODY if "requestBody" in operation else ()),
        *((400,) if any(parameter["in"] != "path" for parameter in parameters) else ()),
        *((404,) if any(parameter["name"] == _SESSION for parameter in parameters) else ()),
    }
    named: dict[str, Any] = operation["responses"]
    added = failures(*(status for status in statuses if str(status) not in named))
    every = {str(status): reply for status, reply in (added | named).items()}
    operation["responses"] = dict(sorted(every.items()))
    for reply in every.values():
        for described in reply.get("content", {}).values():
            if "itemSchema" in described:
                described.pop("schema", None)  # the framework's: a text


def _add_examples(document: dict[str, Any]) -> None:
    for (method, path), examples in REQUEST_EXAMPLES.items():
        body = document["paths"][path][method]["requestBody"]["content"]["application/json"]
        body["examples"] = {name: {"value": value} for name, value in examples.items()}


def content(*kinds: type[Struct]) -> dict[str, Any]:
    """Return a JSON body that is one of the kinds."""
    type_of.update({kind.__name__: kind for kind in kinds})
    references = [{"$ref": _REF.format(name=kind.__name__)} for kind in kinds]
    return {"application/json": {"schema": references[0] if len(references) == 1 else {"anyOf": references}}}
