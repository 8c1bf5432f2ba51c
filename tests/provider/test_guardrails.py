"""Guardrails: who is named, what is kept, and that a refused answer is not part of the history."""

import asyncio
import json
from typing import Any

import pytest
from agents import (
    Agent,
    GuardrailFunctionOutput,
    InputGuardrail,
    OutputGuardrail,
    ToolGuardrailFunctionOutput,
    function_tool,
    tool_input_guardrail,
    tool_output_guardrail,
)
from agents.testing import ScriptedModel, assistant_message, function_call

from app.domain.models.runs import RunStatus
from tests.provider.serving import Gate, Ran, kinds


def tripped(ran: Ran, guardrail: str) -> None:
    error = ran.result.error
    assert ran.result.status is RunStatus.FAILED
    assert error is not None
    assert error.code == "guardrail_tripped"
    assert error.details == {"guardrail": guardrail}
    assert guardrail in error.message
    assert ran.told[-1] == "run.failed"


async def refuse(*_args: Any) -> GuardrailFunctionOutput:
    return GuardrailFunctionOutput(output_info=None, tripwire_triggered=True)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_blocking_input_guardrail_asks_no_model(serve: Any, stream: bool) -> None:
    model = ScriptedModel([[assistant_message("never")]])
    guard = InputGuardrail(refuse, name="polite", run_in_parallel=False)
    served = await serve(Agent(name="a", model=model, input_guardrails=[guard]))
    ran = await served.run("rude", stream=stream)
    tripped(ran, "polite")
    assert model.calls == ()
    assert ran.kinds == ["user"]
    assert ran.result.usage.requests == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_a_parallel_input_guardrail_ends_the_model_call(serve: Any, stream: bool) -> None:
    gate = Gate()

    async def refuse_later(*_args: Any) -> GuardrailFunctionOutput:
        await gate.reached.wait()
        return GuardrailFunctionOutput(output_info=None, tripwire_triggered=True)

    model = ScriptedModel([gate.stream("rejected ") if stream else gate.answer([assistant_message("rejected")])])
    guard = InputGuardrail(refuse_later, name="polite")
    served = await serve(Agent(name="a", model=model, input_guardrails=[guard]))
    ran = await served.run("rude", stream=stream)
    tripped(ran, "polite")
    assert gate.left == ["cancelled"]
    assert ran.kinds == ["user"]
    (call,) = ran.result.calls
    assert (call.outcome, call.accuracy) == ("cancelled", "estimated")
    assert call.tokens.input_tokens > 0


@pytest.mark.parametrize("with_call", [False, True])
async def test_an_answer_that_was_faster_than_the_input_guardrail_is_not_kept(serve: Any, with_call: bool) -> None:
    answered = asyncio.Event()

    async def respond(_call: Any) -> Any:
        answered.set()
        return [function_call("look", {}, call_id="call_1")] if with_call else [assistant_message("rejected")]

    async def refuse_later(*_args: Any) -> GuardrailFunctionOutput:
        await answered.wait()
        for _ in range(10):
            await asyncio.sleep(0)
        return GuardrailFunctionOutput(output_info=None, tripwire_triggered=True)

    @function_tool
    async def look() -> str:
        """Look for as long as it takes."""
        await asyncio.Event().wait()
        return "never"

    model = ScriptedModel([{"responder": respond}, [assistant_message("rejected too")]])
    guard = InputGuardrail(refuse_later, name="polite")
    served = await serve(Agent(name="a", model=model, input_guardrails=[guard], tools=[look]))
    ran = await served.run("rude")
    tripped(ran, "polite")
    assert ran.kinds == ["user"]
    assert ran.result.usage.requests == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_an_output_guardrail_s_rejected_answer_is_not_in_the_history(serve: Any, stream: bool) -> None:
    @function_tool
    def look() -> str:
        """Look."""
        return "seen"

    model = ScriptedModel(
        [
            [function_call("look", {}, call_id="call_1")],
            [assistant_message("the forbidden answer")],
            [assistant_message("allowed")],
        ]
    )
    guarded = Agent(name="a", model=model, tools=[look], output_guardrails=[OutputGuardrail(refuse, name="discreet")])
    served = await serve(guarded)
    ran = await served.run("tell me", stream=stream)
    tripped(ran, "discreet")
    assert ran.kinds == ["user", "function_call", "function_call_output"]
    stored = json.dumps(list(await served.history(ran.result.conversation_id)))
    assert "forbidden" not in stored
    messages = await served.messages(ran.result.conversation_id)
    assert [message.role for message in messages] == ["user"]
    assert [call.outcome for call in ran.result.calls] == ["success", "success"]

    guarded.output_guardrails.clear()
    after = await served.run("again", to=ran.result.conversation_id)
    assert after.result.output == "allowed"
    assert kinds(model.last_call.input) == ["user", "function_call", "function_call_output", "user"]


@tool_input_guardrail(name="no_secrets_in")
def refuse_input(_data: Any) -> ToolGuardrailFunctionOutput:
    return ToolGuardrailFunctionOutput.raise_exception()


@tool_output_guardrail(name="no_secrets_out")
def refuse_output(_data: Any) -> ToolGuardrailFunctionOutput:
    return ToolGuardrailFunctionOutput.raise_exception()


@pytest.mark.parametrize(
    ("guards", "name"),
    [
        ({"tool_input_guardrails": [refuse_input]}, "no_secrets_in"),
        ({"tool_output_guardrails": [refuse_output]}, "no_secrets_out"),
    ],
)
async def test_tool_guardrails(serve: Any, guards: dict[str, Any], name: str) -> None:
    @function_tool(**guards)
    def leak() -> str:
        """Leak."""
        return "the forbidden output"

    model = ScriptedModel([[function_call("leak", {}, call_id="call_1")], [assistant_message("next")]])
    served = await serve(Agent(name="a", model=model, tools=[leak]))
    ran = await served.run("go")
    tripped(ran, name)
    assert "forbidden" not in json.dumps(list(ran.result.items))
    after = await served.run("on", to=ran.result.conversation_id)
    assert after.result.output == "next"
    sent = kinds(model.last_call.input)
    assert sent.count("function_call") == sent.count("function_call_output")


async def test_a_guardrail_that_raises_is_the_agent_s_fault(serve: Any) -> None:
    async def broken(*_args: Any) -> GuardrailFunctionOutput:
        raise KeyError("secret")

    guard = InputGuardrail(broken, name="broken", run_in_parallel=False)
    served = await serve(Agent(name="a", model=ScriptedModel(), input_guardrails=[guard]))
    ran = await served.run("hi")
    assert ran.result.error is not None
    assert ran.result.error.code == "agent_failed"
    assert "secret" not in ran.result.error.message
