"""`durable-agents agents`: what there is to run."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.options import Place, command
from app.cli.output import Column, moment, print_json, print_table
from app.cli.system import system

if TYPE_CHECKING:
    from app.services.catalog import AgentListing

_COLUMNS = (
    Column("AGENT"),
    Column("MODEL"),
    Column("TOOLS"),
    Column("HANDOFFS"),
    Column("DEFAULT"),
    Column("LAST SEEN"),
    Column("DESCRIPTION"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentsView:
    """How the agents are printed."""

    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "agents")(agents)


def agents(view: AgentsView, place: Place) -> None:
    """List the agents, the default one first."""
    listings = asyncio.run(_listings(place))
    if view.as_json:
        print_json({"data": [_object(listing) for listing in listings]})
    else:
        print_table(_COLUMNS, [_row(listing) for listing in listings])


async def _listings(place: Place) -> "Sequence[AgentListing]":
    async with system(place) as container:
        return await container.catalog.agents()


def _object(listing: "AgentListing") -> Mapping[str, Any]:
    agent = listing.agent
    return {
        "key": agent.key,
        "description": agent.description,
        "model": agent.model,
        "tools": list(agent.tools),
        "handoffs": list(agent.handoffs),
        "default": agent.default,
        "source": agent.source,
        "output_schema": agent.output_schema,
        "last_seen": None if listing.last_seen is None else listing.last_seen.isoformat(),
    }


def _row(listing: "AgentListing") -> Sequence[str]:
    agent = listing.agent
    return (
        agent.key,
        agent.model,
        ", ".join(agent.tools),
        ", ".join(agent.handoffs),
        "yes" if agent.default else "",
        moment(listing.last_seen),
        agent.description,
    )
