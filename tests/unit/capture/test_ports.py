import asyncio
import logging
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from app.capture.ports import Quietly, error_code, excerpt, labels, name, outcome_of, stable_event_id
from app.capture.usage_tally import UsageTally


class HTTPTimedOut(Exception):
    pass


class APITimeoutError(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "outcome", "code"),
    [
        (None, "success", None),
        (ValueError("secret"), "error", "value_error"),
        (TimeoutError(), "timeout", "timeout_error"),
        (APITimeoutError(), "timeout", "api_timeout_error"),
        (HTTPTimedOut(), "timeout", "http_timed_out"),
        (asyncio.CancelledError(), "user_terminated", None),
        (GeneratorExit(), "user_terminated", None),
        (KeyboardInterrupt(), "user_terminated", None),
    ],
    ids=["none", "error", "timeout", "named-timeout", "timed-out", "cancelled", "generator", "interrupt"],
)
def test_an_error_tells_the_outcome_by_its_type(error: BaseException | None, outcome: str, code: str | None) -> None:
    assert outcome_of(error) == {"status": outcome, "error_code": code}


def test_a_long_type_is_cut() -> None:
    assert len(error_code(type("E" * 400, (Exception,), {})())) == 255


@pytest.mark.parametrize(
    ("value", "known"),
    [
        ("x", "x"),
        (7, "7"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        ("", None),
        (" ", None),
        ("a\0b", None),
        ("x" * 255, "x" * 255),
        ("x" * 256, None),
        (True, None),
        (None, None),
        (1.5, None),
        ({}, None),
    ],
    ids=range(12),
)
def test_a_name_is_short_text(value: Any, known: str | None) -> None:
    assert name(value) == known


def test_labels_are_few_and_small() -> None:
    odd = {"a": 1, "b": True, "c": "x", "d": 1.5, "e": float("nan"), "f": object(), "g": "y" * 999, "h": [1], 3: "z"}
    assert labels(odd) == {"a": 1, "b": True, "c": "x", "d": 1.5}
    assert len(labels({str(number): number for number in range(100)})) == 32
    assert labels(None) == {}


def test_the_same_thing_has_the_same_event_id() -> None:
    assert stable_event_id("a", "x") == stable_event_id("a", "x")
    assert len({stable_event_id("a", "x"), stable_event_id("a", "y"), stable_event_id("b", "x")}) == 3
    # Events that are stored already must be known again by another version.
    assert stable_event_id("agents.trace", "trace_1") == "41a5e7b9-047a-5eb9-b538-0c1d0eb72d15"


def test_an_excerpt_is_text() -> None:
    assert excerpt("x" * 99_999) == "x" * 32_768
    assert excerpt(SimpleNamespace(model_dump_json=lambda: '{"a": 1}')) == '{"a": 1}'
    assert excerpt(3) is None


def test_a_failure_is_swallowed_counted_and_told_rarely(caplog: pytest.LogCaptureFixture) -> None:
    quietly = Quietly()
    with caplog.at_level(logging.WARNING, "app.capture"):
        for _ in range(100):
            with quietly:
                raise ValueError("secret words")
    assert quietly.faults == 100
    assert len(caplog.messages) == 7
    assert "secret" not in caplog.text
    assert "ValueError" in caplog.text


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
def test_what_ends_a_program_goes_on(error: type[BaseException]) -> None:
    with pytest.raises(error), Quietly():
        raise error


def test_sums_hold_what_was_told_and_no_more() -> None:
    tally = UsageTally()
    assert tally.event_fields() == {}
    assert tally.add({"input_tokens": 3, "output_tokens": 4}, "small")
    assert tally.add(SimpleNamespace(prompt_tokens=1, completion_tokens=1, total_tokens=2, requests=3), "large")
    assert tally.event_fields() == {
        "usage": {"requests": 4, "input_tokens": 4, "output_tokens": 5, "total_tokens": 9},
        "models": ["small", "large"],
    }


@pytest.mark.parametrize(
    "usage",
    [None, {}, 3, {"input_tokens": -1}, {"input_tokens": 1.5}, {"input_tokens": True}, {"input_tokens": "7"},
     {"input_tokens": 1 << 60}, {"input_tokens": 0, "output_tokens": 0}],
    ids=range(9),
)  # fmt: skip
def test_what_is_no_count_is_only_a_request(usage: Any) -> None:
    tally = UsageTally()
    assert not tally.add(usage)
    assert tally.event_fields() == {"usage": {"requests": 1}}


def test_models_are_bounded() -> None:
    tally = UsageTally()
    for number in range(100):
        tally.add_model(f"m{number}")
    assert len(tally.models) == 32
    assert tally.total_tokens == 0
