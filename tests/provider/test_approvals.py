"""Tools that need a person: the run waits, survives its process, and goes on with what it had done."""

from typing import Any

import pytest
from agents import Agent, RunContextWrapper, function_tool

from app.domain.errors import RunConflict
from app.domain.models.approvals import Decision
from app.domain.models.events import ApprovalRequested, RunWaiting
from app.domain.models.runs import RunStatus
from tests.fakes.openai import Call, FakeOpenAI
from tests.provider.serving import CALLER, Ran, Served, endpoint


class Deleting:
    """Two tools, one of which needs a person; counts what they really did."""

    def __init__(self) -> None:
        self.deleted: list[str] = []
        self.looked = 0

    @property
    def agent(self) -> Agent[Any]:
        @function_tool(needs_approval=True)
        def delete(name: str) -> str:
            """Delete a file."""
            self.deleted.append(name)
            return f"deleted {name}"

        @function_tool
        def look() -> str:
            """Look."""
            self.looked += 1
            return "seen"

        return Agent(name="a", tools=[delete, look])


async def decided(served: Served, ran: Ran, *decisions: Decision) -> Ran:
    assert await served.runs.decide(CALLER, ran.result.run_id, decisions) == 0
    events = [
        one.event
        async for batch in served.runs.events(CALLER, ran.result.run_id, after=len(ran.events))
        for one in batch.events
    ]
    return Ran(await served.runs.result(CALLER, ran.result.run_id), events)


@pytest.mark.parametrize("stream", [False, True])
async def test_the_run_waits_and_goes_on(serve: Any, fake: FakeOpenAI, stream: bool) -> None:
    deleting = Deleting()
    served = await serve(deleting.agent, options=endpoint(fake))
    fake.script([[Call("look", {}, "call_1"), Call("delete", {"name": "x"}, "call_2")], "done"])
    ran = await served.run("go", stream=stream)
    assert ran.result.status is RunStatus.WAITING
    (asked,) = ran.result.approvals
    assert (asked.call_id, asked.tool, asked.arguments, asked.step) == (
        "call_2",
        "delete",
        '{"name": "x"}',
        "/t:call_2",
    )
    assert [event.call_id for event in ran.of(ApprovalRequested)] == ["call_2"]
    assert isinstance(ran.events[-1], RunWaiting)
    assert (deleting.looked, deleting.deleted) == (1, [])
    assert await served.history(ran.result.conversation_id) == []

    after = await decided(served, ran, Decision("call_2", approve=True))
    assert after.result.status is RunStatus.COMPLETED
    assert after.result.output == "done"
    assert (deleting.looked, deleting.deleted) == (1, ["x"])
    assert len(fake.requests) == 2
    assert len(await served.usage_rows(ran.result.run_id)) == 2
    told = [event.type for event in (*ran.events, *after.events)]
    assert told.count("tool.output") == told.count("tool.started") == 2
    assert after.kinds == ["user", *["function_call"] * 2, *["function_call_output"] * 2, "assistant"]
    with pytest.raises(RunConflict):
        await served.runs.decide(CALLER, ran.result.run_id, [Decision("call_2", approve=False)])


async def test_a_rejection_is_told_to_the_model(serve: Any, fake: FakeOpenAI) -> None:
    deleting = Deleting()
    served = await serve(deleting.agent, options=endpoint(fake))
    fake.script([[Call("delete", {"name": "x"}, "call_1")], [Call("delete", {"name": "y"}, "call_2")], "I see"])
    ran = await served.run("go")
    again = await decided(served, ran, Decision("call_1", approve=False, message="Not that one."))
    assert again.result.status is RunStatus.WAITING  # the next call is asked for anew
    assert [request.call_id for request in again.result.approvals] == ["call_2"]
    after = await decided(served, Ran(again.result, [*ran.events, *again.events]), Decision("call_2", approve=False))
    assert after.result.output == "I see"
    outputs = [item["output"] for item in after.result.items if "output" in item]
    assert outputs == ["Not that one.", "Tool execution was not approved."]
    assert deleting.deleted == []


async def test_always_holds_for_the_rest_of_the_run(serve: Any, fake: FakeOpenAI) -> None:
    deleting = Deleting()
    served = await serve(deleting.agent, options=endpoint(fake))
    fake.script([[Call("delete", {"name": "x"}, "call_1")], [Call("delete", {"name": "y"}, "call_2")], "done"])
    ran = await served.run("go")
    after = await decided(served, ran, Decision("call_1", approve=True, always=True))
    assert after.result.status is RunStatus.COMPLETED
    assert deleting.deleted == ["x", "y"]


async def test_some_decisions_are_not_all(serve: Any, fake: FakeOpenAI) -> None:
    deleting = Deleting()
    served = await serve(deleting.agent, options=endpoint(fake))
    fake.script([[Call("delete", {"name": "x"}, "call_1"), Call("delete", {"name": "y"}, "call_2")], "done"])
    ran = await served.run("go")
    run_id = ran.result.run_id
    assert await served.runs.decide(CALLER, run_id, [Decision("call_1", approve=True)]) == 1
    assert (await served.runs.result(CALLER, run_id)).status is RunStatus.WAITING
    assert [one.state for one in await served.runs.approvals(CALLER, run_id)] == ["approved", "pending"]
    after = await decided(served, ran, Decision("call_2", approve=False))
    assert deleting.deleted == ["x"]
    assert after.result.status is RunStatus.COMPLETED


async def test_a_rule_of_the_tool_decides_who_is_asked(serve: Any, fake: FakeOpenAI) -> None:
    async def is_big(_context: RunContextWrapper[Any], given: dict[str, Any], _call_id: str) -> bool:
        return given["amount"] > 100

    @function_tool(needs_approval=is_big)
    def pay(amount: int) -> str:
        """Pay."""
        return f"paid {amount}"

    served = await serve(Agent(name="a", tools=[pay]), options=endpoint(fake))
    fake.script([[Call("pay", {"amount": 5}, "call_1"), Call("pay", {"amount": 500}, "call_2")], "done"])
    ran = await served.run("go")
    assert [request.call_id for request in ran.result.approvals] == ["call_2"]
    after = await decided(served, ran, Decision("call_2", approve=True))
    assert [item["output"] for item in after.result.items if "output" in item] == ["paid 5", "paid 500"]


async def test_an_agent_used_as_a_tool_waits_inside(serve: Any, fake: FakeOpenAI) -> None:
    deleting = Deleting()
    inner = deleting.agent.clone(name="inner")
    outer = Agent(name="outer", tools=[inner.as_tool("ask_inner", "Ask.")])
    served = await serve(outer, options=endpoint(fake))
    fake.script(
        [
            [Call("ask_inner", {"input": "please"}, "call_1")],
            [Call("look", {}, "call_2"), Call("delete", {"name": "x"}, "call_3")],
            "inner done",
            "outer done",
        ]
    )
    ran = await served.run("go")
    assert ran.result.status is RunStatus.WAITING
    (asked,) = ran.result.approvals
    assert (asked.step, asked.scope) == ("/t:call_1/t:call_3", "/t:call_1")
    after = await decided(served, ran, Decision("call_3", approve=True))
    assert after.result.output == "outer done"
    assert (deleting.looked, deleting.deleted) == (1, ["x"])
    assert len(fake.requests) == 4


async def test_a_waiting_run_can_be_cancelled(serve: Any, fake: FakeOpenAI) -> None:
    deleting = Deleting()
    served = await serve(deleting.agent, options=endpoint(fake))
    fake.script([[Call("look", {}, "call_1"), Call("delete", {"name": "x"}, "call_2")], "next one"])
    ran = await served.run("go")
    assert await served.runs.cancel(CALLER, ran.result.run_id) is RunStatus.WAITING
    result = await served.runs.result(CALLER, ran.result.run_id)
    assert result.status is RunStatus.CANCELLED
    outputs = {item["call_id"]: item["output"] for item in result.items if "output" in item}
    assert outputs["call_1"] == "seen"
    assert "interrupted" in outputs["call_2"]
    assert (await served.run("and now?", to=result.conversation_id)).result.output == "next one"
    assert deleting.deleted == []
