"""What browsers need of `POST /v1/events`: tokens instead of keys, texts instead of JSON bodies, other origins."""

from collections.abc import Callable, Collection
from typing import Any, Final
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.access_gate import refusal_reply
from app.api.errors import error_reply
from app.api.middleware import header, path_of
from app.api.openai.access import PRINCIPAL
from app.domain.errors import AppError
from app.domain.models.access import Principal, Refusal
from app.domain.models.completions import EventScope
from app.domain.models.conversations import Caller
from app.services.event_tokens import PREFIX

EVENTS_PATH: Final = "/v1/events"
GRANT: Final = "durable_agents.event_grant"
"""Where a token's `EventScope` is left in a request's scope."""

_JSON: Final = (b"content-type", b"application/json")
_PREFLIGHT: Final = (
    (b"access-control-allow-methods", b"POST"),
    (b"access-control-allow-headers", b"authorization, content-type, content-encoding"),
    (b"access-control-max-age", b"600"),
    (b"content-length", b"0"),
)


class EventDoor:
    """Stands before the gate, which lets whoever was let in here pass. All other paths go by untouched.

    `navigator.sendBeacon` can set no header, and asks nobody first only if its body is a text: the token may stand in
    the query, and `text/plain` is read as JSON.
    """

    def __init__(self, app: ASGIApp, origins: Callable[[Any], Collection[str]]) -> None:
        """`origins`: returns the origins whose pages may read replies, given the running application."""
        self._app = app
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; see ASGI."""
        if scope["type"] != "http" or path_of(scope) != EVENTS_PATH:
            await self._app(scope, receive, send)
            return
        origin = header(scope, b"origin")
        allowed = origin is not None and origin.decode("latin-1") in self._origins(scope["app"])
        shared = [(b"access-control-allow-origin", origin), (b"vary", b"Origin")] if allowed else []
        if allowed and scope["method"] == "OPTIONS":
            await send({"type": "http.response.start", "status": 204, "headers": [*shared, *_PREFLIGHT]})
            await send({"type": "http.response.body", "body": b""})
            return

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *shared]}
            await send(message)

        if scope["method"] != "POST":
            await self._app(scope, receive, told)
            return
        if (header(scope, b"content-type") or b"").lower().startswith(b"text/plain"):
            others = [pair for pair in scope["headers"] if pair[0] != b"content-type"]
            scope = {**scope, "headers": [*others, _JSON]}
        try:
            reply = await self._admit(scope)
        except AppError as error:  # the database is away; the framework's own handlers stand behind this
            reply = error_reply(error)
        await (self._app if reply is None else reply)(scope, receive, told)

    async def _admit(self, scope: Scope) -> ASGIApp | None:
        """Leave whom a token speaks for in the scope, or return the refusal; without a token do nothing."""
        token = _token(scope)
        container = getattr(scope["app"].state, "container", None)
        if token is None or container is None:
            return None
        found = await container.completions.event_tokens.read(token)
        if not isinstance(found, EventScope):
            return refusal_reply(Refusal(found))
        assert found.organization_id is not None
        caller = Caller(found.organization_id, found.user_id, found.project_id, found.api_key_id)
        scope[PRINCIPAL] = Principal(caller, frozenset({"events:write"}))
        scope[GRANT] = found
        return None


def _token(scope: Scope) -> str | None:
    kind, _, shown = (header(scope, b"authorization") or b"").decode("latin-1").partition(" ")
    if kind.lower() == "bearer":
        return shown.strip() if shown.strip().startswith(PREFIX) else None
    query: bytes = scope.get("query_string", b"")
    return next(iter(parse_qs(query.decode("latin-1")).get("token", ())), None)
