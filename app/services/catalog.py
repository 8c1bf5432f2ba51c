"""What there is to run: agents and tools."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from app.domain.models.agents import AgentDescriptor, ToolDescriptor
from app.domain.ports import AgentActivity, AgentProvider


@dataclass(frozen=True, slots=True)
class AgentListing:
    """An agent and its use."""

    agent: AgentDescriptor
    last_seen: datetime | None
    """The start of its latest recorded run; None when there is none."""


class CatalogService:
    """Agents and tools as the provider knows them, with when they were last used."""

    def __init__(self, provider: AgentProvider, activity: AgentActivity) -> None:
        """Ask the provider for agents and the recorded runs for their use."""
        self._provider = provider
        self._activity = activity

    async def agents(self) -> Sequence[AgentListing]:
        """Return all agents, the default one first, then by key."""
        last_seen = await self._activity.last_seen()
        return [AgentListing(agent, last_seen.get(agent.key)) for agent in self._provider.agents()]

    async def agent(self, key: str | None) -> AgentListing:
        """Return one agent, or the default one for None.

        Raises:
            UnknownAgent: no agent has that key.
        """
        agent = self._provider.agent(key)
        return AgentListing(agent, (await self._activity.last_seen()).get(agent.key))

    def tools(self) -> Sequence[ToolDescriptor]:
        """Return every tool that any agent may call, by name, with the agents that may."""
        return self._provider.tool_overview()
