"""`durable-agents approvals`: what waits for a person, and the decisions."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.answers import FollowedRun, follower
from app.cli.failures import USAGE, CommandFailed
from app.cli.options import Owner, Place, command
from app.cli.output import notice, print_json
from app.cli.questions import approver_at_terminal
from app.cli.run_ends import Commands, Printing, print_end
from app.cli.run_lists import print_approvals
from app.cli.run_reports import approval_object
from app.cli.system import system
from app.domain.models.approvals import Approval, Decision
from app.domain.models.conversations import Caller

if TYPE_CHECKING:
    from app.bootstrap import Container


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Which requests are listed."""

    run: Annotated[
        str | None, typer.Option("--run", metavar="RUN", help="Those of this run, decided ones included.")
    ] = None
    limit: Annotated[int, typer.Option("--limit", min=1, max=100, help="How many at most.")] = 100
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Which requests are decided, and what happens then."""

    run: Annotated[str, typer.Argument(metavar="RUN", help="The run.")]
    calls: Annotated[
        list[str],
        typer.Argument(metavar="CALL", help="Ids of the calls, or their steps where an id occurs twice."),
    ] = field(default_factory=list[str])
    every: Annotated[bool, typer.Option("--all", help="Every open request of the run.")] = False
    always: Annotated[
        bool, typer.Option("--always", help="Hold on to the answer for all later calls of the tool in this run.")
    ] = False
    no_resume: Annotated[bool, typer.Option("--no-resume", help="Leave the run to a server, or to 'runs resume'.")] = (
        False
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why."""

    message: Annotated[str | None, typer.Option("--message", metavar="TEXT", help="What the model is told.")] = None


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="List what waits for a person's approval, and decide it.", no_args_is_help=True)
    command(group, "ls")(ls)
    command(group, "approve")(approve)
    command(group, "reject")(reject)
    app.add_typer(group, name="approvals")


def ls(listing: Listing, owner: Owner, place: Place) -> None:
    """List open requests, latest first."""

    async def read() -> Sequence[Approval]:
        async with system(place) as container:
            return await container.runs.approvals(
                _caller(owner), listing.run, open_only=listing.run is None, limit=listing.limit
            )

    found = asyncio.run(read())
    if listing.as_json:
        print_json({"data": [approval_object(approval) for approval in found]})
    else:
        print_approvals(found)


def approve(chosen: Chosen, printing: Printing, owner: Owner, place: Place) -> int:
    """Allow tool calls of a waiting run.

    After the last decision the run goes on, here or where a server claims it first, and is printed like `run`.
    """
    return _decide(chosen, printing, Commands(owner, place), approve=True, message=None)


def reject(chosen: Chosen, refusal: Refusal, printing: Printing, owner: Owner, place: Place) -> int:
    """Refuse tool calls of a waiting run; the model is told, and goes on without them.

    After the last decision the run goes on, here or where a server claims it first, and is printed like `run`.
    """
    return _decide(chosen, printing, Commands(owner, place), approve=False, message=refusal.message)


def _decide(chosen: Chosen, printing: Printing, commands: Commands, *, approve: bool, message: str | None) -> int:
    if bool(chosen.calls) == chosen.every:
        raise CommandFailed("Name the calls, or decide every open request with --all.", USAGE)
    decisions = [Decision(call, approve, message, chosen.always) for call in chosen.calls]

    async def decided() -> tuple[int, FollowedRun | None]:
        async with system(commands.place) as container:
            caller = _caller(commands.owner)
            after = await container.journal.last_sequence(caller, chosen.run)
            wanted = decisions or await _for_all(
                container, caller, chosen.run, Decision("", approve, message, chosen.always)
            )
            undecided = await _recorded(container, caller, chosen, wanted)
            if undecided or chosen.no_resume:
                return undecided, None
            following = follower(
                container.runs, caller, approver_at_terminal(), stream=printing.stream, as_json=printing.as_json
            )
            return 0, await following.follow(chosen.run, after)

    undecided, followed = asyncio.run(decided())
    if followed is not None:
        return print_end(followed, printing, commands)
    if printing.as_json:
        print_json({"run_id": chosen.run, "undecided": undecided})
    elif undecided:
        notice(f"{chosen.run} still waits; open requests: {undecided}")
    else:
        notice(f"{chosen.run} goes on where a server claims it, or with: {commands.line('runs', 'resume', chosen.run)}")
    return 0


async def _for_all(container: "Container", caller: Caller, run_id: str, answer: Decision) -> list[Decision]:
    waiting = await container.runs.approvals(caller, run_id, open_only=True)
    if not waiting:
        raise CommandFailed(f"{run_id} has no open request.")
    return [Decision(approval.request.step, answer.approve, answer.message, answer.always) for approval in waiting]


async def _recorded(container: "Container", caller: Caller, chosen: Chosen, decisions: Sequence[Decision]) -> int:
    if chosen.no_resume:  # the service would claim the run
        return await container.journal.decide(caller, chosen.run, decisions, caller.user_id)
    return await container.runs.decide(caller, chosen.run, decisions)


def _caller(owner: Owner) -> Caller:
    return Caller(owner.organization, owner.user)
