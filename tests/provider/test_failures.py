"""Runs that end badly, at each place: what is told, what is kept, and that the conversation goes on."""

import asyncio
import json
from typing import Any

import pytest
from agents import Agent, function_tool
from agents.testing import ScriptedModel, assistant_message, function_call

from app.domain.models.events import RunFailed
from app.domain.models.runs import RunStatus
from app.infrastructure.providers.openai.tool_calls import INTERRUPTED_OUTPUT
from tests.fakes.openai import Call, FakeOpenAI, Reasoning
from tests.provider.serving import Ran, Served, endpoint, kinds

APIS = ["responses", "chat_completions"]


@function_tool
def good(word: str) -> str:
    """Return the word."""
    return f"good {word}"


@function_tool(failure_error_function=None)
def bad() -> str:
    """Raise."""
    raise RuntimeError("secret of the tool")


@function_tool(timeout=0.01, timeout_behavior="raise_exception")
async def slow() -> str:
    """Never end."""
    await asyncio.Event().wait()
    return "never"


def worker() -> Agent[Any]:
    return Agent(name="worker", instructions="Be brief.", tools=[good, bad, slow])


async def goes_on(served: Served, fake: FakeOpenAI, failed: Ran) -> list[dict[str, Any]]:
    """The next run of the conversation works: the server refuses a history that is not pair-safe."""
    fake.script(["and on"])
    after = await served.run("next", to=failed.result.conversation_id)
    assert after.result.output == "and on", after.result.error
    body = fake.requests[-1].body
    return body.get("input") or body["messages"]


def failed_with(ran: Ran, code: str) -> str:
    assert ran.result.status is RunStatus.FAILED
    assert ran.result.error is not None
    assert ran.result.error.code == code
    assert ran.result.output is None
    assert isinstance(ran.events[-1], RunFailed)
    assert ran.events[-1].code == code
    assert [event.type for event in ran.events].count("run.failed") == 1
    return ran.result.error.message


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("api", APIS)
async def test_the_first_model_call_fails(serve: Any, fake: FakeOpenAI, api: str, stream: bool) -> None:
    served = await serve(worker(), options=endpoint(fake, api=api))
    fake.fail_next(500)
    ran = await served.run("hello", stream=stream)
    failed_with(ran, "provider_error")
    assert ran.kinds == ["user"]
    assert [message.role for message in await served.messages(ran.result.conversation_id)] == ["user"]
    shown = await goes_on(served, fake, ran)
    assert [item["content"] for item in shown if item.get("role") == "user"] == ["hello", "next"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("api", APIS)
async def test_the_second_model_call_fails(serve: Any, fake: FakeOpenAI, api: str, stream: bool) -> None:
    @function_tool
    def breaking() -> str:
        """Break the endpoint."""
        fake.fail_next(503)
        return "broken"

    served = await serve(Agent(name="worker", tools=[breaking]), options=endpoint(fake, api=api))
    fake.script([["Let me see.", Call("breaking", {}, "call_2")]])
    ran = await served.run("hello", stream=stream)
    failed_with(ran, "provider_error")
    assert ran.kinds == ["user", "assistant", "function_call", "function_call_output"]
    assert ran.result.items[-1]["output"] == "broken"
    assert [call.outcome for call in ran.result.calls] == ["success", "error"]
    await goes_on(served, fake, ran)


async def test_one_of_two_tools_raises(serve: Any, fake: FakeOpenAI) -> None:
    served = await serve(worker(), options=endpoint(fake))
    fake.script([[Reasoning("hm"), Call("good", {"word": "x"}, "call_1"), Call("bad", {}, "call_2")]])
    ran = await served.run("both")
    message = failed_with(ran, "agent_failed")
    assert "secret" not in message
    outputs = {item["call_id"]: item["output"] for item in ran.result.items if "output" in item}
    assert outputs == {"call_1": "good x", "call_2": INTERRUPTED_OUTPUT}
    assert {call.call_id: call.output for call in ran.result.tool_calls} == {"call_1": "good x", "call_2": None}
    shown = await goes_on(served, fake, ran)
    assert kinds(shown).count("function_call_output") == 2


async def test_a_lone_tool_raises(serve: Any, fake: FakeOpenAI) -> None:
    served = await serve(worker(), options=endpoint(fake))
    fake.script([Call("bad", {}, "call_1")])
    ran = await served.run("go")
    failed_with(ran, "agent_failed")
    assert ran.kinds == ["user", "function_call", "function_call_output"]
    await goes_on(served, fake, ran)


async def test_a_tool_that_fails_upstream_says_so(serve: Any, fake: FakeOpenAI) -> None:
    """The SDK wraps what a tool raises; the error of the endpoint that a nested agent met is not lost in it."""
    inner = Agent(name="inner")
    front = Agent(name="front", tools=[inner.as_tool("ask", "Ask.", failure_error_function=None)])
    served = await serve(front, options=endpoint(fake))

    def break_it(_ask: Any) -> Call:
        fake.fail_next(429, headers={"retry-after": "7"})
        return Call("ask", {"input": "?"}, "call_1")

    fake.script([break_it])
    ran = await served.run("go")
    failed_with(ran, "rate_limit_exceeded")
    assert ran.result.error.details["retry_after_s"] == 7.0
    assert ran.kinds == ["user", "function_call", "function_call_output"]


async def test_a_tool_that_takes_too_long(serve: Any, fake: FakeOpenAI) -> None:
    served = await serve(worker(), options=endpoint(fake))
    fake.script([Call("slow", {}, "call_1")])
    ran = await served.run("go")
    assert "'slow' did not end in time" in failed_with(ran, "agent_failed")
    assert ran.result.items[-1]["output"] == INTERRUPTED_OUTPUT
    await goes_on(served, fake, ran)


@pytest.mark.parametrize("api", APIS)
async def test_too_many_turns(serve: Any, fake: FakeOpenAI, api: str) -> None:
    served = await serve(worker(), options=endpoint(fake, api=api))
    fake.script([Call("good", {"word": str(number)}, f"call_{number}") for number in range(3)])
    ran = await served.run("go", max_turns=2)
    failed_with(ran, "max_turns_exceeded")
    assert ran.kinds == ["user", *["function_call", "function_call_output"] * 2]
    assert fake.scripted_left == 1
    assert len(fake.requests) == 2


async def test_a_tool_that_does_not_exist(serve: Any, fake: FakeOpenAI) -> None:
    served = await serve(worker(), options=endpoint(fake))
    fake.script([Call("imagined", {}, "call_1")])
    ran = await served.run("go")
    failed_with(ran, "agent_failed")
    assert ran.kinds == ["user", "function_call", "function_call_output"]
    await goes_on(served, fake, ran)


async def test_arguments_that_are_no_json_are_told_to_the_model(serve: Any, fake: FakeOpenAI) -> None:
    served = await serve(worker(), options=endpoint(fake))
    fake.script([Call("good", '{"word": ', "call_1"), "sorry"])
    ran = await served.run("go")
    assert ran.result.output == "sorry"
    assert "error" in ran.result.items[2]["output"].lower()


async def test_an_answer_that_is_no_json_of_the_schema(serve: Any) -> None:
    for answer in ('{"city": 5}', "not json"):
        model = ScriptedModel([[assistant_message(answer)]])
        served = await serve(Agent(name="a", model=model))
        schema = {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        }
        ran = await served.run("go", output_schema=schema)
        failed_with(ran, "agent_failed")
        assert ran.kinds == ["user"]


@pytest.mark.parametrize("stream", [False, True])
async def test_the_failure_of_a_scripted_model_in_turn_two(serve: Any, stream: bool) -> None:
    model = ScriptedModel(
        [
            [assistant_message("Let me see."), function_call("good", {"word": "x"}, call_id="call_1")],
            RuntimeError("secret"),
            [assistant_message("fine again")],
        ]
    )
    served = await serve(Agent(name="a", model=model, tools=[good]))
    ran = await served.run("go", stream=stream)
    failed_with(ran, "agent_failed")
    assert "secret" not in json.dumps(ran.result.error.message)
    assert ran.kinds == ["user", "assistant", "function_call", "function_call_output"]
    after = await served.run("next", to=ran.result.conversation_id, stream=stream)
    assert after.result.output == "fine again"
    assert kinds(model.last_call.input) == [*ran.kinds, "user"]


async def test_a_context_factory_that_raises_is_a_failed_run(serve: Any) -> None:
    def broken(_context: Any) -> Any:
        raise KeyError("secret")

    served = await serve(Agent(name="a", model=ScriptedModel()), context_factory=broken)
    ran = await served.run("go")
    failed_with(ran, "agent_failed")
    assert ran.kinds == ["user"]
