"""The Agents SDK as a client: its chat model calls agents of ours, and its Runner executes tools of its own."""

from collections.abc import Callable
from typing import Any

from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, RunConfig, Runner, function_tool
from agents.testing import assistant_message, function_call
from pydantic import BaseModel

from tests.api.openai.chat_clients import client_of
from tests.api.openai.response_clients import add
from tests.api.serving import Served, calls, says, scripted

Serve = Callable[..., Any]
QUIET = RunConfig(tracing_disabled=True)


class Report(BaseModel):
    """What the client's agent answers."""

    city: str
    degrees: int


@function_tool
def weather(city: str) -> str:
    """Tell the weather."""
    return f"3 degrees in {city}"


def client_agent(served: Served, **fields: Any) -> Agent[Any]:
    model = OpenAIChatCompletionsModel(model="helper", openai_client=client_of(served))
    return Agent(name="client", instructions="Ask.", model=model, model_settings=ModelSettings(), **fields)


def steps(*last: Any) -> list[Any]:
    """Both sides call a tool of their own, then the last word comes."""
    return [
        calls("add", '{"a":1,"b":2}'),
        [assistant_message("I look."), function_call("weather", '{"city":"Oslo"}', call_id="c2")],
        *last,
    ]


async def test_the_runner_with_tools(serve: Serve) -> None:
    served = await serve(scripted(*steps(says("It is cold.")), tools=[add]))
    result = await Runner.run(client_agent(served, tools=[weather]), "hi", run_config=QUIET)
    assert result.final_output == "It is cold."
    assert [item.type for item in result.new_items] == [
        "message_output_item",
        "tool_call_item",
        "tool_call_output_item",
        "message_output_item",
    ]
    assert result.context_wrapper.usage.total_tokens == sum(
        row["input_tokens"] + row["output_tokens"] for row in served.rows("SELECT * FROM agent_run_usage")
    )


async def test_the_runner_streamed(serve: Serve) -> None:
    served = await serve(scripted(*steps(says("It is cold.")), tools=[add]))
    result = Runner.run_streamed(client_agent(served, tools=[weather]), "hi", run_config=QUIET)
    text = ""
    async for event in result.stream_events():
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
            text += event.data.delta
    assert result.final_output == "It is cold."
    assert text == "I look.It is cold."


async def test_the_runner_with_a_structured_output_and_a_handoff(serve: Serve) -> None:
    script = [calls("transfer_to_reporter", "{}", "h1"), says('{"city": "Oslo", "degrees": 3}')]
    served = await serve(scripted(*script))
    reporter = client_agent(served, output_type=Report)
    reporter.name = "reporter"
    result = await Runner.run(client_agent(served, handoffs=[reporter]), "hi", run_config=QUIET)
    assert result.final_output == Report(city="Oslo", degrees=3)
    assert result.last_agent is reporter
