"""MCP servers whose listings of tools are recorded, so that a replay does not depend on what they list today."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from agents import Agent
from agents.mcp import MCPServer
from agents.run_context import RunContextWrapper
from mcp.types import Tool as MCPTool

from app.domain.models.runs import Step
from app.infrastructure.providers.openai.context import ACTIVE_RUN
from app.infrastructure.providers.openai.recording import short


def recorded_listings(servers: Sequence[MCPServer]) -> list[MCPServer]:
    """Return servers that share everything with the given ones but `list_tools`, which is recorded in a run."""
    return [_recorded(server) for server in servers]


class _RecordedListing:
    """The first listing of a run and scope is recorded with the next step, and given again while calls are replayed."""

    async def list_tools(
        self, run_context: RunContextWrapper[Any] | None = None, agent: Agent[Any] | None = None
    ) -> list[MCPTool]:
        """List the server's tools; see `MCPServer`."""
        server: Any = self
        listing: Any = super()
        active = ACTIVE_RUN.get()
        if active is None:
            return await listing.list_tools(run_context, agent)
        recording = active.recording
        key = short(f"{active.scope}/l:{server.name}")
        known = recording.recorded.get(key)
        if known is not None and recording.is_replaying(active.scope):
            return [MCPTool.model_validate(tool) for tool in known.result]
        await recording.new_ground()
        began = datetime.now(UTC)
        tools: list[MCPTool] = await listing.list_tools(run_context, agent)
        if known is None and key not in recording.listed:
            recording.listed.add(key)
            stored = [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in tools]
            duration_ms = round((datetime.now(UTC) - began).total_seconds() * 1000)
            name = recording.agents.get(active.scope, active.context.agent)
            recording.log.defer(
                Step(key, "mcp_list", server.name, name, "done", None, stored, None, began, duration_ms)
            )
        return tools


_classes: dict[type[MCPServer], type[MCPServer]] = {}


def _recorded(server: MCPServer) -> MCPServer:
    kind = type(server)
    if isinstance(server, _RecordedListing) or not hasattr(server, "__dict__"):
        return server
    made = _classes.get(kind)
    if made is None:
        made = _classes[kind] = type(f"Recorded{kind.__name__}", (_RecordedListing, kind), {})
    # One set of attributes for both: a connection that is made or lost later is so for each.
    twin: Any = object.__new__(made)
    twin.__dict__ = server.__dict__
    return twin
