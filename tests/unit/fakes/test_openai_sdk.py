"""The Agents SDK's own models and sessions work against the fake, plain and streamed."""

from __future__ import annotations

from typing import Any

import pytest
from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIConversationsSession,
    OpenAIResponsesModel,
    Runner,
    SQLiteSession,
    function_tool,
)
from openai import AsyncOpenAI
from openai.types.shared import Reasoning as ReasoningSetting
from pydantic import BaseModel

from tests.fakes.openai import FakeOpenAI

CALLS = 'call:add {"a": 1, "b": 2} call:add {"a": 3, "b": 4}'


class Verdict(BaseModel):
    """A structured output with a nullable field."""

    text: str
    score: int | None


@function_tool
def add(a: int, b: int) -> str:
    """Add two numbers."""
    return f"sum {a + b}"


@pytest.fixture(params=[OpenAIResponsesModel, OpenAIChatCompletionsModel])
def model(request: pytest.FixtureRequest, client: AsyncOpenAI) -> Any:
    return request.param("gpt-4.1", client)


async def run(agent: Agent[Any], text: str, *, streamed: bool, **options: Any) -> Any:
    if not streamed:
        return await Runner.run(agent, text, **options)
    result = Runner.run_streamed(agent, text, **options)
    async for _ in result.stream_events():
        pass
    return result


@pytest.mark.parametrize("streamed", [False, True])
async def test_tools_memory_and_usage(model: Any, streamed: bool) -> None:
    # Without the setting the SDK asks for no usage of a streamed chat completion, unless the host is api.openai.com.
    settings = ModelSettings(include_usage=True)
    agent = Agent(name="a", model=model, instructions="be kind", tools=[add], model_settings=settings)
    session = SQLiteSession("s")
    try:
        called = await run(agent, CALLS, streamed=streamed, session=session)
        second = await run(agent, "again", streamed=streamed, session=session)
    finally:
        session.close()

    assert called.final_output == "sum 3\nsum 7"
    assert second.final_output == "echo 2: again"
    usage = called.context_wrapper.usage
    assert usage.requests == 2
    # First call: 2 words of instructions, 10 of input. Second: both calls (5 each) cached too, outputs (2 each) new.
    assert (usage.input_tokens, usage.output_tokens) == (12 + 26, 10 + 4)
    assert usage.input_tokens_details.cached_tokens == 22


@pytest.mark.parametrize("streamed", [False, True])
async def test_structured_output(model: Any, streamed: bool) -> None:
    agent = Agent(name="a", model=model, output_type=Verdict)
    result = await run(agent, "hey", streamed=streamed)

    assert result.final_output == Verdict(text="echo 1: hey", score=None)


async def test_handoff(model: Any) -> None:
    other = Agent(name="other", model=model)
    agent = Agent(name="first", model=model, handoffs=[other])
    result = await Runner.run(agent, "call:transfer_to_other {}")

    assert result.last_agent is other


@pytest.mark.parametrize("streamed", [False, True])
async def test_conversations_session_with_reasoning(fake: FakeOpenAI, client: AsyncOpenAI, streamed: bool) -> None:
    settings = ModelSettings(reasoning=ReasoningSetting(effort="low", summary="auto"))
    agent = Agent(name="a", model=OpenAIResponsesModel("gpt-5", client), tools=[add], model_settings=settings)
    session = OpenAIConversationsSession(openai_client=client)
    texts = [(await run(agent, t, streamed=streamed, session=session)).final_output for t in ("hi", CALLS, "bye")]

    assert texts == ["echo 1: hi", "sum 3\nsum 7", "echo 3: bye"]
    (conversation_id,) = fake.conversation_ids
    assert session.session_id == conversation_id
    stored = fake.conversation_items(conversation_id)
    assert [item["id"] for item in stored] == [item["id"] for item in await session.get_items()]  # type: ignore[typeddict-item]
    popped = await session.pop_item()
    assert popped is not None and popped["content"][0]["text"] == "echo 3: bye"  # type: ignore[index, typeddict-item]
    await session.clear_session()
    assert fake.conversation_ids == []


async def test_conversations_session_of_many_items_is_paged(fake: FakeOpenAI, client: AsyncOpenAI) -> None:
    session = OpenAIConversationsSession(openai_client=client)
    await session.add_items([{"role": "user", "content": str(number)} for number in range(45)])

    assert [item["content"][0]["text"] for item in await session.get_items()] == [str(n) for n in range(45)]  # type: ignore[typeddict-item, index]
    assert [item["content"][0]["text"] for item in await session.get_items(2)] == ["43", "44"]  # type: ignore[typeddict-item, index]
    items_path = f"/conversations/{session.session_id}/items"
    assert (fake.count(items_path, method="POST"), fake.count(items_path, method="GET")) == (3, 4)


@pytest.mark.parametrize("streamed", [False, True])
async def test_server_side_conversation(fake: FakeOpenAI, client: AsyncOpenAI, streamed: bool) -> None:
    agent = Agent(name="a", model=OpenAIResponsesModel("gpt-4.1", client), tools=[add])
    conversation = await client.conversations.create()
    for text, answer in (("hi", "echo 1: hi"), (CALLS, "sum 3\nsum 7"), ("bye", "echo 3: bye")):
        result = await run(agent, text, streamed=streamed, conversation_id=conversation.id)
        assert result.final_output == answer

    kinds = [item["type"] for item in fake.conversation_items(conversation.id)]
    calls, outputs = ["function_call"] * 2, ["function_call_output"] * 2
    assert kinds == ["message"] * 3 + calls + outputs + ["message"] * 3


@pytest.mark.parametrize("streamed", [False, True])
async def test_previous_response(client: AsyncOpenAI, streamed: bool) -> None:
    agent = Agent(name="a", model=OpenAIResponsesModel("gpt-4.1", client), tools=[add])
    previous: str | None = None
    answers: list[str] = []
    for text in ("hi", CALLS, "bye"):
        result = await run(agent, text, streamed=streamed, previous_response_id=previous)
        previous = result.last_response_id
        answers.append(result.final_output)

    assert answers == ["echo 1: hi", "sum 3\nsum 7", "echo 3: bye"]
