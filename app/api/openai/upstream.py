"""Calls to upstream models: passed through byte for byte, and recorded however they end."""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.api.errors import HttpError, error_reply
from app.bootstrap import Container
from app.domain.errors import AppError, InvalidInput
from app.domain.models.access import Principal
from app.domain.models.gateway import GatewayPath, GatewayRequest, Header, UpstreamHead
from app.services.gateway import GatewayService

log = structlog.get_logger(__name__)

_PASSED: Final = frozenset({b"accept", b"idempotency-key", b"openai-beta"})
"""What of the client's headers goes on. Its key stays here, and so do its address, cookies and user agent."""
_NO_BUFFERING: Final = (b"x-accel-buffering", b"no")


class BrokenOff(Exception):
    """A reply that has begun cannot be ended well: the server must drop the connection, so that it looks cut."""


async def upstream_reply(
    request: Request, body: bytes, model: str | None, access: Principal, *, path: GatewayPath
) -> Response:
    """Return the reply that calls an upstream model when it is sent, and passes on what comes.

    `body` is the request's body as it came; `model` is the name it holds, which no agent has; None: not looked at yet.

    Raises:
        HttpError: no such model may be called (404 `model_not_found`), or the body is no JSON object, names no model,
            or wants what cannot be accounted for (400).
    """
    container = request.app.state.container
    assert isinstance(container, Container)
    gateway = container.gateway
    if model is not None and not gateway.allows(model, access):
        raise model_not_found(model)
    try:
        asked = gateway.read(path, body, passed_headers(request.scope))
    except InvalidInput as error:
        raise HttpError(400, error.code, error.public_message, param=error.param) from error
    if asked.model != model and not gateway.allows(asked.model, access):
        raise model_not_found(asked.model)
    return UpstreamReply(gateway, asked, access)


def passed_headers(scope: Scope) -> list[Header]:
    """Return the client's headers that go on to the upstream."""
    return [pair for pair in scope["headers"] if pair[0] in _PASSED]


def model_not_found(model: str) -> HttpError:
    """Return the error for a model that does not exist, or that the caller may not use: both look the same."""
    message = f"The model '{model[:80]}' does not exist or you do not have access to it."
    return HttpError(404, "model_not_found", message, param="model")


class UpstreamReply(Response):
    """A reply that is made by the upstream while it is sent.

    A client that leaves ends the upstream call. An upstream that breaks its answer off has this reply broken off too.
    """

    def __init__(self, gateway: GatewayService, asked: GatewayRequest, access: Principal) -> None:
        """Nothing is called before the reply is sent."""
        super().__init__()
        self._gateway = gateway
        self._asked = asked
        self._caller = access.caller

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; see ASGI.

        Raises:
            BrokenOff: what has been sent is not a whole reply, and must not look like one.
        """
        client = _Client(send)
        watching = asyncio.create_task(client.watch(receive), name="watch-client")
        try:
            await self._gateway.pass_through(self._asked, self._caller, client)
        except AppError as error:
            if client.has_begun:
                raise BrokenOff(f"The answer of the upstream model was cut: {error.code}.") from error
            log.info(
                "upstream_call_failed",
                code=error.code,
                model=self._asked.model,
                path=self._asked.path,
                cause=None if error.__cause__ is None else type(error.__cause__).__name__,
            )
            await error_reply(error)(scope, receive, send)
        finally:
            watching.cancel()
            await asyncio.wait((watching,))


class _Client:
    """The gateway's client over ASGI."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._leave: Callable[[], None] | None = None
        self._has_left = False
        self.has_begun = False

    async def watch(self, receive: Receive) -> None:
        """Wait until the client leaves, and tell."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self._has_left = True
        if self._leave is not None:
            self._leave()

    def on_leave(self, leave: Callable[[], None]) -> None:
        """Have a function called when the client has left; see the gateway's Client."""
        self._leave = leave
        if self._has_left:
            leave()

    async def begin(self, head: UpstreamHead, body: bytes | None) -> None:
        """Send the head, and the whole body with it."""
        headers: list[Header] = list(head.headers)
        if body is not None:
            headers.append((b"content-length", b"%d" % len(body)))
        elif head.streamed:
            headers.append(_NO_BUFFERING)
        self.has_begun = True
        await self._send({"type": "http.response.start", "status": head.status, "headers": headers})
        if body is not None:
            await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def send(self, part: bytes) -> None:
        """Send a part of the body."""
        await self._send({"type": "http.response.body", "body": part, "more_body": True})

    async def end(self) -> None:
        """End the body."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})
