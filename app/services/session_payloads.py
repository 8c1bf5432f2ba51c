"""Reads events from outside: flat or nested, snake_case or camelCase, with as little as a session id."""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final

import msgspec
from msgspec.structs import astuple
from typing_extensions import TypeIs

from app.domain.errors import InvalidInput
from app.domain.identifiers import new_event_id
from app.domain.models.completions import SessionEvent
from app.domain.scrubbing import CONTENT_FIELDS
from app.services.session_forms import PLAIN_PAYLOAD, Outcome, Session, SessionPayload, Usage, User

_COST_DIGITS: Final = 40
_KNOWN: Final = frozenset(SessionPayload.__struct_fields__)
_NESTED: Final[Mapping[str, frozenset[str]]] = {
    name: frozenset(form.__struct_fields__)
    for name, form in (("session", Session), ("user", User), ("usage", Usage), ("outcome", Outcome))
}
_OLD_NAMES: Final = (("input_tokens", "prompt_tokens"), ("output_tokens", "completion_tokens"))
_flat_usage: Final = attrgetter(*Usage.__struct_fields__)
_NO_USAGE: Final = (None,) * len(Usage.__struct_fields__)
_decode_plain: Final = msgspec.json.Decoder(PLAIN_PAYLOAD).decode
_CAMEL: Final = re.compile(r"(?<=[a-z0-9])[A-Z]")
_PATH: Final = re.compile(r" - at `\$\.?(.*)`$")
_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")
_LEAVES: Final = frozenset({str, int, float, bool, type(None)})
_MEANT: Final[Mapping[tuple[str, str], str]] = {
    ("session", "id"): "session_id",
    ("session", "type"): "session_type",
    ("user", "id"): "user_id",
}
"""Nested fields whose flat ones have another name."""
MAX_DEPTH: Final = 100

_Aside = dict[str, Any]
"""What was told twice, and differently: the second, by its name."""


def check_payload(raw: Any) -> SessionPayload:
    """Check an event's fields; quick enough for every call of a busy gateway.

    Raises:
        InvalidInput: it is no object, names no session, or a field is wrong; `param` names it.
    """
    return _checked(_snake_case(raw))


def plain_payload(raw: dict[Any, Any]) -> SessionPayload | None:
    """Return the fields of an event whose names we all know and whose figures are fine; None: look closer."""
    try:
        told = msgspec.convert(raw, PLAIN_PAYLOAD)
        return told if _is_sound(told) else None
    except (msgspec.ValidationError, RecursionError):
        return None


def session_event(raw: Any, *, shallow: bool = False) -> SessionEvent:
    """Return an event from what a caller sent; `shallow`: it is known not to be nested deeply.

    Raises:
        InvalidInput: see `check_payload`; also when it is nested more than 100 levels deep.
    """
    raw = _snake_case(raw)
    told = _checked(raw)
    if not shallow:
        check_depth(raw)
    return _event(told, raw)


def plain_event(text: bytes) -> SessionEvent | None:
    """Return an event from its JSON, read in one go; None: look closer. It is known not to be nested deeply.

    Raises:
        InvalidInput: see `check_payload`.
    """
    try:
        told = _decode_plain(text)
    except (ValueError, RecursionError):  # it has fields that we do not know, or is wrong, or is no JSON
        return None
    return _event(told, None) if _is_sound(told) else None


def check_cost(told: SessionPayload) -> None:
    """Check the costs that an event names.

    Raises:
        InvalidInput: one is negative, too large, or has too many digits.
    """
    for costs in (told, told.usage):
        if costs is not None and (costs.cost_usd is not None or costs.estimated_cost_usd is not None):
            _cost(costs.cost_usd, "cost_usd")
            _cost(costs.estimated_cost_usd, "estimated_cost_usd")


def _event(told: SessionPayload, raw: Mapping[str, Any] | None) -> SessionEvent:
    """Put an event together; `raw`: where fields may be that we do not know, None: there are none."""
    aside: _Aside = {}
    usage: SessionPayload | Usage = told
    if told.session is None and told.user is None and told.usage is not None and _flat_usage(told) == _NO_USAGE:
        usage = told.usage  # the commonest form, and the flat fields would be copies of these
    elif told.session is not None or told.user is not None or told.usage is not None:
        _flatten(told, aside)
    outcome = _outcome(told, aside)
    assert told.session_id is not None  # _checked and _is_sound have seen to it
    return SessionEvent(
        told.event_id or new_event_id(),
        told.event_type,
        told.version,
        told.session_id,
        told.user_id,
        told.organization_id,
        outcome["status"],
        _written_moment(told.timestamp, "timestamp"),
        _payload(raw, told, usage, outcome, aside),
    )


def _flatten(told: SessionPayload, aside: _Aside) -> None:
    """Move nested fields to where the flat ones are, which win."""
    for place, nested in (("session", told.session), ("user", told.user), ("usage", told.usage)):
        if nested is None:
            continue
        for name, value in zip(nested.__struct_fields__, astuple(nested), strict=True):
            if value is None:
                continue
            flat = name if place == "usage" else _MEANT.get((place, name), name)
            known = getattr(told, flat)
            if known is None:
                setattr(told, flat, value)
            elif known != value:
                aside[f"{place}.{name}"] = value


def _is_sound(told: SessionPayload) -> bool:
    """Tell whether a session is named, and surely by text that can be stored."""
    for named in (told.session_id, told.user_id):
        if named is not None and not named.isprintable() and _UNSTORABLE.search(named) is not None:
            return False
    # Nested ids are looked at closer, for the flat ones hide them.
    return told.session_id is not None and told.session is None and told.user is None


def _checked(raw: Any) -> SessionPayload:
    try:
        told = msgspec.convert(raw, SessionPayload)
    except (msgspec.ValidationError, RecursionError) as error:
        raise _invalid(error) from None
    session, user = told.session, told.user
    session_id = told.session_id or (None if session is None else session.session_id or session.id)
    if session_id is None:
        raise InvalidInput("An event names its session: 'session_id', or 'session.session_id'.", param="session_id")
    if _UNSTORABLE.search(session_id) is not None:
        raise InvalidInput("An id holds no NUL and no half of a character.", param="session_id")
    user_id = told.user_id or (user and (user.user_id or user.id)) or (session and session.user_id)
    if user_id and _UNSTORABLE.search(user_id) is not None:
        raise InvalidInput("An id holds no NUL and no half of a character.", param="user_id")
    return told


def _invalid(error: Exception) -> InvalidInput:
    text = str(error) if isinstance(error, msgspec.ValidationError) else "Nested too deeply"
    found = _PATH.search(text)
    # msgspec quotes names of fields and types, never a value that was sent, but for an unknown choice.
    return InvalidInput(
        f"{text[: found.start()] if found else text}."[:300], param=(found[1] or None) if found else None
    )


def _snake_case(raw: Any) -> Any:
    """Return an event with the fields that we know in snake_case; all others keep their names."""
    if type(raw) is not dict:
        if not isinstance(raw, Mapping):
            raise InvalidInput("An event is an object.")
        raw = dict(raw)
    if not raw.keys() <= _KNOWN:
        raw = _renamed(raw, _KNOWN)
    for name, known in _NESTED.items():
        inner = raw.get(name)
        if _is_object(inner) and not inner.keys() <= known:
            raw = {**raw, name: _renamed(inner, known)}
    return raw


def _renamed(values: Mapping[Any, Any], known: frozenset[str]) -> dict[Any, Any]:
    renamed: dict[Any, Any] = {}
    for key, value in values.items():
        snake = _CAMEL.sub(lambda found: f"_{found[0].lower()}", key) if isinstance(key, str) else key
        renamed[snake if snake in known and snake not in values and snake not in renamed else key] = value
    return renamed


def _outcome(told: SessionPayload, aside: _Aside) -> dict[str, Any]:
    status, code = told.outcome, told.error_code
    if isinstance(status, Outcome):
        if code is not None and status.error_code not in {None, code}:
            aside["error_code"] = code
        status, code = status.status, status.error_code or code
    failed = told.event_type == "run.failed" or code is not None
    return {"status": status or ("error" if failed else "success"), "error_code": code}


def _payload(
    raw: Mapping[str, Any] | None,
    told: SessionPayload,
    usage: SessionPayload | Usage,
    outcome: dict[str, Any],
    aside: _Aside,
) -> dict[str, Any]:
    duration_ms = told.duration_ms
    if duration_ms is None and told.start_time is not None and told.end_time is not None:
        passed = _moment(told.end_time, "end_time") - _moment(told.start_time, "start_time")
        duration_ms = max(0, round(passed.total_seconds() * 1000))
    models = told.models or []
    if usage.model is not None and usage.model not in models:
        models = [*models, usage.model]
    payload: dict[str, Any] = {
        "session_type": told.session_type or ("api" if told.transport is None else "realtime"),
        "models": models,
        "outcome": outcome,
        "usage": _figures(usage, aside),
        "start_time": _written_moment(told.start_time, "start_time"),
        "end_time": _written_moment(told.end_time, "end_time"),
        "duration_ms": _whole(duration_ms, "duration_ms"),
        "first_token_ms": _whole(told.first_token_ms, "first_token_ms"),
        "message_count": told.message_count,
        "tool_call_count": told.tool_call_count,
        "metadata": told.metadata or {},
    }
    if told.agent is not None:
        payload["agent"] = told.agent
    if told.tier is not None:
        payload["tier"] = told.tier
    if told.transport is not None:
        payload["transport"] = told.transport
    if told.input_modality is not None:
        payload["input_modality"] = told.input_modality
    if raw is not None or aside:
        content, attributes = _rest(raw or {}, aside)
        if content:
            payload["content"] = content
        if attributes:
            payload["attributes"] = attributes
    return payload


def _figures(told: SessionPayload | Usage, aside: _Aside) -> dict[str, Any]:
    for name, old_name in _OLD_NAMES:
        old = getattr(told, old_name)
        if old is None:
            continue
        known = getattr(told, name)
        if known is None:
            setattr(told, name, old)
        elif old != known:
            aside[old_name] = old
    total = told.total_tokens
    if total is None and told.input_tokens is not None and told.output_tokens is not None:
        total = told.input_tokens + told.output_tokens
    exact, estimate = _cost(told.cost_usd, "cost_usd"), _cost(told.estimated_cost_usd, "estimated_cost_usd")
    if exact is not None and estimate is not None:
        aside["estimated_cost_usd"] = estimate
    return {
        "requests": told.requests,
        "input_tokens": told.input_tokens,
        "cached_tokens": told.cached_tokens,
        "output_tokens": told.output_tokens,
        "reasoning_tokens": told.reasoning_tokens,
        "total_tokens": total,
        "input_audio_tokens": told.input_audio_tokens,
        "output_audio_tokens": told.output_audio_tokens,
        "cost_usd": estimate if exact is None else exact,
        "estimated": exact is None and estimate is not None,
    }


def _rest(raw: Mapping[str, Any], aside: _Aside) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fields that nothing else has taken: what was said, and what we do not know."""
    content: dict[str, Any] = {}
    attributes: dict[str, Any] = {name: _plain(value) for name, value in aside.items()}
    places = [("", raw, _KNOWN)]
    places += [(f"{name}.", raw[name], known) for name, known in _NESTED.items() if _is_object(raw.get(name))]
    for prefix, values, known in places:
        if values.keys() <= known:
            continue
        for key, value in values.items():
            if key in known:
                continue
            if key in CONTENT_FIELDS:
                content[f"{prefix}{key}" if key in content else key] = value
            else:
                attributes[f"{prefix}{key}"] = value
    return content, attributes


def _is_object(value: Any) -> TypeIs[Mapping[Any, Any]]:
    # The check of the abstract class costs as much as reading a field.
    return type(value) is dict or (type(value) not in _LEAVES and isinstance(value, Mapping))


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _whole(value: float | None, param: str) -> int | None:
    if value is None:
        return None
    if not 0 <= value <= 1 << 53:  # also false of NaN
        raise InvalidInput("A number of milliseconds is 0 or more.", param=param)
    return round(value)


def _cost(value: Decimal | None, param: str) -> str | None:
    if value is None:
        return None
    _, digits, exponent = value.as_tuple()
    # Neither may be written out: 1E-999999 is short.
    fine = isinstance(exponent, int) and exponent >= -_COST_DIGITS and len(digits) <= _COST_DIGITS
    if not fine or not 0 <= value < 1_000_000_000:
        raise InvalidInput(f"A cost is a number of US dollars, 0 or more, of {_COST_DIGITS} digits.", param=param)
    return f"{value:f}"


def _written_moment(value: Any, param: str) -> str | None:
    """Return a moment in UTC as ISO 8601."""
    if value is None:
        return None
    if type(value) is int and 10**11 <= value < 10**14:  # what most callers send
        second, millisecond = divmod(value, 1000)
        return f"{_second(second)}.{millisecond:03d}000+00:00" if millisecond else f"{_second(second)}+00:00"
    return _moment(value, param).isoformat()


@lru_cache(maxsize=1024)
def _second(since_1970: int) -> str:
    return datetime.fromtimestamp(since_1970, UTC).isoformat()[:19]


def _moment(value: Any, param: str) -> datetime:
    try:
        if isinstance(value, datetime):
            return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        if not 0 <= value < 1e14:
            raise ValueError
        return datetime.fromtimestamp(value / 1000 if value >= 1e11 else value, UTC)
    except (ValueError, OverflowError):  # before the year 1, after 9999
        raise InvalidInput("A time is RFC 3339, or milliseconds since 1970.", param=param) from None


def check_depth(value: Any) -> None:
    """Make sure that whatever walks the value later can do so.

    Raises:
        InvalidInput: it is nested more than 100 levels deep.
    """
    waiting: list[tuple[Any, int]] = [(value, 1)]
    while waiting:
        node, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise InvalidInput("Nested too deeply.")
        children: Iterable[Any] = node.values() if _is_object(node) else node
        waiting.extend(
            (child, depth + 1)
            for child in children
            if type(child) not in _LEAVES and isinstance(child, Mapping | list | tuple)
        )
