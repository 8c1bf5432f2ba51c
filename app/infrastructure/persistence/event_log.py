"""Events of a run as rows: neighbouring deltas share one, so do other neighbours, and the end has one of its own.

So deltas can be deleted before the rest, and the rest before the end.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, get_args

import msgspec

from app.domain.models.events import DELTA_TYPES, TERMINAL_TYPES, RunEvent, SequencedEvent
from app.infrastructure.persistence import json_text

_CLASSES: dict[str, type[RunEvent]] = {kind.type: kind for kind in get_args(RunEvent)}
MAX_EVENTS_PER_ROW = 200


def event_rows(run_id: str, events: Sequence[SequencedEvent], now: datetime) -> list[dict[str, Any]]:
    """Return rows of `agent_run_events` that hold the events, in order and without gaps."""
    rows: list[dict[str, Any]] = []
    for is_delta, group in _groups(events):
        pairs = [(item.event.type, item.event) for item in group]
        rows.append(
            {
                "run_id": run_id,
                "sequence": group[-1].sequence,
                "first_sequence": group[0].sequence,
                "kind": "delta" if is_delta else "state",
                "data": json_text.encode(pairs),
                "created_at": now,
            }
        )
    return rows


def events_of(first_sequence: int, data: str) -> Iterable[SequencedEvent]:
    """Return the events of one row, in order."""
    for offset, (kind, fields) in enumerate(json_text.decode(data)):
        yield SequencedEvent(first_sequence + offset, msgspec.convert(fields, _CLASSES[kind]))


def _groups(events: Sequence[SequencedEvent]) -> Iterable[tuple[bool, list[SequencedEvent]]]:
    group: list[SequencedEvent] = []
    group_is_delta = False
    for item in events:
        kind = type(item.event)
        is_delta = kind in DELTA_TYPES
        if group and (is_delta != group_is_delta or kind in TERMINAL_TYPES or len(group) >= MAX_EVENTS_PER_ROW):
            yield group_is_delta, group
            group = []
        group_is_delta = is_delta
        group.append(item)
    if group:
        yield group_is_delta, group
