"""What every request passes: pure ASGI, because a wrapper that costs per chunk would cost per streamed word."""

import re
import time
import uuid
from collections.abc import Awaitable, Iterable
from typing import Final

import structlog
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import ErrorEnvelope, HttpError, http_error_reply, internal_error_body
from app.api.json_replies import JsonReply
from app.api.loopback import is_loopback_authority, same_authority

log = structlog.get_logger(__name__)

_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_JSON: Final = re.compile(rb"application/([\w.+-]+\+)?json\s*(;|$)", re.IGNORECASE)
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})

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


class LocalOnly:
    """Refuses what a page of a stranger could send through the user's browser, as long as there are no keys.

    The Host header must name this machine (a rebound DNS name does not), and a request that changes something must
    not come from another origin.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Guard the app."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; see ASGI."""
        refused = _foreign(scope) if scope["type"] == "http" else None
        if refused is None:
            await self._app(scope, receive, send)
        else:
            await http_error_reply(refused)(scope, receive, send)


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


def _foreign(scope: Scope) -> HttpError | None:
    host = (header(scope, b"host") or b"").decode("latin-1")
    if not is_loopback_authority(host):
        message = "This server answers on this machine only, until it has keys: call it as localhost or 127.0.0.1."
        return HttpError(421, "host_not_allowed", message, param="Host")
    origin = header(scope, b"origin")
    if origin is None or scope["method"] in _SAFE_METHODS or same_authority(origin.decode("latin-1"), host):
        return None
    message = "Pages of another origin may not call this server."
    return HttpError(403, "origin_not_allowed", message, type="permission_error", param="Origin")


def _completed(headers: Iterable[tuple[bytes, bytes]], request_id: bytes) -> list[tuple[bytes, bytes]]:
    own = list(headers)
    present = {name for name, _ in own}
    return [*own, *(pair for pair in _HEADERS if pair[0] not in present), (b"x-request-id", request_id)]


def _log_request(scope: Scope, status: int, started: float) -> None:
    path = scope["path"]
    write = log.debug if path in {"/healthz", "/readyz"} else log.info
    # The path as it was sent: decoded, it could hold line breaks. Never the query: it may hold a session id.
    raw_path: bytes = scope.get("raw_path") or path.encode()
    duration_ms = round((time.perf_counter() - started) * 1000)
    shown = raw_path.partition(b"?")[0][:200].decode("latin-1")
    write("http_request", method=scope["method"], path=shown, status=status, duration_ms=duration_ms)
