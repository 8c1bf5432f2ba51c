"""What a command prints when a run that it followed has ended or waits, and the exit code that says so."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from app.cli.answers import FollowedRun
from app.cli.failures import FAILED, WAITING
from app.cli.options import Owner, Place
from app.cli.output import notice, print_json, print_json_line, print_line
from app.cli.run_reports import request_line, result_object
from app.domain.models.approvals import ApprovalRequest
from app.domain.models.runs import RunResult, RunStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Printing:
    """How an answer is printed."""

    stream: Annotated[bool, typer.Option("--stream", help="Print the answer as it comes.")] = False
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object; with --stream, one event a line, the result last.")
    ] = False


@dataclass(frozen=True, slots=True)
class Commands:
    """Commands for a person to go on with, for the same caller and database."""

    owner: Owner
    place: Place

    def line(self, *words: str) -> str:
        """Return a command as it can be typed; a database's password is left for the person to fill in."""
        more: list[str] = []
        if self.owner.organization != "default":
            more += ["--organization", self.owner.organization]
        if self.owner.user is not None:
            more += ["--user", self.owner.user]
        database = self.place.database
        if database is not None:
            more += ["--database", "URL" if "@" in database else database]
        return shlex.join(["durable-agents", *words, *more])


def print_end(followed: FollowedRun, printing: Printing, commands: Commands) -> int:
    """Print what is not on the screen yet; returns the exit code."""
    result = followed.result
    if printing.as_json:
        if printing.stream:
            print_json_line({"type": "result", **result_object(result)})
        else:
            print_json(result_object(result))
    else:
        _print_rest(followed)
    if result.status is RunStatus.WAITING:
        tell_waiting(result.run_id, result.approvals, commands)
    return exit_code_of(followed)


def exit_code_of(followed: FollowedRun) -> int:
    """Return 0 for a run that completed, 3 for one that waits, 130 or 143 for one that a signal ended, else 1."""
    if followed.result.status is RunStatus.COMPLETED:
        return 0
    if followed.interruption.signal is not None:
        return followed.interruption.exit_code
    return WAITING if followed.result.status is RunStatus.WAITING else FAILED


def tell_waiting(run_id: str, requests: Sequence[ApprovalRequest], commands: Commands) -> None:
    """Say what a run waits for, and how to decide it."""
    notice(f"{run_id} waits for approval:")
    for request in requests:
        notice(request_line(request))
    call = requests[0].call_id if len(requests) == 1 else "--all"
    notice(f"Allow it with:  {commands.line('approvals', 'approve', run_id, call)}")
    notice(f"Refuse it with: {commands.line('approvals', 'reject', run_id, call)}")


def output_text(result: RunResult) -> str:
    """Return an answer for people: text as it is, anything else as JSON."""
    return result.output if isinstance(result.output, str) else json.dumps(result.output, indent=2, ensure_ascii=False)


def _print_rest(followed: FollowedRun) -> None:
    """Print the whole answer of a plain run, or why a run ended badly."""
    result = followed.result
    if result.error is not None:
        notice(f"Error: {result.error.message}", style="31")
    elif not followed.wrote and result.status is RunStatus.COMPLETED:
        print_line(output_text(result))
    notice(f"Conversation {result.conversation_id}")
