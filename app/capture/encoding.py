"""Makes bytes of an event: checked, with an id and a time, and such as every reader can take."""

import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, Final
from uuid import UUID

import msgspec

from app.capture.event_ids import EVENT_IDS
from app.domain.errors import InvalidInput
from app.domain.models.completions import MAX_EVENT_BYTES
from app.domain.scrubbing import Scrubber
from app.services.session_forms import SessionPayload
from app.services.session_payloads import MAX_DEPTH, check_cost, check_payload, plain_payload, session_event

_LEAVES: Final = frozenset({str, int, float, bool, type(None), datetime, Decimal, UUID})
_MOST_VALUES: Final = MAX_EVENT_BYTES // 2
"""No event of the largest size has more; counted first, for a small object may be its own great-grandchild."""
_MANY: Final = 1_000
_SURELY_FINE: Final = 1e14
_ENCODE: Final = msgspec.json.Encoder().encode
_TOO_LARGE: Final = f"An event has at most {MAX_EVENT_BYTES} bytes."
_TOO_DEEP: Final = f"An event is nested at most {MAX_DEPTH} levels deep."
_MOST_BITS: Final = 1_000
_IDENTITY: Final = ("event_id", "event_type", "version", "timestamp", "session_id")


class EventEncoder:
    """Turns what callers offer into JSON; keeps nothing of it."""

    def __init__(self, scrubber: Scrubber | None = None) -> None:
        """`scrubber`: applied first; what identifies an event stays."""
        self._scrubber: Final = scrubber

    def encode(self, event: Mapping[str, Any]) -> tuple[str, bytes]:
        """Return the event's id, minted if it has none, and its JSON, which ends in the id and time it lacked.

        Values that JSON has not are made safe: NaN is null, half a character is `?`, NUL is left out, a key is text,
        and an object is its fields, or null.

        Raises:
            InvalidInput: a field is wrong, it is too large or too deep, or it holds itself.
        """
        if self._scrubber is not None or type(event) is not dict:
            return self._encode_safely(event)
        told = plain_payload(event)
        if told is not None and _is_small(told):
            return self._encode_plain(event, told)
        if not _is_plain(event):
            return self._encode_safely(event)
        try:
            told, body = check_payload(event), _ENCODE(event)
        except (InvalidInput, TypeError, ValueError, OverflowError):  # it may be fine once it is made safe
            return self._encode_safely(event)
        if b"\\u0000" in body:
            return self._encode_safely(event)
        if _is_doubtful(told):
            session_event(event)
        return _completed(told, body)

    def _encode_plain(self, event: dict[str, Any], told: SessionPayload) -> tuple[str, bytes]:
        try:
            body = _ENCODE(event)
        except (TypeError, ValueError, OverflowError):
            return self._encode_safely(event)
        if b"\\u0000" in body:
            return self._encode_safely(event)
        check_cost(told)
        return _completed(told, body)

    def _encode_safely(self, event: Any) -> tuple[str, bytes]:
        if not isinstance(event, Mapping):
            raise InvalidInput("An event is an object.")
        safe: dict[str, Any] = _Safe().value(event, 1)
        if self._scrubber is not None:
            safe = self._scrubbed(safe, self._scrubber)
        told, body = check_payload(safe), _ENCODE(safe)
        if _is_doubtful(told):
            session_event(safe)
        return _completed(told, body)

    def _scrubbed(self, event: Mapping[str, Any], scrubber: Scrubber) -> dict[str, Any]:
        told = check_payload(event)
        kept = scrubber.scrub(event)
        session = told.session
        # Without these nobody could tell whose event it is, or that it came twice.
        kept.update({name: event[name] for name in _IDENTITY if event.get(name) is not None})
        if "session_id" not in kept:
            kept["session_id"] = told.session_id or (session and (session.session_id or session.id))
        if told.event_id is not None:
            kept["event_id"] = told.event_id
        return kept


def _completed(told: SessionPayload, body: bytes) -> tuple[str, bytes]:
    event_id, millis = told.event_id, time.time_ns() // 1_000_000
    lacking = "" if told.timestamp is not None else f',"timestamp":{millis}'
    if event_id is None:
        event_id = EVENT_IDS.mint(millis)
        lacking = f',"event_id":"{event_id}"{lacking}'
    if lacking:
        body = b"".join((body[:-1], lacking.encode(), b"}"))
    if len(body) > MAX_EVENT_BYTES:
        raise InvalidInput(_TOO_LARGE)
    return event_id, body


def _is_small(told: SessionPayload) -> bool:
    """Tell whether an event of known fields surely holds nothing but what JSON has, and little of it."""
    metadata, event_id = told.metadata, told.event_id
    return (
        (metadata is None or (len(metadata) < _MANY and _LEAVES.issuperset(map(type, metadata.values()))))
        and (told.models is None or len(told.models) < _MANY)
        and (event_id is None or type(event_id) is str)
    )


def _is_plain(event: Mapping[str, Any]) -> bool:
    """Tell at little cost that an event holds only what JSON has; False: look closer.

    A small object may be its own great-grandchild, or hold another a million times: the encoder would follow it.

    Raises:
        InvalidInput: it holds too much, or is too deep.
    """
    level: list[Any] = [event]
    room, depth = _MOST_VALUES, 0
    while level:
        depth += 1
        below: list[Any] = []
        for node in level:
            room -= len(node)
            if room < 0 or depth > MAX_DEPTH:
                raise InvalidInput(_TOO_LARGE if room < 0 else _TOO_DEEP)
            for value in node.values() if type(node) is dict else node:
                kind = type(value)
                if kind in _LEAVES:
                    continue
                if kind is dict:
                    leaves = _LEAVES.issuperset(map(type, value.values()))
                elif kind is list or kind is tuple:
                    leaves = _LEAVES.issuperset(map(type, value))
                else:
                    return False
                if leaves:
                    room -= len(value)
                else:
                    below.append(value)
        level = below
    return True


def _is_doubtful(told: SessionPayload) -> bool:
    """Tell whether a figure may be one that the reader of the other side refuses: it checks more than types."""
    usage, session = told.usage, told.session
    if told.cost_usd is not None or told.estimated_cost_usd is not None:
        return True
    if usage is not None and (usage.cost_usd is not None or usage.estimated_cost_usd is not None):
        return True
    figures: tuple[Any, ...] = (
        *(told.timestamp, told.start_time, told.end_time, told.duration_ms, told.first_token_ms),
        *(() if session is None else (session.start_time, session.end_time, session.duration_ms)),
    )
    for figure in figures:
        if figure is not None and type(figure) is not datetime and not 0 <= figure < _SURELY_FINE:
            return True
    return False


class _Safe:
    """One walk through an event that is not plain."""

    def __init__(self) -> None:
        self._room = _MOST_VALUES

    def value(self, value: Any, depth: int) -> Any:
        """Return a copy of a value that holds nothing but what JSON has."""
        self._room -= 1
        if depth > MAX_DEPTH:
            raise InvalidInput(_TOO_DEEP)
        if self._room < 0:
            raise InvalidInput(_TOO_LARGE)
        if isinstance(value, Enum):
            return self.value(value.value, depth + 1)
        if value is None or isinstance(value, bool | datetime | Decimal):
            return value
        if isinstance(value, UUID):
            return str(value)
        if isinstance(value, str):
            return _text(value)
        if isinstance(value, int | float):
            return _number(value)
        return self._inside(value, depth)

    def _inside(self, value: Any, depth: int) -> Any:
        if isinstance(value, Mapping):
            return {_text(self._key(key)): self.value(inner, depth + 1) for key, inner in value.items()}
        if isinstance(value, Sequence | Set) and not isinstance(value, bytes | bytearray | memoryview):
            return [self.value(inner, depth + 1) for inner in value]
        if is_dataclass(value) and not isinstance(value, type):
            return {field.name: self.value(getattr(value, field.name), depth + 1) for field in fields(value)}
        return value.isoformat() if isinstance(value, date) else None

    def _key(self, key: Any) -> str:
        if isinstance(key, Enum):
            key = key.value
        known = isinstance(key, str | int | float | UUID | date) or key is None
        return str(key) if known else f"<{type(key).__name__}>"


def _text(text: str) -> str:
    if len(text) > MAX_EVENT_BYTES:
        raise InvalidInput(_TOO_LARGE)
    return text.replace("\x00", "").encode("utf-8", "replace").decode()


def _number(number: float) -> float | str | None:
    if isinstance(number, int):
        return int(number) if number.bit_length() <= _MOST_BITS else "<int>"
    exact = float(number)
    return exact if exact - exact == 0 else None
