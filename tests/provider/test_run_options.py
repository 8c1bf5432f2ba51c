"""What one run may set for itself, and what the model then saw."""

import dataclasses
import json
from typing import Any

import pytest
from agents import Agent, ModelSettings, RunContextWrapper, function_tool
from agents.testing import ScriptedModel, assistant_message, function_call

from app.domain.errors import InvalidInput
from app.domain.models.agents import AgentSpec, HandoffSpec
from app.domain.models.runs import RunStatus
from app.infrastructure.providers.openai.context import RunContext, current_run
from tests.fakes.openai import Call, FakeOpenAI
from tests.provider.serving import endpoint, kinds


async def test_the_model_of_a_run_wins_over_every_agent_s(serve: Any, fake: FakeOpenAI) -> None:
    inner = Agent(name="inner", model=ScriptedModel())
    front = Agent(name="front", model="gpt-4.1-mini", tools=[inner.as_tool("ask", "Ask.")])
    served = await serve(front, options=endpoint(fake))
    fake.script([Call("ask", {"input": "?"}, "call_1"), "inner says", "done"])
    ran = await served.run("go", model="gpt-4.1")
    assert ran.result.output == "done", ran.result.error
    assert [request.body["model"] for request in fake.requests] == ["gpt-4.1"] * 3
    assert {call.model for call in ran.result.calls} == {"gpt-4.1"}


async def test_model_settings(serve: Any, fake: FakeOpenAI) -> None:
    agent = Agent(name="a", model_settings=ModelSettings(temperature=0.9, top_p=0.5))
    served = await serve(agent, options=endpoint(fake))
    await served.run("go", model_settings={"temperature": 0.1, "reasoning": {"effort": "low"}})
    body = fake.requests[-1].body
    assert (body["temperature"], body["top_p"]) == (0.1, 0.5)
    assert body["reasoning"] == {"effort": "low"}


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        ({"temprature": 1}, "model_settings.temprature"),
        ({"temperature": "warm"}, "model_settings"),
        ({"x" * 200: 1}, f"model_settings.{'x' * 80}"),
    ],
)
async def test_model_settings_that_are_none(serve: Any, settings: dict[str, Any], param: str) -> None:
    model = ScriptedModel()
    served = await serve(Agent(name="a", model=model))
    with pytest.raises(InvalidInput) as caught:
        await served.start("go", model_settings=settings)
    assert caught.value.param == param
    assert model.calls == ()


async def test_an_unknown_handoff_history(serve: Any) -> None:
    served = await serve(Agent(name="a", model=ScriptedModel()))
    with pytest.raises(InvalidInput) as caught:
        await served.start("go", handoff_history="some")
    assert caught.value.param == "handoff_history"


async def test_an_output_schema_that_is_none(serve: Any) -> None:
    served = await serve(Agent(name="a", model=ScriptedModel()))
    with pytest.raises(InvalidInput) as caught:
        await served.start("go", output_schema={"type": "thing"})
    assert caught.value.param == "output_schema"


@pytest.mark.parametrize(
    "options", [{"max_turns": 0}, {"timeout_s": 0}, {"history_items": -1}, {"metadata": {"a": object()}}]
)
async def test_values_out_of_range_are_refused_at_once(serve: Any, options: dict[str, Any]) -> None:
    served = await serve(Agent(name="a", model=ScriptedModel()))
    with pytest.raises(InvalidInput) as caught:
        await served.start("go", **options)
    assert caught.value.param == next(iter(options))


async def test_variables_reach_prompts_and_tools(serve: Any, fake: FakeOpenAI) -> None:
    seen: list[Any] = []

    def look(context: RunContextWrapper[RunContext], thing: str) -> str:
        """Look at a thing.

        Args:
            thing: what to look at.
        """
        run = current_run()
        assert run is context.context
        seen.append((run.variables["city"], run.metadata, run.caller.user_id, run.agent, thing))
        return "seen"

    spec = AgentSpec(
        key="guide",
        description="Guides.",
        instructions="You know {{ city }}.",
        run_variables=("city",),
        tools=[look],
    )
    served = await serve(spec, options=endpoint(fake))
    fake.script([Call("look", {"thing": "tower"}, "call_1"), "done"])
    ran = await served.run("go", variables={"city": "Oslo"}, metadata={"order": "secret-metadata"})
    assert ran.result.output == "done", ran.result.error
    assert fake.requests[0].body["instructions"] == "You know Oslo."
    assert seen == [("Oslo", {"order": "secret-metadata"}, "ada", "guide", "tower")]
    assert current_run() is None


@pytest.mark.parametrize("api", ["responses", "chat_completions"])
@pytest.mark.parametrize("mode", ["local", "server"])
@pytest.mark.parametrize("stream", [False, True])
async def test_metadata_is_in_no_request(serve: Any, fake: FakeOpenAI, api: str, mode: str, stream: bool) -> None:
    if (api, mode) == ("chat_completions", "server"):
        mode = "local"
    served = await serve(Agent(name="a"), options=endpoint(fake, api=api, session_mode=mode))
    ran = await served.run(
        "go", metadata={"order": "secret-metadata"}, variables={"name": "secret-variable"}, stream=stream
    )
    assert ran.result.status is RunStatus.COMPLETED
    for request in fake.requests:
        sent = json.dumps(request.body) + json.dumps(dict(request.headers)) + json.dumps(dict(request.query))
        assert "secret" not in sent
        assert "acme" not in sent


@dataclasses.dataclass
class Mine:
    """The context type of the caller's own agents."""

    user: str | None
    city: str


async def test_a_context_factory(serve: Any) -> None:
    @function_tool
    def who(context: RunContextWrapper[Mine]) -> str:
        """Say who."""
        return f"{context.context.user} in {context.context.city}"

    def instructions(context: RunContextWrapper[Mine], _agent: Any) -> str:
        return f"Greet {context.context.user}."

    model = ScriptedModel([[function_call("who", {}, call_id="call_1")], [assistant_message("ok")]])
    agent: Agent[Mine] = Agent(name="a", model=model, tools=[who], instructions=instructions)

    def factory(run: RunContext) -> Mine:
        return Mine(run.caller.user_id, run.variables["city"])

    served = await serve(agent, context_factory=factory)
    ran = await served.run("go", variables={"city": "Oslo"})
    assert ran.result.tool_calls[0].output == "ada in Oslo"
    assert model.first_call.system_instructions == "Greet ada."


@pytest.mark.parametrize(
    ("history", "shown"),
    [
        ("full", ["user", "assistant", "user", "function_call", "function_call_output"]),
        ("fresh", ["user"]),
        ("last_turn", ["user", "function_call", "function_call_output"]),
        ("remove_all_tools", ["user", "assistant", "user"]),
    ],
)
async def test_what_the_next_agent_sees_after_a_handoff(serve: Any, history: Any, shown: list[str]) -> None:
    models = {
        "front": ScriptedModel(
            [[assistant_message("before")], [function_call("transfer_to_back", {}, call_id="call_1")]]
        ),
        "back": ScriptedModel([[assistant_message("from the back")]]),
    }
    back = Agent(name="back", model=models["back"])
    served = await serve(Agent(name="front", model=models["front"], handoffs=[back]))
    first = await served.run("one")
    ran = await served.run("two", to=first.result.conversation_id, handoff_history=history)
    assert ran.result.output == "from the back", ran.result.error
    assert kinds(models["back"].last_call.input) == shown
    # The filter changes what is seen, not what is kept.
    assert ran.kinds == ["user", "function_call", "function_call_output", "assistant"]


async def test_a_declared_handoff_s_own_history_wins(serve: Any, fake: FakeOpenAI) -> None:
    specs = [
        AgentSpec(
            key="front", description="f", instructions="x", handoffs=[HandoffSpec("back", "fresh")], default=True
        ),
        AgentSpec(key="back", description="b", instructions="y"),
    ]
    served = await serve(*specs, options=endpoint(fake))
    fake.script(["one", Call("transfer_to_back", {}, "call_1"), "two"])
    first = await served.run("first")
    await served.run("second", to=first.result.conversation_id, handoff_history="full")
    assert [item["content"] for item in fake.requests[-1].body["input"]] == ["second"]


@pytest.mark.parametrize(("window", "seen"), [(0, 1), (2, 2), (3, 4), (100, 9)])
@pytest.mark.parametrize("stream", [False, True])
async def test_the_window_of_the_history(serve: Any, fake: FakeOpenAI, window: int, seen: int, stream: bool) -> None:
    """Two runs with a tool each: four items each. A pair is shown whole or not at all."""

    @function_tool
    def double(number: int) -> int:
        """Double."""
        return 2 * number

    served = await serve(Agent(name="a", tools=[double]), options=endpoint(fake))
    first = await served.run('call:double {"number": 1}')
    await served.run('call:double {"number": 2}', to=first.result.conversation_id)
    ran = await served.run("and?", to=first.result.conversation_id, history_items=window, stream=stream)
    assert ran.result.status is RunStatus.COMPLETED, ran.result.error
    sent = fake.requests[-1].body["input"]
    assert len(sent) == seen, kinds(sent)
    assert kinds(sent).count("function_call") == kinds(sent).count("function_call_output")


async def test_the_agent_and_an_unknown_one(serve: Any) -> None:
    one = Agent(name="One", model=ScriptedModel([[assistant_message("1")]]))
    two = Agent(name="two", model=ScriptedModel([[assistant_message("2")]]))
    served = await serve(one, two)
    assert (await served.run("go", agent="two")).result.output == "2"
    ran = await served.run("go")
    assert (ran.result.output, ran.result.agent) == ("1", "one")
