"""Tools that the caller of a run executes: a call of one ends the run, and the next input holds its output."""

from typing import Any

import pytest
from agents import Agent, function_tool
from agents.testing import ModelStep, ScriptedModel, assistant_message, function_call
from agents.usage import Usage

from app.domain.errors import InvalidInput
from app.domain.models.approvals import Decision
from app.domain.models.runs import RunOptions, RunStatus
from app.infrastructure.providers.openai.run_config import checked_options
from tests.provider.attempts import Answers, at_every_write, call
from tests.provider.serving import CALLER

USAGE = Usage(requests=1, input_tokens=10, output_tokens=5, total_tokens=15)
LOOK = {"type": "function", "name": "look", "description": "Look.", "parameters": {"type": "object", "properties": {}}}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "a tree"}


def step(*items: Any) -> ModelStep:
    return ModelStep(output=list(items), usage=USAGE)


def asking(*more: Any, **fields: Any) -> Agent[Any]:
    script = [step(*more, function_call("look", {}, call_id="c1")), step(assistant_message("I see a tree."))]
    return Agent(name="a", model=ScriptedModel(script), **fields)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_ends_the_run_and_its_output_goes_on(serve: Any, stream: bool) -> None:
    served = await serve(asking(assistant_message("Wait.")))
    first = (await served.run("what is there?", stream=stream, client_tools=(LOOK,))).result
    assert (first.status, first.client_calls, first.output) == (RunStatus.COMPLETED, ("c1",), "Wait.")
    assert first.items[-1]["type"] == "function_call"
    second = (await served.run([OUTPUT], to=first.conversation_id, client_tools=(LOOK,))).result
    assert (second.status, second.output, second.client_calls) == (RunStatus.COMPLETED, "I see a tree.", ())
    items = await served.conversations.items(CALLER, first.conversation_id)
    assert [item.get("type", item.get("role")) for item in items] == [
        "user",
        "message",
        "function_call",
        "function_call_output",
        "message",
    ]


async def test_a_call_that_nobody_answered_is_not_shown_to_the_model(serve: Any) -> None:
    agent = asking()
    served = await serve(agent)
    first = (await served.run("what is there?", client_tools=(LOOK,))).result
    second = (await served.run("never mind", to=first.conversation_id)).result
    assert second.status is RunStatus.COMPLETED
    shown = agent.model.calls[-1].input  # type: ignore[union-attr]
    assert not any(item.get("type") == "function_call" for item in shown)


async def test_an_output_of_no_call_is_refused_and_spoils_nothing(serve: Any) -> None:
    served = await serve(asking())
    first = (await served.run("hi", client_tools=(LOOK,))).result
    stray = {**OUTPUT, "call_id": "c9"}
    refused = (await served.run([stray], to=first.conversation_id)).result
    assert refused.error is not None
    assert (refused.error.code, refused.error.details) == ("invalid_value", {"param": "input[0].call_id"})
    assert "c9" in refused.error.message
    good = (await served.run([OUTPUT], to=first.conversation_id, client_tools=(LOOK,))).result
    assert good.output == "I see a tree."


async def test_the_agent_s_own_tools_beside_it_are_run(serve: Any) -> None:
    @function_tool
    async def count() -> str:
        """Count."""
        return "3"

    served = await serve(asking(function_call("count", {}, call_id="c0"), tools=[count]))
    first = (await served.run("go", client_tools=(LOOK,))).result
    assert first.client_calls == ("c1",)
    assert {one.call_id: one.output for one in first.tool_calls}["c0"] == "3"
    second = (await served.run([OUTPUT], to=first.conversation_id, client_tools=(LOOK,))).result
    assert second.output == "I see a tree."


async def test_an_approval_comes_first(serve: Any) -> None:
    @function_tool(needs_approval=True)
    async def pay() -> str:
        """Pay."""
        return "paid"

    served = await serve(asking(function_call("pay", {}, call_id="c0"), tools=[pay]))
    first = (await served.run("go", client_tools=(LOOK,))).result
    assert (first.status, [one.call_id for one in first.approvals]) == (RunStatus.WAITING, ["c0"])
    await served.runs.decide(CALLER, first.run_id, [Decision(call_id="c0", approve=True)])
    done = await served.runs.result(CALLER, first.run_id)
    while done.status is RunStatus.WAITING:
        done = await served.runs.result(CALLER, first.run_id)
    assert (done.status, done.client_calls) == (RunStatus.COMPLETED, ("c1",))


async def test_a_name_of_the_agent_s_own_is_refused(serve: Any) -> None:
    @function_tool
    async def look() -> str:
        """Look."""
        return "x"

    served = await serve(asking(tools=[look]))
    refused = (await served.run("go", client_tools=(LOOK,))).result
    assert refused.error is not None
    assert (refused.error.code, refused.error.details) == ("invalid_value", {"param": "client_tools[0].name"})


async def test_it_survives_a_lost_process() -> None:
    answers = Answers({0: [call("look", "c1")]})
    async for outcome, _ in at_every_write(lambda: [Agent(name="a", model=answers)], options={"client_tools": (LOOK,)}):
        assert outcome.client_calls == ("c1",)


@pytest.mark.parametrize(
    ("tool", "param"),
    [
        ({"type": "web_search"}, "client_tools[0].type"),
        ({**LOOK, "color": 1}, "client_tools[0].color"),
        ({**LOOK, "name": "no spaces"}, "client_tools[0].name"),
        ({**LOOK, "name": ""}, "client_tools[0].name"),
        ({**LOOK, "description": 5}, "client_tools[0].description"),
        ({**LOOK, "parameters": "none"}, "client_tools[0].parameters"),
        ({**LOOK, "parameters": {"city": "string"}}, "client_tools[0].parameters"),
        ({**LOOK, "parameters": {"type": "array"}}, "client_tools[0].parameters"),
        ({**LOOK, "strict": "yes"}, "client_tools[0].strict"),
        (
            {**LOOK, "strict": True, "parameters": {"type": "object", "additionalProperties": True}},
            "client_tools[0].parameters",
        ),
    ],
)
def test_what_is_no_function_tool_is_refused(tool: Any, param: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        checked_options(RunOptions(client_tools=(tool,)))
    assert refused.value.param == param


def test_two_of_one_name_and_too_many_are_refused() -> None:
    with pytest.raises(InvalidInput) as refused:
        checked_options(RunOptions(client_tools=(LOOK, LOOK)))
    assert refused.value.param == "client_tools[1].name"
    with pytest.raises(InvalidInput):
        checked_options(RunOptions(client_tools=(LOOK,) * 129))


async def test_instructions_of_one_run_are_added_to_the_agent_s_own(serve: Any) -> None:
    model = ScriptedModel([step(assistant_message("one")), step(assistant_message("two"))])
    served = await serve(Agent(name="a", instructions="Be brief.", model=model))
    first = (await served.run("hi", instructions="Speak French.")).result
    await served.run("again", to=first.conversation_id)
    assert [call.system_instructions for call in model.calls] == ["Be brief.\n\nSpeak French.", "Be brief."]
