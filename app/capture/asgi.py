"""Capture for web applications: one event a request on chosen paths, for FastAPI, Starlette and any other ASGI."""

import asyncio
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from app.capture.ports import Captures, Outcome, Quietly, labels, name, outcome_of, succeeded
from app.capture.usage_tally import UsageTally
from app.domain.identifiers import new_event_id
from app.domain.models.completions import SessionOutcome, SessionType

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

STATE_KEY: Final = "completion"
MAX_TAIL_BYTES: Final = 64 * 1024
"""Bytes of an answer's end that are kept to read its usage from."""
MAX_SESSION_AGE_MS: Final = 31 * 24 * 3_600 * 1_000
_USAGE: Final = re.compile(rb'"usage"\s*+:\s*+(\{(?:[^{}]++|\{[^{}]*+\})*+\})')
_MODEL: Final = re.compile(rb'"model"\s*:\s*"([^"\\]{1,255})"')
_HEADERS: Final = {
    b"x-session-id": "session_id",
    b"x-user-id": "user_id",
    b"x-organization-id": "organization_id",
}


class Completion:
    """What is known of a request so far; the application adds to it through `completion_of(request)`."""

    def __init__(self, session_type: SessionType) -> None:
        self.session_id: str | None = None
        self.user_id: str | None = None
        self.organization_id: str | None = None
        self.session_type: SessionType = session_type
        self.event_id = new_event_id()
        self.outcome: SessionOutcome | None = None
        """None: the answer's status tells."""
        self.error_code: str | None = None
        self.message_count: int | None = None
        self.metadata: dict[str, Any] = {}
        self.started_ms: int | None = None
        """When the session began, in milliseconds since 1970; None: with the request."""
        self.is_skipped = False
        self._tally = UsageTally()

    def add_usage(self, usage: Any, model: str | None = None) -> None:
        """Add what a model call used: the `usage` of an OpenAI answer, as an object or a mapping.

        Figures that are added so are the event's: the answer's own are then not read.
        """
        self._tally.add(usage, model)

    def add_model(self, model: str) -> None:
        """Name a model that was used."""
        self._tally.add_model(model)

    def skip(self) -> None:
        """Capture nothing of this request."""
        self.is_skipped = True

    @property
    def has_usage(self) -> bool:
        """Whether usage was added."""
        return self._tally.requests > 0

    def event_fields(self) -> dict[str, Any]:
        """Return the event's fields that are known here."""
        fields: dict[str, Any] = {
            "event_id": self.event_id,
            "session_id": self.session_id or self.event_id,
            "session_type": self.session_type,
            "user_id": self.user_id,
            "organization_id": self.organization_id,
            "message_count": self.message_count,
        }
        return {**{key: value for key, value in fields.items() if value is not None}, **self._tally.event_fields()}


class SessionCompletionMiddleware:
    """Captures one event for each request on the chosen paths, without touching or delaying a byte of the answer.

    A path is taken as it stands, or ends in `*`. The headers `x-session-id`, `x-session-start`, `x-user-id` and
    `x-organization-id` are the client's own word: they count only with `trust_headers`, behind a gateway that sets
    them. With `read_usage`, token counts and the model are read from answers in JSON or server-sent events that are
    not compressed, from their last 64 KiB. A status of 400 or more is an error, 408 and 504 are timeouts, and a client
    that leaves before the answer is complete is `user_terminated`.
    """

    def __init__(
        self,
        app: Application,
        runtime: Captures,
        *,
        paths: Iterable[str],
        trust_headers: bool = False,
        read_usage: bool = True,
        session_type: SessionType = "api",
    ) -> None:
        self._app = app
        self._runtime = runtime
        listed = tuple(paths)
        self._exact = frozenset(path for path in listed if not path.endswith("*"))
        self._prefixes = tuple(path[:-1] for path in listed if path.endswith("*"))
        self._trust_headers = trust_headers
        self._read_usage = read_usage
        self._session_type: SessionType = session_type
        self._quietly = Quietly()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http" or not self._is_watched(scope["path"]):
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(Completion(self._session_type), reads=self._read_usage)
        with self._quietly:
            if self._trust_headers:
                _read_headers(exchange.completion, scope["headers"])
            # The application's own state is shared by requests; this one is not.
            scope = {**scope, "state": {**scope.get("state", {}), STATE_KEY: exchange.completion}}
        raised: BaseException | None = None
        try:
            await self._app(scope, self._receiving(exchange, receive), self._sending(exchange, scope, send))
        except BaseException as error:
            raised = error
            raise
        finally:
            self._capture(exchange, scope, raised)

    def _capture(self, exchange: "_Exchange", scope: Scope, raised: BaseException | None = None) -> None:
        with self._quietly:
            if not exchange.is_captured and not exchange.completion.is_skipped:
                exchange.is_captured = True
                self._runtime.capture(exchange.event(scope, raised))

    def _is_watched(self, path: str) -> bool:
        return path in self._exact or path.startswith(self._prefixes)

    def _receiving(self, exchange: "_Exchange", receive: Receive) -> Receive:
        async def receiving() -> Message:
            message = await receive()
            if message["type"] == "http.disconnect":
                exchange.left()
            return message

        return receiving

    def _sending(self, exchange: "_Exchange", scope: Scope, send: Send) -> Send:
        async def sending(message: Message) -> None:
            try:
                await send(message)
            except OSError:
                exchange.left()
                raise
            with self._quietly:
                exchange.sent(message)
            if exchange.is_complete:  # background work that follows is no part of the answer
                self._capture(exchange, scope)

        return sending


def completion_of(request: Any) -> Completion:
    """Return the completion of a request (or of its ASGI scope), to add to it.

    Outside of the watched paths it is one that nobody captures, so that a handler needs no condition.
    """
    scope: Any = request if isinstance(request, Mapping) else request.scope
    found = scope.get("state", {}).get(STATE_KEY)
    return found if isinstance(found, Completion) else Completion("api")


class _Exchange:
    def __init__(self, completion: Completion, *, reads: bool) -> None:
        self.completion = completion
        self._reads = reads
        self._status: int | None = None
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0
        self._is_whole = True
        self.is_complete = False
        self.is_captured = False
        self._has_left = False
        self._began_s = time.monotonic()
        self._started_ms = time.time_ns() // 1_000_000
        self._first_body_ms: int | None = None

    def left(self) -> None:
        self._has_left = True

    def sent(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = {bytes(key).lower(): bytes(value) for key, value in message.get("headers", ())}
            kind = headers.get(b"content-type", b"")
            self._reads = self._reads and b"content-encoding" not in headers and (b"json" in kind or b"event-s" in kind)
        elif message["type"] == "http.response.body":
            body = message.get("body", b"")
            if body and self._first_body_ms is None:
                self._first_body_ms = self._passed_ms()
            if body and self._reads:
                self._keep(bytes(body))
            self.is_complete = not message.get("more_body", False)
        elif message["type"] == "http.response.pathsend":
            self.is_complete = True

    def event(self, scope: Scope, raised: BaseException | None) -> dict[str, Any]:
        completion = self.completion
        if self._reads and not completion.has_usage:
            self._read_usage()
        now_ms, passed_ms = time.time_ns() // 1_000_000, self._passed_ms()
        start_ms = completion.started_ms
        if start_ms is None or not 0 <= now_ms - start_ms <= MAX_SESSION_AGE_MS:
            start_ms = self._started_ms
        event = {
            **completion.event_fields(),
            "start_time": start_ms,
            "end_time": now_ms,
            "duration_ms": passed_ms if start_ms == self._started_ms else now_ms - start_ms,
            "outcome": self._outcome(raised),
            "metadata": {
                **labels(completion.metadata),
                "method": scope["method"],
                "path": scope["path"][:255],
                "status": self._status,
                "request_ms": passed_ms,
            },
        }
        if self._first_body_ms is not None:
            event["first_token_ms"] = self._first_body_ms
        return event

    def _outcome(self, raised: BaseException | None) -> Outcome:
        completion, status = self.completion, self._status
        if completion.outcome is not None:
            return {"status": completion.outcome, "error_code": name(completion.error_code)}
        if self._has_left or isinstance(raised, asyncio.CancelledError):
            return {"status": "user_terminated", "error_code": None}
        if raised is not None:
            return outcome_of(raised)
        if status is None or not self.is_complete:
            return {"status": "error", "error_code": name(completion.error_code) or "incomplete_response"}
        if status < 400:
            return succeeded()
        code = name(completion.error_code) or f"http_{status}"
        return {"status": "timeout" if status in {408, 504} else "error", "error_code": code}

    def _passed_ms(self) -> int:
        return round((time.monotonic() - self._began_s) * 1_000)

    def _keep(self, body: bytes) -> None:
        piece = body[-MAX_TAIL_BYTES:]
        self._tail.append(piece)
        self._tail_bytes += len(piece)
        self._is_whole = self._is_whole and len(piece) == len(body)
        while self._tail_bytes - len(self._tail[0]) >= MAX_TAIL_BYTES:
            self._tail_bytes -= len(self._tail.popleft())
            self._is_whole = False

    def _read_usage(self) -> None:
        tail = b"".join(self._tail)
        for usage, model in _told(tail, is_whole=self._is_whole):
            if isinstance(usage, Mapping):
                self.completion.add_usage(usage, name(model))
                return
            known = name(model)
            if known is not None:
                self.completion.add_model(known)


class _Answer(msgspec.Struct):
    model: Any = None
    usage: Any = None


def _told(tail: bytes, *, is_whole: bool) -> Iterator[tuple[Any, Any]]:
    """Yield what an answer tells, the best reading first: the object itself, else its last usage."""
    if is_whole and tail.lstrip()[:1] == b"{":
        with suppress(msgspec.DecodeError):
            answer = msgspec.json.decode(tail, type=_Answer)
            yield answer.usage, answer.model
            return
    models = _MODEL.findall(tail)
    model = models[-1].decode("utf-8", "replace") if models else None
    # A quote within a text is escaped, so that no answer's words look like its usage.
    for found in reversed(_USAGE.findall(tail)):
        with suppress(msgspec.DecodeError):
            usage = msgspec.json.decode(found)
            if any(type(usage.get(key)) is int for key in ("total_tokens", "prompt_tokens", "input_tokens")):
                yield usage, model
                return
    yield None, model


def _read_headers(completion: Completion, headers: Iterable[tuple[bytes, bytes]]) -> None:
    for key, value in headers:
        field = _HEADERS.get(key.lower())
        if field is not None:
            setattr(completion, field, name(value.decode("latin-1")))
        elif key.lower() == b"x-session-start":
            completion.started_ms = _milliseconds(value.decode("latin-1").strip())


def _milliseconds(text: str) -> int | None:
    with suppress(ValueError, OverflowError):
        seconds = float(text)
        return round(seconds if seconds >= 1e11 else seconds * 1_000)
    with suppress(ValueError, OverflowError):
        moment = datetime.fromisoformat(text)
        return round((moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment).timestamp() * 1_000)
    return None
