"""Asking a person on the terminal whether a tool may be called."""

import asyncio
import sys
from collections.abc import Sequence

from app.cli.chat_input import LineSource, PlainLines
from app.cli.interrupts import Interruption
from app.cli.output import begin_line, notice
from app.cli.run_reports import request_line
from app.domain.models.approvals import ApprovalRequest, Decision

QUESTION = "Allow it? y, n, n REASON (told to the model), a (yes, and for all later calls of this tool): "


class Approver:
    """Puts every open request to a person."""

    def __init__(self, lines: LineSource) -> None:
        """`lines` are the person's answers."""
        self._lines = lines

    async def decisions(
        self, requests: Sequence[ApprovalRequest], interruption: Interruption
    ) -> Sequence[Decision] | None:
        """Return a decision on each request; None when the person leaves them open, or has asked to stop."""
        asking = asyncio.create_task(self._ask(requests), name="ask-for-approval")
        stopping = asyncio.create_task(interruption.stopped(), name="watch-for-signals")
        try:
            await asyncio.wait((asking, stopping), return_when=asyncio.FIRST_COMPLETED)
            return asking.result() if asking.done() else None
        finally:
            for task in (asking, stopping):
                task.cancel()
            await asyncio.wait((asking, stopping))

    async def _ask(self, requests: Sequence[ApprovalRequest]) -> Sequence[Decision] | None:
        decisions: list[Decision] = []
        allowed: set[str] = set()
        for request in requests:
            if request.tool in allowed:
                continue  # an answer that holds for all calls of the tool holds for this one
            notice(request_line(request))
            decision = await self._decision(request)
            if decision is None:
                return None
            if decision.always:
                allowed.add(request.tool)
            decisions.append(decision)
        return decisions

    async def _decision(self, request: ApprovalRequest) -> Decision | None:
        while True:
            begin_line(QUESTION)
            line = await self._lines.line("")
            if line is None:
                notice("")
                return None
            word, _, reason = line.strip().partition(" ")
            match word.lower():
                case "y" | "yes":
                    return Decision(request.step, approve=True)
                case "a" | "always":
                    return Decision(request.step, approve=True, always=True)
                case "n" | "no":
                    return Decision(request.step, approve=False, message=reason.strip() or None)
                case _:
                    continue


def approver_at_terminal() -> Approver | None:
    """Return who asks; None when nobody can be asked: standard input or standard error is no terminal."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None
    return Approver(PlainLines(sys.stdin.fileno()))
