"""Capture of realtime sessions: speech and text over a websocket, WebRTC or SIP, whoever holds the connection."""

import time
from collections.abc import Callable, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Required, TypedDict, Unpack

from app.capture.ports import (
    MAX_NAME_CHARS,
    Captures,
    Identity,
    Outcome,
    Quietly,
    labels,
    name,
    outcome_of,
    succeeded,
)
from app.capture.usage_tally import UsageTally
from app.domain.identifiers import new_event_id
from app.domain.models.completions import SessionOutcome, Transport

MAX_COUNTED_MESSAGES: Final = 100_000
"""Messages of one session whose ids are kept, so that none counts twice; more are not counted."""


class RealtimeSessionCompletion(TypedDict, total=False):
    """What is told of a realtime session that has ended; only its id is required."""

    session_id: Required[str]
    user_id: str | None
    organization_id: str | None
    start_time: datetime | str | float | None
    """RFC 3339, or seconds or milliseconds since 1970."""
    end_time: datetime | str | float | None
    input_tokens: int | None
    """All tokens that went in, spoken ones too."""
    output_tokens: int | None
    input_audio_tokens: int | None
    """Those of the input that were speech, which costs otherwise than text."""
    output_audio_tokens: int | None
    cached_tokens: int | None
    model: str | None
    outcome: SessionOutcome | Outcome | None
    input_modality: str | None
    transport: Transport | None
    message_count: int | None
    tool_call_count: int | None
    metadata: Mapping[str, Any] | None
    event_id: str | None
    """Given by whoever may report the same session twice."""


class RealtimeIdentity(Identity, total=False):
    """Whose realtime session it is, and how it is connected."""

    event_id: str
    transport: Transport
    input_modality: str
    model: str


def capture_realtime_session_completion(runtime: Captures, **session: Unpack[RealtimeSessionCompletion]) -> Any:
    """Capture one ended realtime session; return what the runtime's `capture` returns. Never raises.

    No cost is made up: the event's cost stays empty unless someone who knows the prices of speech fills it in.
    """
    event: dict[str, Any] = {"session_type": "realtime"}
    for key, value in session.items():
        if value is not None:
            event[key] = value.isoformat() if isinstance(value, datetime) else value
    return runtime.capture(event)


class RealtimeCapture:
    """Watches one realtime session and captures it when it ends.

    Around a session of the SDK: `async with RealtimeCapture(runtime, await runner.run(), session_id="s1") as session:`
    enters the session, listens beside it and captures when the block is left. For a connection that is held elsewhere
    (a browser's WebRTC, a phone's SIP) give `on_server_event` the provider's own events, as JSON objects, and call
    `finish`. Audio is neither kept nor looked at.
    """

    def __init__(self, runtime: Captures, session: Any = None, **identity: Unpack[RealtimeIdentity]) -> None:
        self._runtime = runtime
        self._session = session
        self._identity = identity
        self._tally = UsageTally()
        self._messages: set[str] = set()
        self._tool_calls = 0
        self._failure: Outcome | None = None
        self._is_finished = False
        self._event_id = identity.get("event_id") or new_event_id()
        self._quietly = Quietly()
        self._begin()
        self._model_events: dict[str, Callable[[Any], None]] = {
            "usage": self._on_usage,
            "item_updated": self._on_item,
            "function_call": self._on_function_call,
            "error": self._on_error,
            "exception": self._on_exception,
            "turn_ended": self._on_turn_ended,
        }

    async def __aenter__(self) -> Any:
        """Enter the session; a connection that fails is captured and its error goes on."""
        self._begin()
        with self._quietly:
            self._session.model.add_listener(self)
        try:
            return await self._session.__aenter__()
        except BaseException as error:
            self._leave(error)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the session, then capture it, also when leaving fails."""
        try:
            await self._session.__aexit__(kind, error, trace)
        except BaseException as failure:
            self._leave(error or failure)
            raise
        self._leave(error)

    async def on_event(self, event: Any) -> None:
        """Take an event of the SDK's realtime model: this object is a listener of it."""
        with self._quietly:
            handle = self._model_events.get(event.type)
            if handle is not None:
                handle(event)

    def on_server_event(self, event: Mapping[str, Any]) -> None:
        """Take an event of the provider's realtime API, as it came over the wire."""
        with self._quietly:
            kind = event.get("type")
            if kind == "response.done":
                self._on_response(event["response"])
            elif kind in {"session.created", "session.updated"}:
                self._tally.add_model(event["session"].get("model"))
            elif kind in {"conversation.item.created", "conversation.item.added"}:
                self._count_message(event["item"].get("type"), event["item"].get("id"))
            elif kind == "error":
                self._failure = _provider_failure(event.get("error"))

    def finish(self, outcome: SessionOutcome | None = None, *, error: BaseException | None = None) -> None:
        """Capture the session, once; later calls do nothing. Without an outcome, it is what the events tell."""
        with self._quietly:
            if self._is_finished:
                return
            self._is_finished = True
            told: Outcome = self._failure or succeeded()
            if error is not None:
                told = outcome_of(error)
            elif outcome is not None:
                told = {
                    "status": outcome,
                    "error_code": told["error_code"] if outcome in {"error", "timeout"} else None,
                }
            self._runtime.capture(self._event(told))

    def _begin(self) -> None:
        self._started_ms = time.time_ns() // 1_000_000
        self._began_s = time.monotonic()

    def _leave(self, error: BaseException | None) -> None:
        with self._quietly:
            self._session.model.remove_listener(self)
        self.finish(error=error)

    def _on_usage(self, event: Any) -> None:
        # The sum tells cached tokens only; speech stands in the details beside it.
        figures = {
            "requests": event.usage.requests,
            "input_tokens": event.usage.input_tokens,
            "output_tokens": event.usage.output_tokens,
            "total_tokens": event.usage.total_tokens,
            "input_token_details": event.input_tokens_details,
            "output_token_details": event.output_tokens_details,
            "cached_tokens": event.usage.input_tokens_details.cached_tokens,
        }
        self._tally.add(figures)

    def _on_response(self, response: Mapping[str, Any]) -> None:
        if response.get("usage"):
            self._tally.add(response["usage"])
        for item in response.get("output") or ():
            self._count_message(item.get("type"), item.get("id"))
            self._tool_calls += item.get("type") == "function_call"
        if response.get("status") == "failed":
            self._failure = _provider_failure((response.get("status_details") or {}).get("error"))
        elif response.get("status") == "completed":
            self._failure = None

    def _on_item(self, event: Any) -> None:
        self._count_message(event.item.type, event.item.item_id)

    def _count_message(self, kind: Any, item_id: Any) -> None:
        if kind == "message" and isinstance(item_id, str) and len(self._messages) < MAX_COUNTED_MESSAGES:
            self._messages.add(item_id)

    def _on_function_call(self, _: Any) -> None:
        self._tool_calls += 1

    def _on_error(self, event: Any) -> None:
        self._failure = _provider_failure(event.error)

    def _on_exception(self, event: Any) -> None:
        self._failure = outcome_of(event.exception)

    def _on_turn_ended(self, _: Any) -> None:
        # The provider refuses single requests (a cancellation that comes late) and goes on.
        self._failure = None

    def _event(self, outcome: Outcome) -> dict[str, Any]:
        counted = self._tally.event_fields()
        model = self._identity.get("model") or name(getattr(getattr(self._session, "model", None), "model", None))
        event: dict[str, Any] = {
            "session_id": self._event_id,
            "session_type": "realtime",
            **{key: value for key, value in self._identity.items() if key not in {"metadata", "model", "event_id"}},
            "event_id": self._event_id,
            "start_time": self._started_ms,
            "end_time": time.time_ns() // 1_000_000,
            "duration_ms": round((time.monotonic() - self._began_s) * 1_000),
            "message_count": len(self._messages),
            "tool_call_count": self._tool_calls,
            "outcome": outcome,
            "metadata": labels(self._identity.get("metadata")),
            **counted,
        }
        if model is not None:
            event["models"] = [model]
        if "input_modality" not in event and "usage" in counted:
            event["input_modality"] = "audio" if counted["usage"].get("input_audio_tokens") else "text"
        return event


def _provider_failure(told: Any) -> Outcome:
    if isinstance(told, BaseException):
        return outcome_of(told)
    code = told.get("code") or told.get("type") if isinstance(told, Mapping) else getattr(told, "code", None)
    known = name(code)
    return {"status": "error", "error_code": "realtime_error" if known is None else known[:MAX_NAME_CHARS]}
