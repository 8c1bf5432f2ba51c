"""Run hooks that record tools, handoffs and agents. The SDK fails a run whose hook raises, so these never do."""

from collections.abc import Callable
from functools import wraps
from types import CoroutineType
from typing import Any, Concatenate, ParamSpec

from agents import Agent, RunContextWrapper, RunHooks, Tool
from agents.items import ModelResponse
from agents.tool_context import ToolContext

from app.domain.models.events import AgentUpdated, HandoffOccurred, ToolOutput, ToolStarted
from app.domain.models.runs import HandoffRecord, Step, ToolCallRecord
from app.infrastructure.providers.openai.context import ACTIVE_RUN, ActiveRun, step_key
from app.infrastructure.providers.openai.journal_tools import is_durable
from app.infrastructure.providers.openai.recording import never_failing
from app.infrastructure.providers.openai.tool_calls import output_text

_P = ParamSpec("_P")
_Hook = Callable[Concatenate["RecordingHooks", _P], "CoroutineType[Any, Any, None]"]  # no generic before Python 3.12


def _never_raises(hook: _Hook[_P]) -> _Hook[_P]:
    """Log what a recording hook raises: a lost timing is better than a failed, paid run."""

    @wraps(hook)
    async def guarded(self: "RecordingHooks", *args: _P.args, **kwargs: _P.kwargs) -> None:
        with never_failing(hook.__name__):
            await hook(self, *args, **kwargs)

    return guarded


class RecordingHooks(RunHooks[Any]):
    """Feeds the recording of the run that the current task is part of; does nothing outside of one."""

    @_never_raises
    async def on_agent_start(self, context: Any, agent: Agent[Any]) -> None:
        """Note which agent a scope is in, and tell when it changes."""
        active = ACTIVE_RUN.get()
        if active is None:
            return
        recording = active.recording
        before = recording.agents.get(active.scope)
        now = recording.agents[active.scope] = recording.key_of(agent.name)
        if before is not None and before != now and not recording.is_replaying(active.scope):
            recording.publish(AgentUpdated(now, active.scope))

    @_never_raises
    async def on_handoff(self, context: RunContextWrapper[Any], from_agent: Agent[Any], to_agent: Agent[Any]) -> None:
        """Record a handoff."""
        active = ACTIVE_RUN.get()
        if active is None:
            return
        recording = active.recording
        before, after = recording.key_of(from_agent.name), recording.key_of(to_agent.name)
        if not active.scope:
            recording.handoffs.append(HandoffRecord(before, after))
        if not recording.is_replaying(active.scope):
            recording.publish(HandoffOccurred(before, after, active.scope))

    @_never_raises
    async def on_tool_start(self, context: RunContextWrapper[Any], agent: Agent[Any], tool: Tool) -> None:
        """Tell that a tool is about to run, unless it tells so itself.

        Those that do not, computers and editors, act again where they are replayed; in a mere replay they may not.
        """
        active = ACTIVE_RUN.get()
        if active is None or is_durable(tool):
            return
        recording = active.recording
        await recording.new_ground()
        if isinstance(context, ToolContext):
            call_id, arguments = context.tool_call_id, context.tool_arguments
        else:
            call_id, arguments = recording.unnamed_call_started(f"{active.scope} {tool.name}"), "{}"
        key = recording.key_of(agent.name)
        step = step_key(active, call_id)
        recording.tool_started(step)
        recording.tool_calls[step] = ToolCallRecord(call_id, tool.name, arguments, None, key, None, active.scope)
        if step not in recording.recorded:
            recording.publish(ToolStarted(call_id, tool.name, arguments, key, active.scope))

    async def on_tool_end(self, context: RunContextWrapper[Any], agent: Agent[Any], tool: Tool, result: object) -> None:
        """Record a tool's output as a step, unless it has done so itself.

        A tool whose time ran out has not: the SDK makes its output.

        Raises:
            LeaseLost, StorageUnavailable: it could not be recorded; this execution ends.
        """
        active = ACTIVE_RUN.get()
        step = None if active is None else self._tool_ended(active, context, agent, tool, result)
        if active is not None and step is not None:
            await active.recording.log.record(step)

    def _tool_ended(
        self, active: ActiveRun, context: RunContextWrapper[Any], agent: Agent[Any], tool: Tool, result: object
    ) -> Step | None:
        with never_failing("on_tool_end"):
            recording = active.recording
            if isinstance(context, ToolContext):
                call_id, arguments = context.tool_call_id, context.tool_arguments
            elif is_durable(tool):
                return None  # a shell: the SDK tells no id of its call, and it has recorded it
            else:
                call_id, arguments = recording.unnamed_call_ended(f"{active.scope} {tool.name}"), "{}"
            key = step_key(active, call_id)
            if key in recording.done_tools or recording.approvals.waits_within(key):
                return None
            started_at, duration_ms = recording.tool_ended(key)
            output = output_text(result, tool)
            name = recording.key_of(agent.name)
            recording.done_tools.add(key)
            recording.tool_calls[key] = ToolCallRecord(
                call_id, tool.name, arguments, output, name, duration_ms, active.scope
            )
            if key in recording.recorded and recording.recorded[key].state == "done":
                return None
            recording.publish(ToolOutput(call_id, tool.name, output, name, duration_ms, active.scope))
            return Step(key, "tool", tool.name, name, "done", None, {"output": output}, None, started_at, duration_ms)
        return None


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
