"""The Agents SDK as a client of a running server: both model classes, the Runner, and the SDK's own session.

    python sdk_client.py            with BASE_URL and API_KEY; needs openai-agents, and nothing of this project

The server has the demo agents over the fake OpenAI, whose model answers `echo N: TEXT` and calls `NAME` where the text
holds `call:NAME {json}`. Agents here run in this process; their model is an agent of the server, or an upstream model.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

from agents import (
    Agent,
    Model,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIConversationsSession,
    OpenAIResponsesModel,
    RunConfig,
    Runner,
    function_tool,
)
from openai import AsyncOpenAI
from pydantic import BaseModel

CLIENT = AsyncOpenAI(
    base_url=os.environ["BASE_URL"] + "/v1",
    api_key=os.environ["API_KEY"],
    max_retries=0,
    _strict_response_validation=True,
)
QUIET = RunConfig(tracing_disabled=True)
MODELS = ("poet", "demo", "gpt-4.1-mini")
CLASSES = (OpenAIResponsesModel, OpenAIChatCompletionsModel)


class City(BaseModel):
    """A city."""

    name: str
    country: str


@function_tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def agent_of(model: Model, name: str = "caller", **fields: Any) -> Agent[Any]:
    """An agent that runs here."""
    # The SDK asks for the usage of streamed chats by itself at OpenAI only.
    settings = fields.pop("model_settings", ModelSettings()).resolve(ModelSettings(include_usage=True))
    return Agent(name=name, instructions="Be brief.", model=model, model_settings=settings, **fields)


async def ran(model: Model) -> None:
    """A plain run, with its usage."""
    result = await Runner.run(agent_of(model), "hello", run_config=QUIET)
    assert result.final_output == "echo 1: hello", result
    assert result.context_wrapper.usage.requests == 1
    assert result.context_wrapper.usage.output_tokens > 0, result.context_wrapper.usage


async def ran_streamed(model: Model) -> None:
    """A streamed run: the text in parts, then the whole."""
    result = Runner.run_streamed(agent_of(model), "a few words", run_config=QUIET)
    deltas = [
        event.data.delta
        async for event in result.stream_events()
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
    ]
    assert "".join(deltas) == result.final_output == "echo 1: a few words", (deltas, result)
    assert result.context_wrapper.usage.output_tokens > 0, result.context_wrapper.usage


async def called(model: Model) -> None:
    """A tool of the caller, plain and streamed."""
    agent = agent_of(model, tools=[add])
    asked = 'call:add {"a": 2, "b": 3}'
    result = await Runner.run(agent, asked, run_config=QUIET)
    assert result.final_output == "5", result
    kinds = [item.type for item in result.new_items]
    assert kinds == ["tool_call_item", "tool_call_output_item", "message_output_item"], kinds
    streamed = Runner.run_streamed(agent, asked, run_config=QUIET)
    async for _ in streamed.stream_events():
        pass
    assert streamed.final_output == "5", streamed


async def handed_over(model: Model) -> None:
    """A handoff between two agents of the caller."""
    clerk = agent_of(model, "clerk", handoff_description="Files things.")
    result = await Runner.run(agent_of(model, handoffs=[clerk]), "call:transfer_to_clerk", run_config=QUIET)
    assert result.last_agent is clerk, result


async def structured(model: Model) -> None:
    """An answer in the form of a class, also after a tool call."""
    result = await Runner.run(agent_of(model, output_type=City, tools=[add]), "Lisbon", run_config=QUIET)
    assert isinstance(result.final_output, City), result
    asked = 'call:add {"a": 2, "b": 3}'
    result = await Runner.run(agent_of(model, output_type=City, tools=[add]), asked, run_config=QUIET)
    assert isinstance(result.final_output, City), result


async def remembered(model: Model) -> None:
    """A history that the SDK's session keeps in our conversations."""
    session = OpenAIConversationsSession(openai_client=CLIENT)
    agent = agent_of(model, tools=[add])
    await Runner.run(agent, 'call:add {"a": 2, "b": 3}', session=session, run_config=QUIET)
    result = await Runner.run(agent, "two", session=session, run_config=QUIET)
    assert result.final_output == "echo 2: two", result
    kinds = [item.get("type") for item in await session.get_items()]
    assert kinds == ["message", "function_call", "function_call_output", "message", "message", "message"], kinds
    again = OpenAIConversationsSession(conversation_id=session.session_id, openai_client=CLIENT)
    popped = await again.pop_item()
    assert popped is not None
    assert popped.get("role") == "assistant", popped
    assert len(await session.get_items()) == 5
    await session.clear_session()


async def chained(model: Model) -> None:
    """A history that the server keeps: by `previous_response_id`, through a tool call, and by `conversation`."""
    agent = agent_of(model, tools=[add])
    first = await Runner.run(agent, 'call:add {"a": 2, "b": 3}', auto_previous_response_id=True, run_config=QUIET)
    assert first.final_output == "5", first
    next_one = await Runner.run(agent, "two", previous_response_id=first.last_response_id, run_config=QUIET)
    assert next_one.final_output == "echo 2: two", next_one
    conversation = await CLIENT.conversations.create()
    for number, question in enumerate(("one", "two"), 1):
        result = await Runner.run(agent, question, conversation_id=conversation.id, run_config=QUIET)
        assert result.final_output == f"echo {number}: {question}", result


async def tuned(model: Model) -> None:
    """Settings of the caller's that every model takes."""
    settings = ModelSettings(temperature=0.5, top_p=0.9, max_tokens=50, metadata={"job": "7"}, tool_choice="add")
    result = await Runner.run(agent_of(model, tools=[add], model_settings=settings), "any", run_config=QUIET)
    assert any(item.type == "tool_call_item" for item in result.new_items), result


CHECKS: tuple[Callable[[Model], Awaitable[None]], ...] = (
    ran,
    ran_streamed,
    called,
    handed_over,
    structured,
    tuned,
)


async def main() -> None:
    """Check both model classes with each model."""
    for name in MODELS:
        for kind in CLASSES:
            model = kind(model=name, openai_client=CLIENT)
            checks = list(CHECKS)
            if kind is OpenAIResponsesModel:
                # The SDK's session takes the ids from messages, and then its chat model does not know them.
                checks.append(remembered)
                if not name.startswith("gpt-"):  # an upstream model knows its own conversations only
                    checks.append(chained)
            for check in checks:
                await check(model)
                print(f"ok - {name}, {kind.__name__}: {check.__name__}")


if __name__ == "__main__":
    asyncio.run(main())
