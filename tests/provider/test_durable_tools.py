"""Tools of any kind over several attempts of a run: what is recorded is given back, and reads as it did."""

import asyncio
import json
from collections import Counter
from typing import Any

import pytest
from agents import (
    Agent,
    ApplyPatchTool,
    CustomTool,
    FunctionTool,
    LocalShellTool,
    RunContextWrapper,
    Runner,
    ToolGuardrailFunctionOutput,
    default_tool_error_function,
    function_tool,
    tool_input_guardrail,
    tool_output_guardrail,
)
from agents.testing import assistant_message
from agents.tool import (
    ShellCommandOutput,
    ShellResult,
    ShellTool,
    ToolOutputFileContent,
    ToolOutputImage,
    ToolOutputText,
)
from mcp.types import ToolAnnotations
from openai.types.responses import (
    ResponseApplyPatchToolCall,
    ResponseCustomToolCall,
    ResponseFunctionShellToolCall,
    ResponseReasoningItem,
)
from openai.types.responses.response_apply_patch_tool_call import OperationDeleteFile
from openai.types.responses.response_function_shell_tool_call import Action
from openai.types.responses.response_output_item import LocalShellCall, LocalShellCallAction
from pydantic import BaseModel

from app.domain.errors import AppError, LeaseLost, StorageUnavailable
from app.domain.models.approvals import Approval
from app.domain.models.runs import RunOptions, RunOutcome, RunStatus
from app.domain.models.tools import DEFAULT_POLICY, ToolPolicy, current_tool_call, tool_policy
from app.infrastructure.providers.openai.context import current_run
from app.infrastructure.providers.openai.journal_tools import UNKNOWN_OUTCOME, policy_of
from app.infrastructure.providers.openai.registry.tools import build_function_tool
from app.infrastructure.providers.openai.run_config import checked_options
from app.infrastructure.providers.openai.search_tool import search_tool
from app.tools.get_current_time import get_current_time
from app.tools.get_weather import get_weather
from tests.provider.attempts import Answers, at_every_write, call, cut, gone_on, opened, outputs_of, whole
from tests.provider.memory_log import NOW, MemoryLog


class Place(BaseModel):
    city: str


def one_tool(tool: Any, name: str = "look", **agent: Any) -> list[Any]:
    """An agent that calls a tool once and then ends."""
    return [Agent(name="a", model=Answers({0: [call(name, "c1")]}), tools=[tool], **agent)]


def returning(value: Any, policy: str = "idempotent") -> Any:
    @tool_policy(policy)
    @function_tool
    async def look() -> Any:
        """Look."""
        return value

    return look


PICTURE = ToolOutputImage(image_url="https://example.test/p.png")
VALUES = [
    "text",
    "",
    None,
    5,
    1.5,
    True,
    {"a": 1},
    {1: "a"},
    {"x": {3}},
    [1, 2],
    (1, 2),
    Place(city="Oslo"),
    [Place(city="Oslo")],
    PICTURE,
    ToolOutputText(text="hi"),
    [ToolOutputText(text="hi"), PICTURE],
    ToolOutputFileContent(file_data="aGk=", filename="a.txt"),
    b"\xff\x00",
    float("nan"),
    "\x00 \ud83d",
]


@pytest.mark.parametrize("value", VALUES, ids=[repr(value)[:30] for value in VALUES])
async def test_the_model_reads_the_same_of_any_result(value: Any) -> None:
    def agents() -> list[Any]:
        thought = ResponseReasoningItem(id="rs_1", summary=[], type="reasoning", encrypted_content="e")
        return [Agent(name="a", model=Answers({0: [thought, call("look", "c1")]}), tools=[returning(value)])]

    items: list[Any] = []
    async for outcome, log in at_every_write(agents):
        assert outcome.status is RunStatus.COMPLETED, outcome.error
        items.append(outcome.items)
        json.dumps([step.result for step in log.steps.values()])
    assert len(items) == 4
    assert all(one == items[-1] for one in items)


@pytest.mark.parametrize("value", [Place(city="Oslo"), [Place(city="Oslo")], 5, "text"], ids=str)
async def test_a_tool_that_ends_the_run_gives_the_same_output(value: Any) -> None:
    def agents() -> list[Any]:
        return one_tool(
            returning(value),
            output_type=list[Place] if isinstance(value, list) else type(value),
            tool_use_behavior="stop_on_first_tool",
        )

    first, log = await whole(agents())
    second, _ = await gone_on(agents(), log)
    assert (second.output, second.output_text) == (first.output, first.output_text)
    assert second.items == first.items


@pytest.mark.parametrize("error", [LeaseLost("gone"), StorageUnavailable("away")])
@pytest.mark.parametrize("nested", [False, True])
async def test_a_log_that_fails_stops_the_execution(error: AppError, nested: bool) -> None:
    inner = one_tool(returning("x", "at_most_once"))[0]
    asking = Agent(name="a", model=Answers({0: [call("ask", "c1", input="?")]}), tools=[inner.as_tool("ask", "Ask.")])
    _, log = await whole([asking] if nested else [inner])
    for writes in range(len(log.order)):
        with pytest.raises(type(error)) as raised:
            await opened([asking] if nested else [inner], MemoryLog(writes=writes, error=error)).run()
        assert raised.value is error


async def test_a_call_of_unknown_outcome_is_told_once() -> None:
    ran: list[str] = []

    @function_tool
    async def pay() -> str:
        """Pay."""
        ran.append("paid")
        return "paid"

    log = await cut(one_tool(pay, "pay"), 2)
    assert log.order == ["/m1 done", "/t:c1 started"]
    outcome, later = await gone_on(one_tool(pay, "pay"), log)
    assert outputs_of(outcome) == {"c1": UNKNOWN_OUTCOME}
    assert ran == ["paid"]
    assert Counter(later.told) == {
        "run.started": 2,
        "model.started": 2,
        "item.done": 2,
        "usage": 2,
        "tool.started": 1,
        "tool.output": 1,
    }


@pytest.mark.parametrize("policy", ["at_most_once", "idempotent", "transactional"])
async def test_a_tool_whose_time_runs_out_is_recorded_with_what_the_model_reads(policy: str) -> None:
    began: list[int] = []

    @tool_policy(policy)
    @function_tool(timeout=0.05)
    async def slow() -> str:
        """Wait."""
        began.append(1)
        await asyncio.Event().wait()
        return "never"

    first, log = await whole(one_tool(slow, "slow"))
    step = log.steps["/t:c1"]
    assert (step.state, step.result) == ("done", {"output": "Tool 'slow' timed out after 0.05 seconds."})
    assert step.duration_ms >= 40
    assert log.told.count("tool.started") == log.told.count("tool.output") == 1
    assert log.transactions == []
    second, later = await gone_on(one_tool(slow, "slow"), log)
    assert second.items == first.items
    assert later.told.count("tool.started") == 1
    assert began == [1]


def own_words(_context: Any, error: Exception) -> str:
    return f"It failed: {error}."


@pytest.mark.parametrize(
    ("fails", "told", "output"),
    [
        (False, own_words, "booked"),
        (True, own_words, "It failed: sold out."),
        (True, default_tool_error_function, "An error occurred while running the tool. Please try again."),
    ],
)
async def test_a_transactional_tool_writes_with_its_step_or_not_at_all(fails: bool, told: Any, output: str) -> None:
    @tool_policy("transactional")
    @function_tool(failure_error_function=told)
    async def book() -> str:
        """Book."""
        assert current_tool_call().session == "session"
        if fails:
            raise ValueError("sold out")
        return "booked"

    outcome, log = await whole(one_tool(book, "book"), session="session")
    assert outputs_of(outcome) == {"c1": output}
    (transaction,) = log.transactions
    assert transaction.undone is fails
    assert transaction.step is log.steps["/t:c1"]
    assert log.order == ["/m1 done", "/t:c1 done", "/m2 done"]


async def test_guardrails_of_tools_judge_once() -> None:
    did: Counter[str] = Counter()

    @tool_input_guardrail
    def check(data: Any) -> ToolGuardrailFunctionOutput:
        did["check"] += 1
        if "bad" in data.context.tool_arguments:
            return ToolGuardrailFunctionOutput.reject_content("not that")
        return ToolGuardrailFunctionOutput.allow()

    @tool_output_guardrail
    def mask(_data: Any) -> ToolGuardrailFunctionOutput:
        did["mask"] += 1
        return ToolGuardrailFunctionOutput.reject_content("masked")

    @function_tool(tool_input_guardrails=[check], tool_output_guardrails=[mask])
    async def look(what: str) -> str:
        """Look."""
        did[what] += 1
        return "secret"

    def agents() -> list[Any]:
        calls = [call("look", "c1", what="bad"), call("look", "c2", what="good")]
        return [Agent(name="a", model=Answers({0: calls}), tools=[look])]

    first, log = await whole(agents())
    assert outputs_of(first) == {"c1": "not that", "c2": "masked"}
    assert did == {"check": 2, "mask": 1, "good": 1}
    assert log.steps["/t:c2"].result == {"output": "secret"}
    second, _ = await gone_on(agents(), log)
    assert second.items == first.items
    assert did == {"check": 2, "mask": 1, "good": 1}


async def test_a_tool_that_is_changed_in_place_is_changed_for_the_next_run() -> None:
    look = returning("seen")
    model = Answers({})
    agent = Agent(name="a", model=model, tools=[look])
    await whole([agent])
    assert model.tools == ["look"]
    look.is_enabled = False
    await whole([agent])
    assert model.tools == []


async def test_what_a_call_knows_of_itself() -> None:
    seen: list[Any] = []

    @function_tool
    def look(context: RunContextWrapper[Any]) -> str:
        """Look; in a thread."""
        seen.append((current_tool_call(), context.context.tool_call, current_run()))
        return "seen"

    await whole(one_tool(look))
    ((mine, of_context, run),) = seen
    assert mine is of_context
    assert (mine.run_id, mine.call_id, mine.tool) == ("run_1", "c1", "look")
    assert (mine.idempotency_key, mine.attempt, mine.session) == ("run_1:/t:c1", 1, None)
    assert run is not None
    with pytest.raises(LookupError):
        _ = run.tool_call


async def test_runs_inside_of_parallel_tools_have_paths_of_their_own() -> None:
    inner = Agent(name="inner", model=Answers({}))

    @function_tool
    async def twice() -> str:
        """Ask two times."""
        return " ".join([str((await Runner.run(inner, text)).final_output) for text in "xy"])

    def agents() -> list[Any]:
        return [Agent(name="a", model=Answers({0: [call("twice", "c1"), call("twice", "c2")]}), tools=[twice])]

    outcome, log = await whole(agents())
    assert outputs_of(outcome) == {"c1": "end end", "c2": "end end"}
    calls = {used.step for used in log.calls}
    assert calls == {"/m1", "/m2", *(f"/t:{outer}/{run}m1" for outer in ("c1", "c2") for run in ("", "r2/"))}


async def test_a_tool_may_make_an_output_of_a_run_that_waits() -> None:
    """Its code has seen that the run inside of it waits and has gone on: nobody is asked then."""
    inner = Agent(name="inner", model=Answers({0: [call("delete", "c9")]}), tools=[deleting()])

    @function_tool
    async def ask() -> str:
        """Ask."""
        return f"{len((await Runner.run(inner, 'x')).interruptions)} open"

    outcome, log = await whole(one_tool(ask, "ask"))
    assert (outcome.status, outcome.approvals) == (RunStatus.COMPLETED, ())
    assert outputs_of(outcome) == {"c1": "1 open"}
    assert log.steps["/t:c1"].state == "done"
    assert outcome.tool_calls[0].output == "1 open"


def deleting() -> Any:
    @function_tool(needs_approval=True)
    async def delete() -> str:
        """Delete."""
        return "deleted"

    return delete


class OlderAnnotations(BaseModel):
    """The hints as version 1 of the MCP package has them."""

    readOnlyHint: bool | None = None  # noqa: N815 - its name there
    idempotentHint: bool | None = None  # noqa: N815


def of_server(older: type[BaseModel] = ToolAnnotations, **hints: bool) -> FunctionTool:
    async def invoke(_context: Any, _arguments: str) -> str:
        return "x"

    return FunctionTool("t", "d", {}, invoke, _mcp_annotations=older(**hints))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("tool", "policy"),
    [
        (build_function_tool(get_weather, "get_weather", "x"), ToolPolicy.IDEMPOTENT),
        (build_function_tool(get_current_time, "get_current_time", "x"), ToolPolicy.IDEMPOTENT),
        (build_function_tool(search_tool(lambda *_: None), "search", "x"), ToolPolicy.IDEMPOTENT),  # type: ignore[arg-type,return-value]
        (deleting(), DEFAULT_POLICY),
        (of_server(), DEFAULT_POLICY),
        (of_server(read_only_hint=True), ToolPolicy.IDEMPOTENT),
        (of_server(idempotent_hint=True), ToolPolicy.IDEMPOTENT),
        (of_server(read_only_hint=False, destructive_hint=True), DEFAULT_POLICY),
        (of_server(OlderAnnotations, readOnlyHint=True), ToolPolicy.IDEMPOTENT),
        (of_server(OlderAnnotations, idempotentHint=True), ToolPolicy.IDEMPOTENT),
        (of_server(OlderAnnotations, readOnlyHint=False), DEFAULT_POLICY),
    ],
)
def test_policies(tool: Any, policy: ToolPolicy) -> None:
    assert policy_of(tool) is policy


class OneCall(Answers):
    """Makes one call of a kind that the SDK's test functions have none for."""

    def __init__(self, made: Any) -> None:
        super().__init__({0: [made]})


CUSTOM = ResponseCustomToolCall(call_id="c1", input="raw", name="custom", type="custom_tool_call")
LOCAL = LocalShellCall(
    id="lsh_1",
    call_id="c1",
    status="completed",
    type="local_shell_call",
    action=LocalShellCallAction(command=["ls"], env={}, type="exec"),
)
SHELL = ResponseFunctionShellToolCall(
    id="sh_1", call_id="c1", status="completed", type="shell_call", action=Action(commands=["ls"])
)


class Others:
    """Tools that are no functions; `ran` counts what they did."""

    def __init__(self, kind: str, *, approval: bool = False, fails: bool = False) -> None:
        self.ran = 0
        self._kind = kind
        self._approval = approval
        self._fails = fails

    @property
    def agents(self) -> list[Any]:
        tool: Any
        if self._kind == "custom":
            made: Any = CUSTOM
            tool = CustomTool("custom", "d", self._custom, needs_approval=self._approval)
        elif self._kind == "local":
            made, tool = LOCAL, LocalShellTool(self._local)
        else:
            made, tool = SHELL, ShellTool(self._shell, needs_approval=self._approval)
        return [Agent(name="a", model=OneCall(made), tools=[tool])]

    async def _custom(self, _context: Any, given: str) -> str:
        self._did()
        return f"did {given}"

    def _local(self, _request: Any) -> str:
        self._did()
        return "files"

    async def _shell(self, _request: Any) -> ShellResult:
        self._did()
        return ShellResult([ShellCommandOutput(stdout="files\n", command="ls")], provider_data={"pid": 7})

    def _did(self) -> None:
        self.ran += 1
        if self._fails:
            raise OSError("no such file")


@pytest.mark.parametrize(("kind", "fails"), [("custom", False), ("local", False), ("shell", False), ("shell", True)])
async def test_tools_that_are_no_functions_run_once(kind: str, fails: bool) -> None:
    others = Others(kind, fails=fails)
    first, log = await whole(others.agents)
    assert first.status is RunStatus.COMPLETED, first.error
    assert log.order == ["/m1 done", "/t:c1 started", "/t:c1 done", "/m2 done"]
    assert log.told.count("tool.started") == log.told.count("tool.output") == 1
    assert (first.tool_calls[0].call_id, len(first.tool_calls)) == ("c1", 1)
    second, later = await gone_on(others.agents, log)
    assert second.items == first.items
    assert later.told.count("tool.started") == later.told.count("tool.output") == 1
    assert others.ran == 1


@pytest.mark.parametrize("kind", ["custom", "local", "shell"])
async def test_tools_that_are_no_functions_are_not_repeated_after_a_crash(kind: str) -> None:
    others = Others(kind)
    outcome, _ = await gone_on(others.agents, await cut(others.agents, 2))
    assert others.ran == 1
    assert UNKNOWN_OUTCOME in json.dumps(outcome.items)


def decided(waiting: RunOutcome, state: Any, message: str | None = None) -> list[Approval]:
    return [
        Approval(
            "run_1",
            "conv_1",
            request,
            state,
            always=False,
            message=message,
            decided_by="eve",
            requested_at=NOW,
            expires_at=None,
            decided_at=NOW,
        )
        for request in waiting.approvals
    ]


@pytest.mark.parametrize("kind", ["custom", "shell"])
@pytest.mark.parametrize("state", ["approved", "rejected", "expired"])
async def test_tools_that_are_no_functions_can_ask_a_person(kind: str, state: str) -> None:
    others = Others(kind, approval=True)
    waiting, log = await whole(others.agents)
    assert (waiting.status, others.ran) == (RunStatus.WAITING, 0)
    (request,) = waiting.approvals
    assert (request.step, request.call_id, request.tool) == ("/t:c1", "c1", kind)
    assert request.arguments == "raw" if kind == "custom" else "ls" in request.arguments
    outcome, later = await gone_on(others.agents, log, approvals=decided(waiting, state, "Not now."))
    assert outcome.status is RunStatus.COMPLETED, outcome.error
    assert others.ran == (1 if state == "approved" else 0)
    told = {"approved": "files" if kind == "shell" else "did raw", "rejected": "Not now.", "expired": "in time"}[state]
    assert told in json.dumps(outcome.items)
    assert later.steps["/t:c1"].state == "done"


async def test_a_kind_that_cannot_wait_for_a_person_is_named() -> None:
    apply = Agent(name="a", model=OneCall(patch_call()), tools=[patching()])
    outcome, _ = await whole([apply])
    assert outcome.status is RunStatus.FAILED
    assert outcome.error is not None
    assert outcome.error.code == "agent_failed"
    assert "apply_patch_call" in outcome.error.message


def patch_call() -> Any:
    return ResponseApplyPatchToolCall(
        id="ap_1",
        call_id="c1",
        status="completed",
        type="apply_patch_call",
        operation=OperationDeleteFile(path="a.txt", type="delete_file"),
    )


def patching() -> Any:
    class Editor:
        def create_file(self, _operation: Any) -> None:
            raise AssertionError

        update_file = delete_file = create_file

    return ApplyPatchTool(editor=Editor(), needs_approval=True)


async def test_a_run_with_a_type_is_gone_on_with_by_a_process_that_has_its_schema_alone() -> None:
    given = checked_options(RunOptions(output_type=list[Place]))
    assert given.output_type == list[Place]
    answers = Answers({0: [call("look", "c1")], 1: [assistant_message('{"response": [{"city": "Oslo"}]}')]})
    log = await cut([Agent(name="a", model=answers, tools=[returning("3")], output_type=list[Place])], 2)
    outcome, _ = await gone_on(
        [Agent(name="a", model=answers, tools=[returning("3")])], log, options={"output_schema": given.output_schema}
    )
    assert outcome.output == [{"city": "Oslo"}]
