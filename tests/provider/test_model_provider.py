"""A model provider of the caller's own: it makes the models that agents and runs name, and they are recorded."""

from typing import Any

import pytest
from agents import Agent, Model, ModelProvider
from agents.testing import ModelStep, ScriptedModel, assistant_message
from agents.usage import Usage

from app.infrastructure.providers.openai.endpoint import EndpointOptions, build_models
from app.infrastructure.providers.openai.provider import ProviderOptions
from tests.fakes.openai import FakeOpenAI
from tests.provider.serving import endpoint


class Own(ModelProvider):
    """Makes scripted models that say their own name; tells which were asked for, and whether it was closed."""

    def __init__(self) -> None:
        self.asked: list[str | None] = []
        self.closed = False

    def get_model(self, model_name: str | None) -> Model:
        self.asked.append(model_name)
        usage = Usage(requests=1, input_tokens=3, output_tokens=2, total_tokens=5)
        return ScriptedModel([ModelStep(output=[assistant_message(f"I am {model_name}")], usage=usage)] * 9)

    async def aclose(self) -> None:
        self.closed = True


def given(own: Own, **options: Any) -> ProviderOptions:
    return ProviderOptions(endpoint=EndpointOptions(default_model="standard", **options), model_provider=own)


@pytest.mark.parametrize("stream", [False, True])
async def test_it_makes_every_model_that_has_a_name(serve: Any, stream: bool) -> None:
    own = Own()
    served = await serve(
        Agent(name="named", model="special"), Agent(name="plain"), Agent(name="other"), options=given(own)
    )
    for agent, options, model in (
        ("named", {}, "special"),
        ("plain", {}, "standard"),
        ("other", {"model": "chosen"}, "chosen"),
    ):
        ran = await served.run("who?", agent=agent, stream=stream, **options)
        assert ran.result.output == f"I am {model}"
        ((used,), (row,)) = ran.result.calls, await served.usage_rows(ran.result.run_id)
        assert (used.model, used.tokens.total_tokens, row.model) == (model, 5, model)
    assert own.asked == ["special", "standard", "chosen"]


async def test_a_model_object_of_an_agent_is_still_its_own(serve: Any) -> None:
    own = Own()
    served = await serve(Agent(name="a", model=ScriptedModel([[assistant_message("mine")]])), options=given(own))
    assert (await served.run("who?")).result.output == "mine"
    assert own.asked == []


async def test_runs_inside_of_tools_use_it_too(serve: Any) -> None:
    from agents.testing import function_call

    own = Own()
    inner = Agent(name="inner", model="deep")
    outer = Agent(
        name="outer",
        model=ScriptedModel([[function_call("ask", {"input": "?"}, call_id="c1")], [assistant_message("done")]]),
        tools=[inner.as_tool("ask", "Ask.")],
    )
    served = await serve(outer, options=given(own))
    ran = await served.run("go")
    assert ran.result.tool_calls[0].output == "I am deep"
    assert {one.step: one.model for one in ran.result.calls}["/t:c1/m1"] == "deep"


async def test_it_is_no_demo_and_stays_open() -> None:
    own = Own()
    models = build_models(EndpointOptions(default_model="standard"), None, own)
    assert (models.name, models.client, models.default_model) == ("openai", None, "standard")
    await models.provider.aclose()
    assert not own.closed


async def test_an_endpoint_next_to_it_keeps_conversations_only(serve: Any, fake: FakeOpenAI) -> None:
    own = Own()
    options = endpoint(fake)
    models = build_models(options.endpoint, None, own)
    assert models.client is not None
    await models.provider.aclose()
    assert models.client.is_closed()
    served = await serve(Agent(name="a"), options=ProviderOptions(endpoint=options.endpoint, model_provider=own))
    assert (await served.run("who?")).result.output == "I am gpt-4.1-mini"
    assert fake.requests == []
