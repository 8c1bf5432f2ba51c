"""The demo model: what a whole installation does before there is a key."""

from typing import Any

import pytest
from openai import AsyncOpenAI

from app.domain.models.agents import AgentSpec, HandoffSpec
from app.domain.models.approvals import Decision
from app.domain.models.runs import RunStatus
from app.infrastructure.providers.openai.demo_model import DEMO_NOTICE
from app.infrastructure.providers.openai.endpoint import EndpointOptions, build_models
from app.infrastructure.providers.openai.provider import ProviderOptions
from app.tools.get_weather import get_weather
from app.tools.send_postcard import send_postcard
from tests.provider.serving import CALLER

QUICK = ProviderOptions(endpoint=EndpointOptions(demo_delay_ms=0))


def agents() -> list[AgentSpec]:
    return [
        AgentSpec(
            key="demo-host",
            description="Hosts.",
            instructions="Help.",
            tools=["get_weather"],
            handoffs=[HandoffSpec("poet")],
            default=True,
        ),
        AgentSpec(key="poet", description="Writes poems.", instructions="Rhyme.", model="gpt-5"),
    ]


@pytest.mark.parametrize("stream", [False, True])
async def test_what_it_answers(serve: Any, stream: bool) -> None:
    served = await serve(*agents(), options=QUICK, tools={"get_weather": get_weather})
    assert served.provider.name == "demo"
    assert [agent.model for agent in served.provider.agents()] == ["demo", "gpt-5"]

    hello = await served.run("hello", stream=stream)
    assert hello.result.output == f"You said: hello (message 1 of this conversation). {DEMO_NOTICE}"
    thread = hello.result.conversation_id
    weather = await served.run("What is the weather in Oslo?", to=thread, stream=stream)
    (call,) = weather.result.tool_calls
    assert (call.name, call.arguments) == ("get_weather", '{"city": "Oslo"}')
    assert call.output in weather.result.output
    poem = await served.run("Write a poem", to=thread, stream=stream)
    assert poem.result.agent == "poet"
    assert "Roses are red" in poem.result.output
    assert "| Paris | cloudy | 14 |" in (await served.run("show a table", to=thread)).result.output
    remembered = await served.run("what did I say before?", to=thread, stream=stream)
    assert remembered.result.output.startswith("Earlier you said: hello / What is the weather")
    calls = [*hello.result.calls, *weather.result.calls, *poem.result.calls]
    assert {one.model for one in calls} == {"demo"}
    assert {row.model for row in await served.usage_rows(poem.result.run_id)} == {"demo"}
    assert all(one.price is None and one.tokens.total_tokens > 0 for one in calls)


async def test_it_is_deterministic_and_streams_what_it_says(serve: Any) -> None:
    served = await serve(*agents(), options=QUICK, tools={"get_weather": get_weather})
    plain = await served.run("hello again")
    streamed = await served.run("hello again", stream=True)
    assert plain.result.output == streamed.result.output
    assert plain.result.usage == streamed.result.usage
    assert plain.result.response_ids == streamed.result.response_ids
    assert "".join(event.delta for event in streamed.events if event.type == "text.delta") == plain.result.output


async def test_a_structured_answer_follows_any_schema(serve: Any) -> None:
    node = {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "when": {"type": "string", "format": "date-time"},
            "kind": {"enum": ["a", "b"]},
            "fixed": {"const": 7},
            "size": {"type": "integer", "minimum": 3},
            "next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]},
            "children": {"type": "array", "items": {"$ref": "#/$defs/Node"}},
        },
        "required": ["name", "when", "kind", "fixed", "size", "next", "children"],
        "additionalProperties": False,
    }
    schema = {"$defs": {"Node": node}, "$ref": "#/$defs/Node"}
    served = await serve(*agents(), options=QUICK, tools={"get_weather": get_weather})
    ran = await served.run("go", output_schema=schema)
    assert ran.result.output == {
        "name": "demo",
        "when": "2026-01-01T00:00:00Z",
        "kind": "a",
        "fixed": 7,
        "size": 3,
        "next": None,
        "children": [],
    }


@pytest.mark.parametrize(
    ("options", "client", "name"),
    [
        ({}, False, "demo"),
        ({"api_key": "sk-x"}, False, "openai"),
        ({"base_url": "http://127.0.0.1:9/v1"}, False, "openai"),
        ({}, True, "openai"),
    ],
)
async def test_it_never_stands_in_for_a_real_endpoint(options: dict[str, Any], client: bool, name: str) -> None:
    given = AsyncOpenAI(api_key="sk-y") if client else None
    models = build_models(EndpointOptions(**options), given)
    assert models.name == name
    assert (models.client is None) is (name == "demo")
    if models.client is not None:
        await models.client.close()


async def test_server_mode_changes_nothing(serve: Any) -> None:
    options = ProviderOptions(endpoint=EndpointOptions(demo_delay_ms=0), session_mode="server")
    served = await serve(*agents(), options=options, tools={"get_weather": get_weather})
    assert await served.provider.create_conversation() is None
    assert (await served.run("hello")).result.output.startswith("You said: hello")


async def test_it_asks_for_approval(serve: Any) -> None:
    spec = AgentSpec(key="demo", description="Sends.", instructions="Help.", tools=["send_postcard"], default=True)
    served = await serve(spec, options=QUICK, tools={"send_postcard": send_postcard})
    asked = (await served.run("Please send a postcard from Oslo!")).result
    (request,) = asked.approvals
    assert (asked.status, request.tool, request.arguments) == (RunStatus.WAITING, "send_postcard", '{"city": "Oslo"}')
    await served.runs.decide(CALLER, asked.run_id, [Decision(call_id=request.call_id, approve=True)])
    done = await served.runs.result(CALLER, asked.run_id)
    assert "Postcard from Oslo is on its way" in done.output
