"""The registry: keys, look-up, defaults, native agents, building order."""

import dataclasses
import logging
from typing import Any

import pytest
from agents import (
    Agent,
    FunctionTool,
    GuardrailFunctionOutput,
    Handoff,
    InputGuardrail,
    ModelSettings,
    OutputGuardrail,
    Runner,
    WebSearchTool,
    function_tool,
    handoff,
)
from agents.testing import ScriptedModel, assistant_message, function_call
from pydantic import BaseModel

from app.domain.errors import ConfigurationError, LeaseLost, StorageUnavailable, UnknownAgent
from app.domain.models.agents import AgentSpec, AgentToolSpec, HandoffSpec, HostedToolSpec
from tests.unit.infrastructure.providers.openai.registry.building import Scripts, registry_of, spec


@function_tool
def lookup(number: str) -> str:
    """Look an invoice up."""
    return number


async def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: The first.
        b: The second.
    """
    return a + b


class Answer(BaseModel):
    text: str
    sure: bool


def guard(*_: Any) -> GuardrailFunctionOutput:
    return GuardrailFunctionOutput(output_info=None, tripwire_triggered=False)


def test_spec_becomes_an_sdk_agent() -> None:
    incoming, outgoing = InputGuardrail(guard, name="in"), OutputGuardrail(guard, name="out")
    registry = registry_of(
        spec(
            "billing",
            tools=(add, HostedToolSpec("web_search")),
            output_type=Answer,
            model="gpt-x",
            model_settings={"temperature": 0.2},
            input_guardrails=(incoming,),
            output_guardrails=(outgoing,),
        )
    )
    agent = registry.get("billing").agent
    assert (agent.name, agent.instructions, agent.model) == ("billing", "You are billing.", "gpt-x")
    assert agent.handoff_description == "The billing."
    assert agent.model_settings == ModelSettings(temperature=0.2)
    assert agent.output_type is Answer
    assert agent.input_guardrails == [incoming] and agent.input_guardrails[0] is incoming
    assert agent.output_guardrails[0] is outgoing
    descriptor = registry.get("billing").descriptor
    assert descriptor.tools == ("add", "web_search")
    assert descriptor.source == "spec"
    assert descriptor.output_schema is not None
    assert set(descriptor.output_schema["properties"]) == {"text", "sure"}
    assert descriptor.output_schema["additionalProperties"] is False


def test_native_agent_is_the_same_object_unchanged() -> None:
    other = Agent(name="Other")
    agent = Agent(
        name="Billing Agent",
        instructions="Bills.",
        tools=[lookup, WebSearchTool(), other.as_tool("ask_other", "Asks.")],
        handoffs=[other],
        model="gpt-x",
    )
    before = {field.name: getattr(agent, field.name) for field in dataclasses.fields(agent)}
    lists = {name: list(value) for name, value in before.items() if isinstance(value, list)}
    registry = registry_of(agent, spec("front", handoffs=(HandoffSpec("billing-agent", "fresh"),)))
    found = registry.get("billing-agent")
    assert found.agent is agent
    for name, value in before.items():
        assert getattr(agent, name) is value, name
    assert {name: list(getattr(agent, name)) for name in lists} == lists
    assert found.descriptor.source == "native"
    assert found.descriptor.tools == ("lookup", "web_search", "ask_other")
    assert found.descriptor.handoffs == ("other",)
    assert found.descriptor.description == "Billing Agent"
    with pytest.raises(UnknownAgent):  # reachable by handoff only, so not registered
        registry.get("other")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("Billing Agent", "billing-agent"),
        ("  Été & Co. ", "ete-co"),
        ("data_bot v2", "data_bot-v2"),
        ("x" * 80, "x" * 64),
    ],
)
def test_key_of_a_native_agent(name: str, key: str) -> None:
    registry = registry_of(Agent(name=name))
    assert registry.get(key).agent.name == name
    assert registry.key_of(registry.get(key).agent.clone(instructions="other")) == key
    assert registry.key_named(name) == key


def test_key_of_an_agent_that_is_not_registered() -> None:
    registry = registry_of(spec("a"))
    assert registry.key_of(Agent(name="Some One")) == "some-one"
    assert registry.key_of(Agent(name="日本")) == "agent"


def test_get_names_what_exists() -> None:
    registry = registry_of(spec("b"), spec("a"))
    with pytest.raises(UnknownAgent) as caught:
        registry.get("c")
    assert caught.value.known == ("a", "b")
    with pytest.raises(UnknownAgent):
        registry_of().get(None)


def test_default_agent() -> None:
    first, marked = spec("first"), spec("marked", default=True)
    assert registry_of(first, spec("second")).get(None).key == "first"
    assert registry_of(first, marked).get(None).key == "marked"
    assert registry_of(first, marked, default_agent="first").get(None).key == "first"
    registry = registry_of(spec("z"), spec("a"), marked)
    assert [one.key for one in registry.descriptors()] == ["marked", "a", "z"]
    assert [one.default for one in registry.descriptors()] == [True, False, False]


async def search(query: str) -> str:
    """Search."""
    return query


FAILURES: list[tuple[tuple[Any, ...], dict[str, Any], tuple[str, ...]]] = [
    ((spec("a", default=True), spec("b", default=True)), {}, ("'a'", "'b'", "default=True")),
    ((spec("a"),), {"default_agent": "b"}, ("'b' does not exist", "a")),
    ((spec("a"), spec("a")), {}, ("'a' is registered twice",)),
    ((spec("billing-agent"), Agent(name="Billing Agent")), {}, ("'billing-agent' is registered twice",)),
    ((Agent(name="A b"), Agent(name="a-B")), {}, ("'a-b' is registered twice",)),
    ((Agent(name="日本"),), {}, ("'日本'", "letter or digit")),
    ((spec("Big Key"),), {}, ("'Big Key'", "lower-case letters")),
    ((spec("x" * 65),), {}, ("1 to 64",)),
    ((spec(""),), {}, ("no key",)),
    (("helper",), {}, ("given as a str", "AgentSpec or an SDK Agent")),
    ((spec("a", model="m", model_setting="fast"),), {}, ("'a'", "both `model` and `model_setting`")),
    ((spec("a", model_setting="slow"),), {}, ("'a'", "'slow'", "APP_MODELS__SLOW", "Large, fast")),
    ((spec("a", model_settings={"temprature": 1}),), {}, ("'a'", "'temprature'", "temperature")),
    ((spec("a", model_settings={"temperature": "hot"}),), {}, ("'a'", "'temperature'", "valid number")),
    ((spec("a", model_settings={"retry": {"tries": 1}}),), {}, ("'a'", "tries")),
    ((spec("a", handoffs=(HandoffSpec("b"),)),), {}, ("'a' hands off to 'b'", "Known agents: a")),
    ((spec("a", agent_tools=(AgentToolSpec("b"),)),), {}, ("'a' uses as a tool 'b'",)),
    ((spec("a", handoffs=(HandoffSpec("a", "some"),)),), {}, ("'a'", "'some'", "full, fresh, last_turn")),  # type: ignore[arg-type]
    ((spec("a", agent_tools=(AgentToolSpec("a"),)),), {}, ("a -> a",)),
    (
        (
            spec("x", agent_tools=(AgentToolSpec("a"),)),
            spec("a", agent_tools=(AgentToolSpec("b"),)),
            spec("b", agent_tools=(AgentToolSpec("a"),)),
        ),
        {},
        ("a -> b -> a",),
    ),
    ((spec("a", input_guardrails=(guard,)),), {}, ("'a'", "`input_guardrails`", "InputGuardrail")),
    ((spec("a", output_guardrails=(guard,)),), {}, ("'a'", "`output_guardrails`", "OutputGuardrail")),
    ((spec("a", output_type=dict[str, Any]),), {}, ("'a'", "strict JSON schema")),
    ((spec("a", output_type="Answer"),), {}, ("'a' cannot be built", "output_type")),
    ((spec("a", tools=(search,), agent_tools=(AgentToolSpec("search"),)), spec("search")), {}, ("'a'", "'search'")),
    (
        (spec("a", handoffs=(HandoffSpec("b-c"), HandoffSpec("b_c"))), spec("b-c"), spec("b_c")),
        {},
        ("'a'", "transfer_to_b_c"),
    ),
]


@pytest.mark.parametrize(("sources", "options", "texts"), FAILURES)
def test_failure_names_agent_and_remedy(
    sources: tuple[Any, ...], options: dict[str, Any], texts: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        registry_of(*sources, **options)
    for text in texts:
        assert text in caught.value.public_message


def test_models() -> None:
    registry = registry_of(
        spec("fixed", model="own"),
        spec("by-setting", model_setting="FAST"),
        spec("large", model_setting="large"),
        spec("plain"),
        Agent(name="native"),
        Agent(name="native object", model=ScriptedModel()),
        Agent(name="native name", model="theirs"),
    )
    assert {one.key: one.model for one in registry.descriptors()} == {
        "fixed": "own",
        "by-setting": "small-model",
        "large": "large-model",
        "plain": "default-model",
        "native": "default-model",
        "native-object": "ScriptedModel",
        "native-name": "theirs",
    }
    named = ScriptedModel()
    named.model = "inner"  # type: ignore[attr-defined]
    assert registry_of(Agent(name="x", model=named)).get("x").descriptor.model == "inner"


def test_text_output_has_no_schema() -> None:
    assert registry_of(Agent(name="a", output_type=str)).get("a").descriptor.output_schema is None
    assert registry_of(Agent(name="a", output_type=list[int])).get("a").descriptor.output_schema is not None


def test_handoffs_may_go_in_circles() -> None:
    registry = registry_of(
        spec("a", handoffs=(HandoffSpec("b", description="Go to b."),)),
        spec("b", handoffs=(HandoffSpec("a", "fresh"),)),
    )
    a, b = registry.get("a").agent.handoffs[0], registry.get("b").agent.handoffs[0]
    assert isinstance(a, Handoff) and isinstance(b, Handoff)
    assert (a.tool_name, a.tool_description, a.input_filter) == ("transfer_to_b", "Go to b.", None)
    assert b.input_filter is not None
    assert registry.get("a").descriptor.handoffs == ("b",)
    assert registry.get("b").descriptor.handoffs == ("a",)


def test_handoff_objects_of_native_agents_are_described() -> None:
    target = Agent(name="The Target")
    registry = registry_of(Agent(name="a", handoffs=[handoff(target)]), target)
    assert registry.get("a").descriptor.handoffs == ("the-target",)


async def test_agent_tool_runs_the_agent() -> None:
    registry = registry_of(
        spec("front", agent_tools=(AgentToolSpec("math-bot", description="Does sums.", max_turns=3),), model="front"),
        spec("math-bot", model="math", tools=(add,)),
    )
    tool = registry.get("front").agent.tools[0]
    assert isinstance(tool, FunctionTool)
    assert (tool.name, tool.description) == ("math_bot", "Does sums.")
    scripts = Scripts(
        front=[[function_call("math_bot", {"input": "1+2"}, call_id="c1")], [assistant_message("It is 3.")]],
        math=[[function_call("add", {"a": 1, "b": 2}, call_id="c2")], [assistant_message("3")]],
    )
    result = await Runner.run(registry.get("front").agent, "1+2?", run_config=scripts.config())
    assert result.final_output == "It is 3."
    assert scripts.seen("math") == [{"content": "1+2", "role": "user"}] or scripts.seen("math") == "1+2"
    assert scripts.seen("front", 1)[-1]["output"] == "3"


async def test_a_broken_agent_tool_is_told_to_the_model() -> None:
    registry = registry_of(
        spec("front", agent_tools=(AgentToolSpec("inner"),), model="front"), spec("inner", model="in")
    )
    scripts = Scripts(
        front=[[function_call("inner", {"input": "x"}, call_id="c1")], [assistant_message("Sorry.")]],
        **{"in": [RuntimeError("boom")]},
    )
    result = await Runner.run(registry.get("front").agent, "x", run_config=scripts.config())
    assert result.final_output == "Sorry."
    assert "error" in scripts.seen("front", 1)[-1]["output"].lower()


@pytest.mark.parametrize("error", [LeaseLost("Taken over."), StorageUnavailable("No answer.")])
async def test_an_agent_tool_passes_on_what_must_end_the_run(error: Exception) -> None:
    registry = registry_of(
        spec("front", agent_tools=(AgentToolSpec("inner"),), model="front"), spec("inner", model="in")
    )
    scripts = Scripts(front=[[function_call("inner", {"input": "x"}, call_id="c1")]], **{"in": [error]})
    with pytest.raises(Exception) as caught:  # the SDK may wrap it
        await Runner.run(registry.get("front").agent, "x", run_config=scripts.config())
    assert caught.value is error or caught.value.__cause__ is error


def test_agent_tools_are_built_before_their_users() -> None:
    registry = registry_of(
        spec("top", agent_tools=(AgentToolSpec("mid"), AgentToolSpec("low", tool_name="deep"))),
        spec("mid", agent_tools=(AgentToolSpec("low"), AgentToolSpec("billing-agent"))),
        spec("low"),
        Agent(name="Billing Agent"),
    )
    assert registry.get("top").descriptor.tools == ("mid", "deep")
    assert registry.get("mid").descriptor.tools == ("low", "Billing_Agent")


def test_tool_overview() -> None:
    registry = registry_of(
        spec("b", tools=("search", HostedToolSpec("web_search")), agent_tools=(AgentToolSpec("a"),)),
        spec("a", tools=("search",)),
        Agent(name="N", tools=[lookup]),
        tools={"search": search},
    )
    overview = registry.tool_overview()
    assert [(tool.name, tool.kind, tool.agents) for tool in overview] == [
        ("a", "agent", ("b",)),
        ("lookup", "function", ("n",)),
        ("search", "function", ("a", "b")),
        ("web_search", "hosted", ("b",)),
    ]
    assert overview[2].description == "Search."


def test_empty_model_settings_leave_the_sdks_defaults() -> None:
    agent = registry_of(spec("a", model="gpt-5")).get("a").agent
    assert agent.model_settings == Agent(name="x", model="gpt-5").model_settings


def test_optional_tool(caplog: pytest.LogCaptureFixture) -> None:
    declared = AgentSpec(key="a", description="A.", instructions="Hi.", tools=(add,), optional_tools=("search",))
    with caplog.at_level(logging.WARNING):
        assert registry_of(declared).get("a").descriptor.tools == ("add",)
    assert "optional tool 'search'" in caplog.text and "'a'" in caplog.text
    assert registry_of(declared, tools={"search": search}).get("a").descriptor.tools == ("add", "search")
