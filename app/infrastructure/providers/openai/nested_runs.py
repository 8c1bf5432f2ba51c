"""Runs inside a run: agents as tools, and tools that call the Runner, get their own scope, models and hooks.

`Agent.as_tool()` starts its agent through the SDK's default runner, so that is where nested runs are found. Outside of
one of our runs the default runner behaves as if we were not there.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from agents import Agent, RunHooks
from agents.run import AgentRunner, get_default_agent_runner, set_default_agent_runner
from agents.tool_context import ToolContext

from app.infrastructure.providers.openai.context import ACTIVE_RUN, ActiveRun
from app.infrastructure.providers.openai.lifecycle import CombinedHooks, RecordingHooks
from app.infrastructure.providers.openai.preparation import prepared


class NestedRunner:
    """The SDK's default runner, seen through: a nested run is recorded under the tool call that started it."""

    def __init__(self, inner: AgentRunner) -> None:
        """`inner` is the runner that was the default before."""
        self.inner = inner

    async def run(self, starting_agent: Agent[Any], input: Any, **options: Any) -> Any:  # noqa: A002 - the SDK's name
        """Run; see `agents.Runner.run`."""
        nested = _nested(options)
        if nested is None:
            return await self.inner.run(starting_agent, input, **options)
        token = ACTIVE_RUN.set(nested)
        try:
            return await self.inner.run(prepared(starting_agent), input, **_with_hooks(options))
        finally:
            ACTIVE_RUN.reset(token)

    def run_streamed(self, starting_agent: Agent[Any], input: Any, **options: Any) -> Any:  # noqa: A002
        """Run streamed; see `agents.Runner.run_streamed`. The task it starts inherits the scope."""
        nested = _nested(options)
        if nested is None:
            return self.inner.run_streamed(starting_agent, input, **options)
        token = ACTIVE_RUN.set(nested)
        try:
            return self.inner.run_streamed(prepared(starting_agent), input, **_with_hooks(options))
        finally:
            ACTIVE_RUN.reset(token)

    def run_sync(self, starting_agent: Agent[Any], input: Any, **options: Any) -> Any:  # noqa: A002
        """Run to the end without an event loop; never inside one of our runs, which have one."""
        return self.inner.run_sync(starting_agent, input, **options)


def install() -> None:
    """Make nested runs visible, once a process."""
    current = cast("Any", get_default_agent_runner())
    if not isinstance(current, NestedRunner):
        set_default_agent_runner(cast("AgentRunner", NestedRunner(current)))


def _nested(options: dict[str, Any]) -> ActiveRun | None:
    """Return the scope for a nested run; None outside of our runs and for the outermost run itself."""
    active = ACTIVE_RUN.get()
    if active is None or isinstance(options.get("hooks"), RecordingHooks):
        return None
    context = options.get("context")
    call_id = context.tool_call_id if isinstance(context, ToolContext) else None
    return replace(active, scope=active.recording.nested_scope(active.scope, call_id))


def _with_hooks(options: dict[str, Any]) -> dict[str, Any]:
    theirs: RunHooks[Any] | None = options.get("hooks")
    hooks: Callable[[], RunHooks[Any]] = RecordingHooks
    return {**options, "hooks": hooks() if theirs is None else CombinedHooks(theirs, hooks())}
