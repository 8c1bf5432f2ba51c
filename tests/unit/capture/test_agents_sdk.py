import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from agents import (
    Agent,
    GuardrailFunctionOutput,
    ModelTimeoutError,
    OutputGuardrail,
    RunConfig,
    Runner,
    add_trace_processor,
    function_tool,
    set_trace_processors,
    trace,
)
from agents.exceptions import MaxTurnsExceeded, OutputGuardrailTripwireTriggered
from agents.testing import ModelStep, ScriptedModel, assistant_message, function_call
from agents.tracing import generation_span, response_span
from agents.usage import Usage

from app.capture.agents_sdk import CaptureHooks, CompletionTraceProcessor, capture_run
from app.capture.agents_traces import trace_event_id
from tests.unit.capture.recorder import Broken, Recorder, own_tracing

TRACED = RunConfig(
    trace_id="trace_" + "a" * 32,
    group_id="chat_1",
    trace_metadata={"user_id": "u1", "organization_id": "acme", "plan": "gold", "odd": object()},
)


@pytest.fixture(autouse=True)
def tracing() -> Iterator[None]:
    with own_tracing():
        yield


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def processor(recorder: Recorder) -> CompletionTraceProcessor:
    made = CompletionTraceProcessor(recorder)
    add_trace_processor(made)
    return made


def step(*output: Any) -> ModelStep:
    return ModelStep(output=list(output), usage=Usage(requests=1, input_tokens=10, output_tokens=5, total_tokens=15))


def call(tool: str, **arguments: Any) -> Any:
    return function_call(tool, arguments, call_id="call_1")


@function_tool
def add(a: int, b: int) -> int:
    return a + b


@function_tool(failure_error_function=None)
def fail() -> int:
    raise ValueError("secret words")


def adder(**more: Any) -> Agent[Any]:
    return Agent(
        name="Adder",
        tools=[add],
        model=ScriptedModel([step(call("add", a=1, b=2)), step(assistant_message("3"))]),
        **more,
    )


def front_with_handoff() -> Agent[Any]:
    back = Agent(name="Back", model=ScriptedModel([step(assistant_message("done"))]))
    return Agent(name="Front", handoffs=[back], model=ScriptedModel([step(call("transfer_to_back"))]))


def asking_another(*, shared_hooks: CaptureHooks | None = None) -> Agent[Any]:
    inner = Agent(name="Inner", model=ScriptedModel([step(assistant_message("inner"))]))
    tool = inner.as_tool("ask", "asks", hooks=shared_hooks)
    return Agent(
        name="Outer",
        tools=[tool],
        model=ScriptedModel([step(call("ask", input="x")), step(assistant_message("outer"))]),
    )


async def run(agent: Agent[Any], *, streamed: bool, **options: Any) -> Any:
    options.setdefault("run_config", TRACED)
    if not streamed:
        return await Runner.run(agent, "hi", **options)
    result = Runner.run_streamed(agent, "hi", **options)
    async for _ in result.stream_events():
        pass
    return result


@pytest.mark.parametrize("streamed", [False, True])
class TestProcessor:
    async def test_a_run_is_one_event(
        self, recorder: Recorder, processor: CompletionTraceProcessor, *, streamed: bool
    ) -> None:
        await run(adder(), streamed=streamed)
        event = recorder.only
        assert event["event_id"] == trace_event_id("trace_" + "a" * 32)
        assert (event["session_id"], event["user_id"], event["organization_id"]) == ("chat_1", "u1", "acme")
        assert event["session_type"] == "autonomous"
        assert event["usage"] == {
            "requests": 2, "input_tokens": 20, "output_tokens": 10, "total_tokens": 30, "cached_tokens": 0,
        }  # fmt: skip
        assert event["outcome"] == {"status": "success", "error_code": None}
        assert event["tool_call_count"] == 1
        assert event["agent"] == "Adder"
        assert event["metadata"] == {
            "plan": "gold", "workflow": "Agent workflow", "trace_id": "trace_" + "a" * 32, "agents": ["Adder"],
        }  # fmt: skip
        assert 0 <= event["duration_ms"] <= event["end_time"] - event["start_time"] + 5
        assert "final_output" not in event
        assert (processor.open_traces, processor.abandoned) == (0, 0)

    async def test_handoffs_and_nested_agents_count(
        self, recorder: Recorder, processor: CompletionTraceProcessor, *, streamed: bool
    ) -> None:
        await run(front_with_handoff(), streamed=streamed)
        await run(asking_another(), streamed=streamed)
        handed, nested = recorder.events
        assert (handed["usage"]["total_tokens"], handed["metadata"]["agents"]) == (30, ["Front", "Back"])
        assert (nested["usage"]["total_tokens"], nested["usage"]["requests"]) == (45, 3)
        assert nested["agent"] == "Outer"

    async def test_a_run_that_raises_is_an_error(
        self, recorder: Recorder, processor: CompletionTraceProcessor, *, streamed: bool
    ) -> None:
        broken = Agent(name="A", model=ScriptedModel([ModelStep.raise_error(ValueError("secret words"))]))
        with pytest.raises(ValueError, match="secret"):
            await run(broken, streamed=streamed)
        with pytest.raises(MaxTurnsExceeded):
            await run(adder(), streamed=streamed, max_turns=1)
        late = Agent(name="A", model=ScriptedModel([ModelStep.raise_error(ModelTimeoutError(3))]))
        with pytest.raises(ModelTimeoutError):
            await run(late, streamed=streamed)
        assert [event["outcome"] for event in recorder.events] == [
            {"status": "error", "error_code": "value_error"},
            {"status": "error", "error_code": "max_turns_exceeded"},
            {"status": "timeout", "error_code": "model_timeout_error"},
        ]
        assert recorder.events[1]["usage"]["total_tokens"] == 15
        assert "secret" not in str(recorder.events)

    async def test_a_cancelled_run_is_the_users_doing(
        self, recorder: Recorder, processor: CompletionTraceProcessor, *, streamed: bool
    ) -> None:
        await cancelled(streamed=streamed)
        assert recorder.only["outcome"] == {"status": "user_terminated", "error_code": None}
        assert processor.open_traces == 0

    async def test_a_failure_that_only_a_model_hears_of_is_none(
        self, recorder: Recorder, processor: CompletionTraceProcessor, *, streamed: bool
    ) -> None:
        inner = Agent(name="Inner", model=ScriptedModel([ModelStep.raise_error(ValueError("x"))]))
        outer = Agent(
            name="Outer",
            tools=[inner.as_tool("ask", "asks")],
            model=ScriptedModel([step(call("ask", input="x")), step(assistant_message("sorry"))]),
        )
        await run(outer, streamed=streamed)
        assert recorder.only["outcome"]["status"] == "success"

    async def test_hooks_beside_it_make_no_second_event(
        self, recorder: Recorder, processor: CompletionTraceProcessor, *, streamed: bool
    ) -> None:
        hooks = CaptureHooks(recorder, session_id="mine", metadata={"shop": "north"})
        await run(adder(), streamed=streamed, hooks=hooks)
        event = recorder.only
        assert (event["session_id"], event["user_id"]) == ("mine", "u1")
        assert event["final_output"] == "3"
        assert event["metadata"]["shop"] == "north"
        assert hooks.open_runs == 0

    async def test_a_block_beside_it_makes_no_second_event(
        self, recorder: Recorder, processor: CompletionTraceProcessor, *, streamed: bool
    ) -> None:
        async with capture_run(recorder, session_id="mine") as hooks:
            await run(adder(), streamed=streamed, hooks=hooks)
        with pytest.raises(ValueError, match="x"):
            async with capture_run(recorder, session_id="other"):
                await run(
                    Agent(name="A", model=ScriptedModel([ModelStep.raise_error(ValueError("x"))])), streamed=streamed
                )
        assert [(event["session_id"], event["outcome"]["status"]) for event in recorder.events] == [
            ("mine", "success"),
            ("other", "error"),
        ]


async def cancelled(*, streamed: bool, **options: Any) -> None:
    called = asyncio.Event()

    async def never(_: Any) -> Any:
        called.set()
        await asyncio.Event().wait()

    agent = Agent(name="Slow", model=ScriptedModel([ModelStep.respond(never)]))
    if streamed:
        result = Runner.run_streamed(agent, "hi", run_config=TRACED, **options)
        await called.wait()
        result.cancel()
        async for _ in result.stream_events():
            pass
        if result.run_loop_task is not None:
            await asyncio.wait([result.run_loop_task])
        return
    task = asyncio.create_task(Runner.run(agent, "hi", run_config=TRACED, **options))
    await called.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_without_a_group_the_trace_is_the_session(
    recorder: Recorder, processor: CompletionTraceProcessor
) -> None:
    await Runner.run(adder(), "hi")
    event = recorder.only
    assert event["session_id"] == event["metadata"]["trace_id"]
    named = RunConfig(group_id="g", trace_metadata={"session_id": "s9"})
    await Runner.run(adder(), "hi", run_config=named)
    assert recorder.events[1]["session_id"] == "s9"


async def test_a_trace_around_runs_is_one_event_whose_last_run_decides(
    recorder: Recorder, processor: CompletionTraceProcessor
) -> None:
    with trace("Order", group_id="o1"):
        with pytest.raises(ValueError, match="x"):
            await Runner.run(Agent(name="A", model=ScriptedModel([ModelStep.raise_error(ValueError("x"))])), "hi")
        await Runner.run(adder(), "hi")
    event = recorder.only
    assert event["outcome"]["status"] == "success"
    assert event["usage"]["total_tokens"] == 30
    assert event["metadata"]["workflow"] == "Order"


async def test_a_run_while_another_error_is_handled_is_no_error(
    recorder: Recorder, processor: CompletionTraceProcessor
) -> None:
    try:
        raise KeyError("the first way")
    except KeyError:
        await Runner.run(adder(), "hi")
    assert recorder.only["outcome"]["status"] == "success"


def test_spans_of_models_tell_usage_and_model(recorder: Recorder, processor: CompletionTraceProcessor) -> None:
    class Answer:
        model = "gpt-4.1"

    with trace("t", group_id="g"):
        with generation_span(model="gpt-4o", usage={"input_tokens": 7, "output_tokens": 3}):
            pass
        with response_span() as span:
            span.span_data.response = Answer()  # type: ignore[assignment]
            span.span_data.usage = {
                "input_tokens": 5, "output_tokens": 1, "total_tokens": 6,
                "input_tokens_details": {"cached_tokens": 4}, "output_tokens_details": {"reasoning_tokens": 1},
            }  # fmt: skip
    assert recorder.only["models"] == ["gpt-4o", "gpt-4.1"]
    assert recorder.only["usage"] == {
        "requests": 2, "input_tokens": 12, "output_tokens": 4, "total_tokens": 16,
        "cached_tokens": 4, "reasoning_tokens": 1,
    }  # fmt: skip


def test_traces_that_never_end_are_bounded_and_counted(recorder: Recorder) -> None:
    processor = CompletionTraceProcessor(recorder, max_open_traces=3)
    set_trace_processors([processor])
    opened = [trace(f"t{number}") for number in range(10)]
    for one in opened:
        one.start()
    assert (processor.open_traces, processor.abandoned) == (3, 7)
    for one in opened:
        one.finish()
    assert [event["metadata"]["workflow"] for event in recorder.events] == ["t7", "t8", "t9"]
    opened[0].start()
    trace("t11").start()
    processor.shutdown()
    processor.force_flush()
    assert (processor.open_traces, processor.abandoned) == (0, 8)


async def test_many_runs_at_once_in_threads_are_each_told(
    recorder: Recorder, processor: CompletionTraceProcessor
) -> None:
    def one(number: int) -> None:
        Runner.run_sync(adder(), "hi", run_config=RunConfig(group_id=f"g{number}"))

    def in_thread(number: int) -> None:
        asyncio.set_event_loop(loop := asyncio.new_event_loop())
        try:
            one(number)
        finally:
            asyncio.set_event_loop(None)
            loop.close()

    await asyncio.gather(*[asyncio.to_thread(in_thread, number) for number in range(8)])
    assert sorted(event["session_id"] for event in recorder.events) == [f"g{number}" for number in range(8)]
    assert {event["usage"]["total_tokens"] for event in recorder.events} == {30}


@pytest.mark.parametrize("is_elsewhere", [False, True])
@pytest.mark.parametrize("is_approved", [False, True])
async def test_a_paused_run_is_told_in_parts(
    recorder: Recorder, processor: CompletionTraceProcessor, *, is_elsewhere: bool, is_approved: bool
) -> None:
    # A trace with other metadata is started anew under the old id, as it is in another process.
    metadata = {"odd": object()} if is_elsewhere else {}
    config = RunConfig(group_id="chat_1", trace_metadata=metadata)

    @function_tool(needs_approval=True)
    def send() -> str:
        return "sent"

    agent = Agent(name="Sender", tools=[send], model=ScriptedModel([step(call("send")), step(assistant_message("ok"))]))
    paused = await Runner.run(agent, "hi", run_config=config)
    state = paused.to_state()
    (state.approve if is_approved else state.reject)(paused.interruptions[0])
    await Runner.run(agent, state, run_config=config)
    first, second = recorder.events
    assert first["event_id"] != second["event_id"]
    assert (first["session_id"], second["session_id"]) == ("chat_1", "chat_1")
    assert first["usage"]["total_tokens"] + second["usage"]["total_tokens"] == 30
    assert processor.open_traces == 0


@pytest.mark.parametrize("streamed", [False, True])
class TestHooks:
    async def test_a_run_is_one_event(self, recorder: Recorder, *, streamed: bool) -> None:
        hooks = CaptureHooks(recorder, session_id="s1", user_id="u1")
        agent = adder()
        assert isinstance(agent.model, ScriptedModel)
        agent.model.model = "scripted-1"  # type: ignore[attr-defined]
        await run(agent, streamed=streamed, hooks=hooks)
        event = recorder.only
        assert event["event_id"] == trace_event_id("trace_" + "a" * 32)
        assert (event["session_id"], event["user_id"], event["organization_id"]) == ("s1", "u1", "acme")
        assert event["usage"]["total_tokens"] == 30
        assert event["usage"]["requests"] == 2
        assert event["models"] == ["scripted-1"]
        assert (event["tool_call_count"], event["agent"], event["final_output"]) == (1, "Adder", "3")
        assert (hooks.open_runs, hooks.abandoned) == (0, 0)

    async def test_handoffs_and_nested_agents_are_one_event(self, recorder: Recorder, *, streamed: bool) -> None:
        hooks = CaptureHooks(recorder, session_id="s1", content=False)
        await run(front_with_handoff(), streamed=streamed, hooks=hooks)
        await run(asking_another(), streamed=streamed, hooks=hooks)
        await run(asking_another(shared_hooks=hooks), streamed=streamed, hooks=hooks)
        totals = [event["usage"]["total_tokens"] for event in recorder.events]
        assert totals == [30, 45, 45]
        assert [event["agent"] for event in recorder.events[:2]] == ["Back", "Outer"]
        assert all("final_output" not in event for event in recorder.events)
        assert hooks.open_runs == 0

    async def test_a_run_without_a_trace_is_told_too(self, recorder: Recorder, *, streamed: bool) -> None:
        hooks = CaptureHooks(recorder)
        for _ in range(2):
            await run(adder(), streamed=streamed, hooks=hooks, run_config=RunConfig(tracing_disabled=True))
        first, second = recorder.events
        assert first["session_id"] != second["session_id"]
        assert "event_id" not in first

    async def test_a_block_tells_how_it_was_left(self, recorder: Recorder, *, streamed: bool) -> None:
        broken = Agent(name="A", tools=[fail], model=ScriptedModel([step(call("fail"))]))
        with pytest.raises(Exception, match="fail"):
            async with capture_run(recorder, session_id="s1") as hooks:
                await run(broken, streamed=streamed, hooks=hooks)
        event = recorder.only
        assert event["outcome"] == {"status": "error", "error_code": "user_error"}
        assert event["usage"]["total_tokens"] == 15
        assert event["session_id"] == "s1"
        assert "secret" not in str(event)


async def test_an_output_that_a_guardrail_refuses_is_an_error_of_the_block(recorder: Recorder) -> None:
    async def refuse(*_: Any) -> GuardrailFunctionOutput:
        return GuardrailFunctionOutput(output_info=None, tripwire_triggered=True)

    agent = adder(output_guardrails=[OutputGuardrail(refuse)])
    with pytest.raises(OutputGuardrailTripwireTriggered):
        async with capture_run(recorder, session_id="s1") as hooks:
            await Runner.run(agent, "hi", hooks=hooks)
    assert recorder.only["outcome"]["error_code"] == "output_guardrail_tripwire_triggered"


@pytest.mark.parametrize("observed", [False, True])
async def test_a_deadline_is_a_timeout_and_a_cancellation_is_not(recorder: Recorder, *, observed: bool) -> None:
    if observed:
        add_trace_processor(CompletionTraceProcessor(recorder))
    called = asyncio.Event()

    async def never(_: Any) -> Any:
        called.set()
        await asyncio.Event().wait()

    def slow() -> Agent[Any]:
        return Agent(name="Slow", model=ScriptedModel([ModelStep.respond(never)]))

    async def block(deadline_s: float | None) -> None:
        async with capture_run(recorder, session_id="s1") as hooks, asyncio.timeout(deadline_s):
            await Runner.run(slow(), "hi", hooks=hooks)

    with pytest.raises(TimeoutError):
        await block(0.02)
    called.clear()
    task = asyncio.create_task(block(None))
    await called.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [event["outcome"]["status"] for event in recorder.events] == ["timeout", "user_terminated"]


async def test_several_runs_of_a_block_are_one_event(recorder: Recorder) -> None:
    async with capture_run(recorder, session_id="s1") as hooks:
        await Runner.run(adder(), "hi", hooks=hooks)
        await Runner.run(adder(), "hi", hooks=hooks)
    assert recorder.only["usage"]["total_tokens"] == 60
    assert recorder.only["tool_call_count"] == 2


async def test_a_block_without_a_run_is_an_event_without_usage(recorder: Recorder) -> None:
    async with capture_run(recorder, session_id="s1"):
        pass
    assert "usage" not in recorder.only
    assert recorder.only["outcome"]["status"] == "success"


async def test_runs_of_one_trace_have_their_own_events(recorder: Recorder) -> None:
    hooks = CaptureHooks(recorder, session_id="s1")
    with trace("Order") as order:
        await Runner.run(adder(), "hi", hooks=hooks)
        await Runner.run(adder(), "hi", hooks=hooks)
    ids = [event["event_id"] for event in recorder.events]
    assert ids == [trace_event_id(order.trace_id), trace_event_id(f"{order.trace_id}:2")]


async def test_hooks_that_runs_share_ask_whose_session_it_is(recorder: Recorder) -> None:
    hooks = CaptureHooks(recorder, identify=lambda context: {"session_id": context.context["session"]})
    await asyncio.gather(
        *[Runner.run(adder(), "hi", hooks=hooks, context={"session": f"s{number}"}) for number in range(5)]
    )
    assert sorted(event["session_id"] for event in recorder.events) == [f"s{number}" for number in range(5)]
    assert {event["usage"]["total_tokens"] for event in recorder.events} == {30}


async def test_runs_whose_end_hooks_never_see_are_bounded_and_counted(recorder: Recorder) -> None:
    hooks = CaptureHooks(recorder, session_id="s1", max_open_runs=2)
    for _ in range(5):
        with pytest.raises(ValueError, match="x"):
            await Runner.run(
                Agent(name="A", model=ScriptedModel([ModelStep.raise_error(ValueError("x"))])), "hi", hooks=hooks
            )
    assert (hooks.open_runs, hooks.abandoned, recorder.events) == (2, 3, [])


@pytest.mark.parametrize(("is_approved", "is_elsewhere"), [(True, False), (False, False), (True, True)])
async def test_a_run_that_paused_is_told_by_hooks_when_it_ends(
    recorder: Recorder, *, is_approved: bool, is_elsewhere: bool
) -> None:
    @function_tool(needs_approval=True)
    def send() -> str:
        return "sent"

    hooks = CaptureHooks(recorder, session_id="s1")
    agent = Agent(name="Sender", tools=[send], model=ScriptedModel([step(call("send")), step(assistant_message("ok"))]))
    paused = await Runner.run(agent, "hi", hooks=hooks)
    assert recorder.events == []
    state = paused.to_state()
    (state.approve if is_approved else state.reject)(paused.interruptions[0])
    if is_elsewhere:
        hooks = CaptureHooks(recorder, session_id="s1")
    await Runner.run(agent, state, hooks=hooks)
    assert recorder.only["usage"]["total_tokens"] == 30
    assert hooks.open_runs == 0
    assert recorder.only["final_output"] == "ok"


async def test_a_broken_runtime_breaks_no_run() -> None:
    broken = Broken()
    processor = CompletionTraceProcessor(broken)
    result = await Runner.run(adder(), "hi", hooks=CaptureHooks(broken))
    assert result.final_output == "3"
    add_trace_processor(processor)
    async with capture_run(broken) as hooks:
        result = await Runner.run(adder(), "hi", hooks=hooks)
    assert result.final_output == "3"
    assert broken.calls == 2


async def test_whoever_asks_a_broken_question_gets_no_answer_but_the_run_goes_on(recorder: Recorder) -> None:
    result = await Runner.run(adder(), "hi", hooks=CaptureHooks(recorder, identify=lambda context: context.missing))
    assert result.final_output == "3"
    assert recorder.events == []


async def test_an_abandoned_stream_ends_its_trace(recorder: Recorder, processor: CompletionTraceProcessor) -> None:
    result = Runner.run_streamed(adder(), "hi", run_config=TRACED)
    events: AsyncIterator[Any] = result.stream_events()
    await anext(events)
    await events.aclose()  # type: ignore[attr-defined]
    result.cancel()
    if result.run_loop_task is not None:
        await asyncio.wait([result.run_loop_task])
    async with asyncio.timeout(5):
        while not recorder.events:
            await asyncio.sleep(0)
    assert recorder.only["outcome"]["status"] in {"user_terminated", "success"}
    assert processor.open_traces == 0
