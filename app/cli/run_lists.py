"""Runs and approvals as tables and pages for people."""

from collections.abc import Sequence
from datetime import UTC, datetime

from app.cli.output import UNKNOWN, Column, age, moment, notice, one_line, print_line, print_table
from app.cli.run_ends import output_text
from app.cli.run_reports import MAX_SHOWN_CHARS, call_line, usage_line
from app.domain.models.approvals import Approval
from app.domain.models.runs import RunResult, RunStatus, RunSummary

MAX_ARGUMENT_CHARS = 80


def print_runs(found: Sequence[RunSummary]) -> None:
    """Print runs as a table; `AGE` counts from the start of the run."""
    now = datetime.now(UTC)
    columns = (
        Column("RUN"),
        Column("STATUS"),
        Column("AGENT"),
        Column("ATTEMPTS", numbers=True),
        Column("AGE", numbers=True),
        Column("OWNER"),
        Column("CONVERSATION"),
    )
    rows = [
        (
            run.id,
            run.status.value,
            run.agent,
            str(run.attempts),
            age(run.created_at, now),
            run.owner or "",
            run.conversation_id,
        )
        for run in found
    ]
    print_table(columns, rows)


def print_approvals(found: Sequence[Approval]) -> None:
    """Print requests as a table; `LEFT` is the time until a request counts as rejected."""
    now = datetime.now(UTC)
    columns = (
        Column("RUN"),
        Column("CALL"),
        Column("TOOL"),
        Column("ARGUMENTS"),
        Column("AGENT"),
        Column("STATE"),
        Column("AGE", numbers=True),
        Column("LEFT", numbers=True),
    )
    rows = [
        (
            approval.run_id,
            approval.request.call_id,
            approval.request.tool,
            one_line(approval.request.arguments, MAX_ARGUMENT_CHARS),
            approval.request.agent,
            approval.state,
            age(approval.requested_at, now),
            "" if approval.expires_at is None else age(now, approval.expires_at),
        )
        for approval in found
    ]
    print_table(columns, rows)


def print_run(run: RunSummary, result: RunResult | None, approvals: Sequence[Approval]) -> None:
    """Print one run: how it stands, its tool calls and approvals, and its answer or error."""
    facts = [
        ("Run", run.id),
        ("Conversation", run.conversation_id),
        ("Status", _status(run)),
        ("Agent", run.agent),
        ("Attempts", str(run.attempts)),
        ("Owner", run.owner or UNKNOWN),
        ("Created", moment(run.created_at)),
        ("Started", moment(run.started_at)),
        ("Ended", moment(run.finished_at)),
    ]
    if result is not None:
        facts.append(("Used", usage_line(result)))
    for name, value in facts:
        print_line(f"{name:<13} {one_line(value)}")
    if result is not None and result.tool_calls:
        print_line("\nTool calls")
        for call in result.tool_calls:
            print_line(f"  {call_line(call)}")
    if approvals:
        print_line("\nApprovals")
        for approval in approvals:
            print_line(f"  {_approval_line(approval)}")
    if result is not None and result.error is not None:
        notice(f"Error: {result.error.message}", style="31")
    elif result is not None and result.status is RunStatus.COMPLETED:
        print_line(f"\n{output_text(result)}")


def _status(run: RunSummary) -> str:
    asked = {"user": "asked to end", "interrupted": "interrupted by a newer input", None: ""}[run.cancel_reason]
    return f"{run.status.value}, {asked}" if asked else run.status.value


def _approval_line(approval: Approval) -> str:
    request = approval.request
    by = f" by {approval.decided_by}" if approval.decided_by else ""
    always = ", for all later calls" if approval.always else ""
    told = "" if approval.message is None else f": {one_line(approval.message, MAX_SHOWN_CHARS)}"
    arguments = one_line(request.arguments, MAX_SHOWN_CHARS)
    return f"{request.call_id}  {request.tool} {arguments} → {approval.state}{by}{always}{told}"
