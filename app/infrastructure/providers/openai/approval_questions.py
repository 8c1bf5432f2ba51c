"""Asks a person before a tool runs: the `needs_approval` of tools whose calls are recorded."""

import dataclasses
import json
from typing import Any

from agents import CustomTool, FunctionTool, RunContextWrapper, ShellTool
from agents.util._approvals import evaluate_function_tool_approval, evaluate_needs_approval_setting

from app.domain.models.approvals import ApprovalRequest
from app.infrastructure.providers.openai.context import ACTIVE_RUN, step_key


class ApprovalQuestion:
    """The `needs_approval` of a durable tool: what was decided counts, else the tool's own rule, and then a person."""

    def __init__(self, tool: FunctionTool | CustomTool | ShellTool) -> None:
        """`tool` is the original, with its own rule."""
        self._tool = tool

    async def __call__(self, context: RunContextWrapper[Any], given: Any, call_id: str) -> bool:
        """Tell whether a person must be asked; a call that was refused need not: it is answered by its invocation.

        `given` is what the call is made with: a function's parameters, a custom tool's text, a shell's action.
        """
        active = ACTIVE_RUN.get()
        if active is None:
            return await self._asks(context, given, call_id)
        recording = active.recording
        step = step_key(active, call_id)
        if step in recording.recorded or recording.approvals.decision(step, self._tool.name) is not None:
            return False
        if not await self._asks(context, given, call_id):
            return False
        agent = recording.agents.get(active.scope, active.context.agent)
        recording.approvals.ask(
            ApprovalRequest(step, call_id, self._tool.name, arguments_text(given), agent, active.scope)
        )
        return True

    async def _asks(self, context: RunContextWrapper[Any], given: Any, call_id: str) -> bool:
        rule = self._tool.needs_approval
        if rule is True:
            return True
        if isinstance(self._tool, FunctionTool):
            evaluation = await evaluate_function_tool_approval(self._tool, context, arguments_text(given), call_id)
            return evaluation.outcome == "require_approval"
        return await evaluate_needs_approval_setting(rule, context, given, call_id)


def arguments_text(given: Any) -> str:
    """Return what a call is made with as a person is shown it: a text as it is, anything else as JSON."""
    if isinstance(given, str):
        return given
    plain = dataclasses.asdict(given) if dataclasses.is_dataclass(given) and not isinstance(given, type) else given
    return json.dumps(plain, ensure_ascii=False, default=str)
