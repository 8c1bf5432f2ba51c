"""Events of a run as JSON for readers: camelCase names, usage in the shape of replies, errors in the envelope's."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final, get_args

from app.api.errors import body_of_end
from app.api.json_replies import camel_case, encode
from app.api.run_replies import usage_reply
from app.domain.models.events import RunCancelled, RunCompleted, RunEvent, RunFailed, SequencedEvent, UsageReported
from app.domain.models.runs import ErrorInfo

_NESTED: Final = frozenset({"tokens", "cost_usd", "code", "details"})
"""Fields that appear inside another one."""


def _plain_fields(kind: type[RunEvent]) -> tuple[tuple[str, str], ...]:
    hidden = _NESTED | {"message"} if kind is RunFailed else _NESTED
    return tuple((camel_case(field.name), field.name) for field in fields(kind) if field.name not in hidden)


_FIELDS: Final[Mapping[type[RunEvent], tuple[tuple[str, str], ...]]] = {
    kind: _plain_fields(kind) for kind in get_args(RunEvent)
}


_NESTING: Final = frozenset({UsageReported, RunCompleted, RunCancelled, RunFailed})


def event_json(item: SequencedEvent) -> bytes:
    """Return an event as one line of JSON; `type` and `sequence` come first."""
    event = item.event
    kind = type(event)
    values: dict[str, Any] = {"type": kind.type, "sequence": item.sequence}
    for name, field in _FIELDS[kind]:
        values[name] = getattr(event, field)
    if kind in _NESTING:
        values.update(_nested(event))
    return encode(values)


def _nested(event: RunEvent) -> Mapping[str, Any]:
    match event:
        case UsageReported():
            return {"usage": usage_reply(event.tokens, None)}
        case RunCompleted() | RunCancelled():
            return {"usage": usage_reply(event.tokens, event.cost_usd)}
        case RunFailed():
            error = body_of_end(ErrorInfo(event.code, event.message, event.details))
            return {"error": error, "details": dict(event.details), "usage": usage_reply(event.tokens, event.cost_usd)}
        case _:
            return {}
