"""Events of a run as Server-Sent Events, made once for all readers of the run in this process."""

from collections.abc import Callable, Mapping
from typing import Final, Protocol, get_args

from app.api.errors import ErrorBody, ErrorEnvelope
from app.api.events import event_json
from app.api.json_replies import encode
from app.domain.models.events import EventBatch, RunEvent, SequencedEvent

KEPT_FRAMES: Final = 256
"""Of one run with several readers. Readers stand close together: one that is further behind makes its own."""

_HEADS: Final[Mapping[type[RunEvent], bytes]] = {
    kind: f"event: {kind.type}\ndata: ".encode() for kind in get_args(RunEvent)
}


def frame_of(item: SequencedEvent) -> bytes:
    """Return the event's lines without an id; an empty line ends them."""
    return b"%b%b\n\n" % (_HEADS[type(item.event)], event_json(item))


class Frames(Protocol):
    """Turns what a reader gets into the bytes of its stream."""

    def of(self, batch: EventBatch) -> bytes:
        """Return what a batch tells; empty when that is nothing."""
        ...

    def error(self, body: ErrorBody) -> bytes:
        """Return the last event of a stream that fails after its first byte."""
        ...


class RunFrames:
    """The latest frames of one run, kept only while several clients read it."""

    def __init__(self) -> None:
        """Begin without readers."""
        self.readers = 0
        self._ring: list[tuple[SequencedEvent, bytes] | None] = []

    def maker(self) -> Callable[[SequencedEvent], bytes]:
        """Return what makes frames for the next batch: a run with a single reader pays for no sharing."""
        return frame_of if self.readers < 2 else self._shared

    def _shared(self, item: SequencedEvent) -> bytes:
        if not self._ring:
            self._ring = [None] * KEPT_FRAMES
        place = item.sequence % KEPT_FRAMES
        known = self._ring[place]
        # By identity: a number is given anew when the attempt that told it early is lost.
        if known is not None and known[0] is item:
            return known[1]
        made = frame_of(item)
        self._ring[place] = (item, made)
        return made


class BatchFrames:
    """Turns the batches of one reader into bytes, and knows which id the client has last seen."""

    def __init__(self, run_id: str, frames: RunFrames) -> None:
        """Begin before the reader's first batch."""
        self._head = f"id: {run_id}:".encode()
        self._frames = frames
        self._sent = 0
        self._named = 0

    def of(self, batch: EventBatch) -> bytes:
        """Return what a batch tells; empty when that is nothing new.

        Recorded events carry their id, events that are told early carry none. Early ones that are recorded by now are
        named by an id alone, unless an event with a later id follows in the batch.
        """
        events, recorded = batch.events, batch.recorded
        make = self._frames.maker()
        if events and events[0].sequence <= recorded:
            head = self._head
            self._sent = events[-1].sequence
            self._named = min(recorded, self._sent)
            return b"".join(
                [
                    b"%b%d\n%b" % (head, item.sequence, make(item)) if item.sequence <= recorded else make(item)
                    for item in events
                ]
            )
        reached = min(recorded, self._sent)
        if events:
            self._sent = events[-1].sequence
        told = b"".join([make(item) for item in events])
        if reached <= self._named:
            return told
        self._named = reached
        return b"%b%d\n\n%b" % (self._head, reached, told)

    def error(self, body: ErrorBody) -> bytes:
        """Return an event without an id, so that a reader resumes before it."""
        return b"event: error\ndata: " + encode(ErrorEnvelope(body)) + b"\n\n"
