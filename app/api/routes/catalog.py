"""What there is to run: agents and tools."""

from datetime import datetime
from typing import Any, Literal

from fastapi import APIRouter
from msgspec import Struct

from app.api.dependencies import Running
from app.api.json_replies import JsonReply
from app.api.openapi import replies

router = APIRouter(prefix="/api", tags=["catalog"])


class AgentReply(Struct, frozen=True, rename="camel"):
    """An agent that may answer."""

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
    object: Literal["agent"] = "agent"


class AgentList(Struct, frozen=True):
    """All agents, the default one first."""

    data: list[AgentReply]
    object: Literal["list"] = "list"


class ToolReply(Struct, frozen=True, rename="camel"):
    """A tool that agents may call."""

    name: str
    kind: Literal["function", "hosted", "agent", "mcp"]
    description: str
    agents: list[str]
    object: Literal["tool"] = "tool"


class ToolList(Struct, frozen=True):
    """All tools, by name."""

    data: list[ToolReply]
    object: Literal["list"] = "list"


@router.get(
    "/agents",
    summary="List agents",
    responses=replies(AgentList, 503, description="All agents."),
    response_class=JsonReply,
    response_model=None,
)
async def list_agents(container: Running) -> JsonReply:
    """List the agents that may answer, the default one first."""
    return JsonReply(
        AgentList(
            [
                AgentReply(
                    key=listing.agent.key,
                    description=listing.agent.description,
                    model=listing.agent.model,
                    tools=list(listing.agent.tools),
                    handoffs=list(listing.agent.handoffs),
                    default=listing.agent.default,
                    output_schema=None if listing.agent.output_schema is None else dict(listing.agent.output_schema),
                    last_seen=listing.last_seen,
                )
                for listing in await container.catalog.agents()
            ]
        )
    )


@router.get(
    "/tools",
    summary="List tools",
    responses=replies(ToolList, description="All tools."),
    response_class=JsonReply,
    response_model=None,
)
async def list_tools(container: Running) -> JsonReply:
    """List every tool that any agent may call."""
    tools = container.catalog.tools()
    return JsonReply(ToolList([ToolReply(tool.name, tool.kind, tool.description, list(tool.agents)) for tool in tools]))
