"""`durable-agents run`: one input, one answer."""

import asyncio
import sys
from dataclasses import dataclass, field
from typing import Annotated

import typer

from app.cli.answers import FollowedRun, follower
from app.cli.options import Owner, Place, command
from app.cli.questions import approver_at_terminal
from app.cli.run_ends import Commands, Printing, print_end
from app.cli.system import system
from app.domain.models.conversations import Caller
from app.domain.models.runs import OnBusy, RunOptions, RunRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What is asked, of whom, and whether it may wait or be asked twice."""

    agent: Annotated[str, typer.Argument(help="Key of the agent; see 'durable-agents agents'.")]
    text: Annotated[str, typer.Argument(help="The input; '-' reads it from standard input.")]
    conversation: Annotated[
        str | None, typer.Option("--conversation", metavar="ID", help="Go on with this conversation.")
    ] = None
    idempotency_key: Annotated[
        str | None,
        typer.Option(
            "--idempotency-key", metavar="KEY", help="Your name for this run: the same key again starts no second one."
        ),
    ] = None
    on_busy: Annotated[
        OnBusy | None,
        typer.Option("--on-busy", help="While a run of the conversation is unfinished; unset: APP_RUN_ON_BUSY."),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the run may set for itself."""

    model: Annotated[str | None, typer.Option("--model", help="Model to use instead of the agent's.")] = None
    max_turns: Annotated[int | None, typer.Option("--max-turns", min=1, help="Model calls of the run's loop.")] = None
    timeout_s: Annotated[
        float | None, typer.Option("--timeout", min=0.001, metavar="SECONDS", help="Time for the whole run.")
    ] = None
    variables: Annotated[
        list[str], typer.Option("--var", metavar="KEY=VALUE", help="Context variable; may be repeated.")
    ] = field(default_factory=list[str])


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "run")(run)


def run(ask: Ask, printing: Printing, limits: Limits, owner: Owner, place: Place) -> int:
    """Ask an agent once and print its answer.

    Ctrl-C cancels the run; what it used until then is recorded. A run that needs a person's approval asks for it on a
    terminal; anywhere else it is left waiting, and the exit code is 3.
    """
    request = RunRequest(
        caller=Caller(owner.organization, owner.user),
        input=sys.stdin.read() if ask.text == "-" else ask.text,
        agent=ask.agent,
        conversation_id=ask.conversation,
        options=RunOptions(
            model=limits.model,
            max_turns=limits.max_turns,
            timeout_s=limits.timeout_s,
            variables=parsed_variables(limits.variables),
        ),
        stream=printing.stream,
        idempotency_key=ask.idempotency_key,
        on_busy=ask.on_busy,
    )
    followed = asyncio.run(_followed(request, printing, place))
    return print_end(followed, printing, Commands(owner, place))


async def _followed(request: RunRequest, printing: Printing, place: Place) -> FollowedRun:
    async with system(place) as container:
        following = follower(
            container.runs, request.caller, approver_at_terminal(), stream=printing.stream, as_json=printing.as_json
        )
        return await following.start(request)


def parsed_variables(pairs: list[str]) -> dict[str, str]:
    """Return `KEY=VALUE` pairs as a mapping; the last of equal keys wins.

    Raises:
        typer.BadParameter: a pair has no `=`, or no key before it.
    """
    variables: dict[str, str] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise typer.BadParameter(f"'{pair}' is no KEY=VALUE pair.", param_hint="--var")
        variables[key] = value
    return variables
