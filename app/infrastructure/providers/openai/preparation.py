"""The agents that really run: copies of the caller's where something must differ, and the originals are not touched.

A copy is necessary for an agent with tools, MCP servers or guardrails, whose calls and verdicts would not be recorded;
for one that carries a Model object of its own; and for one that names no model but has the settings which the SDK makes
for its own default model, not for ours.
"""

from collections.abc import Awaitable, Callable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from weakref import finalize, ref

from agents import Agent, Handoff, Model, ModelSettings, RunContextWrapper, Tool
from agents.models import get_default_model, get_default_model_settings

from app.domain.errors import InvalidInput
from app.infrastructure.providers.openai.guardrails import durable_input_guardrails, durable_output_guardrails
from app.infrastructure.providers.openai.journal_model import JournalModel, model_name_of
from app.infrastructure.providers.openai.journal_shells import durable_shell
from app.infrastructure.providers.openai.journal_tools import durable_tool
from app.infrastructure.providers.openai.mcp_listings import recorded_listings


@dataclass(frozen=True, slots=True)
class _Original:
    """An agent as it was when it was copied: a copy is no longer good when a field has another value."""

    agent: "ref[Agent[Any]]"
    values: tuple[Any, ...]
    handoffs: "tuple[ref[Any], ...]"

    def is_unchanged(self) -> bool:
        agent = self.agent()
        return (
            agent is not None
            and len(agent.handoffs) == len(self.handoffs)
            and all(now is then() for now, then in zip(agent.handoffs, self.handoffs, strict=True))
            and _same(_values(agent), self.values)
        )


# By identity: the SDK's Agent is a dataclass with equality, so it has no hash. An entry goes when its original does.
_prepared: dict[tuple[int, str | None], tuple[Agent[Any], list[_Original]]] = {}


def prepared(
    agent: Agent[Any], default_model: str | None, output_type: Any = None, tools: Sequence[Tool] = ()
) -> Agent[Any]:
    """Return the agent to run instead: the same one, or a copy, the agents it hands off to included.

    `output_type` is what every one of them must answer with, `tools` what each gets beside its own; then the copy is
    made anew each time. Else it is made once, lives as long as the original, and is made again when someone has
    changed that.

    Raises:
        InvalidInput: an agent has a tool of the same name as one of `tools`.
    """
    if output_type is not None or tools:
        return _Copies(default_model, output_type, tools).of(agent)
    key = (id(agent), default_model)
    known = _prepared.get(key)
    if known is not None and all(original.is_unchanged() for original in known[1]):
        return known[0]
    if not _needs_copy(agent, default_model, set()):
        return agent
    copies = _Copies(default_model, None)
    new = copies.of(agent)
    if known is None:
        finalize(agent, _prepared.pop, key, None)
    _prepared[key] = (new, copies.originals())
    return new


_LISTS = ("tools", "mcp_servers", "input_guardrails", "output_guardrails")


def _values(agent: Agent[Any]) -> tuple[Any, ...]:
    """Return what an agent is made of; of lists their members, since callers change these in place."""
    plain = (value for name, value in vars(agent).items() if name not in {"handoffs", *_LISTS} and name[0] != "_")
    # A tool's copy has the tool's own values: switched off, renamed, or to be approved by now.
    of_tools = (value for tool in agent.tools for value in vars(tool).values())
    return (*plain, *(member for name in _LISTS for member in (name, *getattr(agent, name))), *of_tools)


def _needs_copy(agent: Agent[Any], default_model: str | None, seen: set[int]) -> bool:
    if id(agent) in seen:
        return False
    seen.add(id(agent))
    if _has_own_model(agent) or _has_foreign_settings(agent, default_model) or _has_steps(agent):
        return True
    # What a Handoff object leads to is known only when it is taken, so it counts as needing one.
    return any(isinstance(target, Handoff) or _needs_copy(target, default_model, seen) for target in agent.handoffs)


def _same(now: tuple[Any, ...], then: tuple[Any, ...]) -> bool:
    return len(now) == len(then) and all(one is other for one, other in zip(now, then, strict=True))


def _has_steps(agent: Agent[Any]) -> bool:
    """Tell whether anything but model calls of an agent is recorded."""
    return any(getattr(agent, name) for name in _LISTS)


def _has_own_model(agent: Agent[Any]) -> bool:
    return isinstance(agent.model, Model) and not isinstance(agent.model, JournalModel)


def _has_foreign_settings(agent: Agent[Any], default_model: str | None) -> bool:
    """Tell whether an agent has the SDK's implicit settings, made for another model than the one it will run with."""
    if agent.model is not None or default_model is None:
        return False
    implicit = _implicit_settings(get_default_model())
    return agent.model_settings == implicit and _implicit_settings(default_model) != implicit


@lru_cache(maxsize=64)
def _implicit_settings(model: str) -> ModelSettings:
    return get_default_model_settings(model)


def _make_mcp_tools_durable(agent: Agent[Any]) -> None:
    """Let an agent's copy wrap the tools that its MCP servers list, which are made anew for every model call."""
    listed = agent.get_mcp_tools

    async def get_mcp_tools(run_context: RunContextWrapper[Any]) -> list[Tool]:
        return [durable_tool(tool) for tool in await listed(run_context)]

    agent.get_mcp_tools = get_mcp_tools


def _check_names(agent: Agent[Any], tools: Sequence[Tool]) -> None:
    own = {tool.name for tool in agent.tools}
    for index, tool in enumerate(tools):
        if tool.name in own:
            message = f"The agent has a tool named '{tool.name}' itself. Give yours another name."
            raise InvalidInput(message, param=f"client_tools[{index}].name")


class _Copies:
    """Copies of agents that hand off to each other, perhaps in a circle: one copy an agent."""

    def __init__(self, default_model: str | None, output_type: Any, tools: Sequence[Tool] = ()) -> None:
        self._default_model = default_model
        self._output_type = output_type
        self._tools = tools
        # With the original, so that its id is not given to another agent meanwhile.
        self._made: dict[int, tuple[Agent[Any], Agent[Any]]] = {}

    def of(self, agent: Agent[Any]) -> Agent[Any]:
        """Return the copy of an agent."""
        made = self._made.get(id(agent))
        if made is not None:
            return made[1]
        changes: dict[str, Any] = {
            "handoffs": [],
            "tools": [*(durable_shell(durable_tool(tool)) for tool in agent.tools), *self._tools],
            "mcp_servers": recorded_listings(agent.mcp_servers),
            "input_guardrails": durable_input_guardrails(agent.input_guardrails),
            "output_guardrails": durable_output_guardrails(agent.output_guardrails),
        }
        if isinstance(agent.model, Model):
            changes["model"] = agent.model
            if not isinstance(agent.model, JournalModel):
                changes["model"] = JournalModel(agent.model, model_name_of(agent.model))
            changes["model_settings"] = agent.model_settings
        elif _has_foreign_settings(agent, self._default_model):
            changes["model"] = self._default_model  # the SDK then takes its settings for that model
        _check_names(agent, self._tools)
        if self._output_type is not None:
            changes["output_type"] = self._output_type
        new = agent.clone(**changes)
        if agent.mcp_servers:
            _make_mcp_tools_durable(new)
        self._made[id(agent)] = (agent, new)
        # Filled in afterwards, because agents may hand off to each other in a circle.
        for target in agent.handoffs:
            new.handoffs.append(self._handoff(target) if isinstance(target, Handoff) else self.of(target))
        return new

    def originals(self) -> list[_Original]:
        """Return what the copies were made of."""
        return [
            _Original(ref(agent), _values(agent), tuple(ref(target) for target in agent.handoffs))
            for agent, _ in self._made.values()
        ]

    def _handoff(self, handoff: Handoff[Any, Any]) -> Handoff[Any, Any]:
        take: Callable[[RunContextWrapper[Any], str], Awaitable[Any]] = handoff.on_invoke_handoff
        default_model, output_type, tools = self._default_model, self._output_type, self._tools

        async def take_prepared(context: RunContextWrapper[Any], arguments: str) -> Any:
            target = await take(context, arguments)
            return prepared(target, default_model, output_type, tools) if isinstance(target, Agent) else target

        new = copy(handoff)
        new.on_invoke_handoff = take_prepared
        return new
