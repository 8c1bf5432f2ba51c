"""The AI SDK's chat: what its transport sends, and the messages that the streams build."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from agents import Agent, function_tool, handoff
from agents.testing import ScriptedModel, assistant_message, function_call

from app.domain.models.access import NewKey
from app.domain.models.conversations import Caller
from app.services.access import LOCAL_ORGANIZATION
from tests.api.serving import Gate, Served, calls, says, scripted
from tests.api.ui_messages import UiMessage, parts_of

CHAT = "/api/chat/ai"


def user(text: str = "hello", message_id: str = "u1") -> dict[str, Any]:
    return {"id": message_id, "role": "user", "parts": [{"type": "text", "text": text}]}


def body(*messages: dict[str, Any], chat: str = "chat-1", **more: Any) -> dict[str, Any]:
    """What `DefaultChatTransport` sends."""
    return {"id": chat, "messages": list(messages), "trigger": "submit-message", **more}


async def send(served: Served, sent: dict[str, Any], key: str | None = None) -> httpx2.Response:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    return await served.http.post(CHAT, json=sent, headers=headers)


async def said(served: Served, *messages: dict[str, Any], into: UiMessage | None = None, **more: Any) -> UiMessage:
    """Send messages and build the answer from the stream."""
    reply = await send(served, body(*messages, **more))
    assert reply.status_code == 200, reply.text
    assert reply.headers["x-vercel-ai-ui-message-stream"] == "v1"
    assert reply.headers["content-type"].startswith("text/event-stream")
    return (into or UiMessage()).read(parts_of(reply.content))


async def test_a_message_is_answered_part_by_part(serve: Callable[..., Any]) -> None:
    served = await serve(scripted(says("Good day.")))
    reply = await send(served, body(user()))
    parts = parts_of(reply.content)
    run_id = reply.headers["x-run-id"]
    assert [part["type"] for part in parts] == [
        "start",
        "start-step",
        "text-start",
        *["text-delta"] * (len(parts) - 6),
        "text-end",
        "finish-step",
        "finish",
    ]
    message = UiMessage().read(parts)
    assert message.texts() == ["Good day."]
    assert (message.id, message.finish) == (f"msg_{run_id.removeprefix('run_')}", "stop")
    assert message.metadata["runId"] == run_id
    assert message.metadata["conversationId"] == reply.headers["x-conversation-id"]
    assert message.metadata["usage"]["requests"] == 1


async def test_a_chat_is_a_conversation_and_only_its_last_message_is_new(serve: Callable[..., Any]) -> None:
    served = await serve(scripted(says("one"), says("two")))
    first = await said(served, user("a"))
    second = await said(served, user("never said", "u0"), first.sent(), user("b", "u2"))
    assert first.metadata["conversationId"] == second.metadata["conversationId"]
    history = served.history(second.metadata["conversationId"])
    asked = [item["content"] for item in history if item.get("role") == "user"]
    assert [part["text"] for content in asked for part in content] == ["a", "b"]


async def test_the_same_message_again_is_the_same_run(serve: Callable[..., Any]) -> None:
    served = await serve(scripted(says("once")))
    first, again = await said(served, user()), await said(served, user())
    assert again.parts == first.parts
    assert again.metadata["runId"] == first.metadata["runId"]
    other = await send(served, body(user("another text under the same id")))
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_conflict")


async def test_chats_of_one_name_are_apart_for_each_caller(serve: Callable[..., Any]) -> None:
    served = await serve(scripted(*[says("hi")] * 4))
    owners = [(LOCAL_ORGANIZATION, None), (LOCAL_ORGANIZATION, "anna"), (LOCAL_ORGANIZATION, "bert"), ("globex", None)]
    seen: dict[str, str] = {}
    for organization, name in owners:
        issued = await served.container.keys.create(
            NewKey(organization_id=organization, name="k", user_id=name, scopes=frozenset({"read", "write"}))
        )
        reply = await send(served, body(user()), issued.secret)
        assert reply.status_code == 200, reply.text
        seen[issued.secret] = reply.headers["x-conversation-id"]
    assert len(set(seen.values())) == 4
    keys, conversations = list(seen), list(seen.values())
    theirs = await send(served, body(user("x", "u9"), conversationId=conversations[0]), keys[3])
    assert (theirs.status_code, theirs.json()["error"]["param"]) == (404, "conversationId")
    assert (await send(served, body(user(), chat="chat-2"))).status_code == 401


async def test_a_conversation_can_be_named(serve: Callable[..., Any]) -> None:
    served = await serve(scripted(says("one"), says("two"), says("three")))
    conversation = (await said(served, user())).metadata["conversationId"]
    by_field = await said(served, user("b", "u2"), chat="other", conversationId=conversation)
    by_id = await said(served, user("c", "u3"), chat=conversation)
    assert {by_field.metadata["conversationId"], by_id.metadata["conversationId"]} == {conversation}


async def test_tools_of_the_server_are_executed_by_their_provider(serve: Callable[..., Any]) -> None:
    @function_tool
    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    served = await serve(scripted(calls("add", '{"a": 1, "b": 2}'), says("three"), tools=[add]))
    message = await said(served, user())
    assert message.kinds() == ["step-start", "tool-add", "step-start", "text"]
    call = message.tool("call_1")
    assert (call["state"], call["input"], call["output"]) == ("output-available", {"a": 1, "b": 2}, "3")
    assert call["providerExecuted"] is True


async def test_a_tool_of_the_client_is_handed_out_and_its_output_taken(serve: Callable[..., Any]) -> None:
    served = await serve(scripted(calls("locate", '{"precise": true}'), says("In Oslo.")))
    tools = [{"type": "function", "name": "locate", "description": "Where.", "parameters": {"type": "object"}}]
    message = await said(served, user(), tools=tools)
    call = message.tool("call_1")
    assert (message.finish, call["state"], call["input"]) == ("tool-calls", "input-available", {"precise": True})
    assert "providerExecuted" not in call
    call |= {"state": "output-available", "output": {"city": "Oslo"}}
    sent = message.sent()
    for _ in range(2):  # a repeated request changes nothing
        reply = await send(served, body(user(), sent, tools=tools, messageId=message.id))
        answer = UiMessage().read(parts_of(reply.content))
        assert (answer.texts(), answer.finish) == (["In Oslo."], "stop")
    outputs = [item for item in served.history(answer.metadata["conversationId"]) if "output" in item]
    assert [item["output"] for item in outputs] == ['{"city":"Oslo"}']


@pytest.fixture
async def shop(serve: Callable[..., Any]) -> Served:
    """An agent that asks before it pays."""

    @function_tool(needs_approval=True)
    def pay(amount: int) -> str:
        """Pay."""
        return f"paid {amount}"

    return await serve(scripted(calls("pay", '{"amount": 5}'), says("Done."), tools=[pay]))


@pytest.mark.parametrize(("approved", "state"), [(True, "output-available"), (False, "output-denied")])
async def test_a_call_is_approved_or_denied_in_the_message(shop: Served, approved: bool, state: str) -> None:
    message = await said(shop, user("pay 5"))
    call = message.tool("call_1")
    assert (message.finish, call["state"]) == ("tool-calls", "approval-requested")
    call["state"] = "approval-responded"
    call["approval"] |= {"approved": approved, "reason": "Too much." if not approved else None}
    sent = body(user("pay 5"), message.sent(), messageId=message.id)
    before, answers = message.id, []
    for _ in range(2):  # the answer to the first one may have been lost
        reply = await send(shop, sent)
        assert reply.status_code == 200, reply.text
        answers.append([part for part in parts_of(reply.content) if part["type"] != "start"])
    assert answers[0] == answers[1]
    message.read(parts_of(reply.content))
    assert (message.id, message.tool("call_1")["state"], message.texts()) == (before, state, ["Done."])
    assert [kind for kind in message.kinds() if kind == "tool-pay"] == ["tool-pay"]


async def test_a_request_for_approval_is_told_again_on_resumption(shop: Served) -> None:
    message = await said(shop, user("pay 5"))
    resumed = await shop.http.get(f"{CHAT}/chat-1/stream")
    assert resumed.headers["x-vercel-ai-ui-message-stream"] == "v1"
    assert UiMessage().read(parts_of(resumed.content)).parts == message.parts


async def test_a_run_that_waited_is_told_as_one_message(serve: Callable[..., Any]) -> None:
    gate = Gate()
    pay = function_tool(gate.wait_at_gate, needs_approval=True)
    served = await serve(scripted(calls("wait_at_gate"), says("Done."), tools=[pay]))
    message = await said(served, user("go"))
    call = message.tool("call_1")
    call |= {"state": "approval-responded", "approval": call["approval"] | {"approved": True}}
    sent = body(user("go"), message.sent(), messageId=message.id)
    async with served.request("POST", CHAT, json_body=sent) as first:
        await asyncio.wait_for(gate.reached.wait(), 5)
        first.leave()
    async with served.request("GET", f"{CHAT}/chat-1/stream") as resumed:
        await resumed.chunk()
        gate.open.set()
        whole = UiMessage().read(parts_of(await resumed.body()))
    assert (whole.id, whole.finish, whole.texts()) == (message.id, "stop", ["Done."])
    assert whole.kinds() == ["step-start", "tool-wait_at_gate", "step-start", "text"]


async def test_a_key_runs_only_its_agents(serve: Callable[..., Any]) -> None:
    served = await serve(scripted(says("one"), name="first"), scripted(says("two"), name="second"))
    issued = await served.container.keys.create(
        NewKey(organization_id=LOCAL_ORGANIZATION, name="k", agents=frozenset({"second"}))
    )
    for sent in (body(user()), body(user(), agent="first"), body(user(), agent="first", chat="new")):
        assert (await send(served, sent, issued.secret)).status_code == 404
    reply = await send(served, body(user(), agent="second"), issued.secret)
    assert UiMessage().read(parts_of(reply.content)).texts() == ["two"]
    headers = {"authorization": f"Bearer {issued.secret}"}
    ag_ui = {"threadId": "t", "runId": "r", "messages": [{"id": "u", "role": "user", "content": "x"}]}
    assert (await served.http.post("/agui/first", json=ag_ui, headers=headers)).status_code == 404


async def test_a_tools_output_can_be_the_answer(serve: Callable[..., Any]) -> None:
    @function_tool
    def answer() -> str:
        """Answer."""
        return "42"

    agent = scripted(calls("answer"), tools=[answer], tool_use_behavior="stop_on_first_tool")
    assert (await said(await serve(agent), user())).texts() == ["42"]


@pytest.mark.parametrize("forged", ["x", "run_00000000000000000000000000000000.3./t:call_1", "{run}.1./t:other"])
async def test_only_what_was_asked_can_be_answered(shop: Served, forged: str) -> None:
    message = await said(shop, user("pay 5"))
    call = message.tool("call_1")
    approval = {"id": forged.format(run=message.metadata["runId"]), "approved": True}
    call |= {"state": "approval-responded", "approval": approval}
    reply = await send(shop, body(user(), message.sent(), messageId=message.id))
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (400, "messages[1].parts[1].approval.id")
    other = await send(shop, body(user(), message.sent(), messageId=message.id, chat="chat-2"))
    assert other.status_code == 400


async def test_a_stream_is_resumed_from_its_beginning(serve: Callable[..., Any]) -> None:
    gate = Gate()
    served = await serve(scripted(calls("wait_at_gate"), says("Through."), tools=[function_tool(gate.wait_at_gate)]))
    async with served.request("POST", CHAT, json_body=body(user())) as lost:
        await lost.chunk()
        await asyncio.wait_for(gate.reached.wait(), 5)
        lost.leave()
    async with served.request("GET", f"{CHAT}/chat-1/stream") as resumed:
        assert await resumed.head() == 200
        await resumed.chunk()
        gate.open.set()
        message = UiMessage().read(parts_of(await resumed.body()))
    assert message.kinds() == ["step-start", "tool-wait_at_gate", "step-start", "text"]
    assert message.texts() == ["Through."]
    assert (await served.http.get(f"{CHAT}/chat-1/stream")).status_code == 204


@pytest.mark.parametrize("chat", ["never-seen", "a%2Fb"])
async def test_there_is_nothing_to_resume_where_nothing_was_said(demo: Served, chat: str) -> None:
    reply = await demo.http.get(f"{CHAT}/{chat}/stream")
    assert reply.status_code in {204, 404}
    named = await demo.http.get(f"{CHAT}/conv_{'0' * 32}/stream")
    assert named.status_code == 404


async def test_a_nested_agent_is_a_tool_whose_output_grows(serve: Callable[..., Any]) -> None:
    @function_tool
    def look() -> str:
        """Look."""
        return "seen"

    inner = Agent(
        name="inner",
        model=ScriptedModel([[function_call("look", "{}", call_id="call_1")], [assistant_message("inner answer")]]),
        tools=[look],
    )
    outer = scripted(
        calls("ask_inner", '{"input": "?"}', "call_o"), says("outer answer"), tools=[inner.as_tool("ask_inner", "Ask.")]
    )
    served = await serve(outer)
    parts = parts_of((await send(served, body(user()))).content)
    message = UiMessage().read(parts)
    assert message.texts() == ["outer answer"]
    assert message.kinds() == ["step-start", "tool-ask_inner", "tool-look", "step-start", "text"]
    outputs = [
        (part["toolCallId"], part["output"], part.get("preliminary", False)) for part in parts if "output" in part
    ]
    assert outputs == [
        ("/t:call_o/t:call_1", "seen", False),
        ("call_o", "inner answer", True),
        ("call_o", "inner answer", False),
    ]


async def test_a_handoff_names_the_agent_that_answers(serve: Callable[..., Any]) -> None:
    poet = Agent(name="poet", model=ScriptedModel([[assistant_message("rhyme")]]))
    front = Agent(
        name="front",
        model=ScriptedModel([[function_call("transfer_to_poet", "{}", call_id="call_h")]]),
        handoffs=[handoff(poet)],
    )
    message = await said(await serve(front), user())
    assert (message.texts(), message.metadata["agent"]) == (["rhyme"], "poet")


async def test_a_failed_run_is_an_error(serve: Callable[..., Any]) -> None:
    served = await serve(scripted())  # its script has no answer
    message = await said(served, user())
    assert message.finish == "error"
    assert message.parts[-1]["type"] == "error"


async def test_a_cancelled_run_is_aborted(serve: Callable[..., Any]) -> None:
    gate = Gate()
    served = await serve(scripted(calls("wait_at_gate"), tools=[function_tool(gate.wait_at_gate)]))
    async with served.request("POST", CHAT, json_body=body(user())) as stream:
        await stream.head()
        await asyncio.wait_for(gate.reached.wait(), 5)
        await served.container.runs.cancel(Caller(LOCAL_ORGANIZATION), stream.headers["x-run-id"])
        message = UiMessage().read(parts_of(await stream.body()))
    assert message.parts[-1]["type"] == "abort"


async def test_files_are_given_to_the_model(serve: Callable[..., Any]) -> None:
    served = await serve(scripted(says("A cat.")))
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "file", "mediaType": "image/png", "url": "data:image/png;base64,AAAA", "filename": "cat.png"},
        {
            "type": "file",
            "mediaType": "application/pdf",
            "url": "data:application/pdf;base64,AAAA",
            "filename": "c.pdf",
        },
        {"type": "file", "mediaType": "application/pdf", "url": "https://example.com/c.pdf"},
    ]
    message = await said(served, {"id": "u1", "role": "user", "parts": parts})
    (asked,) = [item for item in served.history(message.metadata["conversationId"]) if item.get("role") == "user"]
    assert asked["content"] == [
        {"type": "input_text", "text": "What is this?"},
        {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "auto"},
        {"type": "input_file", "file_data": "data:application/pdf;base64,AAAA", "filename": "c.pdf"},
        {"type": "input_file", "file_url": "https://example.com/c.pdf"},
    ]


TEXT = {"type": "text", "text": "hi"}


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"trigger": "regenerate-message"}, "trigger"),
        ({"trigger": "resume"}, "trigger"),
        ({"messageId": "u1"}, "messageId"),
        ({"id": ""}, "id"),
        ({"id": "x" * 256}, "id"),
        ({"messages": []}, "messages"),
        ({"messages": ["hi"]}, "messages.0"),
        ({"messages": [{"role": "user", "parts": [TEXT]}]}, "messages[0].id"),
        ({"messages": [{"id": "u", "role": "user", "parts": []}]}, "messages[0].parts"),
        ({"messages": [{"id": "u", "role": "user", "content": "hi"}]}, "messages[0].parts"),
        ({"messages": [{"id": "u", "role": "system", "parts": [TEXT]}]}, "messages[0].role"),
        ({"messages": [{"id": "u", "role": "assistant", "parts": [TEXT]}]}, "messages"),
        (
            {"messages": [{"id": "u", "role": "user", "parts": [{"type": "data-x", "data": 1}]}]},
            "messages[0].parts[0].type",
        ),
        (
            {
                "messages": [
                    {"id": "u", "role": "user", "parts": [{"type": "file", "url": "file:///etc", "mediaType": "a/b"}]}
                ]
            },
            "messages[0].parts[0].url",
        ),
        ({"tools": [{"type": "function", "name": "no spaces"}]}, "tools[0].name"),
        ({"agent": "nobody"}, "agent"),
        ({"colour": "red"}, "colour"),
    ],
)
async def test_nothing_wrong_passes(demo: Served, changes: dict[str, Any], param: str | None) -> None:
    reply = await send(demo, body(user()) | changes)
    assert reply.status_code == (404 if "agent" in changes else 400), reply.text
    assert reply.json()["error"]["param"] == param
