"""`durable-agents runs`: list, show, cancel and resume runs, whichever process executes them."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Final

import typer

from app.cli.answers import FollowedRun, follower
from app.cli.failures import CommandFailed
from app.cli.options import Owner, Place, command
from app.cli.output import notice, print_json, print_line
from app.cli.questions import approver_at_terminal
from app.cli.run_ends import Commands, Printing, print_end
from app.cli.run_lists import print_run, print_runs
from app.cli.run_reports import approval_object, result_object, summary_object
from app.cli.system import system
from app.domain.models.approvals import Approval
from app.domain.models.conversations import Caller
from app.domain.models.runs import FINAL_STATUSES, RunResult, RunStatus, RunSummary

if TYPE_CHECKING:
    from app.bootstrap import Container

CANCEL_WAIT_S: Final = 5.0
"""How long to wait for the end of a run that another process has to notice."""
CANCEL_POLL_S: Final = 0.05

RunId = Annotated[str, typer.Argument(metavar="RUN", help="The run, such as run_0190….")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Which runs are listed."""

    statuses: Annotated[list[RunStatus], typer.Option("--status", help="Only these; may be repeated.")] = field(
        default_factory=list[RunStatus]
    )
    conversation: Annotated[
        str | None, typer.Option("--conversation", metavar="ID", help="Only of this conversation.")
    ] = None
    limit: Annotated[int, typer.Option("--limit", min=1, max=100, help="How many at most.")] = 20
    after: Annotated[str | None, typer.Option("--after", metavar="ID", help="Those older than this one.")] = None
    as_json: JsonFlag = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """Which run is shown."""

    run: RunId
    as_json: JsonFlag = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancellation:
    """Which runs are to end."""

    runs: Annotated[list[str], typer.Argument(metavar="RUN", help="The runs.")]
    as_json: JsonFlag = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumption:
    """Which run goes on."""

    run: RunId


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="List, show, cancel and resume runs.", no_args_is_help=True)
    command(group, "ls")(ls)
    command(group, "show")(show)
    command(group, "cancel")(cancel)
    command(group, "resume")(resume)
    app.add_typer(group, name="runs")


def ls(listing: Listing, owner: Owner, place: Place) -> None:
    """List runs, newest first."""

    async def read() -> tuple[Sequence[RunSummary], bool]:
        async with system(place) as container:
            return await container.runs.list(
                _caller(owner),
                statuses=listing.statuses,
                conversation_id=listing.conversation,
                limit=listing.limit,
                after=listing.after,
            )

    found, more = asyncio.run(read())
    if listing.as_json:
        print_json({"data": [summary_object(run) for run in found], "has_more": more})
        return
    print_runs(found)
    if more:
        notice(f"There are more: --after {found[-1].id}")


def show(shown: Shown, owner: Owner, place: Place) -> None:
    """Show a run: how it stands, its tool calls and approvals, and its answer or error."""

    async def read() -> tuple[RunSummary, RunResult | None, Sequence[Approval]]:
        async with system(place) as container:
            caller = _caller(owner)
            summary = await container.runs.summary(caller, shown.run)
            result = await container.journal.result(caller, shown.run)
            return summary, result, await container.runs.approvals(caller, shown.run)

    summary, result, approvals = asyncio.run(read())
    if shown.as_json:
        told = {
            "result": None if result is None else result_object(result),
            "approvals": [approval_object(approval) for approval in approvals],
        }
        print_json({**summary_object(summary), **told})
        return
    print_run(summary, result, approvals)


def cancel(cancellation: Cancellation, owner: Owner, place: Place) -> None:
    """Ask for the end of runs, and wait some seconds for it; those that have ended are left as they are.

    A run of another process ends as soon as that process notices, or is found to be lost.
    """

    async def cancel_all() -> list[RunSummary]:
        async with system(place) as container:
            return [await _cancelled(container, _caller(owner), run_id) for run_id in cancellation.runs]

    ended = asyncio.run(cancel_all())
    if cancellation.as_json:
        print_json({"data": [summary_object(run) for run in ended]})
        return
    for run in ended:
        print_line(f"{run.id} {run.status.value}")
        if run.status not in FINAL_STATUSES:
            notice(f"{run.id} is asked to end; {run.owner or 'the process that claims it'} has yet to do it.")


def resume(resumption: Resumption, printing: Printing, owner: Owner, place: Place) -> int:
    """Go on with a run in this process: one that a lost process has left, or whose approvals are decided.

    Prints and exits like `run`. A run that has ended is printed as it is; one that another process executes is left
    alone.
    """

    async def followed() -> FollowedRun:
        async with system(place) as container:
            caller = _caller(owner)
            after = await container.journal.last_sequence(caller, resumption.run)
            if not await container.runs.resume(caller, resumption.run):
                after = await _left(container, caller, resumption.run, after)
            following = follower(
                container.runs, caller, approver_at_terminal(), stream=printing.stream, as_json=printing.as_json
            )
            return await following.follow(resumption.run, after)

    return print_end(asyncio.run(followed()), printing, Commands(owner, place))


async def _left(container: "Container", caller: Caller, run_id: str, last_sequence: int) -> int:
    """Return after which event a run is followed that cannot be claimed, as it has ended or waits.

    Raises:
        CommandFailed: it has not, and someone else goes on with it.
    """
    run = await container.runs.summary(caller, run_id)
    if run.status in FINAL_STATUSES or run.status is RunStatus.WAITING:
        return last_sequence - 1  # its last event says so, and the stream ends with it
    if run.status is RunStatus.RUNNING:
        raise CommandFailed(
            f"{run_id} is executed by {run.owner}. If that process is lost, try again when its lease is over."
        )
    raise CommandFailed(f"{run_id} is queued behind an earlier run of {run.conversation_id}, or held by {run.owner}.")


async def _cancelled(container: "Container", caller: Caller, run_id: str) -> RunSummary:
    await container.runs.cancel(caller, run_id)
    with suppress(TimeoutError):
        async with asyncio.timeout(CANCEL_WAIT_S):
            while True:
                result = await container.runs.result(caller, run_id)
                if result.status in FINAL_STATUSES:
                    break
                await asyncio.sleep(CANCEL_POLL_S)  # it still says what it waited for
    return await container.runs.summary(caller, run_id)


def _caller(owner: Owner) -> Caller:
    return Caller(owner.organization, owner.user)
