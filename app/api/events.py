"""Events of a run as JSON for readers: camelCase names, usage in the shape of replies, errors in the envelope's."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, Final, get_args

from app.api.errors import body_of_end
from app.api.json_replies import encode
from app.api.run_replies import usage_reply
from app.domain.models.events import RunCancelled, RunCompleted, RunEvent, RunFailed, UsageReported
from app.domain.models.runs import ErrorInfo

_NESTED: Final = frozenset({"tokens", "cost_usd", "code", "details"})
"""Fields that appear inside another one."""


def camel_case(name: str) -> str:
    """Return the wire name of a field: `call_id` is `callId`."""
    first, *others = name.split("_")
    return first + "".join(word.capitalize() for word in others)


def _plain_fields(kind: type[RunEvent]) -> tuple[tuple[str, str], ...]:
    hidden = _NESTED | {"message"} if kind is RunFailed else _NESTED
    return tuple((camel_case(field.name), field.name) for field in fields(kind) if field.name not in hidden)


_FIELDS: Final[Mapping[type[RunEvent], tuple[tuple[str, str], ...]]] = {
    kind: _plain_fields(kind) for kind in get_args(RunEvent)
}


def _used(event: UsageReported) -> Mapping[str, Any]:
    return {"usage": usage_reply(event.tokens, None)}


def _ended(event: RunCompleted | RunCancelled) -> Mapping[str, Any]:
    return {"usage": usage_reply(event.tokens, event.cost_usd)}


def _failed(event: RunFailed) -> Mapping[str, Any]:
    error = body_of_end(ErrorInfo(event.code, event.message, event.details))
    return {"error": error, "details": dict(event.details), "usage": usage_reply(event.tokens, event.cost_usd)}


_EXTRA: Final[Mapping[type[RunEvent], Callable[[Any], Mapping[str, Any]]]] = {
    UsageReported: _used,
    RunCompleted: _ended,
    RunCancelled: _ended,
    RunFailed: _failed,
}


def event_json(event: RunEvent) -> bytes:
    """Return an event as one line of JSON; `type` comes first."""
    kind = type(event)
    values: dict[str, Any] = {"type": kind.type}
    for name, field in _FIELDS[kind]:
        values[name] = getattr(event, field)
    if kind in _EXTRA:
        values.update(_EXTRA[kind](event))
    return encode(values)
