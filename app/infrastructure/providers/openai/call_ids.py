"""Tool call ids that are unique in a run: some endpoints count from `call_0` in every answer, or give none."""

from collections.abc import Sequence

from agents.items import TResponseOutputItem, TResponseStreamEvent
from openai.types.responses import (
    ResponseCustomToolCall,
    ResponseFunctionToolCall,
    ResponseOutputItemAddedEvent,
    ResponseOutputItemDoneEvent,
)

from app.domain.identifiers import uuid7_hex
from app.infrastructure.providers.openai.recording import RunRecording


class AnswerCallIds:
    """The tool call ids of one answer of the model.

    The SDK refuses an id that is repeated within a run, and drops the older pair of two across runs.
    """

    def __init__(self, recording: RunRecording) -> None:
        """Ids are claimed in the recording, which knows those of the history and of earlier answers."""
        self._recording = recording
        self._by_index: dict[int, str] = {}

    def unique(self, output: Sequence[TResponseOutputItem]) -> list[TResponseOutputItem]:
        """Return the items, those whose id was used before as copies with another one."""
        return [self._renamed(index, item) for index, item in enumerate(output)]

    def unique_event(self, event: TResponseStreamEvent) -> TResponseStreamEvent:
        """Return a stream event with the id that its item will have in the whole answer."""
        if isinstance(event, ResponseOutputItemAddedEvent | ResponseOutputItemDoneEvent):
            item = self._renamed(event.output_index, event.item)
            return event if item is event.item else event.model_copy(update={"item": item})
        return event

    def _renamed(self, index: int, item: TResponseOutputItem) -> TResponseOutputItem:
        if not isinstance(item, ResponseFunctionToolCall | ResponseCustomToolCall):
            return item
        call_id = self._by_index.get(index)
        if call_id is None:
            call_id = item.call_id or f"call_{uuid7_hex()}"
            if not self._recording.claim_call_id(call_id):
                call_id = f"{call_id}_{uuid7_hex()[-12:]}"
                self._recording.claim_call_id(call_id)
            self._by_index[index] = call_id
        return item if call_id == item.call_id else item.model_copy(update={"call_id": call_id})
