from typing import Any

import pytest

from app.domain.errors import InvalidInput
from app.domain.models.conversations import Caller
from app.domain.models.runs import RunOptions, RunRequest
from app.services.run_requests import RunLimits, check_request, checked_input

LIMITS = RunLimits(max_input_bytes=100, max_metadata_bytes=50)
CALLER = Caller("acme", "ada")


def request(given: Any = "hello", *, caller: Caller = CALLER, **options: Any) -> RunRequest:
    return RunRequest(caller, given, options=RunOptions(**options))


def test_text_becomes_a_user_message() -> None:
    assert checked_input(request("hello"), LIMITS) == ({"role": "user", "content": "hello"},)


def test_items_are_taken_as_they_are() -> None:
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"type": "item_reference", "id": "m"},
    ]
    assert checked_input(request(items), RunLimits()) == tuple(items)


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ("", "input"),
        ("  \n", "input"),
        ([], "input"),
        (None, "input"),
        (17, "input"),
        (b"bytes", "input"),
        ({"role": "user"}, "input"),
        (["text"], "input[0]"),
        ([{"role": "user", "content": "x"}, {1: 2}], "input[1]"),
        ([{"content": "who says so?"}], "input[0]"),
        ([{"role": "banana", "content": "x"}], "input[0].role"),
        ([{"role": ["user"], "content": "x"}], "input[0].role"),
        ([{"role": "user"}], "input[0].content"),
        ([{"role": "user", "content": None}], "input[0].content"),
        ([{"role": "user", "content": 7}], "input[0].content"),
        ("x" * 101, "input"),
        ([{"role": "user", "content": {1, 2}}], "input[0].content"),
        ([{"role": "user", "content": [object()]}], "input"),
    ],
)
def test_input_that_cannot_be_used(given: Any, param: str) -> None:
    with pytest.raises(InvalidInput) as error:
        checked_input(request(given), LIMITS)
    assert error.value.param == param


def test_input_that_contains_itself_is_refused() -> None:
    item: dict[str, Any] = {"role": "user"}
    item["content"] = [item]
    with pytest.raises(InvalidInput):
        checked_input(request([item]), LIMITS)


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"max_turns": 0}, "max_turns"),
        ({"max_turns": True}, "max_turns"),
        ({"max_turns": 1.5}, "max_turns"),
        ({"max_turns": "3"}, "max_turns"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"timeout_s": float("nan")}, "timeout_s"),
        ({"timeout_s": 10**9}, "timeout_s"),
        ({"history_items": -1}, "history_items"),
        ({"history_items": 10**6}, "history_items"),
        ({"metadata": ["list"]}, "metadata"),
        ({"metadata": {"a": "x" * 50}}, "metadata"),
        ({"variables": {"a": object()}}, "variables"),
        ({"model_settings": "temperature=0"}, "model_settings"),
        ({"model": ""}, "model"),
        ({"model": "a\x00b"}, "model"),
        ({"model": "m" * 300}, "model"),
        ({"output_type": int, "output_schema": {"type": "integer"}}, "output_schema"),
    ],
)
def test_options_that_cannot_be_used(options: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidInput) as error:
        check_request(request(**options), LIMITS)
    assert error.value.param == param


@pytest.mark.parametrize(
    ("caller", "param"),
    [
        (Caller("", "ada"), "organization_id"),
        (Caller("a:b", "ada"), "organization_id"),
        (Caller("a" * 65, "ada"), "organization_id"),
        (Caller("acme", ""), "user_id"),
        (Caller("acme", "u" * 256), "user_id"),
        (Caller("acme", "nul\x00"), "user_id"),
    ],
)
def test_callers_that_cannot_be(caller: Caller, param: str) -> None:
    with pytest.raises(InvalidInput) as error:
        check_request(request(caller=caller), LIMITS)
    assert error.value.param == param


def test_a_whole_request_passes() -> None:
    check_request(
        request(max_turns=3, timeout_s=1, history_items=0, metadata={"a": 1}, variables={}, model="m"), LIMITS
    )
