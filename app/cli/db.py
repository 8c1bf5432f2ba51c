"""`durable-agents db`: the database's schema."""

import asyncio
from dataclasses import dataclass
from typing import Annotated

import typer

from app.cli.failures import CommandFailed
from app.cli.options import Place, command
from app.cli.output import print_json, print_line
from app.cli.system import set_up


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckView:
    """How the state is printed."""

    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        help="Bring the database to this release's schema, or look where it stands.", no_args_is_help=True
    )
    command(group, "upgrade")(upgrade)
    command(group, "check")(check)
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


def what_to_do(database: str) -> str:
    """Return a state of the database as a sentence that says what to do."""
    if database == "unavailable":
        return "The database cannot be used. Check DATABASE_URL, and that the server runs and lets you in."
    return f"The database's {database}. Run: durable-agents db upgrade"
