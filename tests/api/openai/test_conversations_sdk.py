"""The Agents SDK's own session over our conversations."""

from collections.abc import Callable
from typing import Any

import pytest
from agents import Agent, ModelSettings, OpenAIConversationsSession, RunConfig, Runner
from agents.testing import ScriptedModel
from openai import APIStatusError, AsyncOpenAI

from tests.api.openai.response_clients import add, client_of
from tests.api.serving import Served, calls, says, scripted

Serve = Callable[..., Any]

QUIET = RunConfig(tracing_disabled=True)


@pytest.fixture
def client(demo: Served) -> AsyncOpenAI:
    return client_of(demo)


def texts(items: list[Any]) -> list[str]:
    return [item["content"][0]["text"] for item in items if item["type"] == "message"]


async def test_items_one_by_one(client: AsyncOpenAI) -> None:
    session = OpenAIConversationsSession(openai_client=client)
    assert await session.get_items() == []
    assert await session.pop_item() is None
    await session.add_items([{"role": "user", "content": str(number)} for number in range(45)])
    assert texts(await session.get_items()) == [str(number) for number in range(45)]
    assert texts(await session.get_items(limit=2)) == ["43", "44"]
    popped: Any = await session.pop_item()
    assert texts([popped]) == ["44"]
    assert len(await session.get_items()) == 44
    known = session.session_id
    again = OpenAIConversationsSession(conversation_id=known, openai_client=client)
    assert texts(await again.get_items(limit=1)) == ["43"]
    await session.clear_session()
    with pytest.raises(APIStatusError) as caught:
        await again.get_items()
    assert caught.value.status_code == 404


@pytest.mark.parametrize("streamed", [False, True])
async def test_runs_of_a_client_keep_their_history_here(demo: Served, client: AsyncOpenAI, *, streamed: bool) -> None:
    model = ScriptedModel([calls("add", '{"a":1,"b":2}'), says("Three."), says("As I said, three.")])
    agent = Agent(name="caller", model=model, tools=[add])
    session = OpenAIConversationsSession(openai_client=client)
    for question, answer in [("1+2?", "Three."), ("Sure?", "As I said, three.")]:
        if streamed:
            run: Any = Runner.run_streamed(agent, question, session=session, run_config=QUIET)
            async for _ in run.stream_events():
                pass
        else:
            run = await Runner.run(agent, question, session=session, run_config=QUIET)
        assert run.final_output == answer
    items: list[Any] = await session.get_items()
    kinds = ["message", "function_call", "function_call_output", "message", "message", "message"]
    assert [item["type"] for item in items] == kinds
    assert items[2]["output"] == "3"
    # What the model saw the second time is what we kept.
    assert [item.get("type") for item in model.calls[-1].input[:4]] == kinds[:4]
    rows = demo.rows("SELECT role, text FROM agent_messages ORDER BY position")
    assert [(row["role"], row["text"]) for row in rows] == [
        ("user", "1+2?"),
        ("assistant", "Three."),
        ("user", "Sure?"),
        ("assistant", "As I said, three."),
    ]


async def test_an_agent_of_ours_goes_on_where_a_client_stopped(serve: Serve) -> None:
    client = client_of(await serve(scripted(says("Yes, Oslo."))))
    session = OpenAIConversationsSession(openai_client=client)
    own = Agent(name="caller", model=ScriptedModel([says("Oslo.")]), model_settings=ModelSettings(store=False))
    await Runner.run(own, "Which city?", session=session, run_config=QUIET)
    await client.responses.create(model="helper", input="Sure?", conversation=session.session_id)
    assert texts(await session.get_items()) == ["Which city?", "Oslo.", "Sure?", "Yes, Oslo."]
