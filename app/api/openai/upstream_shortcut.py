"""A shorter way for calls of upstream models: finding a route and its dependencies is half of what one costs."""

from collections.abc import Mapping
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.middleware import path_of
from app.api.openai.access import PRINCIPAL
from app.api.openai.upstream import UpstreamReply, passed_headers
from app.bootstrap import Container
from app.domain.errors import InvalidInput, UnknownAgent
from app.domain.models.access import Principal
from app.domain.models.gateway import GatewayPath

_PATHS: Final[Mapping[str, GatewayPath]] = {
    "/v1/chat/completions": "/chat/completions",
    "/v1/responses": "/responses",
    "/v1/embeddings": "/embeddings",
}
SHORT_PATHS: Final = frozenset(_PATHS)
"""Paths that may be answered without a route."""


class UpstreamShortcut:
    """Answers calls of upstream models that the routes would pass through, and leaves all others to the routes.

    It refuses nothing: what is not plainly such a call (an agent's, one without the right, a body that does not fit)
    goes on as if nothing had been looked at. Without it everything is the same, but slower.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Stand innermost: who asks is known, and bodies are limited."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; see ASGI."""
        path = _PATHS.get(path_of(scope)) if scope["type"] == "http" and scope["method"] == "POST" else None
        container: Any = getattr(scope["app"].state, "container", None) if path is not None else None
        access = scope.get(PRINCIPAL)
        if (
            path is None
            or not isinstance(container, Container)
            or not container.gateway.is_on
            or not isinstance(access, Principal)
            or "write" not in access.scopes
        ):
            await self._app(scope, receive, send)
            return
        body = _Body(receive)
        reply = _reply(container, access, path, await body.whole(), scope)
        await (self._app(scope, body.again, send) if reply is None else reply(scope, receive, send))


class _Body:
    """A body that is read, and given again to who reads it next."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._read: list[Message | HTTPException] = []

    async def whole(self) -> bytes | None:
        """Read it to its end; None when it has none: the client has left, or it is refused."""
        parts: list[bytes] = []
        while True:
            try:
                message = await self._receive()
            except HTTPException as refusal:  # too large, or too slow: for the framework to answer
                self._read.append(refusal)
                return None
            self._read.append(message)
            if message["type"] != "http.request":
                return None
            parts.append(message.get("body", b""))
            if not message.get("more_body", False):
                return parts[0] if len(parts) == 1 else b"".join(parts)

    async def again(self) -> Message:
        """Give what was read, in the same parts, then what comes."""
        if not self._read:
            return await self._receive()
        first = self._read.pop(0)
        if isinstance(first, HTTPException):
            raise first
        return first


def _reply(
    container: Container, access: Principal, path: GatewayPath, body: bytes | None, scope: Scope
) -> UpstreamReply | None:
    """Return the reply that the route would give; None: it is for the route to say."""
    if body is None:
        return None
    gateway = container.gateway
    try:
        asked = gateway.read(path, body, passed_headers(scope))
    except InvalidInput:
        return None
    if not gateway.allows(asked.model, access):
        return None
    if path != "/embeddings":
        try:
            container.provider.agent(asked.model)
        except UnknownAgent:
            pass
        else:
            return None
    return UpstreamReply(gateway, asked, access)
