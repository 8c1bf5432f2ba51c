"""`durable-agents usage`: what was used and what it cost."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any

import typer

from app.cli.failures import USAGE, CommandFailed
from app.cli.options import Place, command
from app.cli.output import UNKNOWN, Column, decimal_text, dollars, print_json, print_table, write
from app.cli.system import system
from app.domain.errors import InvalidInput
from app.domain.models.usage import TokenUsage, UsageGroup, UsageGrouping
from app.services.usage import csv_lines, parse_since


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageView:
    """Which usage, and how it is printed."""

    by: Annotated[UsageGrouping, typer.Option("--by", help="What to sum over.")] = "model"
    since: Annotated[
        str, typer.Option("--since", metavar="SPAN|DATE", help="Start: 7d, 24h, 30m, or an ISO date (UTC).")
    ] = "7d"
    until: Annotated[str | None, typer.Option("--until", metavar="SPAN|DATE", help="End, not included; none: now.")] = (
        None
    )
    organization: Annotated[
        str | None, typer.Option("--organization", metavar="ID", help="Only this organization; none: all of them.")
    ] = None
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "usage")(usage)


def usage(view: UsageView, place: Place) -> None:
    """Show tokens and cost of model calls.

    A call whose model has no known price counts as unpriced and is missing from the cost; a call that was cut before
    its tokens were reported counts as estimated.
    """
    if view.as_json and view.as_csv:
        raise CommandFailed("--json and --csv exclude each other; give one of them.", USAGE)
    since = _moment(view.since, "--since")
    until = None if view.until is None else _moment(view.until, "--until")
    groups = asyncio.run(_groups(view, since, until, place))
    if view.as_csv:
        for line in csv_lines(groups):
            write(line)
    elif view.as_json:
        print_json(
            {
                "by": view.by,
                "since": since.isoformat(),
                "until": None if until is None else until.isoformat(),
                "data": [_object(group) for group in groups],
                "total": _object(total(groups)),
            }
        )
    else:
        print_usage(view.by, groups)


async def _groups(view: UsageView, since: datetime, until: datetime | None, place: Place) -> Sequence[UsageGroup]:
    async with system(place) as container:
        return await container.usage.grouped(view.by, since=since, until=until, organization_id=view.organization)


def print_usage(by: str, groups: Sequence[UsageGroup]) -> None:
    """Print a table of groups with their totals."""
    columns = [
        Column(by.upper()),
        *(
            Column(title, numbers=True)
            for title in (
                "REQUESTS",
                "INPUT",
                "CACHED",
                "OUTPUT",
                "REASONING",
                "TOTAL",
                "COST",
                "UNPRICED",
                "ESTIMATED",
            )
        ),
    ]
    rows = [_row(UNKNOWN if group.key is None else group.key, group) for group in groups]
    print_table(columns, rows, totals=_row("total", total(groups)))


def total(groups: Sequence[UsageGroup]) -> UsageGroup:
    """Return the sum of groups; its cost is None when none of them has one."""
    costs = [group.cost_usd for group in groups if group.cost_usd is not None]
    return UsageGroup(
        key=None,
        tokens=sum((group.tokens for group in groups), TokenUsage()),
        cost_usd=sum(costs, Decimal(0)) if costs else None,
        unpriced_requests=sum(group.unpriced_requests for group in groups),
        estimated_requests=sum(group.estimated_requests for group in groups),
    )


def _moment(text: str, option: str) -> datetime:
    try:
        return parse_since(text)
    except InvalidInput as error:
        raise typer.BadParameter(error.public_message, param_hint=option) from error


def _row(key: str, group: UsageGroup) -> Sequence[str]:
    tokens = group.tokens
    counts = (
        tokens.requests,
        tokens.input_tokens,
        tokens.cached_tokens,
        tokens.output_tokens,
        tokens.reasoning_tokens,
        tokens.total_tokens,
    )
    return (
        key,
        *(f"{count:,}" for count in counts),
        dollars(group.cost_usd),
        f"{group.unpriced_requests:,}",
        f"{group.estimated_requests:,}",
    )


def _object(group: UsageGroup) -> Mapping[str, Any]:
    tokens = group.tokens
    return {
        "key": group.key,
        "requests": tokens.requests,
        "input_tokens": tokens.input_tokens,
        "cached_tokens": tokens.cached_tokens,
        "cache_write_tokens": tokens.cache_write_tokens,
        "output_tokens": tokens.output_tokens,
        "reasoning_tokens": tokens.reasoning_tokens,
        "total_tokens": tokens.total_tokens,
        "cost_usd": decimal_text(group.cost_usd),
        "unpriced_requests": group.unpriced_requests,
        "estimated_requests": group.estimated_requests,
    }
