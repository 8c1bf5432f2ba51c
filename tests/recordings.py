"""A recording of a run over a log in memory, for tests of one part of the provider."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import Any

from app.domain.models.conversations import Caller, Item
from app.domain.models.events import RunEvent
from app.domain.models.runs import ClaimedRun, Run, RunOptions, Step
from app.domain.models.usage import CallUsage
from app.infrastructure.providers.openai.recording import RunRecording


class MemoryLog:
    """RunLog that keeps everything in lists."""

    def __init__(self) -> None:
        self.events: list[RunEvent] = []
        self.steps: list[Step] = []
        self.calls: list[CallUsage] = []

    def publish(self, event: RunEvent) -> None:
        self.events.append(event)

    def defer(self, step: Step, call: CallUsage | None = None) -> None:
        self.steps.append(step)
        if call is not None:
            self.calls.append(call)

    async def record(self, step: Step, call: CallUsage | None = None) -> None:
        self.defer(step, call)

    def transaction(self) -> AbstractAsyncContextManager[Any]:
        raise NotImplementedError


def recording_of(log: MemoryLog, *, stream: bool = False, history: Sequence[Item] = ()) -> RunRecording:
    """A recording of a first attempt."""
    now = datetime.now(UTC)
    run = Run("run_1", "conv_1", Caller("o"), "a", 1, (), RunOptions(), stream, "o:c", None, "local", 1, 1, now)
    return RunRecording(ClaimedRun(run, ()), log, history=history)
