"""`/api/session` and `/api/chat`: what comes back, and what is refused before anything is written."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from agents import Agent, function_tool
from pydantic import BaseModel

from app.domain.models.agents import AgentSpec, HandoffSpec
from tests.api.serving import Served, calls, says, scripted


@function_tool
def add(a: int, b: int) -> str:
    """Add two numbers."""
    return str(a + b)


async def test_a_session_has_a_conversation(demo: Served) -> None:
    reply = await demo.http.post("/api/session", json={"tenantId": "acme", "userId": "ada", "agent": "poet"})
    assert reply.status_code == 201
    opened = reply.json()
    assert opened["sessionId"].startswith("sess_")
    assert opened["conversationId"].startswith("conv_")
    assert (opened["tenantId"], opened["userId"], opened["agent"]) == ("acme", "ada", "poet")


async def test_a_session_takes_snake_case_too(demo: Served) -> None:
    reply = await demo.http.post("/api/session", json={"tenant_id": "acme", "user_id": "ada"})
    assert (reply.json()["tenantId"], reply.json()["userId"], reply.json()["agent"]) == ("acme", "ada", "demo")


async def test_sessions_without_a_user_do_not_see_each_other(demo: Served) -> None:
    first, second = await demo.session(), await demo.session()
    await first.chat("mine")
    assert [entry["id"] for entry in (await first.ask("GET", "/api/conversations")).json()["data"]] == [
        first.conversation_id
    ]
    assert (await second.ask("GET", f"/api/conversations/{first.conversation_id}")).status_code == 404


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tenantId": "no spaces"}, "tenantId"),
        ({"tenantId": ""}, "tenantId"),
        ({"tenantId": 5}, "tenantId"),
        ({"tenantId": None}, "tenantId"),
        ({"userId": ""}, "userId"),
        ({"userId": "x" * 256}, "userId"),
        ({"userId": ["ada"]}, "userId"),
        ({"agent": 1}, "agent"),
        ({"colour": "red"}, "colour"),
    ],
)
async def test_a_session_is_refused(demo: Served, body: dict[str, Any], param: str) -> None:
    reply = await demo.http.post("/api/session", json=body)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param
    assert demo.rows("SELECT id FROM agent_conversations") == []


async def test_a_session_with_an_unknown_agent(demo: Served) -> None:
    reply = await demo.http.post("/api/session", json={"agent": "nobody"})
    assert reply.status_code == 404
    assert reply.json()["error"]["code"] == "model_not_found"
    assert "demo" in reply.json()["error"]["message"]


async def test_an_answer_with_a_tool_call(serve: Callable[..., Any]) -> None:
    served = await serve(scripted(calls("add", '{"a": 1, "b": 2}'), says("It is 3."), tools=[add]))
    chatter = await served.session()
    reply = await chatter.chat("1 + 2?")
    assert reply.status_code == 200
    answer = reply.json()
    assert answer["output"] == answer["response"] == "It is 3."
    assert answer["status"] == "completed"
    assert answer["conversationId"] == chatter.conversation_id
    assert answer["agent"] == "helper"
    usage = answer["usage"]
    assert usage["requests"] == 2
    assert usage["totalTokens"] == usage["inputTokens"] + usage["outputTokens"]
    assert usage["costUsd"] is None
    assert set(usage) - {"requests", "inputTokens", "outputTokens", "totalTokens", "costUsd"} == {
        "cachedTokens",
        "reasoningTokens",
    }
    (call,) = answer["toolCalls"]
    assert (call["name"], call["arguments"], call["output"]) == ("add", '{"a": 1, "b": 2}', "3")
    assert answer["handoffs"] == []
    assert answer["models"] != []
    assert answer["durationMs"] >= 0
    assert answer["error"] is None
    assert (await chatter.ask("GET", f"/api/runs/{answer['runId']}")).json() == answer


async def test_the_conversation_goes_on(serve: Callable[..., Any]) -> None:
    agent = scripted(says("first"), says("second"))
    served = await serve(agent)
    chatter = await served.session()
    await chatter.chat("one")
    await chatter.chat("two")
    seen = [item.get("content") for item in agent.model.calls[1].input if item.get("role") == "user"]
    assert seen == ["one", "two"]
    assert [item.get("role") for item in served.history(chatter.conversation_id)] == [
        "user",
        "assistant",
        "user",
        "assistant",
    ]


async def test_input_items(serve: Callable[..., Any]) -> None:
    agent = scripted(says("seen"))
    served = await serve(agent)
    content = [
        {"type": "input_text", "text": "look"},
        {"type": "input_image", "image_url": "data:image/png;base64,AA=="},
    ]
    reply = await (await served.session()).chat([{"role": "user", "content": content}])
    assert reply.json()["output"] == "seen"
    assert agent.model.calls[0].input[0]["content"] == content


async def test_a_handoff(serve: Callable[..., Any]) -> None:
    served = await serve(
        AgentSpec(
            key="front", description="Front.", instructions="Hand over.", handoffs=(HandoffSpec("poet"),), default=True
        ),
        AgentSpec(key="poet", description="Verse.", instructions="Rhyme."),
    )
    answer = (await (await served.session()).chat("a poem, please")).json()
    assert answer["agent"] == "poet"
    assert answer["handoffs"] == [{"fromAgent": "front", "toAgent": "poet"}]
    assert answer["models"] == ["demo"]


class Verdict(BaseModel):
    """A structured output."""

    text: str
    score: int


async def test_structured_output(demo: Served) -> None:
    schema = Verdict.model_json_schema() | {"additionalProperties": False}
    answer = (await (await demo.session()).chat(options={"outputSchema": schema})).json()
    assert answer["output"] == {"text": "demo", "score": 1}
    assert answer["response"] == '{"text":"demo","score":1}'


async def test_options_reach_the_model(serve: Callable[..., Any]) -> None:
    agent = scripted(says("one"), says("two"))
    chatter = await (await serve(agent)).session()
    await chatter.chat("first")
    options = {"modelSettings": {"temperature": 0.5}, "historyItems": 0, "metadata": {"order": 7}}
    assert (await chatter.chat("second", options=options)).status_code == 200
    call = agent.model.calls[1]
    assert call.model_settings.temperature == 0.5
    assert [item.get("content") for item in call.input] == ["second"]


@pytest.mark.parametrize("text", ["\ud83d cut", "\u0000 zero", "🙂 \u2028", "a" * 100_000])
async def test_difficult_text_comes_back(demo: Served, text: str) -> None:
    chatter = await demo.session()
    body = json.dumps({"sessionId": chatter.session_id, "message": text})
    reply = await demo.http.post("/api/chat", content=body, headers={"content-type": "application/json"})
    assert reply.status_code == 200, reply.text
    assert text.strip()[:20] in reply.json()["output"]
    view = await chatter.ask("GET", f"/api/conversations/{chatter.conversation_id}")
    assert view.status_code == 200
    async with chatter.stream(text) as stream:
        assert (await stream.frames_until("run.completed"))[-1].event == "run.completed"


GOOD: dict[str, Any] = {"sessionId": "sess_1", "message": "hi"}
WRONG = [0, 1.5, True, None, [], {}, [1], [None], ["text"]]
TEXT = [value for value in WRONG if value is not None]
OBJECT = [0, 1.5, True, "x", [], [1]]
NUMBER = ["1", True, [], {}, 10**30, -1, float("nan"), float("inf")]

BAD_SCHEMAS: list[dict[str, Any]] = [
    {"type": 5},
    {"type": "string", "pattern": "("},
    {"$ref": "http://127.0.0.1:9/internal"},  # the validator would fetch it
    {"properties": {"a": {"anyOf": [{"$dynamicRef": "file:///etc/passwd"}]}}},
    {"$id": "http://127.0.0.1:9/", "$ref": "#/x"},
    {"$ref": "other.json"},
    {"$ref": None},
    json.loads('{"items":' * 100 + "{}" + "}" * 100),
]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("sessionId", value) for value in WRONG),
        *(("message", value) for value in (0, 1.5, True, None, {}, [1], [None], ["text"])),
        *(("conversationId", value) for value in TEXT),
        *(("agent", value) for value in TEXT),
        *(("options", value) for value in [None, *OBJECT]),
    ],
)
async def test_wrong_types(demo: Served, field: str, value: Any) -> None:
    reply = await demo.http.post("/api/chat", json={**GOOD, field: value})
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert error["param"] == field
    assert error["code"] == "invalid_type"
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("model", value) for value in [*TEXT, ""]),
        *(("modelSettings", value) for value in [None, *OBJECT]),
        *(("maxTurns", value) for value in [*NUMBER, 1.5, 0, 1001]),
        *(("timeoutS", value) for value in [*NUMBER, 0, 1e9]),
        *(("variables", value) for value in [None, *OBJECT, {"big": "x" * 20_000}]),
        *(("metadata", value) for value in [None, *OBJECT, {"big": "x" * 20_000}]),
        *(("handoffHistory", value) for value in [*TEXT, "some", ""]),
        *(("outputSchema", value) for value in OBJECT),
        *(("outputSchema", value) for value in BAD_SCHEMAS),
        *(("historyItems", value) for value in [*NUMBER, 1.5, 10_001]),
    ],
)
async def test_wrong_options(demo: Served, option: str, value: Any) -> None:
    chatter = await demo.session()
    sent = {"sessionId": chatter.session_id, "message": "hi", "options": {option: value}}
    body = json.dumps(sent)  # NaN and Infinity too, as careless clients send them
    for path in ("/api/chat", "/api/chat/stream"):
        reply = await demo.http.post(path, content=body, headers={"content-type": "application/json"})
        assert reply.status_code == 400, reply.text
        assert reply.json()["error"]["param"] == f"options.{option}"
    assert demo.rows("SELECT id FROM agent_runs") == []


@pytest.mark.parametrize("field", ["sessionId", "message"])
async def test_a_field_is_missing(demo: Served, field: str) -> None:
    body = {name: value for name, value in GOOD.items() if name != field}
    error = (await demo.http.post("/api/chat", json=body)).json()["error"]
    assert (error["param"], error["code"]) == (field, "missing_required_parameter")


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({**GOOD, "temperature": 1}, "temperature"),
        ({**GOOD, "options": {"maxTokens": 1}}, "options.maxTokens"),
        ({**GOOD, "a\x1b[31mb": 1}, "a?[31mb"),
    ],
)
async def test_unknown_fields_are_named(demo: Served, body: dict[str, Any], named: str) -> None:
    reply = await demo.http.post("/api/chat", json=body)
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "unknown_parameter"
    assert reply.json()["error"]["param"] == named
    assert named in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ("", "message"),
        ("   ", "message"),
        ([], "message"),
        ([{"text": "no role"}], "message[0]"),
        ("x" * 1_000_001, "message"),
    ],
)
async def test_messages_that_say_nothing_or_too_much(demo: Served, message: Any, param: str) -> None:
    reply = await (await demo.session()).chat(message)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param
    assert demo.rows("SELECT id FROM agent_runs") == []


def nested(depth: int) -> Any:
    return json.loads('{"a":' * depth + "1" + "}" * depth)


@pytest.mark.parametrize("depth", [101, 900])
async def test_values_that_are_nested_too_deeply(demo: Served, depth: int) -> None:
    chatter = await demo.session()
    reply = await chatter.chat([{"role": "user", "content": "hi", "extra": nested(depth)}])
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "message")
    for option in ("metadata", "variables", "modelSettings", "outputSchema"):
        reply = await chatter.chat(options={option: nested(depth)})
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, f"options.{option}")
    assert demo.rows("SELECT id FROM agent_runs") == []
    assert (await chatter.chat(options={"metadata": nested(100)})).status_code == 200


async def test_unknown_things_are_404(demo: Served) -> None:
    chatter = await demo.session()
    for body, code, param in [
        ({"sessionId": "sess_0"}, "session_not_found", "sessionId"),
        ({"sessionId": ""}, "session_not_found", "sessionId"),
        ({"sessionId": "\x00"}, "session_not_found", "sessionId"),
        ({"agent": "nobody"}, "model_not_found", "agent"),
        ({"conversationId": "conv_0"}, "conversation_not_found", "conversationId"),
        ({"conversationId": ""}, "conversation_not_found", "conversationId"),
        ({"conversationId": "\x00'; --"}, "conversation_not_found", "conversationId"),
    ]:
        for path in ("/api/chat", "/api/chat/stream"):
            sent = {"sessionId": chatter.session_id, "message": "hi", **body}
            reply = await demo.http.post(path, json=sent)
            error = reply.json()["error"]
            assert (reply.status_code, error["code"], error["param"]) == (404, code, param), reply.text
    assert demo.rows("SELECT id FROM agent_runs") == []


@pytest.mark.parametrize("other", [{"tenantId": "beta", "userId": "ada"}, {"tenantId": "acme", "userId": "bob"}])
async def test_conversations_of_others_do_not_exist(demo: Served, other: dict[str, str]) -> None:
    ada, stranger = await demo.session(tenantId="acme", userId="ada"), await demo.session(**other)
    reply = await stranger.chat("hi", conversationId=ada.conversation_id)
    assert reply.status_code == 404
    assert reply.json()["error"]["code"] == "conversation_not_found"


async def test_a_deleted_conversation_is_gone_for_its_session(demo: Served) -> None:
    chatter = await demo.session()
    await chatter.ask("DELETE", f"/api/conversations/{chatter.conversation_id}")
    assert (await chatter.chat("still there?")).status_code == 404


async def test_another_conversation_of_the_same_user(demo: Served) -> None:
    first, second = await demo.session(userId="ada"), await demo.session(userId="ada")
    reply = await second.chat("hi", conversationId=first.conversation_id)
    assert reply.json()["conversationId"] == first.conversation_id


async def test_two_messages_at_once_take_turns(serve: Callable[..., Any]) -> None:
    agent: Agent[Any] = scripted(says("one"), says("two"))
    chatter = await (await serve(agent)).session()
    replies = await asyncio.gather(chatter.chat("a"), chatter.chat("b"))
    assert {reply.json()["output"] for reply in replies} == {"one", "two"}


async def test_a_tool_that_the_client_executes(serve: Callable[..., Any]) -> None:
    served = await serve(scripted(calls("locate", '{"place": "Oslo"}'), says("It is north.")))
    chatter = await served.session()
    tool = {"type": "function", "name": "locate", "parameters": {"type": "object", "properties": {}}}
    options = {"clientTools": [tool], "instructions": "Be exact."}
    first = (await chatter.chat("where is Oslo?", options=options)).json()
    assert (first["status"], first["output"]) == ("completed", "")
    assert first["clientCalls"] == [{"callId": "call_1", "name": "locate", "arguments": '{"place": "Oslo"}'}]
    output = {"type": "function_call_output", "call_id": "call_1", "output": "59.9 N"}
    second = (await chatter.chat([output], options=options)).json()
    assert (second["output"], second["clientCalls"]) == ("It is north.", [])
    refused = await chatter.chat([{**output, "call_id": "call_9"}])
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_value")
    wrong = await chatter.chat("x", options={"clientTools": [{"type": "web_search"}]})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "options.clientTools[0].type")
