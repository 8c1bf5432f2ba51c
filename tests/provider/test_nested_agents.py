"""Agents as tools: their events arrive while they work, under the path of the call, with their usage."""

import asyncio
import json
from typing import Any

import pytest
from agents import Agent, ModelSettings, RunConfig, RunContextWrapper, RunHooks, Runner, function_tool, handoff
from agents.models import get_default_model_settings
from agents.testing import ScriptedModel, assistant_message, function_call

from app.domain.models.events import TextDelta, ToolOutput, ToolStarted, UsageReported
from app.domain.models.runs import RunStatus
from app.infrastructure.providers.openai import nested_runs
from app.infrastructure.providers.openai.context import current_run
from tests.fakes.openai import Call, FakeOpenAI
from tests.provider.serving import Gate, endpoint, snapshot, stream_end


def outer(inner: Agent[Any], **as_tool: Any) -> Agent[Any]:
    model = ScriptedModel(
        [
            [function_call("ask_inner", {"input": "hm?"}, call_id="call_1")],
            [assistant_message("The inner one has spoken.")],
        ]
    )
    return Agent(name="outer", model=model, tools=[inner.as_tool("ask_inner", "Ask.", **as_tool)])


async def test_the_reader_sees_a_nested_delta_before_the_nested_run_ends(serve: Any) -> None:
    gate = Gate()
    inner = Agent(name="inner", model=ScriptedModel([gate.stream("half an ", *stream_end("answer"))]))
    served = await serve(outer(inner))
    handle = await served.start("go", stream=True)
    seen: list[Any] = []
    async for batch in handle.events(0):
        seen += [one.event for one in batch.events]
        halfway = any(isinstance(event, TextDelta) and event.delta == "half an " for event in seen)
        if halfway and not gate.open.is_set():
            assert not any(isinstance(event, ToolOutput) for event in seen)
            gate.open.set()
    first = next(event for event in seen if isinstance(event, TextDelta))
    assert (first.delta, first.scope) == ("half an ", "/t:call_1")
    assert (await handle.result()).status is RunStatus.COMPLETED


async def test_two_nested_runs_at_once_do_not_mix(serve: Any) -> None:
    first, second = Gate(), Gate()
    left = Agent(name="left", model=ScriptedModel([first.answer([assistant_message("L")])]))
    right = Agent(name="right", model=ScriptedModel([second.answer([assistant_message("R")])]))
    front = Agent(
        name="front",
        model=ScriptedModel(
            [
                [
                    function_call("ask_left", {"input": "?"}, call_id="call_l"),
                    function_call("ask_right", {"input": "?"}, call_id="call_r"),
                ],
                [assistant_message("Both.")],
            ]
        ),
        tools=[left.as_tool("ask_left", "l"), right.as_tool("ask_right", "r")],
    )
    served = await serve(front)
    handle = await served.start("go")
    await asyncio.wait_for(asyncio.gather(first.reached.wait(), second.reached.wait()), 5)
    second.open.set()
    first.open.set()
    ran = await served.ended(handle)
    assert {call.step: call.agent for call in ran.result.calls} == {
        "/m1": "front",
        "/m2": "front",
        "/t:call_l/m1": "left",
        "/t:call_r/m1": "right",
    }
    assert {call.call_id: call.output for call in ran.result.tool_calls} == {"call_l": "L", "call_r": "R"}


async def test_three_deep(serve: Any) -> None:
    deepest = Agent(name="deepest", model=ScriptedModel([[assistant_message("deep")]]))
    middle = Agent(
        name="middle",
        model=ScriptedModel(
            [[function_call("ask_deepest", {"input": "?"}, call_id="call_2")], [assistant_message("middle")]]
        ),
        tools=[deepest.as_tool("ask_deepest", "d")],
    )
    served = await serve(outer(middle))
    ran = await served.run("go", stream=True)
    assert "/t:call_1/t:call_2/m1" in [call.step for call in ran.result.calls]
    assert [row.step for row in await served.usage_rows(ran.result.run_id)] == [
        "/m1",
        "/m2",
        "/t:call_1/m1",
        "/t:call_1/m2",
        "/t:call_1/t:call_2/m1",
    ]
    scopes = {event.scope for event in ran.of(UsageReported)}
    assert scopes == {"", "/t:call_1", "/t:call_1/t:call_2"}
    assert [event.scope for event in ran.of(ToolStarted)] == ["", "/t:call_1"]


async def test_hooks_of_the_caller_on_a_nested_run_are_called(serve: Any) -> None:
    class Hooks(RunHooks[Any]):
        def __init__(self) -> None:
            self.called: list[str] = []

        async def on_agent_start(self, context: Any, agent: Any) -> None:
            self.called.append(f"start {agent.name}")

        async def on_llm_start(self, context: Any, agent: Any, system_prompt: Any, input_items: Any) -> None:
            self.called.append("llm start")

        async def on_llm_end(self, context: Any, agent: Any, response: Any) -> None:
            self.called.append("llm end")

        async def on_tool_start(self, context: Any, agent: Any, tool: Any) -> None:
            self.called.append(f"tool {tool.name}")

        async def on_tool_end(self, context: Any, agent: Any, tool: Any, result: Any) -> None:
            self.called.append(f"result {result}")

        async def on_handoff(self, context: Any, from_agent: Any, to_agent: Any) -> None:
            self.called.append(f"handoff {from_agent.name} {to_agent.name}")

        async def on_agent_end(self, context: Any, agent: Any, output: Any) -> None:
            self.called.append(f"end {agent.name}")

    @function_tool
    def now() -> str:
        """Tell the time."""
        return "noon"

    third = Agent(name="third", model=ScriptedModel([[assistant_message("noon, says the third")]]))
    inner = Agent(
        name="inner",
        model=ScriptedModel(
            [
                [function_call("now", {}, call_id="call_2")],
                [function_call("transfer_to_third", {}, call_id="call_3")],
            ]
        ),
        tools=[now],
        handoffs=[third],
    )
    hooks = Hooks()
    served = await serve(outer(inner, hooks=hooks))
    ran = await served.run("go")
    assert hooks.called == [
        "start inner",
        "llm start",
        "llm end",
        "tool now",
        "result noon",
        "llm start",
        "llm end",
        "handoff inner third",
        "start third",
        "llm start",
        "llm end",
        "end third",
    ]
    # A handoff inside a nested run is told, and is none of the run itself.
    assert ran.result.handoffs == ()
    assert [(event.from_agent, event.scope) for event in ran.events if event.type == "handoff"] == [
        ("inner", "/t:call_1")
    ]


async def test_a_nested_run_with_a_stream_of_its_own(serve: Any) -> None:
    heard: list[str] = []

    def listen(event: Any) -> None:
        heard.append(event["event"].type)

    inner = Agent(
        name="inner",
        model=ScriptedModel(
            [
                [function_call("noop", {}, call_id="call_1")],  # the outer call has this id too
                [assistant_message("inner words")],
            ]
        ),
        tools=[noop],
    )
    served = await serve(outer(inner, on_stream=listen))
    for stream in (False, True):
        inner.model = ScriptedModel([[function_call("noop", {}, call_id="call_1")], [assistant_message("inner words")]])
        served = await serve(outer(inner, on_stream=listen))
        ran = await served.run("go", stream=stream)
        assert ran.result.status is RunStatus.COMPLETED, ran.result.error
        assert sorted(call.step for call in ran.result.calls) == ["/m1", "/m2", "/t:call_1/m1", "/t:call_1/m2"]
        assert "".join(event.delta for event in ran.of(TextDelta) if event.scope == "/t:call_1") == "inner words"
        nested_call = next(call for call in ran.result.tool_calls if call.scope)
        assert nested_call.call_id != "call_1"
    assert "raw_response_event" in heard
    assert "run_item_stream_event" in heard


@function_tool
def noop() -> str:
    """Do nothing."""
    return "nothing"


async def test_a_tool_that_calls_the_runner_itself(serve: Any, fake: FakeOpenAI) -> None:
    """No provider is named: the nested run goes where the outer run goes, and is recorded."""
    helper = Agent(name="helper")

    @function_tool
    async def ask_twice(question: str) -> str:
        """Ask the helper twice."""
        assert current_run() is not None
        one = await Runner.run(helper, question)
        two = await Runner.run(helper, question, run_config=RunConfig(workflow_name="mine"))
        return f"{one.final_output} {two.final_output}"

    fake.script([Call("ask_twice", {"question": "hm"}, "call_1"), "A", "B", "done"])
    served = await serve(Agent(name="front", tools=[ask_twice]), options=endpoint(fake))
    ran = await served.run("go")
    assert ran.result.output == "done"
    assert ran.result.tool_calls[0].output == "A B"
    assert sorted(call.step for call in ran.result.calls) == ["/m1", "/m2", "/t:call_1/m1", "/t:call_1/r2/m1"]
    assert {call.model for call in ran.result.calls} == {"gpt-4.1-mini"}


async def test_a_nested_run_with_a_model_or_provider_of_its_own_is_recorded(serve: Any) -> None:
    class Provider:
        def get_model(self, name: str | None) -> Any:
            return ScriptedModel([[assistant_message(f"from {name}")]])

    helper = Agent(name="helper", model="special")

    @function_tool
    async def ask() -> str:
        """Ask."""
        model = ScriptedModel([[assistant_message("from an object")]])
        one = await Runner.run(helper, "?", run_config=RunConfig(model=model))
        two = await Runner.run(helper, "?", run_config={"model_provider": Provider()})  # pyright: ignore
        return f"{one.final_output}, {two.final_output}"

    model = ScriptedModel([[function_call("ask", {}, call_id="call_1")], [assistant_message("ok")]])
    served = await serve(Agent(name="front", model=model, tools=[ask]))
    ran = await served.run("go")
    assert ran.result.tool_calls[0].output == "from an object, from special"
    assert {call.step: call.model for call in ran.result.calls} == {
        "/m1": "ScriptedModel",
        "/m2": "ScriptedModel",
        "/t:call_1/m1": "ScriptedModel",
        "/t:call_1/r2/m1": "special",
    }


async def test_a_failed_nested_run_is_an_answer_for_the_outer_agent(serve: Any) -> None:
    inner = Agent(name="inner", model=ScriptedModel([RuntimeError("secret")]))
    served = await serve(outer(inner))
    ran = await served.run("go")
    assert ran.result.status is RunStatus.COMPLETED
    nested = next(call for call in ran.result.calls if call.step == "/t:call_1/m1")
    assert nested.outcome == "error"


@pytest.mark.parametrize("stream", [False, True])
async def test_an_exception_in_the_recording_never_fails_a_run(
    serve: Any, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    def broken(*_args: Any, **_kwargs: Any) -> Any:
        raise RuntimeError("broken recording")

    package = "app.infrastructure.providers.openai"
    for name in ("lifecycle.output_text", "lifecycle.ToolStarted", "lifecycle.AgentUpdated"):
        monkeypatch.setattr(f"{package}.{name}", broken)
    for name in ("token_usage", "estimated_usage", "delta_of", "request_hash"):
        monkeypatch.setattr(f"{package}.model_calls.{name}", broken)
    inner = Agent(name="inner", model=ScriptedModel([[assistant_message("deep")]]))
    served = await serve(outer(inner))
    ran = await served.run("go", stream=stream)
    assert ran.result.status is RunStatus.COMPLETED
    assert ran.result.output == "The inner one has spoken."


async def test_a_reader_that_breaks_does_not_fail_a_run(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    served = await serve(Agent(name="a", model=ScriptedModel([[assistant_message("fine")]])))
    monkeypatch.setattr("app.services.feeds.RunFeed.publish", lambda *_: json.loads("{"))
    handle = await served.start("go", stream=True)
    assert (await handle.result()).output == "fine"


async def test_native_agents_are_unchanged_and_usable_outside(serve: Any) -> None:
    """`install` is in force; outside of a run nobody notices, and after a run the agents are as they were."""

    @function_tool
    def mine(context: RunContextWrapper[Any]) -> str:
        """Say whose run this is."""
        return "ours" if current_run() else "bare"

    def script(name: str) -> ScriptedModel:
        return ScriptedModel([[function_call("mine", {}, call_id=f"call_{name}")], [assistant_message("end")]] * 3)

    back = Agent(name="back", model=script("b"), tools=[mine])
    front = Agent(name="front", model=script("f"), tools=[mine, back.as_tool("back", "b")], handoffs=[back])
    back.handoffs = [handoff(front)]
    before = [snapshot(front), snapshot(back)]
    served = await serve(front, back)
    nested_runs.install()
    ran = await served.run("go", agent="front")
    assert ran.result.tool_calls[0].output == "ours"

    assert [snapshot(front), snapshot(back)] == before
    assert front.model is before[0]["model"]
    bare = await Runner.run(front, "go", run_config=RunConfig(tracing_disabled=True))
    assert [item.output for item in bare.new_items if item.type == "tool_call_output_item"] == ["bare"]
    streamed = Runner.run_streamed(back, "go", run_config=RunConfig(tracing_disabled=True))
    async for _ in streamed.stream_events():
        pass
    assert streamed.final_output == "end"
    assert len(await served.usage_rows(ran.result.run_id)) == 2


async def test_the_sdk_s_settings_for_its_own_default_model_are_not_sent_to_ours(serve: Any, fake: FakeOpenAI) -> None:
    """An agent that names no model has the SDK's settings for GPT-5, which other models refuse."""
    assert get_default_model_settings() != ModelSettings()
    plain = Agent(name="plain")
    helper = Agent(name="helper")
    fake.script([Call("ask", {"input": "x"}, "call_1"), "nested", "hello"])
    plain.tools = [helper.as_tool("ask", "a")]
    served = await serve(plain, options=endpoint(fake))
    await served.run("hi")
    bodies = [request.body for request in fake.requests]
    assert len(bodies) == 3
    assert [body["model"] for body in bodies] == ["gpt-4.1-mini"] * 3
    assert not any("reasoning" in body or "verbosity" in json.dumps(body.get("text") or {}) for body in bodies)
    assert plain.model is None
    assert plain.model_settings == get_default_model_settings()


async def test_settings_of_the_agent_are_kept(serve: Any, fake: FakeOpenAI) -> None:
    served = await serve(Agent(name="warm", model_settings=ModelSettings(temperature=0.5)), options=endpoint(fake))
    await served.run("hi")
    assert fake.requests[-1].body["temperature"] == 0.5
