"""Tool calls in the history: outputs as the model reads them, closed pairs, unique ids, what was never delivered."""

from typing import Any

import pytest
from agents import ToolOutputImage, ToolOutputText
from pydantic import BaseModel

from app.infrastructure.providers.openai import tool_calls
from app.infrastructure.providers.openai.tool_calls import INTERRUPTED_OUTPUT


def user(text: str = "hi") -> dict[str, Any]:
    return {"role": "user", "content": text}


def said(text: str, **fields: Any) -> dict[str, Any]:
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}], **fields}


def call(call_id: str, kind: str = "function_call") -> dict[str, Any]:
    return {"type": kind, "call_id": call_id, "name": "f", "arguments": "{}"}


def output(call_id: str, text: str = "out", kind: str = "function_call_output") -> dict[str, Any]:
    return {"type": kind, "call_id": call_id, "output": text}


class Weather(BaseModel):
    city: str


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ("plain", "plain"),
        (42, "42"),
        (None, "None"),
        ({"a": 1}, "{'a': 1}"),
        (Weather(city="Oslo"), "city='Oslo'"),
        (ToolOutputText(text="hi"), "hi"),
        ([ToolOutputText(text="a"), ToolOutputText(text="b")], "a\nb"),
    ],
)
def test_outputs_read_as_the_model_reads_them(result: Any, text: str) -> None:
    assert tool_calls.output_text(result) == text


def test_an_image_as_output() -> None:
    text = tool_calls.output_text([ToolOutputImage(image_url="data:image/png;base64,AA"), ToolOutputText(text="a")])
    assert "input_image" in text
    assert "input_text" in text


def test_open_calls_are_closed_in_their_order() -> None:
    items = [user(), call("1"), call("2"), call("3", "custom_tool_call"), output("2")]
    closed = tool_calls.closed(items, {"3": "three"})
    assert closed[:5] == items
    assert closed[5:] == [
        output("1", INTERRUPTED_OUTPUT),
        output("3", "three", "custom_tool_call_output"),
    ]


def test_calls_of_the_provider_s_own_tools_are_left_alone() -> None:
    items = [{"type": "web_search_call", "id": "ws_1"}, {"type": "mcp_call", "id": "mcp_1"}]
    assert tool_calls.closed(items, {}) == items


def test_has_calls() -> None:
    assert tool_calls.has_calls([said("a"), call("1")])
    assert tool_calls.has_calls([call("1", "custom_tool_call")])
    assert not tool_calls.has_calls([said("a"), {"type": "web_search_call", "id": "ws_1"}])


def test_a_reasoning_tail_goes() -> None:
    reasoning = {"type": "reasoning", "id": "rs_1", "summary": []}
    assert tool_calls.without_reasoning_tail([user(), reasoning, reasoning]) == [user()]
    assert tool_calls.without_reasoning_tail([reasoning, call("1")]) == [reasoning, call("1")]
    assert tool_calls.without_reasoning_tail([]) == []


def test_unseen_knows_items_by_call_by_id_and_by_what_they_say() -> None:
    known = [said("a", id="__fake_id__"), call("1"), {"type": "reasoning", "id": "rs_1"}]
    fresh = [said("b", id="__fake_id__"), call("2"), output("1"), {"type": "reasoning", "id": "rs_2"}]
    assert tool_calls.unseen([said("a", id="msg_other"), *known, *fresh], known) == fresh


@pytest.mark.parametrize(
    ("history", "left"),
    [
        ([], []),
        ([user("a")], [user("a")]),
        ([user("a"), said("b")], []),
        ([user("a"), call("1"), output("1")], [output("1")]),
        ([user("a"), call("1"), output("1"), user("b")], [output("1"), user("b")]),
        ([user("a"), {"type": "web_search_call", "id": "ws"}], []),
        ([user("a"), {"type": "program_output", "call_id": "1"}], []),
        ([{"role": "developer", "content": "x"}], [{"role": "developer", "content": "x"}]),
    ],
)
def test_undelivered_is_what_follows_the_model_s_last_word(history: list[Any], left: list[Any]) -> None:
    assert tool_calls.undelivered(history) == left


def test_repeated_ids_are_told_apart() -> None:
    history = [call("0"), output("0", "a"), call("0"), output("0", "b"), call("0_2"), output("0_2", "c"), user()]
    ids = [item.get("call_id") for item in tool_calls.with_unique_ids(history)]
    assert ids == ["0", "0", "0_2", "0_2", "0_2_2", "0_2_2", None]
    assert history[2]["call_id"] == "0"


def test_unique_ids_stay() -> None:
    history = [call("1"), call("2"), output("2"), output("1"), output("lost")]
    assert list(tool_calls.with_unique_ids(history)) == history
