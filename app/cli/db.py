"""`durable-agents db`: the database's schema, and what is too old in it."""

import asyncio
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.failures import CommandFailed
from app.cli.options import Place, command
from app.cli.output import print_json, print_line
from app.cli.system import set_up, system

if TYPE_CHECKING:
    from app.domain.models.retention import Pruned


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckView:
    """How the state is printed."""

    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruning:
    """Whether anything is deleted, and how it is told."""

    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        help="Bring the database to this release's schema, look where it stands, delete what is too old.",
        no_args_is_help=True,
    )
    command(group, "upgrade")(upgrade)
    command(group, "check")(check)
    command(group, "prune")(prune)
    app.add_typer(group, name="db")


def upgrade(place: Place) -> None:
    """Apply the revisions that the database lacks.

    Safe to run again, and by several processes at a time.
    """
    from app.bootstrap import upgrade_database  # noqa: PLC0415 - see app.cli.system

    applied = asyncio.run(upgrade_database(set_up(place)))
    for revision in applied:
        print_line(f"applied {revision}")
    if not applied:
        print_line("up to date")


def check(view: CheckView, place: Place) -> None:
    """Tell whether this release can work on the database; exit code 1 when it cannot."""
    from app.bootstrap import check_database  # noqa: PLC0415 - see app.cli.system

    state = asyncio.run(check_database(set_up(place)))
    if view.as_json:
        print_json({"ready": state.ready, "database": state.database})
    elif state.ready:
        print_line("ok")
    if not state.ready:
        raise CommandFailed(what_to_do(state.database))


def prune(pruning: Pruning, place: Place) -> None:
    """Delete what is older than the settings keep it: deltas, events and steps of runs, delivered completion events.

    Results, history and usage stay. Servers do the same by themselves; it may be stopped any time.
    """

    async def delete() -> "Pruned":
        async with system(place) as container:
            return await container.runs.prune(dry_run=pruning.dry_run)

    pruned = asyncio.run(delete())
    if pruning.as_json:
        print_json({"dry_run": pruning.dry_run, **asdict(pruned)})
        return
    verb = "would delete" if pruning.dry_run else "deleted"
    print_line(
        f"{verb} rows: {pruned.delta_rows} of deltas, {pruned.event_rows} of events, {pruned.step_rows} of steps,"
        f" {pruned.completion_rows} of completion events, {pruned.conversation_rows} of conversations that are not kept"
    )


def what_to_do(database: str) -> str:
    """Return a state of the database as a sentence that says what to do."""
    if database == "unavailable":
        return "The database cannot be used. Check DATABASE_URL, and that the server runs and lets you in."
    return f"The database's {database}. Run: durable-agents db upgrade"
