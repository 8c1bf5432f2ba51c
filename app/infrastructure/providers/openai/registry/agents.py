"""The registry: every agent of this process, built once at start-up and looked up for each run."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from agents import Agent, Handoff
from agents.mcp import MCPServer

from app.domain.errors import ConfigurationError, UnknownAgent
from app.domain.models.agents import AgentDescriptor, AgentSpec, ToolDescriptor
from app.infrastructure.providers.openai.registry.builder import build_agents
from app.infrastructure.providers.openai.registry.descriptors import agent_behind, describe_agent, describe_tools
from app.infrastructure.providers.openai.registry.mcp import McpFactory, McpServers, build_mcp_server
from app.infrastructure.providers.openai.registry.specs import ModelTable
from app.infrastructure.providers.openai.registry.tools import ToolCatalog

AgentSource = AgentSpec | Agent[Any]
"""What an agent can come from: a declaration, or an agent of the SDK that is taken as it is."""

_KEY_CHARACTERS: Final = 64


@dataclass(frozen=True, slots=True)
class RegisteredAgent:
    """One agent: what runs, and what is told about it."""

    key: str
    agent: Agent[Any]
    descriptor: AgentDescriptor


class AgentRegistry:
    """The agents by key. It does not change after it was built; only its MCP servers connect and disconnect."""

    def __init__(self, agents: Sequence[RegisteredAgent], mcp_servers: McpServers) -> None:
        """Take the agents, at most one of them the default; `build_registry` makes them."""
        self._agents: Final = {agent.key: agent for agent in agents}
        self._default: Final = next((agent for agent in agents if agent.descriptor.default), None)
        self._keys: Final = {agent.agent.name: agent.key for agent in agents}
        self._mcp_servers: Final = mcp_servers

    def get(self, key: str | None) -> RegisteredAgent:
        """Return one agent, or the default one for None.

        Raises:
            UnknownAgent: no agent has that key, or there are no agents at all.
        """
        found = self._default if key is None else self._agents.get(key)
        if found is None:
            raise UnknownAgent("default" if key is None else key, tuple(sorted(self._agents)))
        return found

    def descriptors(self) -> tuple[AgentDescriptor, ...]:
        """Return what is told about the agents, the default one first, then by key."""
        return tuple(
            sorted((agent.descriptor for agent in self._agents.values()), key=lambda one: (not one.default, one.key))
        )

    def tool_overview(self) -> tuple[ToolDescriptor, ...]:
        """Return every tool that a registered agent may call, by name."""
        return describe_tools((agent.key, agent.agent) for agent in self._agents.values())

    def key_of(self, agent: Agent[Any]) -> str:
        """Return the key of an SDK agent, which may be a clone: it is found by its name.

        An agent that is not registered, such as one reachable only by a handoff, has the slug of its name.
        """
        return self.key_named(agent.name)

    def key_named(self, name: str) -> str:
        """Return the key of the SDK agent with that name; see `key_of`."""
        return _key_named(name, self._keys)

    @property
    def mcp_servers(self) -> tuple[MCPServer, ...]:
        """The MCP servers of all agents, those of native agents and of agents behind them included; each once."""
        return self._mcp_servers.servers

    async def connect(self, timeout_s: float = 60.0) -> None:
        """Connect the MCP servers; one that is connected already stays with whoever connected it.

        Raises:
            ConfigurationError: servers that could not be reached in `timeout_s` seconds each, by name; none stays open.
        """
        await self._mcp_servers.connect(timeout_s)

    async def aclose(self, timeout_s: float = 10.0) -> None:
        """Disconnect the MCP servers that `connect` has connected, at most `timeout_s` seconds each."""
        await self._mcp_servers.aclose(timeout_s)


def build_registry(
    sources: Sequence[AgentSource],
    *,
    tools: Mapping[str, Callable[..., Any]],
    default_model: str,
    models: Mapping[str, str],
    default_agent: str | None = None,
    mcp_factory: McpFactory = build_mcp_server,
) -> AgentRegistry:
    """Build the registry. Native agents are registered under the slug of their name and never changed.

    The default agent is `default_agent`, else the one spec that says so, else the first source. Nothing is connected.

    Raises:
        ConfigurationError: anything wrong with a declaration; the message names the agent and what to change.
    """
    keyed = _by_key(sources)
    natives = {key: source for key, source in keyed.items() if isinstance(source, Agent)}
    specs = [source for source in keyed.values() if isinstance(source, AgentSpec)]
    default = _default_key(keyed, specs, default_agent)
    mcp_servers = McpServers(mcp_factory)
    built = build_agents(
        specs,
        natives,
        tools=ToolCatalog(tools),
        models=ModelTable(default_model, models),
        mcp_servers=mcp_servers,
    )
    agents: dict[str, Agent[Any]] = {key: natives[key] if key in natives else built[key] for key in keyed}
    names = {agent.name: key for key, agent in agents.items()}
    for agent in _reachable(agents.values()):
        mcp_servers.adopt(agent.mcp_servers)
    registered = [
        RegisteredAgent(
            key,
            agent,
            describe_agent(
                key,
                agent,
                source="native" if key in natives else "spec",
                default=key == default,
                default_model=default_model,
                key_of=lambda name: _key_named(name, names),
            ),
        )
        for key, agent in agents.items()
    ]
    return AgentRegistry(registered, mcp_servers)


def _key_named(name: str, keys: Mapping[str, str]) -> str:
    return keys.get(name) or slug(name) or "agent"


def slug(name: str) -> str:
    """Return the key of a native agent: its name in lower case, other characters as one `-`; empty if none is left."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9_]+", "-", plain)[:_KEY_CHARACTERS].strip("-")


def _by_key(sources: Sequence[AgentSource]) -> dict[str, AgentSource]:
    keyed: dict[str, AgentSource] = {}
    for source in cast("Sequence[AgentSource | object]", sources):
        if not isinstance(source, AgentSpec | Agent):
            raise ConfigurationError(
                f"An agent is given as a {type(source).__name__}. Give an AgentSpec or an SDK Agent."
            )
        key = source.key if isinstance(source, AgentSpec) else slug(source.name)
        if not key:
            shown = source.key if isinstance(source, AgentSpec) else source.name
            raise ConfigurationError(
                f"Agent '{shown}': no key can be made of its name. Use at least one Latin letter or digit in it."
            )
        if key in keyed:
            raise ConfigurationError(
                f"Agent '{key}' is registered twice. Give one of them another key; a native agent's key is its name "
                "in lower case with '-' between the words."
            )
        keyed[key] = source
    return keyed


def _default_key(keyed: Mapping[str, AgentSource], specs: Sequence[AgentSpec], wanted: str | None) -> str | None:
    marked = [spec.key for spec in specs if spec.default]
    if len(marked) > 1:
        raise ConfigurationError(
            f"Agent '{marked[0]}' and agent '{marked[1]}' are both the default. Keep `default=True` on one of them."
        )
    if wanted is None:
        return (marked or [*keyed] or [None])[0]
    if wanted not in keyed:
        raise ConfigurationError(
            f"The default agent '{wanted}' does not exist. Set it to one of: {', '.join(sorted(keyed)) or 'none'}."
        )
    return wanted


def _reachable(agents: Iterable[Agent[Any]]) -> Iterator[Agent[Any]]:
    """Yield the agents and those behind their handoffs and agent tools, each once."""
    seen: list[Agent[Any]] = []
    waiting = list(agents)
    while waiting:
        agent = waiting.pop(0)
        if any(agent is other for other in seen):
            continue
        seen.append(agent)
        yield agent
        for target in agent.handoffs:
            if not isinstance(target, Handoff):
                waiting.append(target)
            elif callable(reference := vars(target).get("_agent_ref")) and isinstance(found := reference(), Agent):
                waiting.append(found)  # the SDK keeps the target of a handoff in this private weak reference only
        waiting.extend(found for tool in agent.tools if (found := agent_behind(tool)) is not None)
