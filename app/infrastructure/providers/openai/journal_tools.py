"""Tools whose calls are recorded as steps, and not repeated when an earlier attempt of the run has recorded them.

What happens to a call whose process died before its output was on disk is the tool's policy; see
`app.domain.models.tools`. Outside of a run a durable tool behaves as the tool it wraps.
"""

import functools
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from copy import copy
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from time import monotonic
from typing import Any, Final, cast

from agents import CustomTool, FunctionTool, LocalShellTool, ShellTool, Tool
from agents.tool import (
    _FailureHandlingFunctionToolInvoker,  # pyright: ignore[reportPrivateUsage] - where the SDK turns errors into text
    _get_function_tool_invoke_context,  # pyright: ignore[reportPrivateUsage] - which context a wrapper asks for
)
from agents.tool_context import ToolContext
from pydantic_core import to_jsonable_python

from app.domain.models.events import ToolOutput, ToolStarted
from app.domain.models.runs import Step, ToolCallRecord
from app.domain.models.tools import CURRENT_TOOL_CALL, DEFAULT_POLICY, ToolCall, ToolPolicy, declared_policy
from app.infrastructure.providers.openai.approval_questions import ApprovalQuestion
from app.infrastructure.providers.openai.approvals import refusal
from app.infrastructure.providers.openai.context import ACTIVE_RUN, ActiveRun, step_key
from app.infrastructure.providers.openai.guardrails import durable_tool_guardrails
from app.infrastructure.providers.openai.recording import never_failing
from app.infrastructure.providers.openai.tool_calls import output_text

UNKNOWN_OUTCOME: Final = (
    "The process that ran this tool was lost before it could record the output. The outcome is unknown, "
    "and the tool was not run again."
)

Invoke = Callable[[ToolContext[Any], str], Awaitable[Any]]

_errors_seen: ContextVar[list[BaseException] | None] = ContextVar("durable_agents_tool_errors", default=None)


OwnTool = FunctionTool | CustomTool | ShellTool | LocalShellTool
"""The kinds of tools that run in our process and whose calls are recorded."""


def policy_of(tool: OwnTool) -> ToolPolicy:
    """Return the policy of a tool: declared on it or its function, told by its MCP server, else the default."""
    declared = declared_policy(tool)
    if declared is None and isinstance(tool, FunctionTool):
        declared = declared_policy(getattr(tool, "__wrapped__", None))
    if declared is not None:
        return declared
    hints = tool.mcp_annotations if isinstance(tool, FunctionTool) else None
    # By the names of the protocol: the MCP package has other attributes in each major version.
    told = {} if hints is None else hints.model_dump(by_alias=True)
    if told.get("readOnlyHint") or told.get("idempotentHint"):
        return ToolPolicy.IDEMPOTENT
    return DEFAULT_POLICY


def durable_tool(tool: Tool) -> Tool:
    """Return a copy of a function or custom tool whose calls are recorded; others are returned as they are."""
    if isinstance(tool, FunctionTool):
        return _durable_function_tool(tool)
    if isinstance(tool, CustomTool) and not isinstance(tool.on_invoke_tool, DurableInvocation):
        durable = copy(tool)
        durable.on_invoke_tool = DurableInvocation(tool, cast("Invoke", tool.on_invoke_tool), policy_of(tool))
        # With a handler of its own the SDK decides on the spot, and nobody is asked.
        if tool.needs_approval is not False and tool.on_approval is None:
            durable.needs_approval = ApprovalQuestion(tool)
        return durable
    return tool


def is_durable(tool: Tool) -> bool:
    """Tell whether a tool records its calls itself."""
    if isinstance(tool, ShellTool | LocalShellTool):
        return isinstance(tool.executor, DurableCalls)
    return isinstance(tool, FunctionTool | CustomTool) and isinstance(tool.on_invoke_tool, DurableCalls)


def _durable_function_tool(tool: FunctionTool) -> FunctionTool:
    if isinstance(tool.on_invoke_tool, DurableInvocation):
        return tool
    durable = copy(tool)
    policy = policy_of(tool)
    invoke = tool.on_invoke_tool
    if policy is ToolPolicy.TRANSACTIONAL:
        invoke = _error_telling(invoke)
    durable.on_invoke_tool = DurableInvocation(tool, invoke, policy, is_agent=tool._is_agent_tool)  # pyright: ignore[reportPrivateUsage]
    if tool.needs_approval is not False:
        durable.needs_approval = ApprovalQuestion(tool)
    durable_tool_guardrails(durable)
    return durable


def _error_telling(invoke: Invoke) -> Invoke:
    """Return an invoker whose errors are seen also where the SDK makes a text for the model of them."""
    if not isinstance(invoke, _FailureHandlingFunctionToolInvoker):
        return invoke
    inner = invoke._invoke_tool_impl  # pyright: ignore[reportPrivateUsage]

    @functools.wraps(inner)
    async def telling(context: ToolContext[Any], arguments: str) -> Any:
        try:
            return await inner(context, arguments)
        except Exception as error:  # noted, and raised again
            seen = _errors_seen.get()
            if seen is not None:
                seen.append(error)
            raise

    told = copy(invoke)
    told._invoke_tool_impl = telling  # pyright: ignore[reportPrivateUsage]
    return told


@dataclass(frozen=True, slots=True)
class _Call:
    """One call while it goes on."""

    active: ActiveRun
    key: str
    call_id: str
    arguments: str
    make: Callable[[], Awaitable[Any]]
    agent: str
    started_at: datetime
    started: float

    @property
    def duration_ms(self) -> int:
        return round((monotonic() - self.started) * 1000)


class DurableCalls:
    """The calls of one tool: given back where they are recorded, else made and recorded."""

    def __init__(self, tool: OwnTool, policy: ToolPolicy, *, is_agent: bool = False) -> None:
        """`is_agent`: the tool runs an agent, whose own record is what is replayed."""
        self._tool = tool
        self.policy = policy
        self._is_agent = is_agent

    async def output_of(
        self, active: ActiveRun, call_id: str, arguments: str, make: Callable[[], Awaitable[Any]]
    ) -> Any:
        """Return what is recorded of a call, or `make` it, by the tool's policy, and record its output."""
        recording = active.recording
        call = _Call(
            active,
            step_key(active, call_id),
            call_id,
            arguments,
            make,
            recording.agents.get(active.scope, active.context.agent),
            datetime.now(UTC),
            monotonic(),
        )
        recorded = recording.recorded.get(call.key)
        if recorded is not None and recorded.state == "done":
            return self._replayed(call, recorded)
        recording.tool_calls[call.key] = self._record_of(call, None)
        decision = recording.approvals.decision(call.key, self._tool.name)
        refused = None if decision is None else refusal(decision)
        if refused is None and recorded is not None and self.policy is ToolPolicy.AT_MOST_ONCE and not self._is_agent:
            refused = UNKNOWN_OUTCOME
        if not self._is_agent:  # a nested run has its own record to replay, and stands still by itself
            await recording.new_ground()
        recording.tool_started(call.key)
        if recorded is None and not (self._is_agent and recording.is_replaying(call.key)):
            recording.publish(ToolStarted(call.call_id, self._tool.name, arguments, call.agent, active.scope))
        if refused is not None:
            await recording.log.record(self._done(call, refused))
            return refused
        token = ACTIVE_RUN.set(replace(active, place=call.key))
        try:
            return await self._made(call)
        finally:
            ACTIVE_RUN.reset(token)

    async def _made(self, call: _Call) -> Any:
        log = call.active.recording.log
        if self.policy is ToolPolicy.TRANSACTIONAL:
            return await self._made_in_transaction(call)
        if self.policy is ToolPolicy.AT_MOST_ONCE and not self._is_agent:
            await log.record(self._step(call, "started", None))
        result = await self._call(call, None)
        approvals = call.active.recording.approvals
        if not self._is_agent:  # it ran agents itself, and has made an output of what waits in them
            approvals.drop_within(call.key)
        if not approvals.waits_within(call.key):
            await log.record(self._done(call, result))
        return result

    async def _made_in_transaction(self, call: _Call) -> Any:
        errors: list[BaseException] = []
        token = _errors_seen.set(errors)
        try:
            async with call.active.recording.log.transaction() as transaction:
                result = await self._call(call, transaction.session)
                if errors:  # the model is told of the error; what the tool had written until then is not kept
                    await transaction.undo()
                transaction.record(self._done(call, result))
            return result
        finally:
            _errors_seen.reset(token)

    async def _call(self, call: _Call, session: Any) -> Any:
        run_id = call.active.context.run_id
        current = ToolCall(
            run_id,
            call.call_id,
            self._tool.name,
            f"{run_id}:{call.key}",
            call.active.recording.attempt,
            session,
        )
        token = CURRENT_TOOL_CALL.set(current)
        try:
            return await call.make()
        finally:
            CURRENT_TOOL_CALL.reset(token)

    def _replayed(self, call: _Call, step: Step) -> Any:
        recording = call.active.recording
        output = str(step.result["output"])
        recording.given_back += 1
        recording.done_tools.add(call.key)
        recording.tool_calls[call.key] = replace(self._record_of(call, output), duration_ms=step.duration_ms)
        if "value" not in step.result:
            return output
        return self._given_back(step.result["value"], output)

    def _given_back(self, value: Any, output: str) -> Any:
        """Return a recorded JSON value as the tool's result, if the model reads the same of it; else the text."""
        for result in (value, _as_told(value, output)):
            if self._text(result) == output:
                return result
        return output

    def _json(self, result: object) -> Any:
        """Return a result as JSON values."""
        return to_jsonable_python(result, fallback=str)

    def _text(self, result: object) -> str:
        """Return what the model reads of a result."""
        return output_text(result, self._tool if isinstance(self._tool, FunctionTool) else None)

    def _done(self, call: _Call, result: object) -> Step:
        """Tell of a call's output, and return it as a step."""
        recording = call.active.recording
        output = self._text(result)
        stored: dict[str, Any] = {"output": output}
        if not isinstance(result, str):
            with never_failing("tool value"):  # the text is what the model reads, and it is there
                stored["value"] = self._json(result)
        recording.done_tools.add(call.key)
        recording.tool_calls[call.key] = replace(self._record_of(call, output), duration_ms=call.duration_ms)
        recording.publish(
            ToolOutput(call.call_id, self._tool.name, output, call.agent, call.duration_ms, call.active.scope)
        )
        return self._step(call, "done", stored)

    def _step(self, call: _Call, state: Any, result: Any) -> Step:
        return Step(
            key=call.key,
            kind="tool",
            name=self._tool.name,
            agent=call.agent,
            state=state,
            request_hash=None,
            result=result,
            response_id=None,
            started_at=call.started_at,
            duration_ms=call.duration_ms,
        )

    def _record_of(self, call: _Call, output: str | None) -> ToolCallRecord:
        return ToolCallRecord(
            call.call_id, self._tool.name, call.arguments, output, call.agent, None, call.active.scope
        )


class DurableInvocation(DurableCalls):
    """The `on_invoke_tool` of a durable function or custom tool."""

    def __init__(
        self, tool: FunctionTool | CustomTool, invoke: Invoke, policy: ToolPolicy, *, is_agent: bool = False
    ) -> None:
        """`invoke` is what the tool does."""
        super().__init__(tool, policy, is_agent=is_agent)
        self._invoke = invoke

    async def __call__(self, context: ToolContext[Any], arguments: str) -> Any:
        """Return the output of a call; outside of a run the tool is simply called."""
        # A wrapped tool may ask for another context by its annotation.
        theirs: Any = (
            _get_function_tool_invoke_context(self._tool, context) if isinstance(self._tool, FunctionTool) else context
        )
        active = ACTIVE_RUN.get()
        if active is None:
            return await self._invoke(theirs, arguments)
        return await self.output_of(active, context.tool_call_id, arguments, lambda: self._invoke(theirs, arguments))


class _ToldObject(dict[str, Any]):
    """The JSON form of a tool's result, which reads as the result itself did: `city='Oslo'`, not `{'city': 'Oslo'}`."""

    told: str = ""

    def __str__(self) -> str:
        return self.told


class _ToldList(list[Any]):
    """As `_ToldObject`, of a list."""

    told: str = ""

    def __str__(self) -> str:
        return self.told


def _as_told(value: Any, output: str) -> Any:
    """Return a JSON value that gives the model the same text, so that a run that ends with a tool ends with a value."""
    told: _ToldObject | _ToldList
    if isinstance(value, dict):
        told = _ToldObject(cast("dict[str, Any]", value))
    elif isinstance(value, list):
        told = _ToldList(cast("list[Any]", value))
    else:
        return value
    told.told = output
    return told
