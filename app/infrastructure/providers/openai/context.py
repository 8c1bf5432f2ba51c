"""What a run is given: its context for tools and prompts, and the way to it from anywhere inside the run."""

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from agents import RunConfig

from app.domain.models.conversations import Caller
from app.domain.models.runs import Run
from app.domain.models.tools import ToolCall, current_tool_call
from app.infrastructure.providers.openai.recording import RunRecording, short


@dataclass(frozen=True, slots=True)
class RunContext:
    """The application context that tools, guardrails and prompts of a run receive as `ctx.context`.

    Nothing of it reaches the model unless a prompt template or a tool puts it there.
    """

    run_id: str
    conversation_id: str
    caller: Caller
    agent: str
    """The key of the agent the run started with."""
    variables: Mapping[str, Any]
    """The run's context variables."""
    metadata: Mapping[str, Any]

    @property
    def tool_call(self) -> ToolCall:
        """The tool call that asks, with its idempotency key and, for a transactional tool, its database session.

        Raises:
            LookupError: no tool asks.
        """
        return current_tool_call()


ContextFactory = Callable[[RunContext], Any]
"""Turns our context into the type the caller's agents were written for (`Agent[MyContext]`)."""


@dataclass(frozen=True, slots=True)
class ActiveRun:
    """The run that the current task executes."""

    context: RunContext
    recording: RunRecording
    scope: str
    """`""`, or the path of the nested agent run the task is in."""
    place: str | None = None
    """The path of the tool call or guardrail that the task is in; None in the agent's own loop."""
    config: RunConfig | None = None
    """What the run's own agents run with; a nested run that is given no configuration of its own takes it over."""


def step_key(active: ActiveRun, call_id: str) -> str:
    """Return the path of a tool call."""
    return short(f"{active.scope}/t:{call_id}")


ACTIVE_RUN: ContextVar[ActiveRun | None] = ContextVar("durable_agents_active_run", default=None)
"""Set by the runtime around the Runner; child tasks inherit it, so nested agents and tools find their run."""


def current_run() -> RunContext | None:
    """Return the context of the run that the calling code is part of; None outside of a run."""
    active = ACTIVE_RUN.get()
    return None if active is None else active.context


def run_context(run: Run) -> RunContext:
    """Return the context of a run."""
    return RunContext(
        run_id=run.id,
        conversation_id=run.conversation_id,
        caller=run.caller,
        agent=run.agent,
        variables=dict(run.options.variables),
        metadata=dict(run.options.metadata),
    )
