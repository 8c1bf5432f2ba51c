"""`durable-agents completions`: what was recorded, where it went, and sending it again."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.failures import CommandFailed
from app.cli.interrupts import interruptible
from app.cli.options import Place, command
from app.cli.output import UNKNOWN, Column, moment, notice, print_json, print_json_line, print_line, print_table
from app.cli.system import system
from app.domain.models.deliveries import Delivery, DestinationStats, EventFilter, OutboxEvent

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Organization = Annotated[
    str | None, typer.Option("--organization", metavar="ID", help="Only this organization's; none: all of them.")
]
Since = Annotated[datetime | None, typer.Option("--since", metavar="TIME", help="Recorded at or after; UTC.")]
Until = Annotated[datetime | None, typer.Option("--until", metavar="TIME", help="Recorded before; UTC.")]
Types = Annotated[list[str], typer.Option("--type", metavar="TYPE", help="Only this type; more than once.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsShown:
    """Which events are listed."""

    organization: Organization = None
    since: Since = None
    until: Until = None
    types: Types = field(default_factory=list[str])
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="How many at most.")] = 20
    after: Annotated[str | None, typer.Option("--after", metavar="ID", help="Those older than this one.")] = None
    as_json: JsonFlag = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EventShown:
    """Which event is shown."""

    event: Annotated[str, typer.Argument(metavar="ID", help="The event.")]
    as_json: JsonFlag = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsFollowed:
    """Which events are followed."""

    organization: Organization = None
    every_s: Annotated[float, typer.Option("--every", min=0.1, help="Seconds between two looks.")] = 1.0
    seconds: Annotated[float | None, typer.Option("--for", min=0.0, help="Seconds to follow; none: for ever.")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Redelivered:
    """What is sent again, and to whom."""

    destination: Annotated[str, typer.Argument(metavar="DESTINATION", help="Its name, as `stats` shows it.")]
    events: Annotated[list[str], typer.Argument(metavar="[ID]...", help="Events; none: those of the options.")] = field(
        default_factory=list[str]
    )
    dead: Annotated[bool, typer.Option("--dead", help="Only dead letters.")] = False
    organization: Organization = None
    since: Since = None
    until: Until = None
    types: Types = field(default_factory=list[str])
    as_json: JsonFlag = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StatsShown:
    """How figures are shown."""

    as_json: JsonFlag = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Relayed:
    """Which spool is emptied."""

    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The spool, as SCR_SPOOL_DIR names it.")]
    once: Annotated[bool, typer.Option("--once", help="Move what waits now, and end.")] = False
    as_json: JsonFlag = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Purged:
    """Which events are deleted."""

    before: Annotated[datetime, typer.Option("--before", metavar="TIME", help="Recorded before; UTC.")]
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count them.")] = False
    as_json: JsonFlag = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgotten:
    """Which destination is dropped."""

    destination: Annotated[str, typer.Argument(metavar="DESTINATION", help="Its name, as `stats` shows it.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    completions = typer.Typer(help="Look at completion events and deliver them again.", no_args_is_help=True)
    for name, function in (("ls", ls), ("show", show), ("tail", tail), ("stats", stats)):
        command(completions, name)(function)
    command(completions, "redeliver")(redeliver)
    command(completions, "relay")(relay)
    command(completions, "purge")(purge)
    command(completions, "forget")(forget)
    app.add_typer(completions, name="completions")


def ls(shown: EventsShown, place: Place) -> None:
    """List events, the newest first."""
    wanted = EventFilter(
        organization_id=shown.organization,
        since=_utc(shown.since),
        until=_utc(shown.until),
        types=tuple(shown.types),
    )

    async def read() -> Sequence[OutboxEvent]:
        async with system(place) as container:
            return await container.completions.records.events(wanted, limit=shown.limit, after=shown.after)

    found = asyncio.run(read())
    if shown.as_json:
        print_json({"data": [_event_object(event) for event in found]})
        return
    titles = ("EVENT", "TYPE", "OUTCOME", "ORGANIZATION", "SESSION", "RECORDED")
    rows = [
        (one.id, one.type, one.outcome, one.organization_id, one.session_id, moment(one.created_at)) for one in found
    ]
    print_table([Column(title) for title in titles], rows)


def show(shown: EventShown, place: Place) -> None:
    """Show an event with its deliveries and their attempts."""

    async def read() -> tuple[OutboxEvent | None, Sequence[Delivery]]:
        async with system(place) as container:
            records = container.completions.records
            deliveries = await records.deliveries(EventFilter(event_ids=(shown.event,)), limit=1_000)
            return await records.event(shown.event), deliveries

    event, deliveries = asyncio.run(read())
    if event is None:
        raise CommandFailed(f"There is no event {shown.event}.")
    told = [_delivery_object(one) for one in deliveries]
    if shown.as_json:
        print_json({**_event_object(event), "deliveries": told})
        return
    print_json(_event_object(event))
    rows = [
        (one.destination, one.state, str(one.attempts), moment(one.delivered_at), one.last_error or UNKNOWN)
        for one in deliveries
    ]
    titles = ("DESTINATION", "STATE", "ATTEMPTS", "DELIVERED", "LAST ERROR")
    print_table([Column(title) for title in titles], rows)


def tail(followed: EventsFollowed, place: Place) -> None:
    """Print events as they are recorded, one JSON object a line, until interrupted."""
    wanted = EventFilter(organization_id=followed.organization, since=datetime.now(UTC))
    ends_at = None if followed.seconds is None else time.monotonic() + followed.seconds

    async def follow() -> None:
        seen: set[str] = set()
        async with system(place) as container:
            while ends_at is None or time.monotonic() < ends_at:
                found = await container.completions.records.events(wanted, limit=1_000)
                for event in reversed([one for one in found if one.id not in seen]):
                    print_json_line(_event_object(event))
                seen = {event.id for event in found}
                await asyncio.sleep(followed.every_s)

    asyncio.run(follow())


def redeliver(asked: Redelivered, place: Place) -> None:
    """Send events again to one destination: by id, dead letters, or a range of time. They keep their ids."""
    wanted = EventFilter(
        organization_id=asked.organization,
        since=_utc(asked.since),
        until=_utc(asked.until),
        destination=asked.destination,
        state="dead" if asked.dead else None,
        event_ids=tuple(asked.events),
        types=tuple(asked.types),
    )

    async def write() -> int:
        async with system(place) as container:
            return await container.completions.records.redeliver(wanted)

    count = asyncio.run(write())
    if asked.as_json:
        print_json({"redelivered": count})
    else:
        print_line(f"{count} due again at {asked.destination}")
        notice("A server on this database sends them.")


def relay(relayed: Relayed, place: Place) -> int | None:
    """Move captured events from a folder of this machine into the database, until interrupted.

    Any number of relays may work on a folder; what is moved twice is recorded once.
    """
    if not relayed.folder.is_dir():
        raise CommandFailed(f"There is no folder {relayed.folder}.")

    async def move() -> int:
        async with system(place) as container:
            worker = container.completions.relay_of(relayed.folder)
            if relayed.once:
                return await worker.run_once()
            await worker.start()
            async with interruptible(worker.aclose) as interruption:
                await interruption.stopped()
            return interruption.exit_code

    found = asyncio.run(move())
    if not relayed.once:
        return found
    if relayed.as_json:
        print_json({"events": found})
    else:
        print_line(f"{found} moved")
    return None


def stats(shown: StatsShown, place: Place) -> None:
    """Show where every destination stands."""

    async def read() -> Sequence[DestinationStats]:
        async with system(place) as container:
            return await container.completions.records.stats()

    found = asyncio.run(read())
    if shown.as_json:
        print_json({"data": [_stats_object(one) for one in found]})
        return
    titles = ("DESTINATION", "STATE", "UNREAD", "PENDING", "DELIVERED", "DEAD", "LAST SUCCESS", "LAST ERROR")
    rows = [
        (
            one.state.name,
            "failing" if one.state.failures else "ok",
            *map(str, (one.unread, one.pending, one.delivered, one.dead)),
            moment(_time(one.state.last_success_ms)),
            one.state.last_error or UNKNOWN,
        )
        for one in found
    ]
    print_table([Column(title) for title in titles], rows)


def purge(purged: Purged, place: Place) -> None:
    """Delete old events that every destination has got; what one still owes or has failed with stays."""
    before = _utc(purged.before) or purged.before

    async def write() -> int:
        async with system(place) as container:
            return await container.completions.records.purge(before, dry_run=purged.dry_run)

    count = asyncio.run(write())
    if purged.as_json:
        print_json({"events": count, "dry_run": purged.dry_run})
    else:
        print_line(f"{count} {'would be deleted' if purged.dry_run else 'deleted'}")


def forget(forgotten: Forgotten, place: Place) -> None:
    """Drop a destination that is no longer configured, with all it has not got; events are kept for the others."""

    async def write() -> None:
        async with system(place) as container:
            await container.completions.records.forget(forgotten.destination)

    asyncio.run(write())
    notice(f"{forgotten.destination} is forgotten")


def _utc(time_of_day: datetime | None) -> datetime | None:
    if time_of_day is None or time_of_day.tzinfo is not None:
        return time_of_day
    return time_of_day.replace(tzinfo=UTC)


def _time(milliseconds: int | None) -> datetime | None:
    return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC)


def _event_object(event: OutboxEvent) -> dict[str, Any]:
    return {
        "id": event.id,
        "type": event.type,
        "version": event.version,
        "organization_id": event.organization_id,
        "user_id": event.user_id,
        "session_id": event.session_id,
        "run_id": event.run_id,
        "outcome": event.outcome,
        "source": event.source,
        "created_at": event.created_at.isoformat(),
        "payload": event.payload,
    }


def _delivery_object(one: Delivery) -> dict[str, Any]:
    return {
        "destination": one.destination,
        "state": one.state,
        "attempts": one.attempts,
        "last_error": one.last_error,
        "delivered_at": None if one.delivered_at is None else one.delivered_at.isoformat(),
        "history": [
            {"at": tried.at.isoformat(), "ok": tried.ok, "status": tried.status, "error": tried.error}
            for tried in one.history
        ],
    }


def _stats_object(one: DestinationStats) -> dict[str, Any]:
    last = _time(one.state.last_success_ms)
    return {
        "destination": one.state.name,
        "position": one.state.position,
        "unread": one.unread,
        "pending": one.pending,
        "delivered": one.delivered,
        "dead": one.dead,
        "failures": one.state.failures,
        "last_success_at": None if last is None else last.isoformat(),
        "last_error": one.state.last_error,
    }
