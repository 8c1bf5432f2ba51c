"""Run hooks that record tools, handoffs and agents. The SDK fails a run whose hook raises, so these never do."""

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec

import structlog
from agents import Agent, RunContextWrapper, RunHooks, Tool
from agents.items import ModelResponse
from agents.tool_context import ToolContext

from app.domain.models.events import AgentUpdated, HandoffOccurred, ToolOutput, ToolStarted
from app.domain.models.runs import HandoffRecord, Step, ToolCallRecord
from app.infrastructure.providers.openai.context import ACTIVE_RUN, ActiveRun
from app.infrastructure.providers.openai.tool_calls import output_text

log = structlog.get_logger(__name__)

_P = ParamSpec("_P")
_Hook = Callable[Concatenate["RecordingHooks", _P], Awaitable[None]]


def _never_raises(hook: _Hook[_P]) -> _Hook[_P]:
    """Log what a recording hook raises: a lost timing is better than a failed, paid run."""

    @wraps(hook)
    async def guarded(self: "RecordingHooks", *args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            await hook(self, *args, **kwargs)
        except Exception:  # noqa: BLE001 - see above; logged, and the run goes on
            log.exception("recording_hook_failed", hook=hook.__name__)

    return guarded


class RecordingHooks(RunHooks[Any]):
    """Feeds the recording of the run that the current task is part of; does nothing outside of one."""

    @_never_raises
    async def on_agent_start(self, context: Any, agent: Agent[Any]) -> None:
        """Note which agent a scope is in, and tell when it changes."""
        active = ACTIVE_RUN.get()
        if active is None:
            return
        before = active.recording.agents.get(active.scope)
        active.recording.agents[active.scope] = agent.name
        if before is not None and before != agent.name:
            active.recording.publish(AgentUpdated(agent.name, active.scope))

    @_never_raises
    async def on_handoff(self, context: RunContextWrapper[Any], from_agent: Agent[Any], to_agent: Agent[Any]) -> None:
        """Record a handoff."""
        active = ACTIVE_RUN.get()
        if active is None:
            return
        if not active.scope:
            active.recording.handoffs.append(HandoffRecord(from_agent.name, to_agent.name))
        active.recording.publish(HandoffOccurred(from_agent.name, to_agent.name, active.scope))

    @_never_raises
    async def on_tool_start(self, context: RunContextWrapper[Any], agent: Agent[Any], tool: Tool) -> None:
        """Tell that a tool is about to run."""
        active = ACTIVE_RUN.get()
        if active is None:
            return
        call_id, arguments = _call_of(context)
        step = f"{active.scope}/t:{call_id}"
        active.recording.tool_started(step)
        active.recording.tool_calls[step] = ToolCallRecord(
            call_id, tool.name, arguments, None, agent.name, None, active.scope
        )
        active.recording.publish(ToolStarted(call_id, tool.name, arguments, agent.name, active.scope))

    @_never_raises
    async def on_tool_end(
        self, context: RunContextWrapper[Any], agent: Agent[Any], tool: Tool, result: object
    ) -> None:
        """Record a tool's output as a step."""
        active = ACTIVE_RUN.get()
        if active is None:
            return
        call_id, arguments = _call_of(context)
        self._record_output(active, ToolCallRecord(call_id, tool.name, arguments, output_text(result), agent.name, 0))

    def _record_output(self, active: ActiveRun, call: ToolCallRecord) -> None:
        step = f"{active.scope}/t:{call.call_id}"
        started_at, duration_ms = active.recording.tool_ended(step)
        output = call.output or ""
        active.recording.tool_calls[step] = ToolCallRecord(
            call.call_id, call.name, call.arguments, output, call.agent, duration_ms, active.scope
        )
        active.recording.steps.append(
            Step(step, "tool", call.name, call.agent, "done", None, output, None, started_at, duration_ms)
        )
        active.recording.publish(
            ToolOutput(call.call_id, call.name, output, call.agent, duration_ms, active.scope)
        )


class CombinedHooks(RunHooks[Any]):
    """Hooks that the caller's code gave to a nested run, and ours beside them. Theirs may raise; ours do not."""

    def __init__(self, theirs: RunHooks[Any], ours: RecordingHooks) -> None:
        """Both receive every call, theirs first."""
        self._both = (theirs, ours)

    async def on_llm_start(self, context: Any, agent: Any, system_prompt: str | None, input_items: Any) -> None:
        """Pass on."""
        for hooks in self._both:
            await hooks.on_llm_start(context, agent, system_prompt, input_items)

    async def on_llm_end(self, context: Any, agent: Any, response: ModelResponse) -> None:
        """Pass on."""
        for hooks in self._both:
            await hooks.on_llm_end(context, agent, response)

    async def on_agent_start(self, context: Any, agent: Any) -> None:
        """Pass on."""
        for hooks in self._both:
            await hooks.on_agent_start(context, agent)

    async def on_agent_end(self, context: Any, agent: Any, output: Any) -> None:
        """Pass on."""
        for hooks in self._both:
            await hooks.on_agent_end(context, agent, output)

    async def on_handoff(self, context: Any, from_agent: Any, to_agent: Any) -> None:
        """Pass on, by keyword as the SDK does."""
        for hooks in self._both:
            await hooks.on_handoff(context=context, from_agent=from_agent, to_agent=to_agent)

    async def on_tool_start(self, context: Any, agent: Any, tool: Tool) -> None:
        """Pass on."""
        for hooks in self._both:
            await hooks.on_tool_start(context, agent, tool)

    async def on_tool_end(self, context: Any, agent: Any, tool: Tool, result: object) -> None:
        """Pass on."""
        for hooks in self._both:
            await hooks.on_tool_end(context, agent, tool, result)


def _call_of(context: RunContextWrapper[Any]) -> tuple[str, str]:
    """Return the id and JSON arguments of the tool call; local tools other than functions carry none."""
    if isinstance(context, ToolContext):
        return context.tool_call_id, context.tool_arguments
    return "unknown", "{}"
