"""What there is to run: agents and tools."""

from datetime import datetime
from typing import Any, Literal

from fastapi import APIRouter, Depends
from msgspec import Struct

from app.api.dependencies import Running
from app.api.json_replies import JsonReply
from app.api.openai.access import Access, principal_of
from app.api.openapi import replies
from app.domain.models.agents import ToolDescriptor
from app.services.catalog import AgentListing

router = APIRouter(prefix="/api", tags=["catalog"], dependencies=[Depends(principal_of)])


class AgentReply(Struct, frozen=True, kw_only=True, rename="camel"):
    """An agent that may answer."""

    object: Literal["agent"] = "agent"
    key: str
    description: str
    model: str
    tools: list[str]
    handoffs: list[str]
    default: bool
    output_schema: dict[str, Any] | None
    """The JSON schema of its structured output; null for text."""
    last_seen: datetime | None
    """The start of its latest recorded run."""


class AgentList(Struct, frozen=True, kw_only=True):
    """All agents, the default one first."""

    object: Literal["list"] = "list"
    data: list[AgentReply]


class ToolReply(Struct, frozen=True, kw_only=True, rename="camel"):
    """A tool that agents may call."""

    object: Literal["tool"] = "tool"
    name: str
    kind: Literal["function", "hosted", "agent", "mcp"]
    description: str
    agents: list[str]


class ToolList(Struct, frozen=True, kw_only=True):
    """All tools, by name."""

    object: Literal["list"] = "list"
    data: list[ToolReply]


@router.get(
    "/agents",
    summary="List agents",
    responses=replies(AgentList, 503, description="All agents."),
    response_class=JsonReply,
    response_model=None,
)
async def list_agents(access: Access, container: Running) -> JsonReply:
    """List the agents that may answer, the default one first; those that the key allows."""
    listings = [found for found in await container.catalog.agents() if access.may_use_agent(found.agent.key)]
    return JsonReply(AgentList(data=[_agent_reply(listing) for listing in listings]))


@router.get(
    "/tools",
    summary="List tools",
    responses=replies(ToolList, description="All tools."),
    response_class=JsonReply,
    response_model=None,
)
async def list_tools(access: Access, container: Running) -> JsonReply:
    """List every tool that any agent may call; of the agents that the key allows."""
    tools = [tool for tool in container.catalog.tools() if any(map(access.may_use_agent, tool.agents))]
    return JsonReply(ToolList(data=[_tool_reply(tool) for tool in tools]))


def _agent_reply(listing: AgentListing) -> AgentReply:
    agent = listing.agent
    return AgentReply(
        key=agent.key,
        description=agent.description,
        model=agent.model,
        tools=list(agent.tools),
        handoffs=list(agent.handoffs),
        default=agent.default,
        output_schema=None if agent.output_schema is None else dict(agent.output_schema),
        last_seen=listing.last_seen,
    )


def _tool_reply(tool: ToolDescriptor) -> ToolReply:
    return ToolReply(name=tool.name, kind=tool.kind, description=tool.description, agents=list(tool.agents))
