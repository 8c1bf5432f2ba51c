"""Shells that run in our process: their commands are recorded as steps, as the calls of other tools are."""

import inspect
from copy import copy
from typing import Any, Final

from agents import LocalShellTool, ShellTool, Tool
from agents.tool import LocalShellCommandRequest, ShellCommandRequest, ShellResult
from pydantic import TypeAdapter

from app.domain.models.tools import ToolPolicy
from app.infrastructure.providers.openai.approval_questions import ApprovalQuestion, arguments_text
from app.infrastructure.providers.openai.context import ACTIVE_RUN
from app.infrastructure.providers.openai.journal_tools import DurableCalls, is_durable, policy_of

_RESULT: Final = TypeAdapter(ShellResult)


def durable_shell(tool: Tool) -> Tool:
    """Return a copy of a shell that runs in our process whose commands are recorded; others are returned as they are.

    Its policy is that of any tool: without another one declared, a command is not repeated.
    """
    if not isinstance(tool, ShellTool | LocalShellTool) or tool.executor is None or is_durable(tool):
        return tool
    durable: Any = copy(tool)
    durable.executor = DurableExecutor(tool, policy_of(tool))
    if isinstance(tool, ShellTool) and tool.needs_approval is not False and tool.on_approval is None:
        durable.needs_approval = ApprovalQuestion(tool)
    return durable


class CommandFailed(Exception):
    """A recorded command had failed; the text is what the model was told of it."""


class DurableExecutor(DurableCalls):
    """The `executor` of a durable shell."""

    def __init__(self, tool: ShellTool | LocalShellTool, policy: ToolPolicy) -> None:
        """`tool` is the original, with its own executor."""
        super().__init__(tool, policy)
        self._executor: Any = tool.executor
        self._tells_errors = isinstance(tool, ShellTool)

    async def __call__(self, request: ShellCommandRequest | LocalShellCommandRequest) -> Any:
        """Return what the command printed; outside of a run it is simply executed."""
        active = ACTIVE_RUN.get()
        if active is None:
            return await self._executed(request)
        action = request.data.action
        shown = action if isinstance(request, ShellCommandRequest) else request.data.action.model_dump(mode="json")
        result = await self.output_of(
            active, request.data.call_id, arguments_text(shown), lambda: self._executed_or_failed(request)
        )
        if isinstance(result, CommandFailed):
            raise result.__cause__ or result
        return result

    async def _executed(self, request: ShellCommandRequest | LocalShellCommandRequest) -> Any:
        result = self._executor(request)
        return await result if inspect.isawaitable(result) else result

    async def _executed_or_failed(self, request: ShellCommandRequest | LocalShellCommandRequest) -> Any:
        """Execute. The SDK tells the model what a `ShellTool` raises, so that is an output, and recorded."""
        try:
            return await self._executed(request)
        except Exception as error:  # the SDK makes a text for the model of it; so do we, and record it
            if not self._tells_errors:
                raise
            failed = CommandFailed(str(error) or type(error).__name__)
            failed.__cause__ = error
            return failed

    def _text(self, result: object) -> str:
        if isinstance(result, ShellResult):
            return "\n".join(text for one in result.output for text in (one.stdout, one.stderr) if text)
        return str(result)

    def _json(self, result: object) -> Any:
        return {"failed": str(result)} if isinstance(result, CommandFailed) else super()._json(result)

    def _given_back(self, value: Any, output: str) -> Any:
        if isinstance(value, dict):
            return CommandFailed(output) if "failed" in value else _RESULT.validate_python(value)
        return output
