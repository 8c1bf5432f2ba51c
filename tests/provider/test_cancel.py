"""A run that is cancelled, or whose time is up, in the middle of something: it ends, and what it used is billed."""

import asyncio
from typing import Any

import pytest
from agents import Agent, function_tool
from agents.testing import ScriptedModel, assistant_message, function_call

from app.domain.models.events import RunCancelled
from app.domain.models.runs import RunStatus
from app.infrastructure.providers.openai.tool_calls import INTERRUPTED_OUTPUT
from app.infrastructure.providers.openai.usage import count_tokens
from tests.fakes.openai import Call, FakeOpenAI
from tests.provider.serving import CALLER, Gate, Ran, Served, endpoint, kinds

APIS = ["responses", "chat_completions"]
REASONS = ["user", "timeout"]


async def stopped(served: Served, given: str, reached: Any, reason: str, *, stream: bool) -> Ran:
    """Start a run, wait until it is in the middle, stop it for the reason, and return how it ended."""
    options = {"timeout_s": 1.0} if reason == "timeout" else {}
    handle = await served.start(given, stream=stream, **options)
    await asyncio.wait_for(reached(), 5)
    if reason == "user":
        assert await served.runs.cancel(CALLER, handle.run_id) is RunStatus.RUNNING
    ran = await asyncio.wait_for(served.ended(handle), 5)
    assert ran.result.status is RunStatus.CANCELLED
    assert ran.result.error is not None
    assert ran.result.error.details["reason"] == reason
    last = ran.events[-1]
    assert isinstance(last, RunCancelled)
    assert last.reason == reason
    return ran


@pytest.mark.parametrize("reason", REASONS)
@pytest.mark.parametrize("api", APIS)
async def test_in_a_streamed_model_call(serve: Any, fake: FakeOpenAI, api: str, reason: str) -> None:
    fake.script(["one two three four five six seven eight nine ten"])
    fake.hang_next(after_events=9)
    served = await serve(Agent(name="a", instructions="Count."), options=endpoint(fake, api=api))

    async def some_text() -> None:
        async for batch in served.handles[-1].events(0):
            if any(one.event.type == "text.delta" for one in batch.events):
                return

    ran = await stopped(served, "count to ten", some_text, reason, stream=True)
    (call,) = ran.result.calls
    assert (call.outcome, call.accuracy) == ("cancelled", "estimated")
    said = "".join(event.delta for event in ran.events if event.type == "text.delta")
    assert said
    assert call.tokens.output_tokens == count_tokens(said)
    assert count_tokens("Count.count to ten") <= call.tokens.input_tokens <= 60
    assert ran.kinds == ["user"]
    (row,) = await served.usage_rows(ran.result.run_id)
    assert (row.outcome, row.accuracy, row.requests) == ("cancelled", "estimated", 1)
    (request,) = await fake.until(lambda requests: requests[-1].outcome != "pending")
    assert request.outcome == "client_gone"


@pytest.mark.parametrize("reason", REASONS)
@pytest.mark.parametrize("api", APIS)
async def test_in_a_plain_model_call(serve: Any, fake: FakeOpenAI, api: str, reason: str) -> None:
    fake.hang_next()
    served = await serve(Agent(name="a"), options=endpoint(fake, api=api))

    async def asked() -> None:
        await fake.until(lambda requests: len(requests) == 1)

    ran = await stopped(served, "hello there", asked, reason, stream=False)
    (call,) = ran.result.calls
    assert (call.outcome, call.accuracy, call.tokens.output_tokens) == ("cancelled", "estimated", 0)
    assert call.tokens.input_tokens >= count_tokens("hello there")
    (request,) = await fake.until(lambda requests: requests[-1].outcome != "pending")
    assert request.outcome == "client_gone"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("reason", REASONS)
async def test_in_a_tool_and_the_conversation_goes_on(serve: Any, fake: FakeOpenAI, reason: str, stream: bool) -> None:
    gate = Gate()

    @function_tool
    async def wait() -> str:
        """Wait."""
        await gate.stop()
        return "never"

    @function_tool
    async def quick() -> str:
        """Be quick."""
        return "done"

    fake.script([["I look.", Call("quick", {}, "call_1"), Call("wait", {}, "call_2")], "and on"])
    served = await serve(Agent(name="a", tools=[wait, quick]), options=endpoint(fake))
    ran = await stopped(served, "go", gate.reached.wait, reason, stream=stream)
    assert gate.left == ["cancelled"]
    assert ran.kinds == ["user", "assistant", *["function_call"] * 2, *["function_call_output"] * 2]
    outputs = {item["call_id"]: item["output"] for item in ran.result.items if "output" in item}
    assert outputs == {"call_1": "done", "call_2": INTERRUPTED_OUTPUT}
    assert {call.call_id: call.output for call in ran.result.tool_calls} == {"call_1": "done", "call_2": None}
    after = await served.run("next", to=ran.result.conversation_id)
    assert after.result.output == "and on"
    assert kinds(fake.requests[-1].body["input"]) == [*ran.kinds, "user"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("reason", REASONS)
async def test_in_a_nested_agent(serve: Any, reason: str, stream: bool) -> None:
    gate = Gate()
    step = gate.stream("nested words") if stream else gate.answer([assistant_message("never")])
    inner = Agent(name="inner", model=ScriptedModel([step]))
    outer = Agent(
        name="outer",
        model=ScriptedModel([[function_call("ask", {"input": "?"}, call_id="call_1")]]),
        tools=[inner.as_tool("ask", "Ask.")],
    )
    served = await serve(outer)
    ran = await stopped(served, "go", gate.reached.wait, reason, stream=stream)
    assert gate.left == ["cancelled"]
    nested = {call.step: call for call in ran.result.calls}["/t:call_1/m1"]
    assert (nested.outcome, nested.accuracy, nested.agent) == ("cancelled", "estimated", "inner")
    assert nested.tokens.output_tokens == (count_tokens("nested words") if stream else 0)
    assert ran.kinds == ["user", "function_call", "function_call_output"]
    assert ran.result.items[-1]["output"] == INTERRUPTED_OUTPUT


async def test_in_a_nested_agent_with_a_stream_of_its_own(serve: Any) -> None:
    gate = Gate()
    inner = Agent(name="inner", model=ScriptedModel([gate.stream("nested words")]))
    outer = Agent(
        name="outer",
        model=ScriptedModel([[function_call("ask", {"input": "?"}, call_id="call_1")]]),
        tools=[inner.as_tool("ask", "Ask.", on_stream=lambda _event: None)],
    )
    served = await serve(outer)
    ran = await stopped(served, "go", gate.reached.wait, "user", stream=True)
    assert gate.left == ["cancelled"]
    assert [(call.step, call.outcome) for call in ran.result.calls] == [
        ("/m1", "success"),
        ("/t:call_1/m1", "cancelled"),
    ]


async def test_a_tool_that_raises_the_cancellation_itself_does_not_cancel_the_run(serve: Any) -> None:
    @function_tool
    async def confused() -> str:
        """Wait for a task that was cancelled."""
        task = asyncio.create_task(asyncio.Event().wait())
        task.cancel()
        await task
        return "never"

    model = ScriptedModel([[function_call("confused", {}, call_id="call_1")], [assistant_message("fine")]])
    served = await serve(Agent(name="a", model=model, tools=[confused]))
    ran = await served.run("go")
    assert ran.result.output == "fine"
