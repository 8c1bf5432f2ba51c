"""Server mode: the provider keeps the history under `conv_*`, our tables mirror it, and never both in one request."""

import asyncio
from contextlib import aclosing
from typing import Any

import pytest
from agents import Agent, function_tool, handoff
from sqlalchemy import select

from app.domain.errors import ProviderError
from app.domain.models.events import ToolOutput
from app.domain.models.runs import RunStatus
from app.infrastructure.persistence.tables import conversations, sdk_messages, sdk_sessions
from app.infrastructure.providers.openai.tool_calls import INTERRUPTED_OUTPUT
from tests.fakes.openai import Call, FakeOpenAI
from tests.provider.serving import CALLER, Gate, Served, endpoint, kinds


@function_tool
def double(number: int) -> int:
    """Double a number."""
    return 2 * number


def server_mode(fake: FakeOpenAI) -> Any:
    return endpoint(fake, session_mode="server")


async def conversation_row(served: Served, conversation_id: str) -> Any:
    async with served.engine.connect() as connection:
        return (await connection.execute(select(conversations).where(conversations.c.id == conversation_id))).one()


async def written(served: Served) -> list[int]:
    async with served.engine.connect() as connection:
        return [
            len((await connection.execute(select(table))).all())
            for table in (conversations, sdk_sessions, sdk_messages)
        ]


@pytest.mark.parametrize("stream", [False, True])
async def test_the_provider_s_conversation_is_the_thread(serve: Any, fake: FakeOpenAI, stream: bool) -> None:
    served = await serve(Agent(name="a", tools=[double]), options=server_mode(fake))
    first = await served.run('call:double {"number": 4}', stream=stream)
    assert first.result.output == "8", first.result.error
    (conversation,) = fake.conversation_ids
    row = await conversation_row(served, first.result.conversation_id)
    assert row.provider_conversation_id == conversation
    assert row.sdk_session_id == f"acme:{conversation}"
    assert (await served.row(first.result.run_id)).session_mode == "server"

    second = await served.run("and again", to=first.result.conversation_id, stream=stream)
    assert second.result.output == "echo 2: and again"
    assert fake.count("/conversations", method="POST") == 1
    asked = [request.body for request in fake.requests if request.path == "/v1/responses"]
    assert [body["conversation"] for body in asked] == [conversation] * 3
    assert [len(body["input"]) for body in asked] == [1, 1, 1]
    assert asked[2]["input"][0]["content"] == "and again"
    assert not any(body.get("previous_response_id") for body in asked)

    ours = await served.history(first.result.conversation_id)
    theirs = fake.conversation_items(conversation)
    assert (
        kinds(ours)
        == kinds(theirs)
        == [
            "user",
            "function_call",
            "function_call_output",
            "assistant",
            "user",
            "assistant",
        ]
    )
    assert [item.get("call_id") for item in ours] == [item.get("call_id") for item in theirs]
    assert [message.role for message in await served.messages(first.result.conversation_id)] == [
        "user",
        "assistant",
        "user",
        "assistant",
    ]


async def test_a_handoff(serve: Any, fake: FakeOpenAI) -> None:
    back = Agent(name="back")
    front = Agent(name="front", handoffs=[handoff(back)])
    served = await serve(front, options=server_mode(fake))
    fake.script([Call("transfer_to_back", {}, "call_1"), "from the back"])
    ran = await served.run("go", handoff_history="fresh")
    assert ran.result.output == "from the back", ran.result.error
    assert ran.result.agent == "back"


async def test_an_endpoint_without_conversations_is_asked_once(serve: Any) -> None:
    with FakeOpenAI(conversations=False) as fake:
        served = await serve(Agent(name="a"), options=server_mode(fake))
        first = await served.run("one")
        again = await served.run("two", to=first.result.conversation_id)
        await served.run("three")
        assert again.result.output == "echo 2: two"
        assert fake.count("/conversations") == 1
        row = await conversation_row(served, first.result.conversation_id)
        assert row.provider_conversation_id is None
        assert row.sdk_session_id == f"acme:{first.result.conversation_id}"
        assert not any("conversation" in (request.body or {}) for request in fake.requests)


@pytest.mark.parametrize("status", [401, 429, 500, 503])
async def test_an_endpoint_that_fails_to_create_one_writes_nothing(serve: Any, fake: FakeOpenAI, status: int) -> None:
    served = await serve(Agent(name="a"), options=server_mode(fake))
    fake.fail_next(status, path="/conversations")
    with pytest.raises(ProviderError):
        await served.start("hi")
    assert await written(served) == [0, 0, 0]
    assert (await served.run("hi")).result.output == "echo 1: hi"


async def test_local_mode_asks_for_no_conversation(serve: Any, fake: FakeOpenAI) -> None:
    served = await serve(Agent(name="a"), options=endpoint(fake))
    await served.run("hi")
    assert fake.count("/conversations") == 0


async def test_calls_that_a_failed_run_left_open_are_answered_by_the_next(serve: Any, fake: FakeOpenAI) -> None:
    """The provider refuses to go on while a call of its conversation is open; the run after closes it."""
    gate = Gate()

    @function_tool
    async def wait() -> str:
        """Wait."""
        await gate.stop()
        return "never"

    served = await serve(Agent(name="a", tools=[wait, double]), options=server_mode(fake))
    fake.script([[Call("double", {"number": 1}, "call_1"), Call("wait", {}, "call_2")]])
    handle = await served.start("go")
    await asyncio.wait_for(gate.reached.wait(), 5)
    async with aclosing(handle.events(0)) as batches:  # the other tool has ended
        async for batch in batches:
            if any(isinstance(one.event, ToolOutput) for one in batch.events):
                break
    await served.runs.cancel(CALLER, handle.run_id)
    ran = await served.ended(handle)
    assert ran.result.status is RunStatus.CANCELLED
    assert ran.kinds == ["user", *["function_call"] * 2, *["function_call_output"] * 2]

    fake.fail_next(500, path="/responses")  # in vain once more
    lost = await served.run("are you there?", to=ran.result.conversation_id)
    assert lost.result.status is RunStatus.FAILED
    after = await served.run("hello?", to=ran.result.conversation_id)
    assert after.result.status is RunStatus.COMPLETED, after.result.error
    sent = fake.requests[-1].body["input"]
    assert kinds(sent) == ["function_call_output", "function_call_output", "user", "user"]
    assert [item.get("output") for item in sent[:2]] == ["2", INTERRUPTED_OUTPUT]
    assert kinds(after.result.items) == ["user", "assistant"]
    (conversation,) = fake.conversation_ids
    assert kinds(fake.conversation_items(conversation)) == kinds(await served.history(ran.result.conversation_id))


async def test_the_second_turn_fails_and_the_conversation_goes_on(serve: Any, fake: FakeOpenAI) -> None:
    @function_tool
    def breaking() -> str:
        """Break the endpoint."""
        fake.fail_next(503)
        return "broken"

    served = await serve(Agent(name="a", tools=[breaking, double]), options=server_mode(fake))
    fake.script([Call("double", {"number": 1}, "call_1"), Call("breaking", {}, "call_2")])
    ran = await served.run("go", stream=True)
    assert ran.result.status is RunStatus.FAILED
    assert ran.kinds == ["user", *["function_call", "function_call_output"] * 2]
    after = await served.run("next", to=ran.result.conversation_id)
    assert after.result.output == "echo 2: next", after.result.error
    assert kinds(fake.requests[-1].body["input"]) == ["function_call_output", "user"]


async def test_a_tool_s_output_as_the_answer_is_delivered_with_the_next_input(serve: Any, fake: FakeOpenAI) -> None:
    agent = Agent(name="a", tools=[double], tool_use_behavior="stop_on_first_tool")
    served = await serve(agent, options=server_mode(fake))
    fake.script([Call("double", {"number": 4}, "call_1"), "fine"])
    first = await served.run("go")
    assert first.result.output in (8, "8")
    second = await served.run("thanks", to=first.result.conversation_id)
    assert second.result.output == "fine", second.result.error
