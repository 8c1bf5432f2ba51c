"""`durable-agents run`: one input, one answer."""

import asyncio
import json
import sys
from dataclasses import dataclass, field
from typing import Annotated

import typer

from app.cli.answers import AnswerWriter, FollowedRun, follow
from app.cli.failures import FAILED
from app.cli.options import Owner, Place, command
from app.cli.output import notice, print_json, print_json_line, print_line
from app.cli.run_reports import result_object
from app.cli.system import system
from app.domain.models.conversations import Caller
from app.domain.models.runs import RunOptions, RunRequest, RunStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What is asked, of whom, and how the answer is printed."""

    agent: Annotated[str, typer.Argument(help="Key of the agent; see 'durable-agents agents'.")]
    text: Annotated[str, typer.Argument(help="The input; '-' reads it from standard input.")]
    conversation: Annotated[
        str | None, typer.Option("--conversation", metavar="ID", help="Go on with this conversation.")
    ] = None
    stream: Annotated[bool, typer.Option("--stream", help="Print the answer as it comes.")] = False
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object; with --stream, one event a line, the result last.")
    ] = False


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


def run(ask: Ask, limits: Limits, owner: Owner, place: Place) -> int:
    """Ask an agent once and print its answer.

    Ctrl-C cancels the run; what it used until then is recorded.
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
        stream=ask.stream,
    )
    writer = None if ask.as_json else AnswerWriter()
    followed = asyncio.run(_followed(request, writer, place))
    if ask.as_json:
        _print_object(followed, as_line=ask.stream)
    else:
        _print_rest(followed)
    if followed.result.status is RunStatus.COMPLETED:
        return 0
    return followed.interruption.exit_code or FAILED


async def _followed(request: RunRequest, writer: AnswerWriter | None, place: Place) -> FollowedRun:
    async with system(place) as container:
        return await follow(container.runs, request, writer)


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


def _print_object(followed: FollowedRun, *, as_line: bool) -> None:
    result = result_object(followed.result)
    if as_line:
        print_json_line({"type": "result", **result})
    else:
        print_json(result)


def _print_rest(followed: FollowedRun) -> None:
    """Print what is not on the screen yet: the whole answer of a plain run, and why a run ended badly."""
    result = followed.result
    if result.error is not None:
        notice(f"Error: {result.error.message}", style="31")
    elif not followed.wrote:
        is_text = isinstance(result.output, str)
        print_line(result.output if is_text else json.dumps(result.output, indent=2, ensure_ascii=False))
    notice(f"Conversation {result.conversation_id}")
