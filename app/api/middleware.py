"""What every request passes: pure ASGI, because a wrapper that costs per chunk would cost per streamed word."""

import asyncio
import re
import time
import uuid
from collections.abc import Awaitable, Iterable
from typing import Final

import structlog
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import ErrorBody, ErrorEnvelope, HttpError, http_error_reply, internal_error_body
from app.api.json_replies import JsonReply

log = structlog.get_logger(__name__)

_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_JSON: Final = re.compile(rb"application/([\w.+-]+\+)?json\s*(;|$)", re.IGNORECASE)

_PROBES: Final = frozenset({"/health", "/healthz", "/readyz"})

_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
"""Added where a reply has none of its own."""


class RequestContext:
    """Gives every request an id, every reply its headers, and every fault of ours one log line and an envelope."""

    def __init__(self, app: ASGIApp) -> None:
        """Stand outermost: replies of the other middleware get the headers too."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; see ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = header(scope, b"x-request-id")
        request_id = given if given is not None and _REQUEST_ID.fullmatch(given) else f"req_{uuid.uuid4().hex}".encode()
        status = 0
        started = time.perf_counter()

        def marked(message: Message) -> Awaitable[None]:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": _completed(message.get("headers", ()), request_id)}
            return send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id.decode()):
            try:
                await self._app(scope, receive, marked)
            except Exception as error:  # the edge of a request: logged here, told without its text
                log.error("request_failed", exc_info=error)
                if status:
                    raise  # the server must break the reply off, or a cut one would look whole
                body = internal_error_body(request_id.decode())
                await JsonReply(ErrorEnvelope(body), 500)(scope, receive, marked)
            finally:
                _log_request(scope, status, started)


class RequestLimit:
    """Handles so many requests at a time; more are told to come again, at once, instead of waiting for all others.

    An open stream counts as long as it lasts. Whether the process is up is answered all the same.
    """

    def __init__(self, app: ASGIApp, max_requests: int) -> None:
        """`max_requests`: of this process, at a time."""
        self._app = app
        self._max_requests = max_requests
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; see ASGI."""
        if scope["type"] != "http" or path_of(scope) in _PROBES:
            await self._app(scope, receive, send)
            return
        if self._under_way >= self._max_requests:
            message = f"The server handles {self._max_requests} requests already. Try again in a moment."
            body = ErrorBody(message, "rate_limit_error", None, "too_many_requests")
            await JsonReply(ErrorEnvelope(body), 429, {"retry-after": "1"})(scope, receive, send)
            return
        self._under_way += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._under_way -= 1


class BodyDeadline:
    """Gives a client so long to send its body; who sends byte after byte is cut off."""

    def __init__(self, app: ASGIApp, timeout_s: float) -> None:
        """`timeout_s`: from the first look at the body to its end."""
        self._app = app
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; see ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        deadline: float | None = None
        whole = False

        async def in_time() -> Message:
            nonlocal deadline, whole
            if whole:
                return await receive()  # only whether the client has gone
            if deadline is None:
                deadline = asyncio.get_running_loop().time() + self._timeout_s
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError as error:
                # The framework lets only its own kind through while it reads a body. The rest of the body must not
                # be taken for the next request: the connection ends.
                text = f"The body did not arrive within {self._timeout_s:g} seconds."
                raise HTTPException(408, text, {"connection": "close"}) from error
            whole = message["type"] != "http.request" or not message.get("more_body", False)
            return message

        await self._app(scope, in_time, send)


class JsonBodies:
    """Takes JSON bodies only, and none larger than the limit; a larger one is refused before it is in memory."""

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        """`max_body_bytes`: of one request body, announced or chunked."""
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; see ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length = header(scope, b"content-length")
        has_body = length not in {None, b"0"} or header(scope, b"transfer-encoding") is not None
        if not has_body:
            await self._app(scope, receive, send)
            return
        if length is not None and length.isdigit() and int(length) > self._max_body_bytes:
            await http_error_reply(self._too_large())(scope, receive, send)
            return
        if not _JSON.match(header(scope, b"content-type") or b""):
            error = HttpError(
                415, "unsupported_media_type", "A body must be JSON: send content-type: application/json."
            )
            await http_error_reply(error)(scope, receive, send)
            return
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            if message["type"] == "http.request":
                read += len(message.get("body", b""))
                if read > self._max_body_bytes:
                    # The framework lets only its own kind through while it reads a body.
                    raise HTTPException(413, self._too_large().body.message)
            return message

        await self._app(scope, counted, send)

    def _too_large(self) -> HttpError:
        return HttpError(413, "body_too_large", f"The body is larger than {self._max_body_bytes} bytes.")


def header(scope: Scope, name: bytes) -> bytes | None:
    """Return the first header of that name (lower case); None when there is none."""
    return next((value for key, value in scope["headers"] if key == name), None)


def path_of(scope: Scope) -> str:
    """Return the path as the app's own routes see it, without what it is mounted at."""
    path: str = scope["path"]
    mounted: str = scope.get("root_path", "")
    return path[len(mounted) :] if mounted and path.startswith(f"{mounted}/") else path


def _completed(headers: Iterable[tuple[bytes, bytes]], request_id: bytes) -> list[tuple[bytes, bytes]]:
    own = list(headers)
    present = {name for name, _ in own}
    return [*own, *(pair for pair in _HEADERS if pair[0] not in present), (b"x-request-id", request_id)]


def _log_request(scope: Scope, status: int, started: float) -> None:
    path = scope["path"]
    write = log.debug if path in _PROBES else log.info
    # The path as it was sent: decoded, it could hold line breaks. Never the query: it may hold a session id.
    raw_path: bytes = scope.get("raw_path") or path.encode()
    duration_ms = round((time.perf_counter() - started) * 1000)
    shown = raw_path.partition(b"?")[0][:200].decode("latin-1")
    # Whoever knows a link's token may read what it leads to.
    start, link, _ = shown.partition("/v1/shared/")
    shown = f"{start}{link}…" if link else shown
    write("http_request", method=scope["method"], path=shown, status=status, duration_ms=duration_ms)
