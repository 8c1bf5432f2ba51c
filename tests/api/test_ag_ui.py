"""AG-UI: runs as events of the protocol, each checked by the protocol's own types, and in an order its clients take."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from ag_ui.core import Event, RunAgentInput, Tool, UserMessage
from agents import Agent, function_tool, handoff
from agents.testing import ScriptedModel, assistant_message, function_call
from pydantic import TypeAdapter

from app.domain.errors import UnknownAgent
from app.domain.models.conversations import Caller
from app.services.access import LOCAL_ORGANIZATION
from tests.api.serving import Gate, Served, calls, says, scripted

EVENT: TypeAdapter[Any] = TypeAdapter(Event)
LOCATE = Tool(name="locate", description="Where am I?", parameters={"type": "object", "properties": {}})


def events_of(body: bytes) -> list[dict[str, Any]]:
    """Read a whole stream: each event is one of the protocol with no field it does not know, in a possible order."""
    frames = [frame for frame in body.decode().split("\n\n") if frame and not frame.startswith(":")]
    events = [json.loads(frame.removeprefix("data: ")) for frame in frames]
    for event in events:
        parsed = EVENT.validate_python(event)
        assert not parsed.model_extra, event
        assert event == parsed.model_dump(mode="json", by_alias=True)
    check_order(events)
    return events


def check_order(events: list[dict[str, Any]]) -> None:
    """As the protocol's client checks it: what begins ends, once, and nothing comes before the run or after it."""
    assert events[0]["type"] == "RUN_STARTED"
    assert events[-1]["type"] in {"RUN_FINISHED", "RUN_ERROR"}
    assert sum(event["type"] in {"RUN_STARTED", "RUN_FINISHED", "RUN_ERROR"} for event in events) == 2
    active: set[tuple[str, str]] = set()
    keys = {"STEP": "stepName", "TEXT_MESSAGE": "messageId", "REASONING_MESSAGE": "messageId"}
    keys |= {"REASONING": "messageId", "TOOL_CALL": "toolCallId", "SUBAGENT": "subagentRunId"}
    for event in events[1:-1]:
        family, _, verb = event["type"].rpartition("_")
        if family not in keys:
            continue
        named = (family, event[keys[family]])
        match verb:
            case "START" | "STARTED":
                assert named not in active, event
                active.add(named)
            case "END" | "FINISHED":
                active.remove(named)
            case "RESULT":
                assert named not in active, event
            case _:
                assert named in active, event
    assert not active


def asked(*messages: Any, run: str = "r1", **more: Any) -> dict[str, Any]:
    """What a client of the protocol sends."""
    given = messages or (UserMessage(id="u1", content="hello"),)
    made = RunAgentInput(
        thread_id="thread-1",
        run_id=run,
        messages=list(given),
        **{"state": {}, "tools": [], "context": [], "forwarded_props": {}, "protocol_version": "1.0", **more},
    )
    return made.model_dump(mode="json", by_alias=True)


async def post(served: Served, sent: dict[str, Any], agent: str = "helper") -> httpx2.Response:
    return await served.http.post(f"/agui/{agent}", json=sent)


async def ran(served: Served, sent: dict[str, Any], agent: str = "helper") -> list[dict[str, Any]]:
    reply = await post(served, sent, agent)
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"].startswith("text/event-stream")
    return events_of(reply.content)


def text_of(events: list[dict[str, Any]]) -> str:
    return "".join(event["delta"] for event in events if event["type"] == "TEXT_MESSAGE_CONTENT")


async def test_a_run_from_its_start_to_its_finish(serve: Callable[..., Any]) -> None:
    events = await ran(await serve(scripted(says("Good day."))), asked())
    kinds = [event["type"] for event in events]
    assert kinds[:4] == ["RUN_STARTED", "STATE_SNAPSHOT", "STEP_STARTED", "TEXT_MESSAGE_START"]
    assert kinds[-3:] == ["TEXT_MESSAGE_END", "STEP_FINISHED", "RUN_FINISHED"]
    assert events[0]["threadId"] == "thread-1"
    assert events[0]["runId"] == "r1"
    assert events[3]["role"] == "assistant"
    assert text_of(events) == "Good day."
    end = events[-1]
    assert (end["result"], end["outcome"]) == ("Good day.", {"type": "success"})
    (used,) = end["usage"]
    assert used["totalTokens"] == used["inputTokens"] + used["outputTokens"]


async def test_a_thread_is_a_conversation(serve: Callable[..., Any]) -> None:
    served = await serve(scripted(says("one"), says("two")))
    first = await post(served, asked())
    history = [
        {"id": "u1", "role": "user", "content": "hello"},
        {"id": "a1", "role": "assistant", "content": "one"},
        {"id": "u2", "role": "user", "content": [{"type": "text", "text": "and?"}]},
    ]
    second = await post(served, asked(run="r2") | {"messages": history})
    assert first.headers["x-conversation-id"] == second.headers["x-conversation-id"]
    assert text_of(events_of(second.content)) == "two"
    said = [
        item["content"] for item in served.history(first.headers["x-conversation-id"]) if item.get("role") == "user"
    ]
    assert said == ["hello", [{"type": "input_text", "text": "and?"}]]


async def test_the_same_run_again_is_told_from_its_beginning(serve: Callable[..., Any]) -> None:
    served = await serve(scripted(says("once")))
    assert await ran(served, asked()) == await ran(served, asked())
    other = await post(served, asked(UserMessage(id="u1", content="something else")))
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_conflict")


async def test_what_is_known_for_this_run_reaches_the_model(serve: Callable[..., Any]) -> None:
    model = ScriptedModel([says("ok")])
    served = await serve(Agent(name="helper", instructions="Be kind.", model=model))
    sent = asked(state={"mood": "good"}, context=[{"description": "Page", "value": "/cart"}])
    sent["messages"].insert(0, {"id": "s", "role": "system", "content": "Answer in rhyme."})
    events = await ran(served, sent)
    assert events[1] == {"type": "STATE_SNAPSHOT", "snapshot": {"mood": "good"}}
    (run,) = served.rows("SELECT options FROM agent_runs")
    options = json.loads(run["options"])
    assert options["variables"] == {"mood": "good"}
    assert options["instructions"] == "Answer in rhyme.\n\nPage: /cart"


async def test_tools_of_the_server_answer_in_the_stream(serve: Callable[..., Any]) -> None:
    @function_tool
    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    served = await serve(scripted(calls("add", '{"a": 1, "b": 2}'), says("three"), tools=[add]))
    events = await ran(served, asked())
    (start,) = [event for event in events if event["type"] == "TOOL_CALL_START"]
    (arguments,) = [event for event in events if event["type"] == "TOOL_CALL_ARGS"]
    (result,) = [event for event in events if event["type"] == "TOOL_CALL_RESULT"]
    assert (start["toolCallName"], start["toolCallId"]) == ("add", "call_1")
    assert json.loads(arguments["delta"]) == {"a": 1, "b": 2}
    assert (result["toolCallId"], result["content"], result["role"]) == ("call_1", "3", "tool")


@pytest.mark.parametrize("failed", [False, True])
async def test_tools_of_the_client_are_handed_out(serve: Callable[..., Any], failed: bool) -> None:
    served = await serve(scripted(calls("locate"), says("In Oslo.")))
    events = await ran(served, asked(tools=[LOCATE]))
    assert events[-1]["outcome"] == {"type": "success", "pendingToolCallIds": ["call_1"]}
    assert not [event for event in events if event["type"] == "TOOL_CALL_RESULT"]
    call = {"id": "call_1", "type": "function", "function": {"name": "locate", "arguments": "{}"}}
    tool = {"id": "t1", "role": "tool", "toolCallId": "call_1", "content": "Oslo"}
    history = [
        {"id": "u1", "role": "user", "content": "hello"},
        {"id": "a1", "role": "assistant", "toolCalls": [call]},
        tool | ({"error": "no signal"} if failed else {}),
    ]
    sent = asked(run="r2", tools=[LOCATE]) | {"messages": history}
    first, again = await ran(served, sent), await ran(served, sent)
    assert first == again
    assert text_of(first) == "In Oslo."
    (conversation,) = served.rows("SELECT id FROM agent_conversations")
    (output,) = [item["output"] for item in served.history(conversation["id"]) if "output" in item]
    assert output == ("Oslo\nno signal" if failed else "Oslo")


async def test_results_of_the_servers_tools_are_not_sent_back(serve: Callable[..., Any]) -> None:
    served = await serve(scripted(says("one"), says("two")))
    await ran(served, asked())
    call = {"id": "call_9", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    history = [
        {"id": "a1", "role": "assistant", "toolCalls": [call]},
        {"id": "t1", "role": "tool", "toolCallId": "call_9", "content": "3"},
        {"id": "u2", "role": "user", "content": "go on"},
    ]
    assert text_of(await ran(served, asked(run="r2") | {"messages": history})) == "two"


@pytest.fixture
async def shop(serve: Callable[..., Any]) -> Served:
    """An agent that asks before it pays."""

    @function_tool(needs_approval=True)
    def pay(amount: int) -> str:
        """Pay."""
        return f"paid {amount}"

    return await serve(scripted(calls("pay", '{"amount": 5}'), says("Done."), tools=[pay]))


@pytest.mark.parametrize(
    ("entry", "result"),
    [
        ({"status": "resolved", "payload": {"approved": True}}, "paid 5"),
        ({"status": "resolved", "payload": {"approved": False, "message": "Too much."}}, "Too much."),
        ({"status": "cancelled"}, None),
    ],
)
async def test_a_run_is_interrupted_and_resumed(shop: Served, entry: dict[str, Any], result: str | None) -> None:
    events = await ran(shop, asked())
    outcome = events[-1]["outcome"]
    (interrupt,) = outcome["interrupts"]
    assert (outcome["type"], interrupt["reason"], interrupt["toolCallId"]) == ("interrupt", "tool_approval", "call_1")
    answer = {"interruptId": interrupt["id"], **entry}
    sent = asked(run="r2") | {"messages": [{"id": "a1", "role": "assistant", "content": ""}], "resume": [answer]}
    first, again = await ran(shop, sent), await ran(shop, sent)
    assert first == again
    assert text_of(first) == "Done."
    assert first[0]["runId"] == "r2"
    assert not [event for event in first if event["type"] == "TOOL_CALL_START"]  # the client has it
    (told,) = [event for event in first if event["type"] == "TOOL_CALL_RESULT"]
    assert result is None or told["content"] == result
    otherwise = {
        "interruptId": interrupt["id"],
        "status": "resolved",
        "payload": not entry.get("payload", {}).get("approved"),
    }
    changed = await post(shop, sent | {"resume": [otherwise]})
    assert (changed.status_code, changed.json()["error"]["code"]) == (409, "already_decided")


async def test_a_nested_agent_is_a_subagent(serve: Callable[..., Any]) -> None:
    inner = Agent(name="inner", model=ScriptedModel([[assistant_message("inner answer")]]))
    front = scripted(
        calls("ask_inner", '{"input": "?"}', "call_o"), says("outer"), tools=[inner.as_tool("ask_inner", "Ask.")]
    )
    served = await serve(front)
    events = await ran(served, asked())
    (start,) = [event for event in events if event["type"] == "SUBAGENT_STARTED"]
    assert (start["name"], start["parentToolCallId"]) == ("inner", "call_o")
    nested = [event for event in events if event.get("subagentRunId") == start["subagentRunId"]]
    assert [event["type"] for event in nested][:2] == ["SUBAGENT_STARTED", "TEXT_MESSAGE_START"]
    assert nested[-1]["type"] == "SUBAGENT_FINISHED"
    older = asked() | {"protocolVersion": None}
    del older["protocolVersion"]
    told = await ran(served, older)  # the same run, for a client from before there were subagents
    assert text_of(told) == "outer"
    assert not [event for event in told if "subagentRunId" in event]


async def test_a_handoff_is_told(serve: Callable[..., Any]) -> None:
    poet = Agent(name="poet", model=ScriptedModel([[assistant_message("rhyme")]]))
    hand_over = [function_call("transfer_to_poet", "{}", call_id="call_h")]
    front = Agent(name="helper", model=ScriptedModel([hand_over]), handoffs=[handoff(poet)])
    events = await ran(await serve(front), asked())
    assert {"type": "CUSTOM", "name": "agent_changed", "value": {"agent": "poet"}} in events


async def test_a_failed_run_is_an_error(serve: Callable[..., Any]) -> None:
    events = await ran(await serve(scripted()), asked())  # its script has no answer
    assert events[-1]["type"] == "RUN_ERROR"
    assert events[-1]["code"]


async def test_a_cancelled_run_says_so(serve: Callable[..., Any]) -> None:
    gate = Gate()
    served = await serve(scripted(calls("wait_at_gate"), tools=[function_tool(gate.wait_at_gate)]))
    async with served.request("POST", "/agui/helper", json_body=asked()) as stream:
        await stream.head()
        await asyncio.wait_for(gate.reached.wait(), 5)
        await served.container.runs.cancel(Caller(LOCAL_ORGANIZATION), stream.headers["x-run-id"])
        events = events_of(await stream.body())
    assert events[-1]["outcome"] == {"type": "cancelled"}


async def test_a_silent_run_keeps_its_stream_alive_and_a_client_may_leave(serve: Callable[..., Any]) -> None:
    gate = Gate()
    agent = scripted(calls("wait_at_gate"), says("Through."), tools=[function_tool(gate.wait_at_gate)])
    served = await serve(agent, server={"heartbeat_s": 0.02})
    async with served.request("POST", "/agui/helper", json_body=asked()) as stream:
        while b": keep-alive" not in b"".join(stream.bodies):
            await stream.chunk()
        stream.leave()
    gate.open.set()
    assert text_of(await ran(served, asked())) == "Through."


USER = {"id": "u1", "role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"threadId": ""}, "threadId"),
        ({"threadId": "x" * 256}, "threadId"),
        ({"threadId": "conv_" + "0" * 32}, "threadId"),
        ({"runId": ""}, "runId"),
        ({"messages": []}, "messages"),
        ({"messages": [USER, {"id": "a", "role": "assistant", "content": "hi"}]}, "messages"),
        ({"messages": [USER | {"role": "robot"}]}, "messages[0].role"),
        ({"messages": [USER | {"content": 5}]}, "messages[0].content"),
        ({"messages": [USER | {"content": [{"type": "audio", "source": {}}]}]}, "messages[0].content[0].type"),
        (
            {"messages": [USER | {"content": [{"type": "image", "source": {"type": "url", "value": "file:///x"}}]}]},
            "messages[0].content[0].source",
        ),
        ({"messages": [{"id": "t", "role": "tool", "content": "x"}]}, "messages[0].toolCallId"),
        ({"messages": [{"id": "s", "role": "system", "content": 1}, USER]}, "messages[0].content"),
        ({"state": "text"}, "state"),
        ({"tools": [{"name": "no spaces", "description": ""}]}, "tools[0].name"),
        ({"resume": [{"interruptId": "x", "status": "resolved", "payload": True}]}, "messages"),
        ({"resume": [{"interruptId": "x", "status": "resolved"}], "messages": []}, "resume[0].payload"),
        ({"resume": [{"interruptId": "x", "status": "cancelled"}], "messages": []}, "resume[0].interruptId"),
        ({"colour": "red"}, "colour"),
    ],
)
async def test_nothing_wrong_passes(demo: Served, changes: dict[str, Any], param: str) -> None:
    agent = demo.container.provider.agent(None).key
    reply = await post(demo, asked() | changes, agent)
    assert reply.status_code == (404 if changes.get("threadId", "").startswith("conv_") else 400), reply.text
    assert reply.json()["error"]["param"] == param


async def test_an_unknown_agent_is_not_there(demo: Served) -> None:
    reply = await post(demo, asked(), "nobody")
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, UnknownAgent.code)
