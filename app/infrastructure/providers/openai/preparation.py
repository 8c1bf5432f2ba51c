"""Agents that carry a Model object of their own: runs use a copy whose model is recorded; the original is not touched.

Agents that name their model (or none) need no copy: the run's model provider records those.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any
from weakref import finalize

from agents import Agent, Handoff, Model, RunContextWrapper

from app.infrastructure.providers.openai.journal_model import JournalModel

# By identity: the SDK's Agent is a dataclass with equality, so it has no hash. An entry goes when its original does.
_prepared: dict[int, Agent[Any]] = {}


def prepared(agent: Agent[Any]) -> Agent[Any]:
    """Return the agent to run instead: the same one, or a copy with recorded models, handoffs included.

    The copy is made once and lives as long as the original.
    """
    known = _prepared.get(id(agent))
    if known is None:
        if not _needs_copy(agent, set()):
            return agent
        known = _prepared[id(agent)] = _copy(agent, {})
        finalize(agent, _prepared.pop, id(agent), None)
    return known


def _needs_copy(agent: Agent[Any], seen: set[int]) -> bool:
    if id(agent) in seen:
        return False
    seen.add(id(agent))
    if isinstance(agent.model, Model) and not isinstance(agent.model, JournalModel):
        return True
    # What a Handoff object leads to is known only when it is taken, so it counts as needing one.
    return any(isinstance(target, Handoff) or _needs_copy(target, seen) for target in agent.handoffs)


def _copy(agent: Agent[Any], copies: dict[int, Agent[Any]]) -> Agent[Any]:
    if id(agent) in copies:
        return copies[id(agent)]
    changes: dict[str, Any] = {"handoffs": [], "model_settings": agent.model_settings}
    if isinstance(agent.model, Model) and not isinstance(agent.model, JournalModel):
        changes["model"] = JournalModel(agent.model, model_name(agent.model))
    copy = copies[id(agent)] = agent.clone(**changes)
    # Filled in afterwards, because agents may hand off to each other in a circle.
    for target in agent.handoffs:
        copy.handoffs.append(_copy_handoff(target) if isinstance(target, Handoff) else _copy(target, copies))
    return copy


def _copy_handoff(handoff: Handoff[Any, Any]) -> Handoff[Any, Any]:
    take: Callable[[RunContextWrapper[Any], str], Awaitable[Any]] = handoff.on_invoke_handoff

    async def take_prepared(context: RunContextWrapper[Any], arguments: str) -> Any:
        target = await take(context, arguments)
        return prepared(target) if isinstance(target, Agent) else target

    return replace(handoff, on_invoke_handoff=take_prepared)


def model_name(model: Model) -> str:
    """Return what rows and prices know a Model object by: its `model` if that is a text, else its class."""
    name = getattr(model, "model", None)  # the SDK's own models have it, the interface does not promise it
    return name if isinstance(name, str) else type(model).__name__
