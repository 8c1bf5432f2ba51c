"""Following a run to its end: its text to standard output as it comes, the rest to standard error."""

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.cli.failures import CommandFailed
from app.cli.interrupts import Interruption, interruptible
from app.cli.output import notice, print_json_line, write
from app.cli.questions import Approver
from app.cli.run_reports import event_line, event_object
from app.domain.errors import AppError, RunConflict
from app.domain.models.conversations import Caller
from app.domain.models.events import ModelCallStarted, RefusalDelta, RunEvent, SequencedEvent, TextDelta
from app.domain.models.runs import RunRequest, RunResult, RunStatus

if TYPE_CHECKING:
    from app.services.runs import RunService


@dataclass(frozen=True, slots=True)
class FollowedRun:
    """A run that has ended or waits for approvals, and whether someone asked it to end."""

    result: RunResult
    interruption: Interruption
    wrote: bool
    """Whether any of the answer's text was written."""


class AnswerWriter:
    """Writes a streamed answer: messages apart by a blank line, text of nested agents left out."""

    def __init__(self, *, tells_tools: bool = True) -> None:
        """`tells_tools`: also tell of tool calls and handoffs on standard error."""
        self._tells_tools = tells_tools
        self._item_id: str | None = None
        self._at_line_start = True
        self._step: str | None = None
        self._written: set[str] = set()

    @property
    def wrote(self) -> bool:
        """Whether any text was written."""
        return self._item_id is not None

    def show(self, event: RunEvent) -> None:
        """Show one event."""
        if isinstance(event, TextDelta | RefusalDelta):
            if not event.scope:
                self._write(event.delta, event.item_id)
            return
        line = event_line(event) if self._tells_tools else None
        if isinstance(event, ModelCallStarted) and not event.scope:
            self._step = event.step
            # A call that is on disk never begins again, so what was written of this one is void.
            if event.step in self._written:
                self._written.discard(event.step)
                line = "The text above was cut off; the answer begins again."
        if line is not None:
            self.end_line()
            notice(line)

    def end_line(self) -> None:
        """Begin a new line unless the text is at the start of one."""
        if not self._at_line_start:
            write("\n")
            self._at_line_start = True

    def _write(self, text: str, item_id: str) -> None:
        if not text:
            return
        if self._item_id not in {None, item_id}:
            self.end_line()
            write("\n")
        if self._step is not None:
            self._written.add(self._step)
        self._item_id = item_id
        write(text)
        self._at_line_start = text.endswith("\n")


@dataclass(frozen=True, slots=True)
class Follower:
    """How runs are followed: what is shown of them, and who is asked when one needs approvals."""

    runs: "RunService"
    caller: Caller
    stream: bool
    """Show events as they come; otherwise only wait."""
    writer: AnswerWriter | None
    """None: events are printed as JSON lines."""
    approver: Approver | None
    """None: a run that waits is left waiting."""

    async def start(self, request: RunRequest) -> FollowedRun:
        """Start a run and follow it.

        Raises:
            AppError: the run was not accepted, or its end could not be recorded or read.
        """
        handle = await self.runs.start(request)
        if handle.existing:
            notice(f"Started earlier with this key: {handle.run_id}")
        return await self.follow(handle.run_id, queue=None if handle.existing else request.conversation_id)

    async def follow(self, run_id: str, after: int = 0, *, queue: str | None = None) -> FollowedRun:
        """Wait until a run has ended, or waits and nobody can be asked; show its events with a number above `after`.

        The first Ctrl-C cancels it, and its end is recorded. `queue`: the conversation in which it may have to wait for
        its turn.

        Raises:
            AppError: its end could not be recorded or read.
            CommandFailed: it was cancelled before its turn has come, so its end is yet to be recorded.
        """
        turn = asyncio.timeout(None)
        async with interruptible(lambda: self._cancel(run_id, turn)) as interruption:
            try:
                async with turn:
                    if queue is not None:
                        await self._tell_queue(run_id, queue)
                    result = await self._ended(run_id, after, interruption)
            except TimeoutError as error:
                if not turn.expired():
                    raise
                raise CommandFailed(f"{run_id} ends as soon as its turn comes.", interruption.exit_code) from error
        if self.writer is not None:
            self.writer.end_line()
        return FollowedRun(result, interruption, wrote=self.writer is not None and self.writer.wrote)

    async def _ended(self, run_id: str, after: int, interruption: Interruption) -> RunResult:
        asked_to_stop = False
        while True:
            if self.stream:
                after = await self._show_from(run_id, after)
            result = await self.runs.result(self.caller, run_id)
            if result.status is not RunStatus.WAITING or asked_to_stop:
                return result
            if interruption.signal is None and not await self._decide(run_id, interruption):
                return result
            if interruption.signal is not None:
                await interruption.stopped()
                asked_to_stop = True

    async def _show_from(self, run_id: str, after: int) -> int:
        async with aclosing(self.runs.events(self.caller, run_id, after)) as batches:
            async for batch in batches:
                for item in batch.events:
                    self._show(item)
                    after = item.sequence
        return after

    def _show(self, item: SequencedEvent) -> None:
        if self.writer is None:
            print_json_line(event_object(item))
        else:
            self.writer.show(item.event)

    async def _decide(self, run_id: str, interruption: Interruption) -> bool:
        """Have the open requests decided; False when they stay open. An interruption counts as decided."""
        if self.approver is None:
            return False
        if self.writer is not None:
            self.writer.end_line()
        waiting = await self.runs.approvals(self.caller, run_id, open_only=True)
        decisions = await self.approver.decisions([approval.request for approval in waiting], interruption)
        if interruption.signal is not None:
            return True
        if decisions is None:
            return False
        try:
            await self.runs.decide(self.caller, run_id, decisions)
        except RunConflict as conflict:  # someone else was faster; what is still open is asked again
            notice(conflict.public_message)
        return True

    async def _cancel(self, run_id: str, turn: asyncio.Timeout) -> None:
        """Ask for the end of the run; one whose turn has not come is not waited for, as that may take days."""
        try:
            before = await self.runs.cancel(self.caller, run_id)
            if before is RunStatus.QUEUED:
                run = await self.runs.summary(self.caller, run_id)
                if run.status is RunStatus.QUEUED:
                    turn.reschedule(asyncio.get_running_loop().time())
        except AppError as error:
            notice(f"Error: {error.public_message} The run goes on; press Ctrl-C again to leave it.", style="31")

    async def _tell_queue(self, run_id: str, conversation_id: str) -> None:
        """Say what a new run waits for, so that it does not seem to hang."""
        unfinished = (RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.WAITING)
        found, _ = await self.runs.list(self.caller, statuses=unfinished, conversation_id=conversation_id, limit=100)
        earlier = [run for run in found if run.id != run_id]
        if earlier:
            first = earlier[-1]
            state = "waits for approvals" if first.status is RunStatus.WAITING else f"is {first.status.value}"
            notice(f"Queued behind {first.id}, which {state}.")


def follower(
    runs: "RunService", caller: Caller, approver: Approver | None, *, stream: bool, as_json: bool = False
) -> Follower:
    """Return who follows runs for a command that prints their answers, or JSON."""
    return Follower(runs, caller, stream, None if as_json else AnswerWriter(), approver)
