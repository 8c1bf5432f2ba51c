"""Payloads of every form are read, nothing of them is lost, and the reader fails in no other way than it says."""

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.errors import InvalidInput
from app.domain.models.completions import EVENT_TYPES, SessionEvent
from app.services.session_payloads import (
    SessionPayload,
    check_cost,
    check_depth,
    check_payload,
    plain_event,
    plain_payload,
    session_event,
)

# The four payloads of the guide that asked for all this, as they stand there, and its realtime one.
FIGURES = (
    "input_tokens",
    "output_tokens",
    "total_tokens",
    "cached_tokens",
    "prompt_tokens",
    "completion_tokens",
    "requests",
)
GATEWAY = {
    "event_type": "session.completed",
    "session_id": "chatcmpl-123",
    "user_id": "user-7",
    "organization_id": "org-1",
    "usage": {"input_tokens": 12, "output_tokens": 30, "total_tokens": 42, "model": "gpt-4"},
    "outcome": {"status": "success"},
}
WEB = {
    "event_type": "session.completed",
    "session_id": "web-1",
    "session_type": "chat",
    "duration_ms": 93_000,
    "message_count": 6,
    "outcome": {"status": "user_terminated"},
}
AGENT = {
    "event_type": "session.completed",
    "session_id": "agent_1",
    "session_type": "autonomous",
    "duration_ms": 1_200,
    "usage": {"total_tokens": 77},
    "outcome": {"status": "success", "final_output": {"output": "42"}},
}
UNIT_TEST = {"session_id": "test_123", "usage": {"total_tokens": 100}}
REALTIME = {
    "sessionId": "rt-1",
    "userId": "user-7",
    "organizationId": "org-1",
    "startTime": 1_700_000_000_000,
    "endTime": "2023-11-14T22:13:25Z",
    "inputTokens": 5,
    "outputTokens": 6,
    "model": "gpt-realtime",
    "outcome": "success",
    "inputModality": "audio",
    "transport": "websocket",
}


def usage_of(event: SessionEvent) -> dict[str, Any]:
    return {name: value for name, value in event.payload["usage"].items() if value is not None}


def test_the_gateways() -> None:
    event = session_event(GATEWAY)
    assert (event.type, event.version, event.session_id, event.user_id) == (
        "session.completed",
        1,
        "chatcmpl-123",
        "user-7",
    )
    assert (event.organization_id, event.outcome, event.timestamp) == ("org-1", "success", None)
    assert event.payload["models"] == ["gpt-4"]
    assert event.payload["session_type"] == "api"
    assert usage_of(event) == {"input_tokens": 12, "output_tokens": 30, "total_tokens": 42, "estimated": False}
    assert len(event.id) == 36
    assert session_event(GATEWAY).id != event.id
    assert "attributes" not in event.payload
    assert "content" not in event.payload


def test_the_web_applications() -> None:
    event = session_event(WEB)
    payload = event.payload
    assert (event.outcome, payload["session_type"]) == ("user_terminated", "chat")
    assert (payload["duration_ms"], payload["message_count"]) == (93_000, 6)
    assert payload["outcome"] == {"status": "user_terminated", "error_code": None}


def test_the_agents_keeps_content_apart() -> None:
    event = session_event(AGENT)
    assert event.payload["content"] == {"final_output": {"output": "42"}}
    assert "42" not in json.dumps({**event.payload, "content": None})
    assert usage_of(event) == {"total_tokens": 77, "estimated": False}


def test_the_unit_tests() -> None:
    event = session_event(UNIT_TEST)
    assert (event.session_id, event.outcome, usage_of(event)["total_tokens"]) == ("test_123", "success", 100)


def test_the_realtime_one() -> None:
    event = session_event(REALTIME)
    payload = event.payload
    assert (event.session_id, event.user_id, event.organization_id) == ("rt-1", "user-7", "org-1")
    assert (payload["session_type"], payload["transport"], payload["input_modality"]) == (
        "realtime",
        "websocket",
        "audio",
    )
    assert (payload["start_time"], payload["duration_ms"]) == ("2023-11-14T22:13:20+00:00", 5_000)
    assert usage_of(event)["total_tokens"] == 11
    assert payload["models"] == ["gpt-realtime"]


def test_nested_and_flat_say_the_same() -> None:
    nested = {
        "eventType": "session.completed",
        "session": {"sessionId": "s", "sessionType": "chat", "startTime": 0, "durationMs": 5, "messageCount": 2},
        "user": {"id": "u", "organizationId": "o", "tier": "pro"},
        "usage": {"promptTokens": 1, "completionTokens": 2, "costUsd": "0.10"},
        "outcome": {"status": "timeout", "errorCode": "slow"},
    }
    flat = {
        **{"event_type": "session.completed", "session_id": "s", "session_type": "chat", "start_time": 0},
        **{"duration_ms": 5, "message_count": 2, "user_id": "u", "organization_id": "o", "tier": "pro"},
        **{"input_tokens": 1, "output_tokens": 2, "cost_usd": "0.10", "outcome": "timeout", "error_code": "slow"},
    }
    one, other = session_event({**nested, "event_id": "e"}), session_event({**flat, "event_id": "e"})
    assert one == other
    assert one.payload["usage"]["cost_usd"] == "0.10"


def test_what_is_told_twice_and_what_is_unknown_is_kept_apart() -> None:
    event = session_event(
        {
            "session_id": "flat",
            "sessionId": "camel",
            "session": {"id": "nested", "device": "phone"},
            "customField": {"deepKey": 1},
            "usage": {"input_tokens": 3, "prompt_tokens": 4, "cost_usd": "1", "estimated_cost_usd": "2"},
            "messages": ["hello"],
            "outcome": {"status": "error", "error_code": "a", "messages": ["bye"], "detail": "x"},
            "error_code": "b",
            "models": ["m1"],
            "model": "m2",
        }
    )
    assert event.session_id == "flat"
    assert event.payload["attributes"] == {
        "session.id": "nested",
        "error_code": "b",
        "prompt_tokens": 4,
        "estimated_cost_usd": "2",
        "sessionId": "camel",
        "customField": {"deepKey": 1},
        "session.device": "phone",
        "outcome.detail": "x",
    }
    assert event.payload["content"] == {"messages": ["hello"], "outcome.messages": ["bye"]}
    assert event.payload["models"] == ["m1", "m2"]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"cost_usd": 0.0012}, ("0.0012", False)),
        ({"cost_usd": "0.1000000000000000000001"}, ("0.1000000000000000000001", False)),
        ({"usage": {"estimated_cost_usd": 1e-7}}, ("0.0000001", True)),
        ({"cost_usd": 3, "usage": {"estimated_cost_usd": 9}}, ("3", False)),
        ({}, (None, False)),
    ],
    ids=["number", "text", "estimate", "both", "none"],
)
def test_costs_are_exact(more: dict[str, Any], expected: tuple[str | None, bool]) -> None:
    usage = session_event({"session_id": "s", **more}).payload["usage"]
    assert (usage["cost_usd"], usage["estimated"]) == expected


@pytest.mark.parametrize(
    ("told", "outcome"),
    [
        ({"event_type": "run.failed"}, "error"),
        ({"event_type": "run.failed", "outcome": {"error_code": "x"}}, "error"),
        ({"event_type": "run.failed", "outcome": "timeout"}, "timeout"),
        ({"error_code": "x"}, "error"),
        ({"event_type": "approval.requested"}, "success"),
        ({"event_type": "budget.exceeded", "outcome": {}}, "success"),
    ],
    ids=["failed", "code", "timeout", "completed with a code", "approval", "budget"],
)
def test_an_outcome_that_is_not_told(told: dict[str, Any], outcome: str) -> None:
    event = session_event({"session_id": "s", **told})
    assert event.outcome == event.payload["outcome"]["status"] == outcome


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"session_id": None}, "session_id"),
        ({"session_id": "a\x00b"}, "session_id"),
        ({"session_id": "\ud800"}, "session_id"),
        ({"user_id": "\ud800"}, "user_id"),
        ({"user": {"id": "\x00"}}, "user_id"),
        ({"session_id": "x" * 256}, "session_id"),
        ({"event_id": "é"}, "event_id"),
        ({"event_id": "x" * 65}, "event_id"),
        ({"event_type": "other"}, "event_type"),
        ({"session_type": "fax"}, "session_type"),
        ({"version": 0}, "version"),
        ({"version": 1 << 40}, "version"),
        ({"usage": {"input_tokens": "many"}}, "usage.input_tokens"),
        ({"usage": 7}, "usage"),
        ({"metadata": []}, "metadata"),
        ({"duration_ms": math.nan}, "duration_ms"),
        ({"first_token_ms": math.inf}, "first_token_ms"),
        ({"duration_ms": 1e300}, "duration_ms"),
        ({"cost_usd": "NaN"}, "cost_usd"),
        ({"cost_usd": "1E-999999"}, "cost_usd"),
        ({"cost_usd": "1E+9"}, "cost_usd"),
        ({"cost_usd": -1}, "cost_usd"),
        ({"timestamp": -1}, "timestamp"),
        ({"timestamp": math.nan}, "timestamp"),
        ({"timestamp": 1e15}, "timestamp"),
        ({"start_time": "0001-01-01T00:00:00+14:00"}, "start_time"),
        ({"end_time": 10**400}, "end_time"),
        ({"timestamp": "yesterday"}, "timestamp"),
        ({"transport": "pigeon"}, "transport"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_is_named(wrong: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        session_event({"session_id": "s", **wrong})
    assert caught.value.param == param
    assert len(caught.value.public_message) < 310


@pytest.mark.parametrize("raw", [None, 7, "text", [GATEWAY], b"{}"], ids=["null", "number", "text", "list", "bytes"])
def test_what_is_no_object(raw: Any) -> None:
    for check in (check_payload, session_event):
        with pytest.raises(InvalidInput):
            check(raw)


def test_depth_is_bound() -> None:
    deep: Any = 1
    for _ in range(98):
        deep = [deep]
    assert session_event({"session_id": "s", "metadata": {"deep": deep}}).payload["metadata"] == {"deep": deep}
    for levels in (1, 100_000):
        for _ in range(levels):
            deep = {"more": deep}
        with pytest.raises(InvalidInput, match="deeply"):
            session_event({"session_id": "s", "metadata": {"deep": deep}})
    with pytest.raises(InvalidInput, match="deeply"):
        check_depth([deep])


def test_times() -> None:
    at = datetime(2026, 11, 21, 10, tzinfo=UTC)
    for told in ("2026-11-21T10:00:00Z", "2026-11-21T11:00:00+01:00", "2026-11-21T10:00:00", at.timestamp(), at):
        assert session_event({"session_id": "s", "timestamp": told}).timestamp == at.isoformat()
    assert session_event({"session_id": "s", "timestamp": at.timestamp() * 1000}).timestamp == at.isoformat()
    backwards = {"session_id": "s", "start_time": 20, "end_time": 10}
    assert session_event(backwards).payload["duration_ms"] == 0


@given(st.integers(10**11, 10**14 - 1))
def test_milliseconds_are_written_as_the_moment_that_they_are(milliseconds: int) -> None:
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)
    assert session_event({"session_id": "s", "timestamp": milliseconds}).timestamp == at.isoformat()


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(FIGURES, st.integers(0, 9))), st.sampled_from(["m", None]))
def test_usage_is_the_same_flat_and_nested(figures: dict[str, int], model: str | None) -> None:
    told = {**figures, **({} if model is None else {"model": model})}
    flat = session_event({"session_id": "s", "event_id": "e", **told})
    assert session_event({"session_id": "s", "event_id": "e", "usage": told}) == flat
    assert session_event({"session_id": "s", "event_id": "e", "usage": told, **told}) == flat


def test_any_mapping_will_do() -> None:
    frozen = MappingProxyType({**GATEWAY, "usage": MappingProxyType(GATEWAY["usage"])})
    assert session_event({**GATEWAY, "event_id": "e"}) == session_event({**frozen, "event_id": "e"})


NAMES = [*SessionPayload.__struct_fields__, "sessionId", "durationMs", "id", "status", "type", "content", "", "ünï"]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([*EVENT_TYPES, "chat", "success", "error", "2026-01-01T00:00:00Z", "0.1", "e-1"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=4), inner),
    max_leaves=8,
)


def leaves(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [text for inner in value.values() for text in leaves(inner)]
    if isinstance(value, list):
        return [text for inner in value for text in leaves(inner)]
    return [value] if isinstance(value, str) else []


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), VALUES, max_size=10), st.booleans())
def test_nothing_makes_it_fail_otherwise(sent: dict[str, Any], named: bool) -> None:
    if named:
        sent["session_id"] = "s"
    before = json.dumps(sent)
    try:
        event = session_event(sent)
    except InvalidInput:
        return
    finally:
        assert json.dumps(sent) == before  # the caller's own object stays as it is
    text = msgspec.json.encode([event.payload, event.session_id, event.user_id, event.organization_id, event.id])
    assert event.outcome in {"success", "error", "timeout", "user_terminated"}
    assert event.type in EVENT_TYPES
    kept = {*leaves(msgspec.json.decode(text)), event.type, event.outcome}
    for value in leaves(sent):
        # Times and costs are kept as what they mean.
        assert value in kept or value in {"2026-01-01T00:00:00Z", "0.1"} or value.strip() == "" or value.isnumeric(), (
            value
        )


def outcome_of(read: Any, sent: Any) -> Any:
    """Return what a reader makes of it: the event, or the field that it says is wrong."""
    try:
        return read(sent)
    except InvalidInput as error:
        return error.param, error.public_message


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES[:-3]), VALUES, max_size=6))
def test_what_is_read_in_one_go_is_what_a_closer_look_finds(more: dict[str, Any]) -> None:
    sent = {"session_id": "s", **more, "event_id": "e"}
    text = msgspec.json.encode(sent)
    quick = outcome_of(plain_event, text)
    assert quick is None or quick == outcome_of(session_event, msgspec.json.decode(text))
    told = plain_payload(sent)
    if told is not None:  # then nothing but a cost can be wrong
        assert outcome_of(check_cost, told) in (None, outcome_of(session_event, sent))


@pytest.mark.parametrize(
    "sent",
    [
        GATEWAY,
        {**GATEWAY, "timestamp": 1_790_000_000_123, "duration_ms": 1.5, "metadata": {"deep": [{"x": 1}]}},
        {"session_id": "s", "prompt_tokens": 3, "usage": {"prompt_tokens": 4, "completion_tokens": 5}},
        {"session_id": "ünï", "cost_usd": 0.25, "usage": {"estimated_cost_usd": "0.30", "model": "m"}},
        {"session_id": "s", "outcome": {"status": "error", "error_code": "a"}, "error_code": "b", "tier": "pro"},
    ],
    ids=["gateway", "times", "old-names", "costs", "codes"],
)
def test_most_events_are_read_in_one_go(sent: dict[str, Any]) -> None:
    sent = {**sent, "event_id": "e"}
    assert plain_event(msgspec.json.encode(sent)) == session_event(sent)
    assert plain_payload(sent) is not None


@pytest.mark.parametrize(
    "sent",
    [
        {"session_id": "s", "unknown": 1},
        {"session_id": "s", "usage": {"unknown": 1}},
        {"sessionId": "s"},
        {"session": {"id": "s"}},
        {"session_id": "s", "session": {"user_id": "a\x00b"}},
        {"session_id": "s", "user": {"id": "a\x00b"}},
        {"session_id": "a\x00b"},
        {"session_id": "s", "user_id": "a\x00b"},
        {"session_id": "s", "timestamp": -1},
        {"session_id": "s", "start_time": 1e14},
        {"session_id": "s", "duration_ms": 1 << 54},
        {},
    ],
    ids=lambda sent: "-".join(map(str, sent)) or "empty",
)
def test_what_needs_a_closer_look_gets_it(sent: dict[str, Any]) -> None:
    assert plain_event(msgspec.json.encode(sent)) is None
    assert plain_payload(sent) is None


def test_what_is_no_event_is_not_read_in_one_go() -> None:
    for text in (b"", b"[]", b"{", b'{"session_id": "\xff"}', b'{"session_id": "\\ud800"}', b"null"):
        assert plain_event(text) is None


def test_a_cost_is_read_as_it_was_written() -> None:
    event = plain_event(b'{"session_id": "s", "cost_usd": 0.1000000000000000055}')
    assert event is not None
    assert event.payload["usage"]["cost_usd"] == "0.1000000000000000055"
    for cost in (-0.01, 1e9, "1e-50", "NaN"):
        for sent in ({"session_id": "s", "cost_usd": cost}, {"session_id": "s", "usage": {"cost_usd": cost}}):
            told = plain_payload(sent)
            assert told is not None
            for check in (lambda: check_cost(told), lambda: plain_event(msgspec.json.encode(sent))):  # noqa: B023
                with pytest.raises(InvalidInput) as caught:
                    check()
                assert caught.value.param == "cost_usd"
