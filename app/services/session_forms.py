"""The forms of an event as callers send it: one that takes all it can, and a quick one that takes most."""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Final, cast

import msgspec
from msgspec import Meta, Struct

from app.domain.models.completions import EVENT_VERSION, EventType, SessionOutcome, SessionType, Transport

_Name = Annotated[str, Meta(min_length=1, max_length=255)]
_Id = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[\x21-\x7e]+$")]
_Count = Annotated[int, Meta(ge=0, le=1 << 53)]
_Version = Annotated[int, Meta(ge=1, le=1_000)]
_Cost = Decimal | None
_Moment = datetime | int | float | None
"""RFC 3339, or the seconds or milliseconds since 1970."""


class Usage(Struct, kw_only=True, gc=False):
    """What a session has used."""

    input_tokens: _Count | None = None
    output_tokens: _Count | None = None
    total_tokens: _Count | None = None
    cached_tokens: _Count | None = None
    reasoning_tokens: _Count | None = None
    input_audio_tokens: _Count | None = None
    output_audio_tokens: _Count | None = None
    prompt_tokens: _Count | None = None
    completion_tokens: _Count | None = None
    requests: _Count | None = None
    model: _Name | None = None
    cost_usd: _Cost = None
    estimated_cost_usd: _Cost = None


class Outcome(Struct, kw_only=True, gc=False):
    """How it ended."""

    status: SessionOutcome | None = None
    error_code: _Name | None = None


class Session(Struct, kw_only=True, gc=False):
    """The session, when its fields stand apart."""

    session_id: _Name | None = None
    id: _Name | None = None
    session_type: SessionType | None = None
    type: SessionType | None = None
    user_id: _Name | None = None
    organization_id: _Name | None = None
    start_time: _Moment = None
    end_time: _Moment = None
    duration_ms: _Count | float | None = None
    message_count: _Count | None = None


class User(Struct, kw_only=True, gc=False):
    """The user, when their fields stand apart."""

    user_id: _Name | None = None
    id: _Name | None = None
    organization_id: _Name | None = None
    tier: _Name | None = None


class SessionPayload(Struct, kw_only=True, gc=False):
    """An event as callers send it; every field but the session's id may be missing."""

    event_id: _Id | None = None
    event_type: EventType = "session.completed"
    version: _Version = EVENT_VERSION
    timestamp: _Moment = None
    session_id: _Name | None = None
    session_type: SessionType | None = None
    user_id: _Name | None = None
    organization_id: _Name | None = None
    tier: _Name | None = None
    start_time: _Moment = None
    end_time: _Moment = None
    duration_ms: _Count | float | None = None
    first_token_ms: _Count | float | None = None
    message_count: _Count | None = None
    tool_call_count: _Count | None = None
    agent: _Name | None = None
    model: _Name | None = None
    models: list[_Name] | None = None
    requests: _Count | None = None
    prompt_tokens: _Count | None = None
    completion_tokens: _Count | None = None
    input_tokens: _Count | None = None
    output_tokens: _Count | None = None
    total_tokens: _Count | None = None
    cached_tokens: _Count | None = None
    reasoning_tokens: _Count | None = None
    input_audio_tokens: _Count | None = None
    output_audio_tokens: _Count | None = None
    cost_usd: _Cost = None
    estimated_cost_usd: _Cost = None
    error_code: _Name | None = None
    transport: Transport | None = None
    input_modality: _Name | None = None
    session: Session | None = None
    user: User | None = None
    usage: Usage | None = None
    outcome: Outcome | SessionOutcome | None = None
    metadata: dict[str, Any] | None = None


# Whatever does not fit these is read by the forms above, which say what is wrong; bounds are checked while it is read.
_Timing = Annotated[int, Meta(ge=0, le=1 << 53)] | Annotated[float, Meta(ge=0, le=1 << 53)] | None
_PlainMoment = datetime | Annotated[int, Meta(ge=0, lt=10**14)] | Annotated[float, Meta(ge=0, lt=1e14)] | None


def _plain(form: type[Struct], nested: Mapping[str, Any]) -> type[Struct]:
    """Return a form without room for unknown fields, whose moments and timings are bounded."""
    bounded: dict[str, Any] = {"timestamp": _PlainMoment, "start_time": _PlainMoment, "end_time": _PlainMoment}
    bounded |= {"duration_ms": _Timing, "first_token_ms": _Timing, **nested}
    fields = [(name, kind, None) for name, kind in bounded.items() if name in form.__struct_fields__]
    return msgspec.defstruct(
        f"Plain{form.__name__}", fields, bases=(form,), kw_only=True, gc=False, forbid_unknown_fields=True
    )


PLAIN_PAYLOAD: Final = cast(
    "type[SessionPayload]",
    _plain(
        SessionPayload,
        {
            "session": _plain(Session, {}) | None,
            "user": _plain(User, {}) | None,
            "usage": _plain(Usage, {}) | None,
            "outcome": _plain(Outcome, {}) | SessionOutcome | None,
        },
    ),
)
"""An event in snake_case without unknown fields and with moments and timings within their bounds."""
