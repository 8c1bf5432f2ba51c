import json
from datetime import UTC, datetime
from decimal import Decimal

import msgspec
import pytest

from app.domain.models.events import (
    ModelCallStarted,
    RunCompleted,
    RunEvent,
    RunFailed,
    SequencedEvent,
    TextDelta,
    UsageReported,
)
from app.domain.models.usage import TokenUsage
from app.infrastructure.persistence.event_log import MAX_EVENTS_PER_ROW, event_rows, events_of

NOW = datetime(2026, 3, 4, tzinfo=UTC)
TEXTS = ["plain", "“quoted” 中文 🙂", "half an emoji \ud83d", "NUL \x00"]


def some_events(text: str) -> list[SequencedEvent]:
    usage = TokenUsage(1, 2, 3, 4, 5, 6)
    kinds: list[RunEvent] = [
        ModelCallStarted("/m1", "scribe", "m", 1),
        TextDelta(text, "msg_1"),
        TextDelta(text, "msg_1", "/t:c1"),
        UsageReported("/m1", "m", usage, "exact"),
        RunFailed("run_1", "conv_1", "code", text, usage, "0.25", 7, {"retry_after_s": 1.5, "said": text}),
        RunCompleted("run_1", "conv_1", "scribe", {"answer": [text, None, 2.5]}, usage, None, 7),
    ]
    return [SequencedEvent(number, event) for number, event in enumerate(kinds, 4)]


@pytest.mark.parametrize("text", TEXTS)
def test_rows_hold_what_they_always_held(text: str) -> None:
    """Rows of an earlier release must stay readable: each is a list of pairs of a kind and its fields."""
    events = some_events(text)
    rows = event_rows("run_1", events, NOW)
    assert [(row["kind"], row["first_sequence"], row["sequence"]) for row in rows] == [
        ("state", 4, 4),
        ("delta", 5, 6),
        ("state", 7, 7),
        ("state", 8, 8),
        ("state", 9, 9),
    ]
    stored = [pair for row in rows for pair in json.loads(row["data"])]
    assert stored == [[item.event.type, msgspec.to_builtins(item.event)] for item in events]
    assert all(row["data"].isascii() for row in rows)
    assert all("\x00" not in row["data"] for row in rows)


@pytest.mark.parametrize("text", TEXTS)
def test_events_come_back(text: str) -> None:
    events = some_events(text)
    rows = event_rows("run_1", events, NOW)
    assert [event for row in rows for event in events_of(row["first_sequence"], row["data"])] == events


@pytest.mark.parametrize("text", ["plain", "中文"])
def test_a_value_json_lacks_is_written_the_same_beside_any_text(text: str) -> None:
    event = RunCompleted("run_1", "conv_1", "scribe", {"price": Decimal("0.10"), "text": text}, TokenUsage(), None, 7)
    (row,) = event_rows("run_1", [SequencedEvent(1, event)], NOW)
    assert json.loads(row["data"])[0][1]["output"] == {"price": "0.10", "text": text}


def test_a_row_has_its_most() -> None:
    deltas = [SequencedEvent(number, TextDelta("a", "msg_1")) for number in range(1, MAX_EVENTS_PER_ROW + 2)]
    rows = event_rows("run_1", deltas, NOW)
    assert [(row["first_sequence"], row["sequence"]) for row in rows] == [
        (1, MAX_EVENTS_PER_ROW),
        (MAX_EVENTS_PER_ROW + 1, MAX_EVENTS_PER_ROW + 1),
    ]
    assert event_rows("run_1", [], NOW) == []
