"""Following a run to its end: its text to standard output as it comes, the rest to standard error."""

from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.cli.interrupts import Interruption, interruptible
from app.cli.output import notice, print_json_line, write
from app.cli.run_reports import event_line, event_object
from app.domain.models.events import ModelCallStarted, RefusalDelta, RunEvent, SequencedEvent, TextDelta
from app.domain.models.runs import RunRequest, RunResult

if TYPE_CHECKING:
    from app.services.runs import RunService


@dataclass(frozen=True, slots=True)
class FollowedRun:
    """A run that has ended, and whether someone asked it to."""

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
        if isinstance(event, ModelCallStarted) and event.attempt > 1 and self.wrote:
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
        self._item_id = item_id
        write(text)
        self._at_line_start = text.endswith("\n")


async def follow(runs: "RunService", request: RunRequest, writer: AnswerWriter | None) -> FollowedRun:
    """Start a run and wait for its end, showing a streamed one; the first Ctrl-C cancels it, and its end is recorded.

    `writer` None: a streamed run's events are printed as JSON lines.

    Raises:
        AppError: the run was not accepted, or its end could not be recorded.
    """
    handle = await runs.start(request)
    with interruptible(lambda: runs.cancel(request.caller, handle.run_id)) as interruption:
        if request.stream:
            async with aclosing(handle.events(0)) as batches:
                async for batch in batches:
                    for item in batch:
                        _show(item, writer)
        result = await handle.result()
    if writer is not None:
        writer.end_line()
    return FollowedRun(result, interruption, wrote=writer is not None and writer.wrote)


def _show(item: SequencedEvent, writer: AnswerWriter | None) -> None:
    if writer is None:
        print_json_line(event_object(item))
    else:
        writer.show(item.event)
