"""Closing a lost run: its record is gone through, nothing new happens, and the history gets what there is."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
from agents import (
    Agent,
    GuardrailFunctionOutput,
    LocalShellTool,
    RunContextWrapper,
    function_tool,
    input_guardrail,
    output_guardrail,
)
from agents.editor import ApplyPatchOperation
from agents.mcp import MCPServerStdio
from agents.tool import ApplyPatchTool

from app.domain.models.runs import RunOutcome, RunStatus
from app.domain.models.tools import tool_policy
from tests.provider.attempts import END, Answers, call, cut, opened, outputs_of, whole
from tests.provider.memory_log import MemoryLog, claimed, continued
from tests.provider.test_durable_tools import LOCAL, OneCall, patch_call


async def closed(agents: list[Any], log: MemoryLog, reason: str = "user") -> RunOutcome:
    """Close a run as the service does that finds it cancelled or lost; its log must not get anything new."""
    later = continued(log, writes=0)
    execution = opened(agents, later, claimed(log, fence=2))
    await asyncio.wait_for(execution.replay(), 5)
    assert later.order == log.order
    return execution.interrupted(reason)


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        ("user", RunStatus.CANCELLED),
        ("interrupted", RunStatus.CANCELLED),
        ("timeout", RunStatus.CANCELLED),
        ("process_lost", RunStatus.FAILED),
    ],
)
async def test_why_a_run_was_stopped(reason: str, status: RunStatus) -> None:
    ran: list[str] = []

    @function_tool
    async def look(what: str) -> str:
        """Look."""
        ran.append(what)
        return f"saw {what}"

    answers = Answers({0: [call("look", "c1", what="x")], 1: [call("look", "c2", what="y")]})
    agents = [Agent(name="a", model=answers, tools=[look])]
    log = await cut(agents, 4)
    assert log.order[-1] == "/m2 done"
    ran.clear()
    asked = answers.asked.total()
    outcome = await closed(agents, log, reason)
    assert (outcome.status, outcome.error and outcome.error.details) == (status, {"reason": reason})
    assert outputs_of(outcome)["c1"] == "saw x"
    assert "interrupted" in outputs_of(outcome)["c2"]
    assert [item.get("type", item.get("role")) for item in outcome.items] == [
        "user",
        *["function_call", "function_call_output"] * 2,
    ]
    assert (ran, answers.asked.total()) == ([], asked)


async def test_a_run_that_has_recorded_its_last_answer_has_it_in_its_history() -> None:
    agents = [Agent(name="a", model=Answers({}))]
    _, log = await whole(agents)
    outcome = await closed(agents, continued(log))
    assert [item.get("role") for item in outcome.items] == ["user", "assistant"]


async def test_no_guardrail_judges_anew() -> None:
    judged: list[str] = []

    @input_guardrail
    async def on_input(_context: Any, _agent: Any, _input: Any) -> GuardrailFunctionOutput:
        judged.append("input")
        return GuardrailFunctionOutput(None, tripwire_triggered=False)

    @output_guardrail
    async def on_output(_context: Any, _agent: Any, _output: Any) -> GuardrailFunctionOutput:
        judged.append("output")
        return GuardrailFunctionOutput(None, tripwire_triggered=False)

    agents = [Agent(name="a", model=Answers({}), input_guardrails=[on_input], output_guardrails=[on_output])]
    log = MemoryLog()
    await opened(agents, log).run()
    assert judged == ["input", "output"]
    assert "/g:on_output:output" not in log.steps  # it goes with the end of the run, which is lost here
    await closed(agents, continued(log))
    assert judged == ["input", "output"]


class Counting(MCPServerStdio):
    """A server that counts how often its tools are listed."""

    listed = 0

    async def list_tools(self, run_context: RunContextWrapper[Any] | None = None, agent: Any = None) -> Any:
        self.listed += 1
        return await super().list_tools(run_context, agent)


async def test_no_server_is_asked_for_its_tools() -> None:
    script = Path(__file__).parents[1] / "fakes" / "mcp_server.py"
    server: Any = Counting({"command": sys.executable, "args": [str(script)]}, name="words")
    await server.connect()
    try:
        agents = [Agent(name="a", model=Answers({0: [call("shout", "c1", text="hi")]}), mcp_servers=[server])]
        log = await cut(agents, 3)
        assert log.order == ["/l:words done", "/m1 done", "/t:c1 started", "/t:c1 done"]
        listed = server.listed
        outcome = await closed(agents, log)
        assert server.listed == listed
        assert "HI" in str(outputs_of(outcome)["c1"])
    finally:
        await server.cleanup()


async def test_no_shell_and_no_editor_acts() -> None:
    acted: list[str] = []

    class Editor:
        def create_file(self, _operation: ApplyPatchOperation) -> str:
            raise AssertionError

        def update_file(self, _operation: ApplyPatchOperation) -> str:
            raise AssertionError

        def delete_file(self, operation: ApplyPatchOperation) -> str:
            acted.append(operation.path)
            return "deleted"

    def executor(_request: Any) -> str:
        acted.append("ls")
        return "files"

    shell = [Agent(name="a", model=OneCall(LOCAL), tools=[LocalShellTool(executor)])]
    editor = [Agent(name="a", model=OneCall(patch_call()), tools=[ApplyPatchTool(Editor())])]
    for agents in (shell, editor):
        log = await cut(agents, 1)
        acted.clear()  # what the lost process did before its log failed
        await closed(agents, log)
        assert acted == []


async def test_what_runs_beside_the_end_of_the_record_is_gone_through_to_its_own_end() -> None:
    """A long nested run is recorded while the tool beside it has never begun."""
    steps = 25

    @tool_policy("idempotent")
    @function_tool
    async def dig(depth: int) -> str:
        """Dig."""
        return f"down {depth}"

    @function_tool
    async def wait() -> str:
        """Wait."""
        await asyncio.Event().wait()
        return "never"

    digger = Agent(
        name="digger",
        model=Answers({depth: [call("dig", f"d{depth}", depth=depth)] for depth in range(steps)}),
        tools=[dig],
    )
    deep = digger.as_tool("deep", "Dig deep.", max_turns=steps + 1)
    calls = [call("wait", "c1"), call("deep", "c2", input="go")]
    agents = [Agent(name="a", model=Answers({0: calls}), tools=[wait, deep])]
    log = MemoryLog()
    running = asyncio.create_task(opened(agents, log).run())
    async with asyncio.timeout(10):
        while "/t:c2 done" not in log.order:
            await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait((running,))
    lost = continued(log)
    lost.steps = {key: step for key, step in lost.steps.items() if key not in {"/t:c1", "/t:c2"}}
    outcome = await closed(agents, lost)
    nested = [one for one in outcome.tool_calls if one.scope == "/t:c2"]
    assert len(nested) == steps
    assert all(one.output is not None for one in nested)


async def test_a_run_that_nobody_has_begun_is_closed_with_its_input() -> None:
    agents = [Agent(name="a", model=Answers({0: END}))]
    outcome = opened(agents, MemoryLog()).interrupted("process_lost")
    assert [item["content"] for item in outcome.items] == ["go"]
