"""Tools whose calls are recorded as steps, and not repeated when an earlier attempt of the run has recorded them.

What happens to a call whose process died before its output was on disk is the tool's policy; see
`app.domain.models.tools`. Outside of a run a durable tool behaves as the tool it wraps.
"""

import functools
import json
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from copy import copy
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from time import monotonic
from typing import Any, Final, cast

from agents import CustomTool, FunctionTool, RunContextWrapper, Tool
from agents.tool import (
    _FailureHandlingFunctionToolInvoker,  # pyright: ignore[reportPrivateUsage] - where the SDK turns errors into text
    _get_function_tool_invoke_context,  # pyright: ignore[reportPrivateUsage] - which context a wrapper asks for
)
from agents.tool_context import ToolContext
from agents.util._approvals import evaluate_function_tool_approval
from pydantic_core import to_jsonable_python

from app.domain.models.approvals import ApprovalRequest
from app.domain.models.events import ToolOutput, ToolStarted
from app.domain.models.runs import Step, ToolCallRecord
from app.domain.models.tools import CURRENT_TOOL_CALL, DEFAULT_POLICY, ToolCall, ToolPolicy, declared_policy
from app.infrastructure.providers.openai.approvals import refusal
from app.infrastructure.providers.openai.context import ACTIVE_RUN, ActiveRun
from app.infrastructure.providers.openai.guardrails import durable_tool_guardrails
from app.infrastructure.providers.openai.recording import never_failing, short
from app.infrastructure.providers.openai.tool_calls import output_text

UNKNOWN_OUTCOME: Final = (
    "The process that ran this tool was lost before it could record the output. The outcome is unknown, "
    "and the tool was not run again."
)

Invoke = Callable[[ToolContext[Any], str], Awaitable[Any]]

_errors_seen: ContextVar[list[BaseException] | None] = ContextVar("durable_agents_tool_errors", default=None)


def policy_of(tool: FunctionTool | CustomTool) -> ToolPolicy:
    """Return the policy of a tool: declared on it or its function, told by its MCP server, else the default."""
    declared = declared_policy(tool)
    if declared is None and isinstance(tool, FunctionTool):
        declared = declared_policy(getattr(tool, "__wrapped__", None))
    if declared is not None:
        return declared
    hints = tool.mcp_annotations if isinstance(tool, FunctionTool) else None
    if hints is not None and (hints.read_only_hint or hints.idempotent_hint):
        return ToolPolicy.IDEMPOTENT
    return DEFAULT_POLICY


def durable_tool(tool: Tool) -> Tool:
    """Return a copy of a tool whose calls are recorded; tools that the provider runs, and shells, stay as they are."""
    if isinstance(tool, FunctionTool):
        return _durable_function_tool(tool)
    if isinstance(tool, CustomTool) and not isinstance(tool.on_invoke_tool, DurableInvocation):
        durable = copy(tool)
        durable.on_invoke_tool = DurableInvocation(tool, cast("Invoke", tool.on_invoke_tool), policy_of(tool))
        return durable
    return tool


def is_durable(tool: Tool) -> bool:
    """Tell whether a tool's calls are recorded by `durable_tool`."""
    return isinstance(tool, FunctionTool | CustomTool) and isinstance(tool.on_invoke_tool, DurableInvocation)


def step_key(active: ActiveRun, call_id: str) -> str:
    """Return the path of a tool call."""
    return short(f"{active.scope}/t:{call_id}")


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


class ApprovalQuestion:
    """The `needs_approval` of a durable tool: what was decided counts, else the tool's own rule, and then a person."""

    def __init__(self, tool: FunctionTool) -> None:
        """`tool` is the original, with its own rule."""
        self._tool = tool

    async def __call__(self, context: RunContextWrapper[Any], parameters: dict[str, Any], call_id: str) -> bool:
        """Tell whether a person must be asked; a call that was refused need not: it is answered by its invocation."""
        active = ACTIVE_RUN.get()
        arguments = to_json(parameters)
        if active is None:
            return await self._asks(context, arguments, call_id)
        recording = active.recording
        step = step_key(active, call_id)
        if step in recording.recorded or recording.approvals.decision(step, self._tool.name) is not None:
            return False
        if not await self._asks(context, arguments, call_id):
            return False
        agent = recording.agents.get(active.scope, active.context.agent)
        recording.approvals.ask(ApprovalRequest(step, call_id, self._tool.name, arguments, agent, active.scope))
        return True

    async def _asks(self, context: RunContextWrapper[Any], arguments: str, call_id: str) -> bool:
        if self._tool.needs_approval is True:
            return True
        evaluation = await evaluate_function_tool_approval(self._tool, context, arguments, call_id)
        return evaluation.outcome == "require_approval"


@dataclass(frozen=True, slots=True)
class _Call:
    """One call while it goes on."""

    active: ActiveRun
    key: str
    call_id: str
    arguments: str
    agent: str
    started_at: datetime
    started: float

    @property
    def duration_ms(self) -> int:
        return round((monotonic() - self.started) * 1000)


class DurableInvocation:
    """The `on_invoke_tool` of a durable tool."""

    def __init__(
        self, tool: FunctionTool | CustomTool, invoke: Invoke, policy: ToolPolicy, *, is_agent: bool = False
    ) -> None:
        """`invoke` is what the tool does; `is_agent`: it runs an agent, whose own record is what is replayed."""
        self._tool = tool
        self._invoke = invoke
        self.policy = policy
        self._is_agent = is_agent

    async def __call__(self, context: ToolContext[Any], arguments: str) -> Any:
        """Return what is recorded of the call, or make it, by the tool's policy, and record its output."""
        active = ACTIVE_RUN.get()
        if active is None:
            return await self._invoke(self._context(context), arguments)
        recording = active.recording
        call = _Call(
            active,
            step_key(active, context.tool_call_id),
            context.tool_call_id,
            arguments,
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
        if not (self._is_agent and recording.is_replaying(call.key)):
            recording.publish(ToolStarted(call.call_id, self._tool.name, arguments, call.agent, active.scope))
        if refused is not None:
            await recording.log.record(self._done(call, refused))
            return refused
        token = ACTIVE_RUN.set(replace(active, place=call.key))
        try:
            return await self._made(context, call)
        finally:
            ACTIVE_RUN.reset(token)

    async def _made(self, context: ToolContext[Any], call: _Call) -> Any:
        log = call.active.recording.log
        if self.policy is ToolPolicy.TRANSACTIONAL:
            return await self._made_in_transaction(context, call)
        if self.policy is ToolPolicy.AT_MOST_ONCE and not self._is_agent:
            await log.record(self._step(call, "started", None))
        result = await self._call(context, call, None)
        if not call.active.recording.approvals.waits_within(call.key):
            await log.record(self._done(call, result))
        return result

    async def _made_in_transaction(self, context: ToolContext[Any], call: _Call) -> Any:
        errors: list[BaseException] = []
        token = _errors_seen.set(errors)
        try:
            async with call.active.recording.log.transaction() as transaction:
                result = await self._call(context, call, transaction.session)
                if errors:  # the model is told of the error; what the tool had written until then is not kept
                    await transaction.undo()
                transaction.record(self._done(call, result))
            return result
        finally:
            _errors_seen.reset(token)

    async def _call(self, context: ToolContext[Any], call: _Call, session: Any) -> Any:
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
            return await self._invoke(self._context(context), call.arguments)
        finally:
            CURRENT_TOOL_CALL.reset(token)

    def _context(self, context: ToolContext[Any]) -> Any:
        """Return the context that the wrapped tool asks for by its annotation."""
        if isinstance(self._tool, FunctionTool):
            return _get_function_tool_invoke_context(self._tool, context)
        return context

    def _replayed(self, call: _Call, step: Step) -> Any:
        recording = call.active.recording
        output = str(step.result["output"])
        recording.done_tools.add(call.key)
        recording.tool_calls[call.key] = replace(self._record_of(call, output), duration_ms=step.duration_ms)
        if "value" in step.result:
            value = step.result["value"]
            tool = self._tool if isinstance(self._tool, FunctionTool) else None
            if output_text(value, tool) == output:
                return value
        return output

    def _done(self, call: _Call, result: object) -> Step:
        """Tell of a call's output, and return it as a step."""
        recording = call.active.recording
        output = output_text(result, self._tool if isinstance(self._tool, FunctionTool) else None)
        stored: dict[str, Any] = {"output": output}
        if not isinstance(result, str):
            with never_failing("tool value"):  # the text is what the model reads, and it is there
                stored["value"] = to_jsonable_python(result, fallback=str)
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


def to_json(parameters: dict[str, Any]) -> str:
    """Return a call's parameters as the JSON text that a person is shown."""
    return json.dumps(parameters, ensure_ascii=False, default=str)
