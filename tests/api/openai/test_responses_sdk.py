"""The Agents SDK itself as a client of ours: its tools run at the client, whatever our agent does behind the model."""

from collections.abc import Callable
from typing import Any

import pytest
from agents import Agent, ModelSettings, OpenAIResponsesModel, RunConfig, Runner, function_tool
from openai import AsyncOpenAI
from pydantic import BaseModel

from tests.api.openai.response_clients import add, client_of
from tests.api.serving import calls, says, scripted

Serve = Callable[..., Any]

QUIET = RunConfig(tracing_disabled=True)


class Sum(BaseModel):
    """What the caller's agent answers."""

    total: int


@function_tool
def weather(city: str) -> str:
    """Tell the weather."""
    return f"{city}: 3 degrees"


def caller(client: AsyncOpenAI, **fields: Any) -> Agent[Any]:
    """An agent of the client, whose model is an agent of ours."""
    return Agent(name="caller", instructions="Use the tools.", model=OpenAIResponsesModel("helper", client), **fields)


async def ours(serve: Serve, *steps: Any, tools: list[Any] | None = None) -> AsyncOpenAI:
    return client_of(await serve(scripted(*steps, tools=tools)))


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("chained", [False, True])
async def test_tools_of_both_sides(serve: Serve, *, streamed: bool, chained: bool) -> None:
    steps = [calls("add", '{"a":1,"b":2}'), calls("weather", '{"city":"Oslo"}', "c2"), says("Three, and cold.")]
    agent = caller(await ours(serve, *steps, tools=[add]), tools=[weather])
    if streamed:
        run = Runner.run_streamed(agent, "go", run_config=QUIET, auto_previous_response_id=chained)
        async for _ in run.stream_events():
            pass
        result: Any = run
    else:
        result = await Runner.run(agent, "go", run_config=QUIET, auto_previous_response_id=chained)
    assert result.final_output == "Three, and cold."
    assert [item.type for item in result.new_items] == [
        "tool_call_item",  # ours, executed by us
        "tool_call_item",
        "tool_call_output_item",
        "message_output_item",
    ]
    assert result.new_items[2].output == "Oslo: 3 degrees"
    assert result.context_wrapper.usage.requests == 2
    assert result.context_wrapper.usage.input_tokens > 0


async def test_structured_output(serve: Serve) -> None:
    agent = caller(await ours(serve, says('{"total": 3}')), output_type=Sum)
    assert (await Runner.run(agent, "1+2?", run_config=QUIET)).final_output == Sum(total=3)


async def test_a_stateless_caller(serve: Serve) -> None:
    client = await ours(serve, calls("weather", '{"city":"Oslo"}'), says("Cold."), says("Still cold."))
    settings = ModelSettings(store=False, response_include=["reasoning.encrypted_content"], parallel_tool_calls=True)
    agent = caller(client, tools=[weather], model_settings=settings)
    first = await Runner.run(agent, "go", run_config=QUIET)
    again = [*first.to_input_list(), {"role": "user", "content": "and now?"}]
    assert (await Runner.run(agent, again, run_config=QUIET)).final_output == "Still cold."


async def test_handoffs_between_the_callers_agents(serve: Serve) -> None:
    client = await ours(serve, calls("transfer_to_second"), says("Second here."))
    second = Agent(name="second", model=OpenAIResponsesModel("helper", client))
    result = await Runner.run(caller(client, handoffs=[second]), "go", run_config=QUIET)
    assert (result.final_output, result.last_agent) == ("Second here.", second)
