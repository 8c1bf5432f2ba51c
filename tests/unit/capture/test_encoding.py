"""What callers offer becomes JSON that every reader takes, or is refused with a reason."""

import json
import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum, StrEnum
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.capture.encoding import EventEncoder
from app.capture.event_ids import EventIds
from app.domain.errors import InvalidInput
from app.domain.models.completions import MAX_EVENT_BYTES
from app.domain.models.deliveries import Scrubbing
from app.domain.scrubbing import Scrubber
from app.services.session_payloads import session_event


class Outcome(StrEnum):
    SUCCESS = "success"


class Tier(Enum):
    PRO = "pro"


@dataclass
class Usage:
    input_tokens: int
    output_tokens: int


class Lazy(Mapping[str, Any]):
    """A mapping that is no dict."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def encoded(event: Any, encoder: EventEncoder | None = None) -> dict[str, Any]:
    """Encode an event, and make sure that the server's reader takes it and finds the same id."""
    event_id, body = (encoder or EventEncoder()).encode(event)
    read: dict[str, Any] = json.loads(body, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert session_event(read).id == event_id
    assert "\x00" not in str(read)
    return read


def test_an_event_gets_the_id_and_time_it_lacks() -> None:
    read = encoded({"session_id": "s"})
    assert UUID(read["event_id"]).version == 7
    assert abs(read["timestamp"] / 1000 - datetime.now(UTC).timestamp()) < 60


@pytest.mark.parametrize(
    "given", [{"event_id": "mine"}, {"timestamp": 1_700_000_000}, {"event_id": "mine", "timestamp": 5}]
)
def test_what_an_event_has_stays(given: dict[str, Any]) -> None:
    read = encoded({"session_id": "s", **given})
    assert {**read, **given} == read
    assert read.keys() == {"session_id", "event_id", "timestamp"}


@pytest.mark.parametrize("empty", [{"event_id": None}, {"event_id": None, "timestamp": None}, {"eventId": None}])
def test_an_id_that_is_null_is_none(empty: dict[str, Any]) -> None:
    assert UUID(encoded({"session_id": "s", **empty})["event_id"]).version == 7


def test_the_forms_of_callers_are_taken() -> None:
    assert encoded({"sessionId": "s", "eventId": "e"})["eventId"] == "e"
    assert encoded({"session": {"id": "s"}})["session"] == {"id": "s"}
    assert encoded(Lazy({"session_id": "s", "metadata": Lazy({"a": 1})}))["metadata"] == {"a": 1}
    assert encoded(OrderedDict(session_id="s"))["session_id"] == "s"


@pytest.mark.parametrize(
    ("value", "safe"),
    [
        (math.nan, None),
        (-math.inf, None),
        ("half \ud800 of one", "half ? of one"),
        ("nul \x00 here", "nul  here"),
        ("a written \\u0000", "a written \\u0000"),
        ({1: "a", None: "b", (1, 2): "c"}, {"1": "a", "None": "b", "<tuple>": "c"}),
        ({"k\ud800\x00": 1}, {"k?": 1}),
        ({Tier.PRO: 1}, {"pro": 1}),
        (1 << 80, 1 << 80),
        (1 << 30_000, "<int>"),
        (Tier.PRO, "pro"),
        (object(), None),
        (b"bytes", None),
        ({3}, [3]),
        (range(3), [0, 1, 2]),
        ([("a", 1)], [["a", 1]]),
        ([[[1]]], [[[1]]]),
        (Usage(1, 2), {"input_tokens": 1, "output_tokens": 2}),
        (Decimal("0.10"), "0.10"),
        (date(2026, 1, 2), "2026-01-02"),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00Z"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    ],
    ids=[
        *("nan", "infinity", "surrogate", "nul", "written-nul", "keys", "bad-key", "enum-key", "large", "huge"),
        *(
            "enum",
            "object",
            "bytes",
            "set",
            "range",
            "pairs",
            "deep-list",
            "dataclass",
            "decimal",
            "date",
            "datetime",
            "uuid",
        ),
    ],
)
def test_values_that_json_has_not_are_made_safe(value: Any, safe: Any) -> None:
    assert encoded({"session_id": "s", "metadata": {"value": value}})["metadata"]["value"] == safe
    assert encoded({"session_id": "s", "unknown": value})["unknown"] == safe


def test_typed_fields_may_be_objects() -> None:
    assert encoded({"session_id": UUID(int=1)})["session_id"] == "00000000-0000-0000-0000-000000000001"
    read = encoded({"session_id": "s", "outcome": Outcome.SUCCESS, "usage": Usage(3, 4), "cost_usd": Decimal("0.5")})
    assert (read["outcome"], read["usage"]["output_tokens"], read["cost_usd"]) == ("success", 4, "0.5")


def cycle() -> dict[str, Any]:
    event: dict[str, Any] = {"session_id": "s", "metadata": {}}
    event["metadata"]["itself"] = event
    return event


def explosion() -> dict[str, Any]:
    inner: list[Any] = ["x"]
    for _ in range(60):
        inner = [inner, inner]
    return {"session_id": "s", "metadata": {"a": inner}}


def wide_explosion() -> dict[str, Any]:
    leaves = {str(number): number for number in range(1_000)}
    return {"session_id": "s", "metadata": {"a": [[leaves] * 1_000] * 1_000}}


def deep(levels: int) -> dict[str, Any]:
    inner: dict[str, Any] = {}
    for _ in range(levels):
        inner = {"a": inner}
    return {"session_id": "s", "metadata": inner}


@pytest.mark.parametrize(
    "event",
    [
        *(None, 3, "text", b"bytes", [], [("session_id", "s")], {}, {"session_id": ""}, {"session_id": 3}),
        *({"session_id": "s" * 300}, {"session_id": "s", "usage": {"input_tokens": -1}}, {"session_id": "s\x00"}),
        *({"session_id": "s", "duration_ms": math.inf}, {"session_id": "s", "cost_usd": math.nan}),
        *({"session_id": "s", "cost_usd": "much"}, {"session_id": "s", "timestamp": -5}),
        *({"session_id": "s", "timestamp": "yesterday"}, {"session_id": "s", "outcome": "fine"}),
        *({"session_id": "s", "usage": [1]}, {"session_id": "s", "event_id": "a b"}),
        *(
            {"session_id": "s", "metadata": {"a": "x" * MAX_EVENT_BYTES}},
            {"session_id": "s", "metadata": {"a": [0] * 10**6}},
        ),
        *(cycle(), explosion(), wide_explosion(), deep(101), deep(100_000)),
    ],
    ids=[f"wrong-{number}" for number in range(27)],
)
def test_what_no_reader_would_take_is_refused(event: Any) -> None:
    if event == {"session_id": "s\x00"}:
        assert encoded(event)["session_id"] == "s"
        return
    with pytest.raises(InvalidInput):
        EventEncoder().encode(event)


def test_depth_and_size_are_bounded_exactly() -> None:
    assert encoded(deep(97))
    room = MAX_EVENT_BYTES - len(
        EventEncoder().encode({"session_id": "s", "event_id": "e", "timestamp": 1, "x": ""})[1]
    )
    event = {"session_id": "s", "event_id": "e", "timestamp": 1, "x": "a" * room}
    assert len(EventEncoder().encode(event)[1]) == MAX_EVENT_BYTES
    with pytest.raises(InvalidInput, match="262144 bytes"):
        EventEncoder().encode({**event, "x": "a" * (room + 1)})


def test_rules_are_applied_before_an_event_is_stored() -> None:
    encoder = EventEncoder(
        Scrubber(Scrubbing(content=False, allow=("usage.input_tokens", "metadata"), patterns=("pii",)))
    )
    read = encoded(
        {
            "session": {"id": "s"},
            "event_id": "e",
            "usage": {"input_tokens": 1, "output_tokens": 2},
            "content": "said",
            "metadata": {"mail": "ada@example.com"},
        },
        encoder,
    )
    del read["timestamp"]
    assert read == {
        "session_id": "s",
        "event_id": "e",
        "usage": {"input_tokens": 1},
        "metadata": {"mail": "[redacted:email]"},
    }


Values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=5) | st.decimals(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.integers(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(metadata=st.dictionaries(st.text() | st.integers() | st.none(), Values, max_size=4), unknown=Values)
def test_anything_in_metadata_is_taken_and_read(metadata: dict[Any, Any], unknown: Any) -> None:
    encoded({"session_id": "s", "metadata": metadata, "unknown": unknown})


def test_ids_differ_and_sort_by_time() -> None:
    ids = EventIds()
    minted = [ids.mint(1_795_000_000_000 + number // 100) for number in range(20_000)]
    assert len(set(minted)) == 20_000
    assert all(str(UUID(one)) == one and UUID(one).version == 7 and UUID(one).variant for one in minted[:500])
    assert [one[:13] for one in minted] == sorted(one[:13] for one in minted)
    assert len({one[15:23] for one in minted}) > 15_000
    ids.seed()
    assert not {ids.mint(1_795_000_000_000) for _ in range(1_000)} & set(minted)


def test_quick_and_careful_encoding_agree() -> None:
    plain = {"session_id": "s", "event_id": "e", "timestamp": 1, "cost_usd": "0.5", "metadata": {"a": 1, "b": None}}
    deep = {**plain, "metadata": {"a": {"b": [1]}}}
    for event in (plain, deep, {**plain, "models": ["m"] * 2_000}, {**plain, "unknown": True}):
        assert EventEncoder().encode(event) == EventEncoder().encode(Lazy(event))


def test_an_id_of_an_enumeration_is_told_as_text() -> None:
    event_id, _ = EventEncoder().encode({"session_id": "s", "event_id": Outcome.SUCCESS})
    assert (event_id, type(event_id)) == ("success", str)


def test_what_the_quick_way_must_not_follow() -> None:
    ring: dict[str, Any] = {}
    ring["ring"] = ring
    wide: list[Any] = []
    for _ in range(30):
        wide = [wide, wide]
    for metadata in (ring, {"wide": wide}):
        with pytest.raises(InvalidInput):
            EventEncoder().encode({"session_id": "s", "metadata": metadata})
    for costs in ({"cost_usd": -1}, {"usage": {"estimated_cost_usd": Decimal("1e-41")}}):
        with pytest.raises(InvalidInput) as caught:
            EventEncoder().encode({"session_id": "s", **costs})
        assert caught.value.param in {"cost_usd", "estimated_cost_usd"}
