"""The events of a response are a function of its run's log, whatever has happened to the run."""

from typing import Any

import msgspec
import pytest
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from app.api.openai.response_events import ResponseEvents
from app.api.openai.response_ids import ResponseId
from app.api.openai.response_objects import ResponseHead
from app.api.openai.response_schemas import ResponseReply
from app.domain.models.events import (
    ApprovalRequested,
    HandoffOccurred,
    ItemDone,
    ModelCallStarted,
    ReasoningDelta,
    RefusalDelta,
    RunCancelled,
    RunCompleted,
    RunEvent,
    RunFailed,
    RunStarted,
    RunWaiting,
    TextDelta,
    ToolArgumentsDelta,
    ToolOutput,
    ToolStarted,
    UsageReported,
)
from app.domain.models.usage import TokenUsage

HEX = "0" * 31 + "7"
RUN = f"run_{HEX}"
CONVERSATION = "conv_1"
TOOL = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": True}
WIRE: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)

BEGINNING = [RunStarted(RUN, CONVERSATION, "helper", 1)]
TOKENS = TokenUsage(requests=1, input_tokens=10, cached_tokens=2, output_tokens=5, reasoning_tokens=1)


def call(step: int = 1, attempt: int = 1) -> ModelCallStarted:
    return ModelCallStarted(f"/m{step}", "helper", "gpt", attempt)


def message(text: str, item_id: str = "msg_a", step: int = 1, **fields: Any) -> ItemDone:
    content = [{"type": "output_text", "text": text, "annotations": [], **fields}]
    item = {"type": "message", "id": item_id, "role": "assistant", "status": "completed", "content": content}
    return ItemDone(item, f"/m{step}", "helper")


def asked(name: str, call_id: str = "call_1", step: int = 1) -> ItemDone:
    item = {"type": "function_call", "id": f"fc_{call_id}", "call_id": call_id, "name": name, "arguments": '{"a":1}'}
    return ItemDone(item, f"/m{step}", "helper")


def used(step: int = 1) -> UsageReported:
    return UsageReported(f"/m{step}", "gpt", TOKENS, "exact")


def completed(output: str = "", requests: int = 1) -> RunCompleted:
    tokens = sum((TOKENS for _ in range(requests)), TokenUsage())
    return RunCompleted(RUN, CONVERSATION, "helper", output, tokens, None, 5)


def failed(code: str = "provider_error", **details: Any) -> RunFailed:
    return RunFailed(RUN, CONVERSATION, code, "It broke.", TOKENS, None, 5, details)


def played(log: list[RunEvent], part: int = 1, **given: Any) -> tuple[list[dict[str, Any]], ResponseEvents]:
    """What a client is told; checked against the client's own types, and for gaps."""
    head = ResponseHead(ResponseId(RUN, part), "helper", given, {}, None, [TOOL])
    events = ResponseEvents(head)
    events.finished_at = 100
    told = events.begin()
    for event in log:
        told += events.feed(event)
    for event in told:
        WIRE.validate_python(event)
        if "response" in event:
            msgspec.convert(event["response"], ResponseReply)  # as the API's description says
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    return told, events


def kinds(told: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in told]


def test_text_comes_in_deltas_and_ends_with_the_whole_item() -> None:
    log = [*BEGINNING, call(), TextDelta("Hel", "msg_a"), TextDelta("lo", "msg_a"), message("Hello"), used()]
    told, events = played([*log, completed("Hello")])
    assert kinds(told) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert {event["item_id"] for event in told if "item_id" in event} == {"msg_a"}
    final = told[-1]["response"]
    assert final["status"] == "completed"
    assert final["completed_at"] == 100
    assert final["output"] == events.output
    assert final["usage"]["input_tokens_details"] == {"cached_tokens": 2, "cache_write_tokens": 0}
    assert final["usage"]["output_tokens_details"] == {"reasoning_tokens": 1}


def test_without_deltas_the_same_items_are_told() -> None:
    streamed = [*BEGINNING, call(), TextDelta("Hel", "msg_a"), TextDelta("lo", "msg_a"), message("Hello"), completed()]
    plain = [event for event in streamed if not isinstance(event, TextDelta)]
    told, events = played(plain)
    assert [event["delta"] for event in told if "delta" in event] == ["Hello"]
    assert events.output == played(streamed)[1].output


def test_reasoning_stands_before_what_it_led_to() -> None:
    reasoning = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm. Yes."}]}
    log = [*BEGINNING, call(), ReasoningDelta("Hm. ", "rs_1"), ReasoningDelta("Yes.", "rs_1"), TextDelta("Yo", "msg_a")]
    told, _ = played([*log, ItemDone(reasoning, "/m1", "helper"), message("Yo"), used(), completed()])
    assert [item["type"] for item in told[-1]["response"]["output"]] == ["reasoning", "message"]
    assert [event["text"] for event in told if event["type"] == "response.reasoning_summary_text.done"] == ["Hm. Yes."]


def test_an_empty_delta_keeps_the_place_of_an_item_that_says_nothing() -> None:
    reasoning = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "xyz"}
    log = [*BEGINNING, call(), ReasoningDelta("", "rs_1"), TextDelta("Yo", "msg_a")]
    told, _ = played([*log, ItemDone(reasoning, "/m1", "helper"), message("Yo"), completed()])
    assert [item["type"] for item in told[-1]["response"]["output"]] == ["reasoning", "message"]
    assert told[-1]["response"]["output"][0]["encrypted_content"] == "xyz"


def test_raw_reasoning_is_told_as_reasoning_text() -> None:
    content = [{"type": "reasoning_text", "text": "raw"}]
    item = {"type": "reasoning", "id": "rs_1", "summary": [], "content": content}
    told, _ = played([*BEGINNING, call(), ItemDone(item, "/m1", "helper"), completed()])
    assert [event["text"] for event in told if event["type"] == "response.reasoning_text.done"] == ["raw"]
    streamed, _ = played(
        [*BEGINNING, call(), ReasoningDelta("raw", "rs_1"), ItemDone(item, "/m1", "helper"), completed()]
    )
    assert [event["text"] for event in streamed if event["type"].endswith("summary_text.done")] == ["raw"]


def test_a_refusal_is_a_part_of_its_own() -> None:
    content = [{"type": "refusal", "refusal": "No."}]
    item = {"type": "message", "id": "msg_a", "role": "assistant", "content": content}
    log = [*BEGINNING, call(), RefusalDelta("No.", "msg_a"), ItemDone(item, "/m1", "helper"), completed()]
    told, _ = played(log)
    assert "refusal.delta" in kinds(told)
    assert told[-1]["response"]["output"][0]["content"] == content
    assert told[-1]["response"]["output"][0]["status"] == "completed"


def test_several_parts_of_one_message_are_told_as_they_are_in_the_end() -> None:
    parts = [{"type": "output_text", "text": text, "annotations": []} for text in ("One", "Two")]
    item = {"type": "message", "id": "msg_a", "role": "assistant", "content": parts}
    log = [*BEGINNING, call(), TextDelta("One", "msg_a"), TextDelta("Two", "msg_a"), ItemDone(item, "/m1", "helper")]
    told, _ = played([*log, completed()])
    done = [event for event in told if event["type"] == "response.output_text.done"]
    assert [(event["content_index"], event["text"]) for event in done] == [(0, "One"), (1, "Two")]
    assert "".join(event["delta"] for event in told if "delta" in event) == "OneTwo"


def test_annotations_are_told_before_the_text_ends() -> None:
    cited = {"type": "url_citation", "url": "https://example.com", "title": "T", "start_index": 0, "end_index": 1}
    told, _ = played([*BEGINNING, call(), message("Hello", annotations=[cited]), completed()])
    assert [event["annotation"] for event in told if event["type"].endswith("annotation.added")] == [cited]


def test_calls_of_the_agents_own_tools_are_never_for_the_client() -> None:
    log = [*BEGINNING, call(), ToolArgumentsDelta("{", "fc_call_1"), asked("add"), used()]
    log += [ToolStarted("call_1", "add", '{"a":1}', "helper"), ToolOutput("call_1", "add", "2", "helper", 3)]
    told, events = played([*log, call(2), message("Two", step=2), used(2), completed(requests=2)])
    assert kinds(told)[2:8] == [
        "output_item.added",
        "mcp_call.in_progress",
        "mcp_call_arguments.delta",
        "mcp_call_arguments.done",
        "mcp_call.completed",
        "output_item.done",
    ]
    assert events.output[0] == {
        "type": "mcp_call",
        "id": "mcp_call_1",
        "server_label": "helper",
        "name": "add",
        "arguments": '{"a":1}',
        "status": "completed",
        "output": "2",
    }


@pytest.mark.parametrize(
    ("item", "name", "arguments"),
    [
        ({"type": "custom_tool_call", "call_id": "c", "name": "sql", "input": "select 1"}, "sql", "select 1"),
        ({"type": "computer_call", "call_id": "c", "action": {"type": "wait"}}, "computer", '{"type":"wait"}'),
        ({"type": "shell_call", "call_id": "c", "action": {"commands": ["ls"]}}, "shell", '{"commands":["ls"]}'),
    ],
)
def test_other_calls_that_are_executed_here_are_shown_alike(item: dict[str, Any], name: str, arguments: str) -> None:
    log = [*BEGINNING, call(), ItemDone(item, "/m1", "helper"), ToolStarted("c", name, arguments, "helper")]
    _, events = played([*log, ToolOutput("c", name, "out", "helper", 1), completed()])
    assert [(shown["type"], shown["name"], shown["arguments"]) for shown in events.output] == [
        ("mcp_call", name, arguments)
    ]


def test_what_the_endpoint_does_by_itself_is_passed_on() -> None:
    item = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "q"}}
    _, events = played([*BEGINNING, call(), ItemDone(item, "/m1", "helper"), completed()])
    assert events.output == [item]


def test_a_call_of_the_callers_tool_is_whole_at_once() -> None:
    told, events = played([*BEGINNING, call(), ToolArgumentsDelta('{"a"', "fc_call_1"), asked("weather"), completed()])
    assert kinds(told)[2:6] == [
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
    ]
    assert told[2]["item"]["arguments"] == ""
    assert events.output[0]["status"] == "completed"
    assert events.output[0]["arguments"] == '{"a":1}'


def test_a_handoff_is_a_call_too() -> None:
    log = [*BEGINNING, call(), asked("transfer_to_other"), used(), HandoffOccurred("helper", "other")]
    _, events = played([*log, call(2), message("Hi", step=2), completed()])
    assert [(item["type"], item.get("output")) for item in events.output] == [
        ("mcp_call", '{"assistant":"other"}'),
        ("message", None),
    ]


def test_nested_agents_are_silent() -> None:
    nested = "/t:call_1"
    log = [*BEGINNING, call(), asked("ask"), ToolStarted("call_1", "ask", "{}", "helper")]
    log += [ModelCallStarted(f"{nested}/m1", "inner", "gpt", 1, nested), TextDelta("psst", "msg_n", nested)]
    log += [ItemDone({"type": "message", "id": "msg_n", "content": []}, f"{nested}/m1", "inner", nested)]
    told, events = played([*log, ToolOutput("call_1", "ask", "ok", "helper", 1), completed()])
    assert "psst" not in str(told)
    assert [item["type"] for item in events.output] == ["mcp_call"]


def test_what_a_lost_attempt_has_begun_is_closed_and_not_part_of_the_output() -> None:
    log = [*BEGINNING, call(), TextDelta("Half an ans", "msg_lost")]
    again = [RunStarted(RUN, CONVERSATION, "helper", 2), call(attempt=2), TextDelta("Whole", "msg_b")]
    told, events = played([*log, *again, message("Whole", "msg_b"), completed()])
    added = [event["item"]["id"] for event in told if event["type"] == "response.output_item.added"]
    done = [(event["item"]["id"], event["item"]["status"]) for event in told if event["type"].endswith("item.done")]
    assert added == ["msg_lost", "msg_b"]
    assert done == [("msg_lost", "incomplete"), ("msg_b", "completed")]
    assert [event["output_index"] for event in told if event["type"].endswith("item.added")] == [0, 1]
    assert [item["id"] for item in events.output] == ["msg_b"]


def test_whole_items_of_a_call_that_is_made_again_are_void() -> None:
    log = [*BEGINNING, call(), message("First", "msg_a"), RunStarted(RUN, CONVERSATION, "helper", 2)]
    _, events = played([*log, call(attempt=2), message("Second", "msg_b"), used(), completed()])
    assert [item["id"] for item in events.output] == ["msg_b"]


def test_a_model_call_that_fails_and_is_tried_again_leaves_no_open_item() -> None:
    log = [*BEGINNING, call(1), TextDelta("Hal", "msg_a"), used(1), call(2), TextDelta("Hallo", "msg_b")]
    _, events = played([*log, message("Hallo", "msg_b", step=2), completed()])
    assert [item["id"] for item in events.output] == ["msg_b"]


def test_a_tool_that_begins_again_after_a_lost_process_is_told_once() -> None:
    started = ToolStarted("call_1", "add", '{"a":1}', "helper")
    log = [*BEGINNING, call(), asked("add"), used(), started, RunStarted(RUN, CONVERSATION, "helper", 2), started]
    told, events = played([*log, ToolOutput("call_1", "add", "2", "helper", 1), completed()])
    assert kinds(told).count("mcp_call.in_progress") == 1
    assert len(events.output) == 1


def test_ids_are_made_where_there_are_none_or_one_comes_twice() -> None:
    fake = "__fake_id__"
    log = [*BEGINNING, call(), TextDelta("One", fake), message("One", fake), asked("add"), used()]
    log += [ToolStarted("call_1", "add", "{}", "helper"), ToolOutput("call_1", "add", "2", "helper", 1)]
    log += [call(2), message("Two", "msg_a", step=2), call(3), message("Three", "msg_a", step=3), completed()]
    told, events = played(log)
    ids = [item["id"] for item in events.output]
    assert ids == [f"msg_{HEX}_1", "mcp_call_1", "msg_a", f"msg_{HEX}_3"]
    assert ids == [item["id"] for item in played([e for e in log if not isinstance(e, TextDelta)])[1].output]
    assert all(event["item_id"] in ids for event in told if "item_id" in event)


WAITING = [
    *BEGINNING,
    call(),
    message("I must ask.", "msg_a"),
    asked("wipe"),
    used(),
    ApprovalRequested("call_1", "wipe", '{"a":1}', "helper"),
    RunWaiting(RUN, CONVERSATION, 1),
]
GONE_ON = [
    *WAITING,
    RunStarted(RUN, CONVERSATION, "helper", 2),
    ToolStarted("call_1", "wipe", '{"a":1}', "helper"),
    ToolOutput("call_1", "wipe", "gone", "helper", 1),
    call(2),
    message("Done.", "msg_a", step=2),
    used(2),
    completed(requests=2),
]


def test_a_run_that_waits_is_a_response_that_asks() -> None:
    told, events = played(WAITING)
    assert kinds(told)[-1] == "completed"
    assert [item["type"] for item in events.output] == ["message", "mcp_approval_request"]
    assert events.output[1]["id"] == f"mcpr_{HEX}_call_1"
    assert played(GONE_ON)[0] == told


def test_what_comes_after_a_wait_is_a_response_of_its_own() -> None:
    told, events = played(GONE_ON, part=2)
    assert told[0]["response"]["id"] == f"resp_{HEX}_2"
    assert [item["type"] for item in events.output] == ["mcp_call", "message"]
    assert events.output[0]["approval_request_id"] == f"mcpr_{HEX}_call_1"
    assert events.output[1]["id"] != "msg_a"  # it has been told already
    assert told[-1]["response"]["usage"]["input_tokens"] == TOKENS.input_tokens
    unfinished, ended = played(WAITING, part=2)
    assert kinds(unfinished) == ["created", "in_progress"]
    assert ended.end is None


def test_a_tool_whose_nested_agent_waits_is_told_again_with_its_output() -> None:
    nested = "/t:call_1"
    log = [*BEGINNING, call(), asked("ask"), used(), ToolStarted("call_1", "ask", '{"q":1}', "helper")]
    log += [ApprovalRequested("call_2", "wipe", "{}", "inner", nested), RunWaiting(RUN, CONVERSATION, 1)]
    _, first = played(log)
    assert [(item["type"], item.get("status")) for item in first.output] == [
        ("mcp_call", "incomplete"),
        ("mcp_approval_request", None),
    ]
    assert first.output[1]["id"] == f"mcpr_{HEX}_{nested}/t:call_2"
    log += [RunStarted(RUN, CONVERSATION, "helper", 2), ToolOutput("call_1", "ask", "ok", "helper", 1), completed()]
    _, second = played(log, part=2)
    assert [(item["arguments"], item["output"]) for item in second.output] == [('{"q":1}', "ok")]


def test_a_background_response_is_queued_first() -> None:
    told, _ = played([*BEGINNING, call(), message("Hi"), completed()], background=True)
    assert kinds(told)[:3] == ["created", "queued", "in_progress"]
    assert [event["response"]["status"] for event in told[:3]] == ["queued", "queued", "in_progress"]


@pytest.mark.parametrize(
    ("end", "kind", "status", "told"),
    [
        (failed(), "failed", "failed", {"code": "server_error", "type": "provider_error"}),
        (failed("rate_limit_exceeded"), "failed", "failed", {"code": "rate_limit_exceeded"}),
        (failed("guardrail_tripped"), "failed", "failed", {"code": "invalid_prompt"}),
        (failed("max_turns_exceeded"), "incomplete", "incomplete", {"reason": "max_messages"}),
        (
            failed("provider_rejected", incomplete_reason="max_output_tokens"),
            "incomplete",
            "incomplete",
            {"reason": "max_output_tokens"},
        ),
    ],
)
def test_a_run_that_fails(end: RunFailed, kind: str, status: str, told: dict[str, Any]) -> None:
    log = [*BEGINNING, call(), asked("add"), used(), ToolStarted("call_1", "add", "{}", "helper"), call(2)]
    events, machine = played([*log, TextDelta("Half", "msg_a"), end])
    final = events[-1]["response"]
    assert kinds(events)[-1] == kind
    assert final["status"] == status
    assert told.items() <= (final["error"] or final["incomplete_details"]).items()
    assert final["completed_at"] is None
    assert [(item["type"], item["status"]) for item in machine.output] == [
        ("mcp_call", "failed"),
        ("message", "incomplete"),
    ]
    assert "mcp_call.failed" in kinds(events)


@pytest.mark.parametrize(
    ("reason", "status"), [("user", "cancelled"), ("interrupted", "cancelled"), ("timeout", "failed")]
)
def test_a_run_that_is_stopped(reason: str, status: str) -> None:
    end = RunCancelled(RUN, CONVERSATION, reason, "Stopped.", TOKENS, None, 5)
    told, machine = played([*BEGINNING, call(), TextDelta("Half", "msg_a"), end])
    assert told[-1]["response"]["status"] == status
    assert machine.output[0]["status"] == "incomplete"
    assert (told[-1]["response"]["error"] is None) == (status == "cancelled")


def test_the_same_log_gives_the_same_events() -> None:
    assert played(GONE_ON, part=2)[0] == played(GONE_ON, part=2)[0]
